# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of programs that nobody here wrote (others.py says what a row is)."""

from __future__ import annotations

from others import C_FILES, REPOSITORY, Row, text
from others_rows_media import MEDIA
from others_rows_science import SCIENCE
from others_rows_servers import SERVERS

PYTHON_THREADS = r"""
cat > threads.py <<'END'
import hashlib, queue, threading

todo, done, lock = queue.Queue(), [], threading.Lock()

def work():
    while (n := todo.get()) is not None:
        digest = hashlib.sha256(b"x" * n * 1000).hexdigest()
        with lock:
            done.append(digest)

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for n in [*range(40), *[None] * 4]:
    todo.put(n)
for thread in threads:
    thread.join()
print(len(done), hashlib.sha256("".join(sorted(done)).encode()).hexdigest())
END
cat > pools.py <<'END'
import asyncio, concurrent.futures, multiprocessing, os, signal, subprocess, tempfile

def square(n):
    return n * n

with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(square, range(300))))
with concurrent.futures.ProcessPoolExecutor(2) as pool:
    print(sum(pool.map(square, range(30))))

async def main():
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    out, _ = await child.communicate(b"through cat")
    parts = await asyncio.gather(*(asyncio.to_thread(square, n) for n in range(20)))
    await asyncio.sleep(0.01)
    print(out, sum(parts))

asyncio.run(main())
print(subprocess.run(["sh", "-c", "exit 5"]).returncode)
signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
signal.setitimer(signal.ITIMER_REAL, 0.05)
signal.pause()
with tempfile.TemporaryFile() as file:
    file.write(b"abc"); file.seek(0); print(file.read())
pid = os.fork()
if not pid:
    os._exit(4)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
END
"""

PERL_THREADS = r"""
cat > threads.pl <<'END'
use threads; use threads::shared; use Thread::Queue;
my $queue = Thread::Queue->new(); my $sum :shared = 0;
my @threads = map { threads->create(sub {
	while (defined(my $n = $queue->dequeue())) {
		my $part = 0; $part += $_ * $n for 1..2000;
		lock($sum); $sum += $part;
	}
}) } 1..4;
$queue->enqueue($_) for 1..50; $queue->end(); $_->join for @threads; print "$sum\n";
END
"""

JAVA = r"""
# needs javac
cat > Sum.java <<'END'
import java.util.ArrayList;
import java.util.concurrent.*;
public class Sum {
	public static void main(String[] arguments) throws Exception {
		var pool = Executors.newFixedThreadPool(4);
		var parts = new ArrayList<Future<Long>>();
		for (int i = 0; i < 8; i++) {
			final int k = i;
			parts.add(pool.submit(() -> {
				long sum = 0;
				for (int j = 0; j < 100000; j++) sum += (long) j * k;
				return sum;
			}));
		}
		long sum = 0;
		for (var part : parts) sum += part.get();
		pool.shutdown();
		System.out.println(sum);
	}
}
END
javac Sum.java
"""

GO = r"""
# needs go
cat > sum.go <<'END'
package main

import (
	"fmt"
	"sync"
)

func main() {
	var group sync.WaitGroup
	var lock sync.Mutex
	sum := 0
	pipe := make(chan int, 4)
	for i := 0; i < 8; i++ {
		group.Add(1)
		go func(k int) {
			defer group.Done()
			part := 0
			for j := 0; j < 1000000; j++ {
				part += j % (k + 1)
			}
			lock.Lock()
			sum += part
			lock.Unlock()
			pipe <- k
		}(i)
	}
	got := 0
	for i := 0; i < 8; i++ {
		got += <-pipe
	}
	group.Wait()
	fmt.Println(sum, got)
}
END
HOME=$PWD GOCACHE=$PWD/cache go build -o sum sum.go
"""

NODE = r"""
cat > work.js <<'END'
const { Worker, isMainThread, parentPort, workerData } = require("worker_threads");
if (isMainThread) {
	let left = 3, sum = 0;
	for (let k = 1; k <= 3; k++) {
		new Worker(__filename, { workerData: k }).on("message", part => {
			sum += part;
			if (--left === 0) console.log(sum);
		});
	}
} else {
	let part = 0;
	for (let i = 0; i < 100000; i++) part += i * workerData;
	parentPort.postMessage(part);
}
END
"""

