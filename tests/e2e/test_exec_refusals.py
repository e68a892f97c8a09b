# SPDX-License-Identifier: GPL-2.0-or-later
"""What is refused: files that cannot be run, wrong usage, what a machine does not permit."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import harness
import pytest
from clusters import make_key
from harness import Place, as_root, one_line

from supervisor.tracee.vessel import vessel_image

EM_ARM = 40


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


@pytest.mark.parametrize(("at", "value"), [(4, 3), (5, 2)], ids=["class", "byte order"])
def test_damaged_identification(at: int, value: int, place: Place) -> None:
    """It is not said to be built for a machine that it was not built for."""
    path = place.scratch / "damaged"
    content = bytearray(elf_bytes())
    content[at] = value
    executable(bytes(content))(path)
    run = place.dsmsup("exec", "-n", "1", path)
    assert one_line(run, 126).endswith("damaged': its ELF header is damaged")


def test_program_on_a_file_system_mounted_noexec(place: Place) -> None:
    as_root()
    folder = place.scratch / "mounted"
    folder.mkdir()
    script = f'mount -t tmpfs -o noexec none {folder} && cp /bin/true {folder} && exec "$@"'
    command = [*harness.dsmsup_command(), "exec", "-n", "2", f"{folder}/true"]
    run = place.run(["unshare", "-m", "sh", "-c", script, "sh", *command])
    assert "mounted noexec" in one_line(run, 126)


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


def test_loopback_that_is_down(place: Place) -> None:
    as_root()
    run = place.run(["unshare", "-n", *harness.dsmsup_command(), "exec", "-n", "2", "true"])
    assert "ip link set lo up" in one_line(run, 125)
    assert run.wall_s < 10


def test_already_traced(place: Place) -> None:
    harness.need("strace")
    command = [*harness.dsmsup_command(), "exec", "-n", "1", "true"]
    run = place.run(["strace", "-f", "-o", str(place.scratch / "trace"), *command])
    assert "already traced, by process" in one_line(run, 125)


def test_port_in_use(place: Place) -> None:
    key = make_key(place)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = place.dsmsup(
            "exec", "--hosts", "2", "--host-id", "0", "--rendezvous", f"127.0.0.1:{port}",
            "--key-file", key, harness.BIN / "mutex",
        )
    assert str(port) in one_line(run, 125)


def test_entry_point_that_may_not_be_executed(hosts: int, place: Place) -> None:
    """As a shared library has, of which the ELF header is the entry point."""
    damaged = bytearray((harness.BIN / "tls_static").read_bytes())
    struct.pack_into("<Q", damaged, 24, 0x400000)
    program = place.scratch / "damaged"
    program.write_bytes(damaged)
    program.chmod(0o755)
    run = place.dsmsup("exec", "-n", str(hosts), str(program))
    assert "may not be executed" in one_line(run, 126)
