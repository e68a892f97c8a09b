# SPDX-License-Identifier: GPL-2.0-or-later
"""The environment that dsmsup was started with: so the program starts too.

Python changes its own in the C locale, where it sets LC_CTYPE (PEP 538).
"""

from __future__ import annotations


def given_environment() -> dict[bytes, bytes]:
    """Variables and values, as the kernel keeps them; of two of one name the first counts."""
    with open("/proc/self/environ", "rb") as file:
        entries = file.read().split(b"\0")
    found: dict[bytes, bytes] = {}
    for name, equals, value in (entry.partition(b"=") for entry in entries):
        if name and equals:
            found.setdefault(name, value)
    return found