BASH = r"""
cat > script.sh <<'END'
set -m
words=(one two three)
for word in "${words[@]}"; do echo "$word"; done | tr a-z A-Z | sort -r
sleep 0.05 & job=$!
wait $job; echo "waited $?"
(exit 7); echo "status $?"
sh -c 'kill -TERM $$'; echo "killed $?"
trap 'echo caught USR1' USR1; kill -USR1 $$
diff <(seq 3) <(seq 4)
cat <<TEXT
here $((6 * 7)) ${#words[@]} $(echo nested $(echo deeper))
TEXT
read -r a b < <(echo left right); echo "$b $a"
coproc cat; echo ping >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"
sleep 5 & kill %+; wait $!; echo "job ended $?"
printf '%s\n' */ 2>&1 | head -1
seq 100000 | head -1
exec 3> three; echo third >&3; exec 3>&-; cat three
ulimit -n > /dev/null; umask 077; touch private; stat -c %a private
exit 9
END
"""

TRACED = "a task has one tracer, and that is dsmsup"

THREADED = [
    Row("pigz", "$RUN pigz -p4 -n -c text", text(1500), threads=4, quick=True, runs=10),
    Row("pigz", "$RUN pigz -d -c text.gz", text(1500) + "; pigz -n text", threads=1, runs=10),
    Row("xz-utils", "$RUN xz -T4 -1 --block-size=512KiB -c text", text(1500), threads=4, runs=10),
    Row("xz-utils", "$RUN xz -d -T4 -c text.xz",
        text(1500) + "; xz -1 -T2 --block-size=256KiB text", threads=3, runs=10),
    Row("coreutils", "$RUN sort --parallel=4 text", text(1500), threads=1, runs=10),
    Row("zstd", "$RUN zstd -q -T4 -B1MiB -c text", text(5000), threads=3, quick=True, runs=10),
    Row("pbzip2", "$RUN pbzip2 -p4 -b1 -c text", text(1500), threads=4),
    Row("lbzip2", "$RUN lbzip2 -n4 -c text", text(1500), threads=4),
    Row("p7zip-full", "$RUN 7z a -mmt4 -bso0 -bsp0 text.7z text",
        text(1000) + "; touch -d @1000000000 text", ("text.7z",), threads=1),
    Row("p7zip-full", "$RUN 7z a -mmt4 -tbzip2 -bso0 -bsp0 text.bz2 text", text(1500),
        ("text.bz2",), threads=3),
    Row("imagemagick", "$RUN convert -size 400x300 gradient: -blur 0x4 -swirl 60"
        " -resize 150% rgb:-", runs=10),  # Debian's makes no threads for these
    Row("imagemagick", "OMP_NUM_THREADS=4 $RUN convert -size 800x600 gradient:red-blue"
        " -colorspace Lab rgb:-", threads=1, runs=10),
    Row("graphicsmagick", "OMP_NUM_THREADS=4 $RUN gm convert -size 600x400 gradient:red-blue"
        " -blur 0x4 -resize 150% rgb:-", threads=3),
    Row("ffmpeg", "$RUN ffmpeg -loglevel error -f lavfi -i testsrc=duration=1:size=320x240:rate=25"
        " -c:v mpeg4 -threads 4 -bitexact -f md5 -", threads=3, runs=10),
    Row("ffmpeg", "$RUN ffmpeg -loglevel error -f lavfi -i testsrc=duration=1:size=320x240:rate=25"
        " -c:v libx264 -threads 4 -bitexact -f md5 -", threads=4, runs=10),
    Row("python3", "$RUN python3 threads.py", PYTHON_THREADS, threads=4, quick=True, runs=10),
    Row("python3", "$RUN python3 pools.py", PYTHON_THREADS, threads=4, runs=10),
    Row("perl", "$RUN perl threads.pl", PERL_THREADS, threads=4, runs=10),
    Row("sysbench", "$RUN sysbench --threads=4 --events=400 --time=0 cpu run"
        " | grep -E 'number of (events|threads)'", threads=4, runs=10),
    Row("sysbench", "$RUN sysbench --threads=4 --events=200 --time=0 threads run"
        " | grep -E 'number of (events|threads)'", threads=4, runs=10),
    Row("sysbench", "$RUN sysbench --threads=4 --events=8 --time=0 --mutex-locks=1000 mutex run"
        " | grep -E 'number of (events|threads)'", threads=4, runs=10),
    Row("sysbench", "$RUN sysbench --threads=4 --time=0 --memory-total-size=16M memory run"
        " | grep -E 'number of (events|threads)|Total operations'",
        threads=4, varies=r"\(.* per second\)", runs=10),
    Row("stress-ng", "$RUN stress-ng --pthread 2 --pthread-ops 40 --pthread-max 8 --quiet"),
    Row("git", "$RUN git -C repo -c grep.threads=4 grep -c 77", REPOSITORY, threads=1),
    Row("git", "$RUN git -C repo -c pack.threads=4 gc -q && git -C repo fsck"
        " && git -C repo count-objects -v | grep in-pack", REPOSITORY, runs=10),
    Row("git", "$RUN git -C repo pack-objects --threads=4 --all -q ../pack < /dev/null > name"
        " && git index-pack --threads=1 pack-*.pack > name && git verify-pack pack-*.idx",
        REPOSITORY, threads=2),
    Row("git", "$RUN git index-pack --threads=4 -o pack.idx pack-*.pack",
        REPOSITORY + "git -C repo pack-objects --threads=1 --all -q ../pack < /dev/null > name",
        ("pack.idx",), threads=3),
    Row("stockfish", "$RUN stockfish bench 16 1 7 default depth 2>&1 | grep searched"),
    Row("stockfish", "$RUN stockfish bench 16 4 4 default depth 2>&1 | grep -c Position",
        threads=4),
    Row("ripgrep", "$RUN rg -j4 -c root /etc/passwd /etc/group /etc/services --sort path"),
    Row("ripgrep", "$RUN rg -j4 --no-ignore -c 77 repo | sort", REPOSITORY, threads=3),
    Row("default-jre-headless", "$RUN java Sum", JAVA, threads=4, runs=10),
    Row("golang-go", "$RUN ./sum", GO, runs=10),
    Row("golang-go", "HOME=$PWD GOCACHE=$PWD/cache $RUN go run sum.go", GO, runs=10),
    Row("nodejs", "$RUN node work.js", NODE, threads=3),
    Row("erlang-base", "$RUN erl -noshell -eval 'P = self(), [spawn(fun() -> P !"
        " lists:sum(lists:seq(1, N * 100)) end) || N <- lists:seq(1, 20)],"
        " io:format(\"~p~n\","
        " [lists:sum([receive X -> X end || _ <- lists:seq(1, 20)])]), halt().'"),
    Row("sbcl", "$RUN sbcl --noinform --non-interactive --eval"
        " '(let ((l nil)) (dotimes (i 1000000) (push i l)) (print (length l)))'"),
    Row("pypy3", "$RUN pypy3 threads.py", PYTHON_THREADS, threads=4),
    Row("luajit", "$RUN luajit -e 'local s = 0 for i = 1, 1e6 do s = s + i end print(s)'"),
    Row("python3-numpy", "OPENBLAS_NUM_THREADS=4 $RUN python3 -c 'import numpy as np;"
        " a = np.arange(90000.).reshape(300, 300) % 7; print((a @ a).sum())'"),
    Row("plzip", "$RUN plzip -n4 -B 512KiB -c text", text(1500), threads=4),
    Row("openssl", "$RUN openssl speed -seconds 1 -multi 2 -bytes 1024 sha256 2> /dev/null"
        " | grep -o ^sha256", runs=10),
]

