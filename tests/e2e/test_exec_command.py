# SPDX-License-Identifier: GPL-2.0-or-later
"""The command itself: streams, surroundings, statuses, and what it refuses."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import harness
import pytest
from harness import Finished, Place

from supervisor.tracee.vessel import vessel_image

EM_ARM = 40


def one_line(run: Finished, status: int) -> str:
    """A refusal: nothing on standard output, one line of dsmsup's on standard error."""
    assert run.status == status, run.stderr
    assert run.stdout == b""
    lines = run.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("dsmsup: ")
    return lines[0]


def test_arguments_environment_and_folder(hosts: int, place: Place) -> None:
    argv = [str(harness.BIN / "surroundings"), "", "two words", "-n", "--stats", "ümlaut", "*"]
    folder = place.scratch / "a folder"
    folder.mkdir()
    env = {"DSMTEST_EMPTY": "", "DSMTEST_TEXT": "some = text\nin two lines"}
    native = place.run(argv, env=env, cwd=folder)
    run = place.dsmsup("exec", "-n", str(hosts), *argv, env=env, cwd=folder)
    assert (run.status, run.stdout, run.stderr) == (0, native.stdout, b"")


def test_children_see_the_machine_of_the_program(place: Place) -> None:
    counts = place.dsmsup("exec", "-n", "3", "nproc").stdout
    processors = [str(harness.BIN / "posix_machine"), "home", "processors"]
    script = f"nproc; {' '.join(processors)}; taskset -c 1 nproc; cat /proc/self/comm"
    run = place.dsmsup("exec", "-n", "3", "sh", "-c", script)
    assert int(counts) >= 3
    first, *told, bound, name = run.stdout.splitlines()
    assert (first, bound, name) == (counts.strip(), b"1", b"cat")
    assert [line for line in told if not line.startswith(b"holds processors: ")] == []
    assert len(told) == 10
    assert (run.status, run.stderr) == (0, b"")


def test_children_left_behind_have_time_to_end(hosts: int, place: Place) -> None:
    script = "(sleep 0.3; echo late) & exit 3"
    run = place.dsmsup("exec", "-n", str(hosts), "bash", "-c", script)
    assert (run.status, run.stdout, run.own_lines()) == (3, b"late\n", [])


def test_children_left_running_end_with_dsmsup(place: Place) -> None:
    """At once then: before, their end was waited for in vain, for another 3 s."""
    run = place.dsmsup("exec", "-n", "2", "bash", "-c", "sleep 60 & echo $! & exit 4")
    assert run.status == 4
    assert not Path(f"/proc/{run.stdout.decode().strip()}").exists()


def test_program_found_by_path_and_by_folder(place: Place) -> None:
    here = place.dsmsup("exec", "-n", "1", "./status", "3", cwd=harness.BIN)
    assert here.status == 3
    found = place.dsmsup(
        "exec", "-n", "1", "status", "4", env={"PATH": f"{harness.BIN}:/usr/bin:/bin"}
    )
    assert found.status == 4


def test_two_dashes_end_the_options(place: Place) -> None:
    run = place.dsmsup("exec", "-n", "1", "--", harness.BIN / "status", "5")
    assert run.status == 5


def test_input_through_a_pipe(hosts: int, place: Place) -> None:
    command = " ".join([*harness.dsmsup_command(), "exec", "-n", str(hosts)])
    run = place.run(["sh", "-c", f"seq 20000 | {command} {harness.BIN}/echo | tail -n 1"])
    assert (run.status, run.stdout) == (0, b"20000\n")
    assert run.stderr == b"echo: end of input\n"


def test_closed_output_is_the_programs_own_affair(place: Place) -> None:
    """A reader that goes away ends the program by SIGPIPE, as natively."""
    command = " ".join([*harness.dsmsup_command(), "exec", "-n", "2"])
    script = f"{{ {command} {harness.BIN}/stdio_all 4 5000; echo $? >&2; }} | head -n 1"
    run = place.run(["sh", "-c", script])
    assert run.stdout.count(b"\n") == 1
    assert run.stderr.split() == [b"141"]


