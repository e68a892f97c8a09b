# SPDX-License-Identifier: GPL-2.0-or-later
"""Small programs over shared variables, and every outcome a memory model allows.

Each variable is one byte. An outcome is what all loads of all threads read, in
program order, and the final value of each variable.

`outcomes(program, "sc")` interleaves the instructions in every order;
`outcomes(program, "tso")` is the operational x86-TSO model (Owens, Sarkar,
Sewell: A Better x86 Memory Model, TPHOLs 2009): a first-in first-out store
buffer for each thread, loads that see the own buffer first, and fences and
locked instructions that wait until the own buffer is empty.

`outcomes(program, "hosts", hosts)` is x86-TSO less the one gap that multiple-writer
pages have, and no more: what a page's protection and its twin cannot tell. Threads
of one host share a store buffer, so that they see each other's stores early; and
when memory holds already what the newest buffered store of a byte would put there,
the buffered stores of that byte may be dropped, because a diff does not show them.
"""

from __future__ import annotations

import random
from typing import NamedTuple


class Op(NamedTuple):
    """One instruction.

    kind: "load" and "store" touch each of `variables` in turn (two of them make
    an access that crosses pages, which no model calls atomic); "add" and "swap"
    are locked and touch them all at once; "fence" touches none.
    """

    kind: str
    variables: tuple[int, ...] = ()
    value: int = 0


class Program(NamedTuple):
    """threads[t] is the instruction list of thread t; variables start at zero."""

    threads: tuple[tuple[Op, ...], ...]
    variables: int


class Outcome(NamedTuple):
    reads: tuple[tuple[int, ...], ...]
    memory: tuple[int, ...]


def load(*variables: int) -> Op:
    return Op("load", variables)


def store(variable: int, value: int) -> Op:
    return Op("store", (variable,), value)


def add(variable: int, value: int = 1) -> Op:
    return Op("add", (variable,), value)


def swap(variable: int, value: int) -> Op:
    return Op("swap", (variable,), value)


FENCE = Op("fence")


def program(*threads: list[Op]) -> Program:
    used = [variable for ops in threads for op in ops for variable in op.variables]
    return Program(tuple(tuple(ops) for ops in threads), max(used, default=-1) + 1)


