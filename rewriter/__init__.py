# SPDX-License-Identifier: GPL-2.0-or-later
"""A static rewriter of x86-64 and i386 ELF files: every synchronization instruction
is diverted to a trampoline that checks one byte, the *armed* byte, and then either
runs the instruction natively or raises #UD (`8e c8`) for a supervisor to act on.

    from rewriter.cache import rewritten
    r = rewritten("/lib/x86_64-linux-gnu/libc.so.6")
    r.path        the rewritten file; addresses of the original code are unmoved
    r.traps       address of each `8e c8` -> TrapSite (resume at `.native`)
    r.redirects   overwritten boundary -> its equivalent in a trampoline

The way of a file, one module a step:

    source, elf, frames, golang, relocs
                                  what the file says of itself
    candidates                    bytes that could begin a site, addresses that could
                                  be jumped to: numpy over everything, never too little
    decode, sites                 the sites, by decoding the functions that hold candidates
    tactics, select               how to divert control at each, in order of preference
    relocate, templates           the trampolines
    placement                     where they go, so that a missed jump into a patch faults
    plan                          all of this for one file
    cfi, unwind, sections, emit   the new file: frames, symbols, the added segment
    sidemap, cache, cacheadmin    kept by content, never believed when damaged
    asmtext, lines, commands      assembler text, source lines, the command line

Nothing in here knows of hosts, pages, ptrace or the supervisor: whoever runs a
rewritten file maps the page of the armed byte before its first instruction and
handles SIGILL (on i386 also SIGSEGV) at the addresses of the two maps. It also tells
a fault of a moved instruction as one of the original (`r.moved()`): Go's runtime makes
a panic only of faults in functions of its table, so a nil pointer that an atomic
operation follows ends a rewritten Go program which nobody watches.

Stripped code without unwind tables is followed from strong roots only, and what is
left is called partial, for want of a sure way to tell it from data: bytes in it that
could be sites may be none, and a site missed is as bad as data overwritten. In a file
most of which is described, only what reads as code is (libcrypto's tables are no code).
"""