WHICH_ARE_OPEN = """
for n in 0 1 2; do if test -e /proc/$$/fd/$n; then open=$open$n; fi; done
echo "$open" > "$0"
exit 3
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_closed_for_the_program(
    closed: str, hosts: int, place: Place
) -> None:
    command = " ".join([*harness.dsmsup_command(), "exec", "-n", str(hosts)])
    found = []
    for prefix in ("", command):
        told = place.scratch / "told"
        run = place.run(["sh", "-c", f'{prefix} sh -c "$1" "$2" {closed}', "sh", WHICH_ARE_OPEN,
                         str(told)])  # fmt: skip
        assert (run.status, run.stdout, run.stderr) == (3, b"", b"")
        found.append(told.read_text())
    assert found[0] == found[1]


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_dead_standard_error_changes_no_status(stderr: str, place: Place) -> None:
    command = " ".join(harness.dsmsup_command())
    for arguments, status in [
        ("exec -n 2 /no/such/program", 127),
        ("exec -n none true", 125),
        ("sites /no/such/file", 127),
        ("exec -n 2 -v sh -c 'exit 4'", 4),
        ("", 125),
    ]:
        run = place.run(["sh", "-c", f"{command} {arguments} {stderr}"])
        assert (run.status, run.stdout, run.stderr) == (status, b"", b""), arguments


@pytest.mark.parametrize("cache", ["/dev/null/x", "/proc/none", "full", "noexec"])
def test_cache_that_cannot_be_used(cache: str, hosts: int, place: Place) -> None:
    """The run has its rewritten files in a temporary folder, and none of it is left."""
    mounted = place.scratch / "mounted"
    mounted.mkdir()
    options = {"full": "size=4k,nr_inodes=9", "noexec": "noexec"}.get(cache)
    command = [*harness.dsmsup_command(), "exec", "-v", "-n", str(hosts), f"{harness.BIN}/mutex"]
    env = {"DSMSUP_CACHE_DIR": str(mounted) if options else cache}
    if options:
        as_root()
        mount = f"mount -t tmpfs -o {options} none {mounted} && exec \"$@\""
        command = ["unshare", "-m", "sh", "-c", mount, "sh", *command]
    run = place.run(command, env=env)
    assert (run.status, run.stdout) == (0, b"mutex: 1200\n")
    assert b"for this run only" in run.stderr


def test_folder_of_a_killed_run_is_removed_by_the_next(place: Place) -> None:
    """But no folder of a run that lives, and nothing that only has a name like one's."""
    def start() -> harness.Running:
        program = [f"{harness.BIN}/endless", "1", "60"]
        run = place.start([*harness.dsmsup_command(), "exec", "-n", "2", *program], env=env)
        run.wait_for_output(b"ready\n")
        return run

    env = {"DSMSUP_CACHE_DIR": "/dev/null/x"}
    other = place.temporary / "dsmsup-other"
    other.mkdir()
    runs = start(), start()
    left = set(place.temporary.iterdir()) - {other}
    for folder in (*left, other):
        os.utime(folder, (0, 0))
    runs[0].popen.kill()
    runs[0].wait(harness.LOSS_LIMIT_S)
    place.start([*harness.dsmsup_command(), "exec", "-n", "1", "true"], env=env).wait()
    after = set(place.temporary.iterdir()) - {other}
    assert len(left) == 2
    assert len(after) == 1 and after < left
    runs[1].popen.terminate()
    assert runs[1].wait(harness.LOSS_LIMIT_S).status == 143
    assert list(place.temporary.iterdir()) == [other]
    other.rmdir()


def test_cache_named_from_the_working_folder(hosts: int, place: Place) -> None:
    """It is the folder that dsmsup was started in, wherever the program goes."""
    script = f"cd / && exec {harness.BIN}/mutex"
    env = {"DSMSUP_CACHE_DIR": "cache"}
    run = place.dsmsup("exec", "-n", str(hosts), "sh", "-c", script, env=env, cwd=place.scratch)
    assert (run.status, run.stdout, run.stderr) == (0, b"mutex: 1200\n", b"")
    assert (place.scratch / "cache").is_dir()


