# SPDX-License-Identifier: GPL-2.0-or-later
"""The command itself: streams, surroundings, statuses."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import harness
import processes
import pytest
from clusters import make_key
from harness import Place, as_root, one_line


def test_arguments_environment_and_folder(hosts: int, place: Place) -> None:
    argv = [str(harness.BIN / "surroundings"), "", "two words", "-n", "--stats", "ümlaut", "*"]
    folder = place.scratch / "a folder"
    folder.mkdir()
    env = {"DSMTEST_EMPTY": "", "DSMTEST_TEXT": "some = text\nin two lines"}
    native = place.run(argv, env=env, cwd=folder)
    run = place.dsmsup("exec", "-n", str(hosts), *argv, env=env, cwd=folder)
    assert (run.status, run.stdout, run.stderr) == (0, native.stdout, b"")


@pytest.mark.parametrize("command", [("exec", "-n", "2"), ("count", "-o", "/dev/null")],
                         ids=["exec", "count"])
def test_an_empty_environment_stays_as_it_is(command: tuple[str, ...], place: Place) -> None:
    """As of a job of cron; Python's own has a variable more in the C locale."""
    kept = ("PYTHONPATH", "XDG_CACHE_HOME", "TMPDIR", processes.TAG_VARIABLE)
    given = [f"{name}={value}" for name, value in place.environment().items() if name in kept]
    given += ["EMPTY=", "LC_CTYPE=C"]
    run = place.run(["env", "-i", *given, *harness.dsmsup_command(), *command, "/usr/bin/env"])
    assert (run.status, run.stderr) == (0, b"")
    assert run.stdout.decode().splitlines() == given


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


WITHOUT_NAME = """
import os, sys

content = open(sys.argv[1], "rb").read()
if sys.argv[2] == "memory":
    file = os.memfd_create("a program", 0)
    os.write(file, content)
else:
    with open("removed", "wb") as copy:
        copy.write(content)
    file = os.open("removed", os.O_RDONLY)
    os.chmod("removed", 0o755)
    os.unlink("removed")
os.set_inheritable(file, True)
command = [*sys.argv[3:], f"/proc/self/fd/{file}"]
os.execv(command[0], command)
"""


@pytest.mark.parametrize("kind", ["memory", "removed"])
@pytest.mark.parametrize("inside", [False, True], ids=["given", "executed"])
def test_program_without_a_name(kind: str, inside: bool, place: Place) -> None:
    """Given as a descriptor, or executed by the program so."""
    command = [*harness.dsmsup_command(), "exec", "-n", "2"]
    words = [sys.executable, "-c", WITHOUT_NAME, f"{harness.BIN}/mutex", kind]
    run = place.run([*command, *words] if inside else [*words, *command])
    assert (run.status, run.stdout, run.stderr) == (0, b"mutex: 1200\n", b"")


@pytest.mark.parametrize("name", [b"two\nlines \xc3\xbc", b"no \xff text", b"n" * 255],
                         ids=["line break", "no text", "long"])
def test_name_of_a_program(name: bytes, hosts: int, place: Place) -> None:
    program = place.scratch / os.fsdecode(name)
    program.write_bytes((harness.BIN / "mutex").read_bytes())
    program.chmod(0o755)
    run = place.dsmsup("exec", "-n", str(hosts), str(program))
    assert (run.status, run.stdout, run.stderr) == (0, b"mutex: 1200\n", b"")
