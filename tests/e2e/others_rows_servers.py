# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers, driven by clients that run natively (others.py says what a row is)."""

from __future__ import annotations

from others import Row, text

NGINX = r"""
cat > nginx.conf <<END
daemon off; master_process off; worker_processes 1; error_log $PWD/errors; pid $PWD/pid;
thread_pool default threads=4;
events { worker_connections 64; }
http {
	access_log off; client_body_temp_path $PWD; proxy_temp_path $PWD; fastcgi_temp_path $PWD;
	uwsgi_temp_path $PWD; scgi_temp_path $PWD;
	server { listen unix:$PWD/socket; root $PWD; aio threads; output_buffers 1 64k; }
}
END
"""

HAPROXY = r"""
cat > haproxy.cfg <<END
global
	nbthread 4
	stats socket $PWD/admin level admin
defaults
	mode http
	timeout client 60s
	timeout server 60s
	timeout connect 60s
frontend front
	bind unix@$PWD/socket
	http-request return status 200 content-type text/plain string "hello"
END
"""

REDIS = """
$RUN redis-server --port 0 --unixsocket $PWD/socket --io-threads 4 --io-threads-do-reads yes \
	--save '' --daemonize no > log & server=$!
for _ in $(seq 600); do redis-cli -s socket ping > /dev/null 2>&1 && break; sleep 0.1; done
redis-benchmark -s socket -n 1000 -c 8 -q incr counter > /dev/null
redis-benchmark -s socket -n 300 -c 8 -P 10 -q lpush list x > /dev/null
redis-cli -s socket get counter; redis-cli -s socket llen list
redis-cli -s socket shutdown nosave; wait $server
"""

SERVERS = [
    Row("redis-server", REDIS, threads=3, runs=10),
    Row("memcached", """
$RUN memcached -u root -A -t 4 -s $PWD/socket -a 777 & server=$!
for _ in $(seq 600); do [ -S socket ] && break; sleep 0.1; done
python3 - <<'END'
import socket, threading
def talk(n):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("socket"); f = s.makefile("rwb")
        for i in range(50):
            f.write(b"incr n 1\\r\\n"); f.flush(); f.readline()
with socket.socket(socket.AF_UNIX) as s:
    s.connect("socket"); f = s.makefile("rwb")
    f.write(b"set n 0 0 1\\r\\n0\\r\\n"); f.flush(); f.readline()
    threads = [threading.Thread(target=talk, args=(n,)) for n in range(6)]
    [t.start() for t in threads]; [t.join() for t in threads]
    f.write(b"get n\\r\\n"); f.flush(); f.readline(); print(f.readline())
    f.write(b"shutdown\\r\\n"); f.flush()
END
wait $server; echo $?
""", threads=4),
    Row("nginx-light", """
$RUN nginx -p $PWD -c $PWD/nginx.conf & server=$!
for _ in $(seq 600); do [ -S socket ] && break; sleep 0.1; done
for n in 1 2 3 4 5 6 7 8; do
	curl -s --unix-socket socket http://x/text | sha256sum > sum$n & clients+=($!)
done
wait "${clients[@]}"; cat sum*; kill -QUIT $(cat pid); wait $server; echo $?
""", NGINX + text(500) + "\n# needs curl", threads=4),
    Row("haproxy", """
$RUN haproxy -f haproxy.cfg > log 2>&1 & server=$!
for _ in $(seq 600); do [ -S socket ] && break; sleep 0.1; done
for n in 1 2 3 4 5 6 7 8; do
	for m in 1 2 3 4; do curl -s --unix-socket socket http://x/; done > said$n & clients+=($!)
done
wait "${clients[@]}"; cat said*; kill -TERM $(cat /proc/$server/task/$server/children)
wait $server; echo $?
""", HAPROXY + "# needs curl", threads=3),
    Row("mariadb-server-core", """
options="--no-defaults --datadir=$PWD/data --user=root --skip-networking --socket=$PWD/socket"
$RUN mariadbd $options --pid-file=$PWD/pid --innodb-buffer-pool-size=8M > log 2>&1 & server=$!
sql() { mariadb --no-defaults -uroot -S socket -N -e "$1"; }
for _ in $(seq 600); do sql 'select 1' > log2 2>&1 && break; sleep 0.1; done
sql 'create database d; create table d.t (n int primary key, v int) engine=innodb;
	insert into d.t values (1, 0);'
for n in 1 2 3 4; do
	for m in 1 2 3 4 5; do sql 'update d.t set v = v + 1 where n = 1'; done & clients+=($!)
done
wait "${clients[@]}"; sql 'select v from d.t; select sum(seq) from d.seq_1_to_100000'
sql shutdown; wait $server; echo $?
""", """
# needs mariadb-install-db
# needs mariadb
mariadb-install-db --no-defaults --user=root --datadir=$PWD/data --skip-test-db \\
	--auth-root-authentication-method=normal > log 2>&1
""", threads=4),
]