def test_no_folder_for_rewritten_files(place: Place) -> None:
    """No temporary one either: TMPDIR and its like, and the working directory last."""
    as_root()
    script = (
        "for each in /tmp /var/tmp /usr/tmp; do if test -d $each; then mount --bind $each $each"
        ' && mount -o remount,ro,bind $each; fi; done; cd /proc && exec "$@"'
    )
    command = [*harness.dsmsup_command(), "exec", "-n", "2", "/bin/true"]
    env = {"DSMSUP_CACHE_DIR": "/dev/null/x", "TMPDIR": "/proc"}
    run = place.run(["unshare", "-m", "sh", "-c", script, "sh", *command], env=env)
    line = one_line(run, 125)
    assert "/dev/null/x" in line
    assert "set DSMSUP_CACHE_DIR" in line


@pytest.mark.parametrize("command", [("exec", "-n", "2", "--stats"), ("count", "-o")],
                         ids=["exec", "count"])
def test_full_report_costs_no_status(command: tuple[str, ...], place: Place) -> None:
    run = place.dsmsup(*command, "/dev/full", "/bin/sh", "-c", "echo out; exit 3")
    assert (run.status, run.stdout) == (3, b"out\n")
    (line,) = run.stderr.decode().splitlines()
    assert line.startswith("dsmsup: cannot write ")
    assert line.endswith("'/dev/full': No space left on device")


def test_count_with_dead_standard_error(place: Place) -> None:
    command = " ".join(harness.dsmsup_command())
    for stderr in ("2>&-", "2>/dev/full", "2>&1 >/dev/null | true"):
        script = f"{command} count sh -c 'exit 3' {stderr}; exit ${{PIPESTATUS[0]}}"
        run = place.run(["bash", "-c", script])
        assert (run.status, run.stderr) == (3, b"")


def test_no_cluster_named_means_virtual_hosts(place: Place) -> None:
    stats = place.scratch / "stats.json"
    run = place.dsmsup("exec", "--stats", stats, harness.BIN / "mutex")
    assert (run.status, run.stdout) == (0, b"mutex: 1200\n")
    assert b'"id": 1' in stats.read_bytes() or b'"id":1' in stats.read_bytes()


def test_verbose_speaks_on_standard_error_only(place: Place) -> None:
    run = place.dsmsup("exec", "-n", "2", "-v", harness.BIN / "mutex")
    assert (run.status, run.stdout) == (0, b"mutex: 1200\n")
    assert run.own_lines()
    assert len(run.own_lines()) == len(run.stderr.splitlines())


def test_unknown_system_call_is_named(hosts: int, place: Place) -> None:
    run = place.dsmsup("exec", "-n", str(hosts), harness.BIN / "unknown_syscall", "1234")
    assert "1234" in one_line(run, 125)


def arm_binary(path: Path) -> None:
    """The header of a 32-bit little-endian ARM executable, and nothing else."""
    header = b"\x7fELF" + bytes([1, 1, 1, 0]) + bytes(8)
    header += struct.pack("<HHIIIIIHHHHHH", 2, EM_ARM, 1, 0x8000, 52, 0, 0x5000400, 52, 32, 0,
                          40, 0, 0)
    path.write_bytes(header.ljust(4096, b"\0"))
    path.chmod(0o755)


def executable(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)
        path.chmod(0o755)

    return write


def elf_bytes() -> bytes:
    return (harness.BIN / "mutex").read_bytes()


def truncated(path: Path) -> None:
    executable(elf_bytes()[:1000])(path)


def cut_in_the_header(path: Path) -> None:
    executable(elf_bytes()[:40])(path)


def wild_program_headers(path: Path) -> None:
    """e_phoff points far outside the file."""
    content = bytearray(elf_bytes())
    struct.pack_into("<Q", content, 32, 1 << 60)
    executable(bytes(content))(path)


def wild_segment(path: Path) -> None:
    """Every program header claims a size that no file has."""
    content = bytearray(elf_bytes())
    offset, count = struct.unpack_from("<Q", content, 32)[0], struct.unpack_from("<H", content, 56)
    for header in range(count[0]):
        struct.pack_into("<QQ", content, offset + header * 56 + 32, 1 << 62, 1 << 62)
    executable(bytes(content))(path)


