# SPDX-License-Identifier: GPL-2.0-or-later
"""Source lines of addresses, where a file carries DWARF line tables.

pyelftools reads them; it is slow and trusts its input, so it is asked only for
reports, never while rewriting, and whatever it raises means "no lines".
"""

from __future__ import annotations

import bisect
import io
from typing import Any


def lines_of(data: bytes, addresses: list[int]) -> dict[int, str]:
    """ "file:line" of each address that a line table covers."""
    try:
        return _lines_of(data, addresses)
    except Exception:
        return {}


def _lines_of(data: bytes, addresses: list[int]) -> dict[int, str]:
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(io.BytesIO(data))
    if not elf.has_dwarf_info(strict=True):
        return {}
    dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False)
    wanted = sorted(addresses)
    found: dict[int, str] = {}
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        previous: Any = None
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if previous is not None and previous.address < state.address:
                lo = bisect.bisect_left(wanted, previous.address)
                hi = bisect.bisect_left(wanted, state.address)
                for address in wanted[lo:hi]:
                    name = _file_name(program, previous.file)
                    found[address] = f"{name}:{previous.line}"
            previous = None if state.end_sequence else state
    return found


def _file_name(program: Any, index: int) -> str:
    header = program.header
    entries = header["file_entry"]
    position = index if header["version"] >= 5 else index - 1
    name = entries[position].name
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
