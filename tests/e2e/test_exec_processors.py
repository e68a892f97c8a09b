# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts whose processors differ: a program is shown, everywhere, what all of them have."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import harness
import pytest
from harness import Place

from supervisor.arch.cpuid import INSTRUCTIONS
from supervisor.tracee.cpuid import can_fault

LACKING = Path(__file__).with_name("lacking.py")
NO_AVX2 = ",".join(
    name for name in sorted(INSTRUCTIONS)
    if name.startswith("avx512") or name in ("avx2", "vaes", "vpclmulqdq")
)  # fmt: skip


def run(
    place: Place, who: str, features: str, *arguments: str | Path
) -> harness.Finished:
    argv = [sys.executable, str(LACKING), who, features, "exec", *map(str, arguments)]
    return place.run(argv, env={"PYTHONPATH": str(harness.ROOT)})


def traps_of(path: Path) -> int:
    return sum(host["traps"] for host in json.loads(path.read_text())["hosts"])


NO_FAULTS = "faulting"
"""As if its CPUID could not be made to fault: those of rewritten code trap then."""


@pytest.mark.parametrize("also", ["", "," + NO_FAULTS], ids=["faults", "traps"])
@pytest.mark.parametrize("who", ["home", "others"])
@pytest.mark.parametrize("name", ["processor", "processor_static", "processor_m32"])
def test_what_one_host_lacks_is_absent_on_all(
    place: Place, who: str, name: str, also: str
) -> None:
    """One line from main, from a thread on each processor and from a forked child."""
    done = run(place, who, NO_AVX2 + also, "-n", "2", harness.BIN / name)
    assert done.status == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert len(lines) >= 4
    brand = place.run([str(harness.BIN / name)]).stdout.decode().splitlines()[0].rpartition(", ")[2]
    wanted = f"cpuid 0 0, cpu_supports 0 0, cpuinfo 0 0, vpclmulqdq 0, {brand}"
    assert {line.partition(": ")[2] for line in lines} == {wanted}
    assert {line.split()[0] for line in lines} == {"main", "processor", "child"}


@pytest.mark.parametrize("who", ["home", "others"])
def test_hosts_may_differ_in_their_registers(place: Place, who: str) -> None:
    """All that glibc does with the AVX that both have works on both, and in handed over threads."""
    states = f"AVX-512,PKRU,AMX,{NO_FAULTS}"
    done = run(place, who, states, "-n", "2", harness.BIN / "processor")
    assert done.status == 0, done.stderr
    for line in done.stdout.decode().splitlines():
        answers = [answer.split()[-2:] for answer in line.split(", ")[:3]]
        assert [wide for _, wide in answers] == ["0"] * 3, line
    native = place.run([str(harness.BIN / "moved_registers")])
    done = run(place, who, states, "-n", "2", harness.BIN / "moved_registers")
    assert (done.status, done.stdout) == (0, native.stdout), done.stderr


def test_what_all_have_is_there(place: Place, hosts: int) -> None:
    """Only what was said to be lacking is hidden."""

    def told(text: bytes) -> set[bytes]:
        """What CPUID and the compiler's library say."""
        return {line.partition(b": ")[2].partition(b", cpuinfo")[0] for line in text.splitlines()}

    native = place.run([str(harness.BIN / "processor")])
    done = run(place, "others", "adx", "-n", str(hosts), harness.BIN / "processor")
    assert done.status == 0, done.stderr
    assert told(done.stdout) == told(native.stdout)


def test_no_cpuid_traps_where_hosts_are_alike(place: Place) -> None:
    alike, unlike = place.scratch / "alike", place.scratch / "unlike"
    argv = ["-n", "2", "--policy", "single-writer", "--stats"]
    program = harness.BIN / "processor"
    assert place.dsmsup("exec", *argv, alike, program).status == 0
    assert traps_of(alike) == 0
    for lacking in ("popcnt", f"popcnt,{NO_FAULTS}"):
        assert run(place, "others", lacking, *argv, str(unlike), program).status == 0
        assert traps_of(unlike) > 0


@pytest.mark.skipif(not can_fault(), reason="CPUID cannot be made to fault here")
@pytest.mark.parametrize("who", ["home", "others"])
@pytest.mark.parametrize("name", ["made_cpuid", "made_cpuid_m32"])
def test_code_made_at_run_time_is_told_the_same(place: Place, who: str, name: str) -> None:
    done = run(place, who, NO_AVX2, "-v", "-n", "2", harness.BIN / name)
    assert done.status == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["main", "processor", "processor", "child"]
    assert {line.partition(": ")[2] for line in lines} == {"avx2 0, avx512f 0"}
    assert not any("all threads go on at home" in line for line in done.own_lines())


def test_code_that_is_not_rewritten_stays_where_it_asked(place: Place) -> None:
    """Where its CPUIDs cannot be made to fault."""
    native = place.run([str(harness.BIN / "jit")]).stdout
    done = run(place, "others", f"{NO_AVX2},{NO_FAULTS}", "-v", "-n", "2", harness.BIN / "jit")
    assert (done.status, done.stdout) == (0, native), done.stderr
    assert any("all threads go on at home" in line for line in done.own_lines())


def test_a_baseline_is_needed(place: Place) -> None:
    done = run(place, "others", "sse2,avx2", "-n", "2", harness.BIN / "processor")
    assert done.status != 0
    assert any("lacks sse2, which every program uses" in line for line in done.own_lines())