EVERYDAY = [
    Row("coreutils", "$RUN ls -la /usr", quick=True),
    Row("coreutils", "$RUN ls -R --color=always /etc/apt"),
    Row("coreutils", "$RUN cat < text | $RUN wc", text(300)),
    Row("coreutils", "$RUN sha256sum text", text(1500)),
    Row("coreutils", "$RUN cp -a text copy", text(1500), ("copy",)),
    Row("coreutils", "$RUN timeout 0.2 sleep 5"),
    Row("coreutils", "$RUN env -i A=b env"),
    Row("coreutils", "$RUN dd if=text of=copy bs=100k status=none", text(1500), ("copy",)),
    Row("bash", "$RUN bash script.sh", BASH, quick=True),
    Row("bash", "$RUN bash -c 'echo $((6*7)) | cat; (exit 3)'"),
    Row("bash", "$RUN bash -ic 'sleep 0.1 & jobs; fg; echo done' 2> /dev/null", runs=10),
    Row("dash", "$RUN dash -c 'for i in 1 2 3; do echo $i; done | sort -r; exit 4'"),
    Row("busybox-static", "$RUN busybox sh -c 'seq 5 | busybox tac; exit 4'"),
    Row("tar", "$RUN tar cf out.tar --mtime=@0 --sort=name f1.c f2.c main.c && tar tvf out.tar",
        C_FILES),
    Row("tar", "$RUN tar czf - /etc/apt 2> /dev/null | tar tzf - | sort"),
    Row("gzip", "$RUN gzip -n -c text", text(1500)),
    Row("bzip2", "$RUN bzip2 -c text", text(500)),
    Row("findutils", "$RUN find /usr/share/doc -name 'c*' | sort"),
    Row("findutils", "$RUN xargs -P4 -n1 echo < words | sort", "seq 20 > words"),
    Row("grep", "$RUN grep -rc 7 repo/file1 repo/file2", REPOSITORY),
    Row("sed", "$RUN sed -n 's/1/one/gp' text", text(300)),
    Row("mawk", "$RUN awk '{ s += $1 } END { print s }' text", text(300)),
    Row("diffutils", "$RUN diff text other", text(100) + "; sed 's/77/x/' text > other"),
    Row("rsync", "$RUN rsync -a repo/ copy/ && diff -r repo copy", REPOSITORY),
    Row("curl", "$RUN curl -s file:///etc/passwd"),
    Row("sqlite3", "$RUN sqlite3 base 'create table t(a); insert into t with recursive n(i) as"
        " (select 1 union all select i + 1 from n where i < 5000) select i from n;"
        " select sum(a), count(*) from t;'"),
    Row("gcc", "$RUN gcc -O2 -c f1.c -o f1.o", C_FILES, ("f1.o",), quick=True),
    Row("g++", "$RUN g++ -O1 -o sum sum.cc && ./sum", """
cat > sum.cc <<'END'
#include <iostream>
#include <map>
int main() { std::map<int, int> m{{1, 2}, {3, 4}}; for (auto& [k, v] : m) std::cout << k + v; }
END
""", ("sum",)),
    Row("make", "$RUN make -s -j4 && { ./main; echo $?; }", C_FILES, quick=True),
    Row("ninja-build", "$RUN ninja -j4 | tail -1 | cut -d' ' -f1", C_FILES + r"""
{ printf 'rule cc\n command = gcc -c $in -o $out\n'
for n in 1 2 3 4 5 6; do echo "build f$n.o: cc f$n.c"; done; } > build.ninja
"""),
    Row("cmake", "$RUN cmake -S . -B build > log; ls build | sort", C_FILES + r"""
printf 'cmake_minimum_required(VERSION 3.10)\nproject(p C)\nadd_executable(p main.c)\n' \
	> CMakeLists.txt
"""),
    Row("gdb", "$RUN gdb --version"),
    Row("gdb", "$RUN gdb -q -nx -batch -ex run ./main", C_FILES + "make -s",
        refusal=("ptrace: Operation not permitted", TRACED)),
    Row("strace", "$RUN strace ls /", refusal=("PTRACE_.*: Operation not permitted", TRACED)),
    Row("gdb", "$RUN gdb -q -nx -batch -ex 'info line main' main", C_FILES + "make -s"),
    Row("python3", "$RUN python3 -c 'import sys, json; print(json.dumps([1, 2]), sys.version)'",
        quick=True),
    Row("perl", "$RUN perl -e 'print join(q(,), map { $_ * 2 } 1..9), qq(\\n)'"),
    Row("perl", "$RUN perl -e 'print `echo from a child`; print system(q(exit 3)) >> 8'"),
    Row("ruby", "$RUN ruby -e 'q = Queue.new; t = 4.times.map { |i| Thread.new { 9.times { |j|"
        " q << i * j } } }; t.each(&:join); s = 0; s += q.pop until q.empty?; puts s'"),
    Row("zsh", "$RUN zsh -c 'for i in {1..3}; do echo $i; done | sort -r; sleep 0.1 & wait'"),
    Row("fish", "$RUN fish --no-config -c 'for i in (seq 3); echo $i; end'"),
    Row("ghostscript", "$RUN gs -q -dNODISPLAY -dBATCH -c '1 2 add ='"),
    Row("pandoc", "$RUN pandoc -t plain <<< '*a* **b**'"),
    Row("lua5.4", "$RUN lua5.4 -e 'print(6 * 7, string.rep(\"x\", 5))'"),
    Row("tcl", "$RUN tclsh <<< 'puts [expr 6 * 7]'"),
    Row("php-cli", "$RUN php -r 'echo array_sum(range(1, 100)), PHP_EOL;'"),
    Row("guile-3.0", "$RUN guile --no-auto-compile -c"
        " '(use-modules (ice-9 threads))"
        " (display (apply + (par-map (lambda (n) (* n n)) (iota 50))))'"),
    Row("openssl", "$RUN openssl dgst -sha256 text", text(300)),
    Row("vim", "$RUN vim -es -u NONE -c '%s/1/one/g' -c wq text", text(50), ("text",)),
    Row("procps", "$RUN ps -o comm= -p $$"),
    Row("git", "$RUN git -C repo log --oneline", REPOSITORY),
]

ROWS = [*THREADED, *MEDIA, *SCIENCE, *SERVERS, *EVERYDAY]
