# SPDX-License-Identifier: GPL-2.0-or-later
"""Litmus tests as C, and what the memory models allow of them.

The shapes are those of the simulation (tests/coherence/programs.py), each as it
is and with its stores, or what stands between its instructions, replaced:

- `+mfence`, `+lockadd`: MFENCE, or LOCK ADD $0 to the thread's own stack (what
  compilers use for a fence), between every two instructions;
- `+xchg`, `+xadd`: XCHG, or LOCK XADD, instead of each store.

`outcomes` is the operational x86-TSO model again, with one thing more: threads
of one host share that host's store buffer, as they do with pages of several
writers (the documented gap). With one thread a host it is plain x86-TSO.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final, NamedTuple

from tests.coherence.programs import (
    FENCE,
    LITMUS,
    Litmus,
    Op,
    Outcome,
    Program,
    load,
    locked,
    program,
    shows,
    store,
)

LOCK_ADD: Final = Op("fence", (), 1)
"""A fence like any other to the models."""

BASES: Final = tuple(
    litmus for litmus in LITMUS if not litmus.name.endswith(("+mfence", "+mfences", "+locked"))
)


def _fenced(base: Program, fence: Op) -> Program:
    return Program(
        tuple(
            tuple(op for each in ops for op in (each, fence))[:-1] for ops in base.threads
        ),
        base.variables,
    )


def _stores_as(base: Program, kind: str) -> Program:
    return Program(
        tuple(
            tuple(op._replace(kind=kind) if op.kind == "store" else op for op in ops)
            for ops in base.threads
        ),
        base.variables,
    )


EARLY: Final = Litmus(
    "early",
    program([store(0, 1)], [load(0), load(1)], [store(1, 1), FENCE, load(0)]),
    ((), (1, 0), (0,)),
    None,
    False,
    False,
)
"""The documented gap: where the first two threads share a host, the second one sees the
first one's store before the third, on another host, does."""

PROGRAMS: Final[dict[str, Program]] = {
    EARLY.name: EARLY.program
} | {
    name: shape
    for base in BASES
    for name, shape in {
        base.name: base.program,
        f"{base.name}+mfence": _fenced(base.program, FENCE),
        f"{base.name}+lockadd": _fenced(base.program, LOCK_ADD),
        f"{base.name}+xchg": _stores_as(base.program, "swap"),
        f"{base.name}+xadd": _stores_as(base.program, "add"),
    }.items()
}


# C ------------------------------------------------------------------------------


def _instruction(op: Op, read: int) -> str:
    """Assembly of one instruction; what it reads goes to operand r<read>."""
    if op.kind == "fence":
        return "lock addl $0,(%%rsp)" if op == LOCK_ADD else "mfence"
    where = f"(%[v{op.variables[0]}])"
    if op.kind == "load":
        return f"movb {where},%[r{read}]"
    if op.kind == "store":
        return f"movb ${op.value},{where}"
    locked_instruction = {"swap": "xchgb", "add": "lock xaddb"}[op.kind]
    return f"movb ${op.value},%[r{read}]; {locked_instruction} %[r{read}],{where}"


def _reads(ops: Iterable[Op]) -> int:
    return sum(op.kind in ("load", "swap", "add") for op in ops)


def _function(name: str, ops: Sequence[Op]) -> list[str]:
    """One asm statement, so that nothing of the compiler's comes between."""
    lines, read = [], 0
    for op in ops:
        lines.append(f'\t\t"{_instruction(op, read)}\\n\\t"')
        read += op.kind in ("load", "swap", "add")
    used = sorted({variable for op in ops for variable in op.variables})
    outputs = ", ".join(f'[r{at}] "=&q"(r{at})' for at in range(read))
    inputs = ", ".join(f'[v{variable}] "r"(variables[{variable}])' for variable in used)
    if read:
        registers = ["\tunsigned char r" + ", r".join(map(str, range(read))) + ";", ""]
        results = [f"\treads[{at}] = r{at};" for at in range(read)]
    else:
        registers, results = [], ["\t(void)reads;"]
    return [
        f"static void {name}(char *const *variables, unsigned char *reads)",
        "{",
        *registers,
        "\t__asm__ volatile(",
        *lines,
        f'\t\t: {outputs} : {inputs} : "memory", "cc");',
        *results,
        "}",
    ]