def wild_entry_point(path: Path) -> None:
    """Of a file without an interpreter, whose entry point is what counts then."""
    content = bytearray(vessel_image())
    struct.pack_into("<Q", content, 24, 0x7000_0000)
    executable(bytes(content))(path)


def text_without_mode(path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\nexit 0\n")


def missing_interpreter(path: Path) -> None:
    present, absent = b"/lib64/ld-linux-x86-64.so.2", b"/lib64/ld-nowhere-x86-64.so"
    assert len(present) == len(absent)
    executable(elf_bytes().replace(present, absent))(path)


class Refusal(NamedTuple):
    """A file that cannot be run: `make` writes it, `status` is what a shell would say."""

    name: str
    make: Callable[[Path], None]
    status: int


REFUSALS = [
    Refusal("missing", lambda path: None, 127),
    Refusal("text without exec bit", text_without_mode, 126),
    Refusal("text without shebang", executable(b"just some words\n"), 126),
    Refusal("empty file", executable(b""), 126),
    Refusal("directory", Path.mkdir, 126),
    Refusal("ARM binary", arm_binary, 126),
    Refusal("truncated ELF", truncated, 126),
    Refusal("ELF cut in its header", cut_in_the_header, 126),
    Refusal("ELF with wild headers", wild_program_headers, 126),
    Refusal("ELF with wild segments", wild_segment, 126),
    Refusal("ELF with a wild entry point", wild_entry_point, 126),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
@pytest.mark.parametrize("count", ["1", "2"])
def test_file_that_cannot_be_run(refusal: Refusal, count: str, place: Place) -> None:
    path = place.scratch / refusal.name.replace(" ", "_")
    refusal.make(path)
    run = place.dsmsup("exec", "-n", count, path)
    assert path.name in one_line(run, refusal.status)


def test_missing_interpreter(place: Place) -> None:
    path = place.scratch / "no_interpreter"
    missing_interpreter(path)
    run = place.dsmsup("exec", "-n", "1", path)
    assert run.status in (126, 127)  # a shell says 127: execve says ENOENT
    assert "no_interpreter" in one_line(run, run.status)


def test_name_not_found_in_path(place: Place) -> None:
    run = place.dsmsup("exec", "-n", "1", "no-such-program-anywhere")
    assert "no-such-program-anywhere" in one_line(run, 127)


USAGE_ERRORS = {
    "no hosts": ("exec", "-n", "0", "true"),
    "negative hosts": ("exec", "-n", "-1", "true"),
    "hosts that are no number": ("exec", "-n", "two", "true"),
    "unknown option": ("exec", "--no-such-option", "true"),
    "no program": ("exec", "-n", "2"),
    "unknown policy": ("exec", "-n", "2", "--policy", "no-such-policy", "true"),
    "unknown command": ("no-such-command",),
    "cluster without rendezvous": ("exec", "--hosts", "2", "true"),
    "rendezvous without port": (
        "exec", "--hosts", "2", "--rendezvous", "127.0.0.1", "--key-file", "/dev/null", "true"
    ),
    "key file missing": (
        "exec", "--hosts", "2", "--rendezvous", "127.0.0.1:1", "--key-file", "/no/key", "true"
    ),
    "statistics nowhere": (
        "exec", "-n", "1", "--stats", "/no/folder/stats.json", str(harness.BIN / "status")
    ),
}


@pytest.mark.parametrize("arguments", USAGE_ERRORS.values(), ids=USAGE_ERRORS.keys())
def test_usage_error(arguments: tuple[str, ...], place: Place) -> None:
    run = place.dsmsup(*arguments)
    assert run.status == 125
    assert run.stdout == b""
    assert run.own_lines()


def may_raise_limits() -> bool:
    """CAP_SYS_RESOURCE (capabilities(7))."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> 24 & 1)


def limited(place: Place, limit: str, *argv: str) -> Finished:
    """`argv` on two hosts, dsmsup started with a limit (KIND=SOFT:HARD)."""
    command = ["prlimit", f"--{limit}", *harness.dsmsup_command()]
    return place.run([*command, "exec", "-n", "2", *argv])


@pytest.mark.parametrize("limit", [12, 24])
def test_too_few_open_files(limit: int, place: Place) -> None:
    line = one_line(limited(place, f"nofile={limit}:{limit}", "true"), 125)
    assert f"only {limit} files" in line
    assert "ulimit -n" in line


def test_program_has_the_limit_of_open_files_that_was_given(place: Place) -> None:
    script = "ulimit -n; ulimit -Hn; bash -c 'ulimit -n'"
    run = limited(place, "nofile=30:1000", "bash", "-c", script)
    assert (run.status, run.stdout, run.stderr) == (0, b"30\n1000\n30\n", b"")


def test_program_has_the_nice_value_and_timer_slack_that_were_given(place: Place) -> None:
    argv = ["bash", "-c", "nice; cat /proc/$$/timerslack_ns"]
    native = place.run(["nice", "-n", "5", *argv])
    run = place.run(["nice", "-n", "5", *harness.dsmsup_command(), "exec", "-n", "2", *argv])
    assert (run.status, run.stdout, run.stderr) == (0, native.stdout, b"")


def as_root() -> None:
    """Namespaces of mounts and networks are root's to make."""
    if os.geteuid():
        pytest.skip("needs root")
    harness.need("unshare")


@pytest.mark.parametrize("command", [("exec", "-n", "2"), ("count",)], ids=["exec", "count"])
@pytest.mark.parametrize("proc", ["umount -l /proc", "true"], ids=["none", "another"])
def test_proc_of_another_namespace(command: tuple[str, ...], proc: str, place: Place) -> None:
    as_root()
    script = f'{proc}; exec "$@"'
    run = place.run(
        ["unshare", "-mpf", "sh", "-c", script, "sh", *harness.dsmsup_command(), *command, "true"]
    )
    assert "mount -t proc proc /proc" in one_line(run, 125)


@pytest.mark.parametrize("closed", ["", "<&-", ">&-"])
def test_no_null_device(closed: str, place: Place) -> None:
    as_root()
    script = f'mount -t tmpfs -o ro none /dev && "$@" {closed}'
    command = [*harness.dsmsup_command(), "exec", "-n", "2", "true"]
    run = place.run(["unshare", "-m", "sh", "-c", script, "sh", *command])
    assert "cannot open /dev/null" in one_line(run, 125)


@pytest.mark.parametrize("level", [1, 2])
def test_memory_files_that_may_not_be_executed(level: int, place: Place) -> None:
    as_root()
    setting = Path("/proc/sys/vm/memfd_noexec")
    if not setting.exists():
        pytest.skip(f"no {setting}")
    script = f'echo {level} > {setting} && exec "$@"'
    run = place.run(
        ["unshare", "-p", "-f", "--mount-proc", "sh", "-c", script, "sh",
         *harness.dsmsup_command(), "exec", "-n", "2", str(harness.BIN / "mutex")]
    )  # fmt: skip
    assert (run.status, run.stdout, run.stderr) == (0, b"mutex: 1200\n", b"")


def test_loopback_that_is_down(place: Place) -> None:
    as_root()
    run = place.run(["unshare", "-n", *harness.dsmsup_command(), "exec", "-n", "2", "true"])
    assert "ip link set lo up" in one_line(run, 125)
    assert run.wall_s < 10


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_too_few_processes(limit: int, place: Place) -> None:
    """As a user without the right to exceed the limit, who may still read the checkout."""
    as_root()
    harness.need("setpriv")
    rights = "-all,+dac_override,+dac_read_search"
    user = ["--reuid", "54321", "--clear-groups", "--inh-caps", rights, "--ambient-caps", rights]
    run = place.run(
        ["prlimit", f"--nproc={limit}", "setpriv", *user, *harness.dsmsup_command(),
         "exec", "-n", "2", "true"]
    )  # fmt: skip
    assert "ulimit -u" in one_line(run, 125)


def test_already_traced(place: Place) -> None:
    harness.need("strace")
    command = [*harness.dsmsup_command(), "exec", "-n", "1", "true"]
    run = place.run(["strace", "-f", "-o", str(place.scratch / "trace"), *command])
    assert "already traced, by process" in one_line(run, 125)


LIMITS = {"-v": "as=1000000000", "-d": "data=200000000", "-f": "fsize=102400"}
"""By the option of `ulimit`, whose unit is 1024 bytes."""


@pytest.mark.parametrize("option", LIMITS)
def test_program_has_the_limit_that_was_given(option: str, place: Place) -> None:
    show = f"ulimit {option}; ulimit -H {option}"
    run = limited(place, f"{LIMITS[option]}:", "bash", "-c", f"{show}; bash -c '{show}'")
    given = int(LIMITS[option].partition("=")[2]) // 1024
    assert (run.status, run.stdout, run.stderr) == (0, f"{given}\nunlimited\n".encode() * 2, b"")


def test_limit_of_mapped_memory_that_was_given_holds(place: Place) -> None:
    script = "try: bytes(1 << 30)\nexcept MemoryError: print('refused')"
    run = limited(place, "as=1000000000:", "python3", "-c", script)
    assert (run.status, run.stdout) == (0, b"refused\n")


def test_limit_of_file_sizes_that_was_given_holds(place: Place) -> None:
    script = f"trap '' XFSZ; head -c 200000 /dev/zero > {place.scratch}/file"
    run = limited(place, "fsize=102400:", "bash", "-c", script)
    assert run.status == 1
    assert (place.scratch / "file").stat().st_size == 102400


@pytest.mark.skipif(may_raise_limits(), reason="dsmsup may raise the hard limit itself")
@pytest.mark.parametrize("option", ["-v", "-f"])
def test_too_low_a_hard_limit(option: str, place: Place) -> None:
    line = one_line(limited(place, f"{LIMITS[option]}", "true"), 125)
    assert f"ulimit {option}" in line


def test_port_in_use(place: Place) -> None:
    key = make_key(place)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = place.dsmsup(
            "exec", "--hosts", "2", "--host-id", "0", "--rendezvous", f"127.0.0.1:{port}",
            "--key-file", key, harness.BIN / "mutex",
        )
    assert str(port) in one_line(run, 125)


def make_key(place: Place, name: str = "key") -> Path:
    path = place.scratch / name
    assert place.dsmsup("keygen", path).status == 0
    return path


def test_keygen(place: Place) -> None:
    first, second = make_key(place, "first"), make_key(place, "second")
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert first.read_bytes() != second.read_bytes()
    assert len(first.read_bytes()) >= 32


def test_keygen_never_overwrites(place: Place) -> None:
    key = make_key(place)
    before = key.read_bytes()
    assert "key" in one_line(place.dsmsup("keygen", key), 125)
    assert key.read_bytes() == before
    one_line(place.dsmsup("keygen", "/no/such/folder/key"), 125)


def test_help_and_version(place: Place) -> None:
    for arguments in (("--help",), ("exec", "--help"), ("keygen", "--help"), ("--version",)):
        run = place.dsmsup(*arguments)
        assert (run.status, run.stderr) == (0, b"")
        assert b"dsmsup" in run.stdout


@pytest.mark.parametrize("arguments", ["--help", "--version", "sites /bin/true", "cache show"])
def test_output_that_cannot_be_written(arguments: str, place: Place) -> None:
    command = " ".join([*harness.dsmsup_command(), arguments])
    run = place.run(["sh", "-c", f"{command} >/dev/full"])
    assert one_line(run, 125) == "dsmsup: standard output: No space left on device"
    run = place.run(["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"])
    assert (run.stdout, run.stderr) == (b"141\n", b"")


def test_entry_point_that_may_not_be_executed(hosts: int, place: Place) -> None:
    """As a shared library has, of which the ELF header is the entry point."""
    damaged = bytearray((harness.BIN / "tls_static").read_bytes())
    struct.pack_into("<Q", damaged, 24, 0x400000)
    program = place.scratch / "damaged"
    program.write_bytes(damaged)
    program.chmod(0o755)
    run = place.dsmsup("exec", "-n", str(hosts), str(program))
    assert "may not be executed" in one_line(run, 126)


def test_program_with_a_line_break_in_its_name(hosts: int, place: Place) -> None:
    program = place.scratch / "two\nlines ü"
    program.write_bytes((harness.BIN / "mutex").read_bytes())
    program.chmod(0o755)
    run = place.dsmsup("exec", "-n", str(hosts), str(program))
    assert (run.status, run.stdout, run.stderr) == (0, b"mutex: 1200\n", b"")
