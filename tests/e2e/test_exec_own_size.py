# SPDX-License-Identifier: GPL-2.0-or-later
"""What the program's memory is said to be, and held against its limits, is the program's own."""

from __future__ import annotations

from harness import Place, dsmsup_command

LIMIT_KIB = 90_000
"""Less than lies between the segments of one rewritten library, more than Python needs."""


def test_size_under_a_small_limit(hosts: int, place: Place) -> None:
    show = "cat /proc/self/status /proc/self/statm /proc/self/stat"
    limited = f"ulimit -S -v {LIMIT_KIB}; exec "
    command = " ".join([*dsmsup_command(), "exec", "-n", str(hosts)])
    run = place.run(["bash", "-c", f"{limited} {command} {show}"])
    assert (run.status, run.stderr) == (0, b"")
    *status, statm, stat = run.stdout.decode().splitlines()
    fields = dict(line.split(":\t", 1) for line in status)
    mapped_kib = int(fields["VmSize"].split()[0])
    assert 2000 < mapped_kib < 20000
    assert 0 < int(fields["VmData"].split()[0]) < mapped_kib
    assert int(statm.split()[0]) * 4 == mapped_kib
    assert int(stat.rpartition(")")[2].split()[20]) >> 10 == mapped_kib