def shapes_header() -> str:
    """The C file that testprogs/litmus/runner.c includes."""
    lines: list[str] = []
    table: list[str] = ["static const struct shape shapes[] = {"]
    for number, (name, shape) in enumerate(PROGRAMS.items()):
        players = [f"shape_{number}_{thread}" for thread in range(len(shape.threads))]
        for player, ops in zip(players, shape.threads, strict=True):
            lines += _function(player, ops)
        reads = ", ".join(str(_reads(ops)) for ops in shape.threads)
        table.append(
            f'\t{{ "{name}", {len(players)}, {shape.variables}, '
            f"{{ {reads} }}, {{ {', '.join(players)} }} }},"
        )
    return "\n".join([*lines, *table, "};", ""])


# Outcomes -------------------------------------------------------------------------


class _State(NamedTuple):
    counters: tuple[int, ...]
    own: tuple[tuple[tuple[int, int], ...], ...]  # store buffer of each thread
    hosts: tuple[tuple[tuple[int, int], ...], ...]  # and of each host
    memory: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]


@cache
def outcomes(shape: Program, hosts: tuple[int, ...] | None = None) -> frozenset[Outcome]:
    """All outcomes with the threads on these hosts, each host with a store buffer for all
    of its threads behind each thread's own; None: x86-TSO, no thread sees another's buffer."""
    place = hosts if hosts is not None else tuple(range(len(shape.threads)))
    numbers = sorted(set(place))
    at_host = tuple(numbers.index(host) for host in place)
    count = len(shape.threads)
    start = _State(
        (0,) * count, ((),) * count, ((),) * len(numbers), (0,) * shape.variables, ((),) * count
    )
    seen, stack, found = {start}, [start], set()
    while stack:
        state = stack.pop()
        following = [
            after
            for thread in range(count)
            for after in _moves(state, thread, at_host[thread], shape.threads[thread])
        ]
        if not following:
            found.add(Outcome(state.reads, state.memory))
        for after in following:
            if after not in seen:
                seen.add(after)
                stack.append(after)
    return frozenset(found)


def _moves(state: _State, thread: int, host: int, ops: tuple[Op, ...]) -> list[_State]:
    counters, own, hosts, memory, reads = state
    moves: list[_State] = []
    mine, shared = own[thread], hosts[host]
    if mine:
        moves.append(state._replace(
            own=_put(own, thread, mine[1:]), hosts=_put(hosts, host, (*shared, mine[0]))
        ))
    if shared:
        variable, value = shared[0]
        moves.append(state._replace(
            hosts=_put(hosts, host, shared[1:]), memory=_put(memory, variable, value)
        ))
    at = counters[thread]
    if at == len(ops):
        return moves
    op, after = ops[at], _put(counters, thread, at + 1)
    if op.kind == "store":
        queued = (*mine, (op.variables[0], op.value))
        moves.append(state._replace(counters=after, own=_put(own, thread, queued)))
    elif op.kind == "load":
        variable = op.variables[0]
        buffered = [value for written, value in (*shared, *mine) if written == variable]
        read = buffered[-1] if buffered else memory[variable]
        moves.append(state._replace(
            counters=after, reads=_put(reads, thread, (*reads[thread], read))
        ))
    elif not mine and not shared:
        got = reads[thread]
        for variable in op.variables:
            got = (*got, memory[variable])
            memory = _put(memory, variable, locked(op, memory[variable]))
        moves.append(state._replace(
            counters=after, memory=memory, reads=_put(reads, thread, got)
        ))
    return moves


def _put(items: tuple, at: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*items[:at], value, *items[at + 1 :])


# What a run printed ----------------------------------------------------------------


class Line(NamedTuple):
    """One outcome of one block of rounds, and how often it came."""

    shape: str
    hosts: tuple[int, ...]
    layout: str
    state: str
    outcome: Outcome
    count: int


BY_NAME: Final = {litmus.name: litmus for litmus in (*BASES, EARLY)}


def is_shown(line: Line) -> bool:
    """Is it the outcome that the shape is about? Of shapes without fences and locks only."""
    return line.shape in BY_NAME and shows(BY_NAME[line.shape], line.outcome)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(",") if word)


def parse(output: str) -> tuple[list[Line], dict[str, int]]:
    """Outcomes, and for each shape the rounds whose instructions overlapped."""
    lines: list[Line] = []
    overlaps: dict[str, int] = {}
    for text in output.splitlines():
        words = text.split(" ")
        if words[0] == "overlap":
            overlaps[words[1]] = int(words[2])
            continue
        shape, hosts, layout, state, reads, memory, count = words
        outcome = Outcome(tuple(_numbers(each) for each in reads.split(";")), _numbers(memory))
        lines.append(Line(shape, _numbers(hosts), layout, state, outcome, int(count)))
    return lines, overlaps