def _micro(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """Plain accesses to several variables, one variable at a time."""
    split: list[Op] = []
    for op in ops:
        if op.kind in ("load", "store"):
            split += [Op(op.kind, (variable,), op.value) for variable in op.variables]
        else:
            split.append(op)
    return tuple(split)


Buffer = tuple[tuple[int, int], ...]
State = tuple[tuple[int, ...], tuple[Buffer, ...], tuple[int, ...], tuple[tuple[int, ...], ...]]


def outcomes(program: Program, model: str, hosts: tuple[int, ...] = ()) -> set[Outcome]:
    """All outcomes that the model ("sc", "tso" or "hosts") allows, by exhaustive search.

    `hosts` is each thread's host, for the model "hosts".
    """
    threads = [_micro(ops) for ops in program.threads]
    count = len(threads)
    assert model in ("sc", "tso", "hosts")
    buffer_of = hosts if model == "hosts" else tuple(range(count))
    empty = ((),) * (max(buffer_of) + 1)
    start: State = ((0,) * count, empty, (0,) * program.variables, ((),) * count)
    seen, stack, found = {start}, [start], set()
    while stack:
        state = stack.pop()
        following = [
            after
            for thread in range(count)
            for after in _moves(state, thread, threads[thread], buffer_of[thread], model)
        ]
        if not following:
            found.add(Outcome(state[3], state[2]))
        for after in following:
            if after not in seen:
                seen.add(after)
                stack.append(after)
    return found


def _moves(state: State, thread: int, ops: tuple[Op, ...], at: int, model: str) -> list[State]:
    """What the thread or its store buffer, buffers[at], may do next."""
    counters, buffers, memory, reads = state
    moves: list[State] = []
    buffer = buffers[at]
    if buffer:
        variable, value = buffer[0]
        drained = _put(buffers, at, buffer[1:])
        moves.append((counters, drained, _put(memory, variable, value), reads))
    if model == "hosts":
        for variable, value in dict(buffer).items():  # the newest of each
            if memory[variable] == value:
                left = tuple(store for store in buffer if store[0] != variable)
                moves.append((counters, _put(buffers, at, left), memory, reads))
    if counters[thread] == len(ops):
        return moves
    op, after = ops[counters[thread]], _put(counters, thread, counters[thread] + 1)
    if op.kind == "store":
        if model != "sc":
            queued = _put(buffers, at, (*buffer, (op.variables[0], op.value)))
            moves.append((after, queued, memory, reads))
        else:
            moves.append((after, buffers, _put(memory, op.variables[0], op.value), reads))
    elif op.kind == "load":
        variable = op.variables[0]
        own = [value for written, value in buffer if written == variable]
        read = own[-1] if own else memory[variable]
        moves.append((after, buffers, memory, _put(reads, thread, (*reads[thread], read))))
    elif not buffer:  # a fence or a locked instruction waits for the own buffer
        got = reads[thread]
        for variable in op.variables:
            got = (*got, memory[variable])
            memory = _put(memory, variable, locked(op, memory[variable]))
        moves.append((after, buffers, memory, _put(reads, thread, got)))
    return moves


def locked(op: Op, value: int) -> int:
    """What a locked instruction makes of a variable."""
    return (value + op.value) & 0xFF if op.kind == "add" else op.value


def _put(items: tuple, at: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*items[:at], value, *items[at + 1 :])


ADDED = 60
"""What is added, so that no sum is a value that is stored: that store would be silent."""


def random_program(
    rng: random.Random, threads_max: int = 4, ops_max: int = 9, values_max: int = 200
) -> Program:
    """2 to `threads_max` threads over 2 to 4 variables, few enough ops to enumerate.

    With few values, stores of what is there already are frequent.
    """
    count = rng.randint(2, threads_max)
    variables = rng.randint(2, 4)
    room = rng.randint(count, ops_max)
    lists: list[list[Op]] = [[] for _ in range(count)]
    values = iter(range(1, 200))
    if values_max < 200:
        values = iter(lambda: rng.randrange(values_max), -1)
    for at in range(room):
        ops = lists[at % count]
        kind = rng.choices(("load", "store", "add", "swap", "fence"), (9, 9, 2, 2, 2))[0]
        if kind == "fence":
            ops.append(FENCE)
            continue
        wide = rng.random() < 0.12
        picked = tuple(sorted(rng.sample(range(variables), 2 if wide else 1)))
        added = 1 if values_max < 200 else ADDED
        ops.append(Op(kind, picked, next(values) if kind in ("store", "swap") else added))
    return Program(tuple(tuple(ops) for ops in lists), variables)


def varied(rng: random.Random, base: Program) -> Program:
    """The program with up to two more instructions somewhere."""
    threads = [list(ops) for ops in base.threads]
    for at in range(rng.randint(0, 2)):
        ops = rng.choice(threads)
        variable = rng.randrange(base.variables)
        extra = rng.choice((FENCE, load(variable), store(variable, 100 + at), add(variable, ADDED)))
        ops.insert(rng.randint(0, len(ops)), extra)
    return Program(tuple(tuple(ops) for ops in threads), base.variables)


# Classic shapes: program, an outcome's reads, whether x86-TSO allows it, SC does.
# Sources: Intel SDM volume 3 section 9.2.3 (examples 9-1 to 9-10), AMD APM volume 2
# section 7.2, and "n6" of the x86-TSO paper.


class Litmus(NamedTuple):
    name: str
    program: Program
    reads: tuple[tuple[int, ...], ...]
    memory: tuple[int, ...] | None
    tso: bool
    sc: bool


X, Y = 0, 1
LITMUS: tuple[Litmus, ...] = (
    Litmus(
        "SB",
        program([store(X, 1), load(Y)], [store(Y, 1), load(X)]),
        ((0,), (0,)),
        None,
        True,
        False,
    ),
    Litmus(
        "SB+mfences",
        program([store(X, 1), FENCE, load(Y)], [store(Y, 1), FENCE, load(X)]),
        ((0,), (0,)),
        None,
        False,
        False,
    ),
    Litmus(
        "SB+locked",
        program([swap(X, 1), load(Y)], [swap(Y, 1), load(X)]),
        ((0, 0), (0, 0)),
        None,
        False,
        False,
    ),
    Litmus(
        "MP",
        program([store(X, 1), store(Y, 1)], [load(Y), load(X)]),
        ((), (1, 0)),
        None,
        False,
        False,
    ),
    Litmus(
        "LB",
        program([load(X), store(Y, 1)], [load(Y), store(X, 1)]),
        ((1,), (1,)),
        None,
        False,
        False,
    ),
    Litmus(
        "S",
        program([store(X, 2), store(Y, 1)], [load(Y), store(X, 1)]),
        ((), (1,)),
        (2, 1),
        False,
        False,
    ),
    Litmus(
        "R",
        program([store(X, 1), store(Y, 1)], [store(Y, 2), load(X)]),
        ((), (0,)),
        (1, 2),
        True,
        False,
    ),
    Litmus(
        "R+mfence",
        program([store(X, 1), store(Y, 1)], [store(Y, 2), FENCE, load(X)]),
        ((), (0,)),
        (1, 2),
        False,
        False,
    ),
    Litmus(
        "2+2W",
        program([store(X, 1), store(Y, 2)], [store(Y, 1), store(X, 2)]),
        ((), ()),
        (1, 1),
        False,
        False,
    ),
    Litmus(
        "WRC",
        program([store(X, 1)], [load(X), store(Y, 1)], [load(Y), load(X)]),
        ((), (1,), (1, 0)),
        None,
        False,
        False,
    ),
    Litmus(
        "RWC",
        program([store(X, 1)], [load(X), load(Y)], [store(Y, 1), load(X)]),
        ((), (1, 0), (0,)),
        None,
        True,
        False,
    ),
    Litmus(
        "RWC+mfence",
        program([store(X, 1)], [load(X), load(Y)], [store(Y, 1), FENCE, load(X)]),
        ((), (1, 0), (0,)),
        None,
        False,
        False,
    ),
    Litmus(
        "IRIW",
        program([store(X, 1)], [store(Y, 1)], [load(X), load(Y)], [load(Y), load(X)]),
        ((), (), (1, 0), (1, 0)),
        None,
        False,
        False,
    ),
    Litmus("CoRR", program([store(X, 1)], [load(X), load(X)]), ((), (1, 0)), None, False, False),
    Litmus("CoWW", program([store(X, 1), store(X, 2)], [load(X)]), ((), (2,)), (1,), False, False),
    Litmus(
        "n6",
        program([store(X, 1), load(X), load(Y)], [store(Y, 2), store(X, 2)]),
        ((1, 0), ()),
        (1, 2),
        True,
        False,
    ),
)


def shows(litmus: Litmus, outcome: Outcome) -> bool:
    """Whether this outcome is the one the litmus test is about."""
    return outcome.reads == litmus.reads and litmus.memory in (None, outcome.memory)
