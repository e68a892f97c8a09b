# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that search and compute, with threads (others.py says what a row is)."""

from __future__ import annotations

from others import REPOSITORY, Row, text

GENOME = r"""
python3 - <<'END'
import random
r = random.Random(5)
genome = "".join(r.choices("ACGT", k=30000))
turned = str.maketrans("ACGT", "TGCA")
with open("genome.fa", "w") as f:
    f.write(">one\n" + "\n".join(genome[i:i + 60] for i in range(0, 30000, 60)) + "\n")
with open("reads.fq", "w") as f:
    for n in range(400):
        at = r.randrange(29900)
        read = genome[at:at + 100]
        if n % 2:
            read = read[::-1].translate(turned)
        f.write(f"@r{n}\n{read}\n+\n{'I' * 100}\n")
with open("reads.fa", "w") as f:
    for n in range(60):
        at = r.randrange(29000)
        f.write(f">q{n}\n{genome[at:at + 300]}\n")
with open("family.fa", "w") as f:
    first = genome[:400]
    for n in range(12):
        turned = "".join(c if r.random() > .1 else r.choice("ACGT") for c in first)
        f.write(f">s{n}\n{turned}\n")
END
"""

ALIGNED = GENOME + """
# needs bwa
bwa index genome.fa 2> log; bwa mem genome.fa reads.fq > reads.sam 2> log
"""

LENNARD_JONES = """
cat > in.lj <<'END'
units lj
lattice fcc 0.8442
region box block 0 6 0 6 0 6
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 3.0 87287
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
fix 1 all nve
thermo 10
run 30
END
"""

PROLOG = r"""
cat > queues.pl <<'END'
:- initialization(main).
work(Queue, N) :-
    forall(between(1, 100, K), (X is N * K, thread_send_message(Queue, X))),
    thread_send_message(Queue, done).
sum(_, 0, Sum, Sum) :- !.
sum(Queue, Left, Before, Sum) :-
    thread_get_message(Queue, Message),
    (   Message == done -> Fewer is Left - 1, sum(Queue, Fewer, Before, Sum)
    ;   After is Before + Message, sum(Queue, Left, After, Sum)
    ).
main :-
    message_queue_create(Queue),
    findall(T, (between(1, 4, N), thread_create(work(Queue, N), T)), Threads),
    sum(Queue, 4, 0, Sum), maplist(thread_join, Threads, _), writeln(Sum),
    concurrent_maplist([X, Y]>>(Y is X * X), [1, 2, 3, 4, 5], Squares), writeln(Squares), halt.
END
"""

SCIENCE = [
    Row("samtools", "$RUN samtools sort -@ 4 --no-PG -O sam reads.sam", ALIGNED, threads=4),
    Row("bwa", "$RUN bwa mem -t 4 genome.fa reads.fq 2> log | grep -v ^@PG",
        GENOME + "bwa index genome.fa 2> log", threads=3),
    Row("bowtie2", "$RUN bowtie2-align-s -p 4 --reorder --no-head -x genome -U reads.fq 2> log",
        GENOME + "bowtie2-build-s -q genome.fa genome\n# needs bowtie2-build-s", threads=4),
    Row("minimap2", "$RUN minimap2 -t 4 genome.fa reads.fq 2> log", GENOME, threads=4),
    Row("ncbi-blast+", "$RUN blastn -query reads.fa -db genome -num_threads 2 -outfmt 6",
        GENOME + "makeblastdb -in genome.fa -dbtype nucl -out genome > log\n# needs makeblastdb",
        threads=1),  # it says so where it takes fewer than asked for: those of the machine
    Row("mafft", "$RUN /usr/lib/mafft/lib/mafft/disttbfast -C 4 -i family.fa 2> log", GENOME),
    Row("clustalo", "$RUN clustalo --threads=4 -i family.fa", GENOME, threads=3),
    Row("hmmer", "$RUN nhmmer --cpu 4 --noali family.hmm genome.fa | grep -v '^#'",
        GENOME + "hmmbuild --dna family.hmm family.sto > log 2>&1 || {\n"
        " clustalo -i family.fa --outfmt=st -o family.sto;"
        " hmmbuild --dna family.hmm family.sto > log; }\n# needs clustalo",
        threads=4, varies=r"Mc/sec: [0-9.]+|CPU time: .*"),
    Row("lammps", "$RUN lmp -in in.lj -log none | grep -E '^ +[0-9]+ +[0-9.]+ +-'", LENNARD_JONES),
    Row("primesieve-bin", "$RUN primesieve 1e9 -t4 -q -c1", threads=3),
    Row("pari-gp", "$RUN gp -q --default nbthreads=4 --default threadsizemax=50M <<< 'export(f="
        "(n->sigma(n)));print(parsum(n=1,20000,f(n)))'", threads=3),
    Row("r-base-core", "OMP_NUM_THREADS=4 $RUN R --vanilla -s -e 'library(parallel); a <- matrix("
        "1:40000 %% 7, 200); print(sum(a %*% a)); print(sum(unlist(mclapply(1:8, function(i) i^2,"
        " mc.cores = 4))))'"),
    Row("swi-prolog-nox", "$RUN swipl queues.pl", PROLOG),
    Row("fd-find", "$RUN fdfind -j4 file repo | sort", REPOSITORY, threads=3),
    Row("fzf", "$RUN fzf -f 777 < text", text(300)),
    Row("bubblewrap", "$RUN bwrap --ro-bind / / --unshare-pid --proc /proc sh -c 'ps ax | wc -l'",
        "# needs ps"),
    Row("parallel", "$RUN parallel --will-cite -j4 -k echo {} ::: 1 2 3 4 5 6"),
]
