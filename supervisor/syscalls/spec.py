# SPDX-License-Identifier: GPL-2.0-or-later
"""The vocabulary of a row: where a system call runs, and what each argument is.

A row says, for one call, who carries it out and the direction and size of each
buffer that its arguments point to. From the rows come the marshalling
(compile.py), the seccomp filter, the handlers' dispatch and the documentation
(table.py); nothing else lists system calls.

Pointers. NULL is always passed on as NULL: the kernel knows where it is allowed.
A pointer to memory that the program may not access is passed on as an address
that cannot be accessed, so that the kernel itself decides between EFAULT, another
error that comes first, and success where it does not look.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Final, NamedTuple

from supervisor.arch import X86_64, Arch
from supervisor.syscalls.call import Acquire, Guest

Args = Sequence[int]
"""The six argument registers, unsigned."""


class Size(int):
    """Bytes of something of x86-64, with i386's bytes of it: `narrow`."""

    narrow: int

    def __new__(cls, wide: int, narrow: int) -> Size:
        made = super().__new__(cls, wide)
        made.narrow = narrow
        return made

    def __rmul__(self, count: int) -> Size:
        return type(self)(count * int(self), count * self.narrow)


class TimeSize(Size):
    """Of something with times in it: i386's calls for 64-bit times have those of x86-64."""


LONG: Final = Size(8, 4)


@dataclass(frozen=True)
class Either:
    """A function for x86-64, and i386's in its place."""

    wide: Callable[[Any], int]
    narrow: Callable[[Any], int]

    def __call__(self, argument: Any) -> int:
        return self.wide(argument)


BUFFER_MAX: Final = 64 << 20
"""Bytes of one buffer that travel in one call at most."""

RW_MAX: Final = 0x7FFFF000
"""Bytes of one transfer, as the kernel has it (MAX_RW_COUNT)."""

PATH_MAX: Final = 4096
XATTR_NAME_MAX: Final = 256
XATTR_SIZE_MAX: Final = 65536


class Where(Enum):
    """Who carries a call out."""

    HOME = "home"
    """Marshalled and run on the thread's own task at home."""
    NATIVE = "native"
    """By the kernel of the thread's host, without a stop, at every host."""
    HOME_NATIVE = "native at home"
    """Without a stop for a thread at home; as HOME for a thread elsewhere. No pointers."""
    SPACE = "address space"
    """A change of the address space: home's supervisor serialises it for all hosts."""
    HANDLER = "handler"
    """By the code that `Row.handler` names."""
    ANSWER = "answered"
    """Not run: the program gets `Row.answer`, something it is prepared for."""
    REFUSE = "refused"
    """Not run, and worth a message (`Row.why`); ends the run where `Row.answer` is None."""


class Rule(IntEnum):
    """How much of a buffer is valid after the call."""

    NONE = 0
    WHOLE = 1
    RETURNED = 2
    """`base + returned * unit` bytes."""
    COUNTED = 3
    """As many bytes as a 32-bit word says that the call wrote elsewhere: of segment
    `unit`, at byte `base`."""


class Valid(NamedTuple):
    """A rule, which holds if the call returned at least `least`; nothing is valid else."""

    rule: Rule
    unit: int = 1
    base: int = 0
    least: int = 0


EVER: Final = -4096
"""A `least` that holds for every errno too."""

SUCCESS: Final = Valid(Rule.WHOLE)
POSITIVE: Final = Valid(Rule.WHOLE, least=1)
ALWAYS: Final = Valid(Rule.WHOLE, least=EVER)
"""Also when the call failed: remaining times, sizes that would have done."""
RETURNED: Final = Valid(Rule.RETURNED)
NOTHING: Final = Valid(Rule.NONE)


class Arg(NamedTuple):
    """A length given by another argument: `args[position] * unit + base` bytes.

    `bits` is the width of the C type; a negative signed one counts as no bytes.
    """

    position: int
    unit: int = 1
    bits: int = 64
    signed: bool = False
    base: int = 0


def int_arg(position: int, unit: int = 1, base: int = 0) -> Arg:
    """A length in an `int`."""
    return Arg(position, unit, 32, True, base)


def uint_arg(position: int, unit: int = 1, base: int = 0) -> Arg:
    """A length in an `unsigned int`."""
    return Arg(position, unit, 32, False, base)


Length = int | Arg | Callable[[Args], int]


@dataclass(frozen=True)
class Kind:
    """What an argument is."""


@dataclass(frozen=True)
class Value(Kind):
    """A number, an address of the program that the kernel does not follow, or an
    argument that the kind of another one takes care of."""

    word: str = "value"


V: Final = Value()
FD: Final = Value("descriptor")


@dataclass(frozen=True)
class Opaque(Kind):
    """A pointer to nobody knows what, passed on as a bad one. The kernel's refusal, for
    another reason, of a request that this descriptor does not have is the answer; where
    it looks at the pointer, or succeeds, the row's call is refused (`Row.why`)."""


@dataclass(frozen=True)
class Buffer(Kind):
    """Bytes at the pointer; `reads` if the kernel reads them, `valid` what it writes."""

    length: Length
    reads: bool
    valid: Valid
    limit: int = BUFFER_MAX
    clamp: bool = False
    """Beyond `limit`, ask for less: lower the argument that counts. Else the pointer
    is passed on as a bad one, and the kernel objects to the length or to the pointer."""
    prefix: bool = False
    """The kernel may stop before `length`: what is mapped of it will do."""
    optional: bool = False
    """The kernel does not mind if what it writes cannot be written."""
    goes_on: Callable[[Args], bool] | None = None
    """Beyond `limit`, with `clamp`: whether for these arguments the rest follows in further
    calls, as for Data."""


def In(length: Length, **more: object) -> Buffer:
    """The kernel reads it."""
    return Buffer(length, True, NOTHING, **more)  # type: ignore[arg-type]


def Out(length: Length, valid: Valid = SUCCESS, **more: object) -> Buffer:
    """The kernel writes it, every byte that `valid` covers."""
    return Buffer(length, False, valid, **more)  # type: ignore[arg-type]


def InOut(length: Length, valid: Valid = SUCCESS, **more: object) -> Buffer:
    """The kernel reads it and writes it, or writes it in part only: the bytes that it
    leaves alone keep the program's values, because only changes are brought back."""
    return Buffer(length, True, valid, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Data(Kind):
    """The bytes of a read or write: `count` is the index of their number, `position`
    that of the file position if the call has one.

    More than BUFFER_MAX goes in pieces (marshal.gather's `done`); what is not mapped
    shortens the count, as it shortens the kernel's own transfer.
    """

    count: int
    out: bool
    position: int | None = None
    whole: bool = False
    """All or nothing: what is not mapped makes the pointer a bad one."""


@dataclass(frozen=True)
class Vector(Kind):
    """An iovec array of `args[count]` elements, as Data otherwise."""

    count: int
    out: bool
    position: int | None = None


@dataclass(frozen=True)
class Text(Kind):
    """A string up to its NUL, or its first `limit` bytes without one."""

    limit: int = PATH_MAX


PATH: Final = Text()
NAME: Final = Text(XATTR_NAME_MAX)


@dataclass(frozen=True)
class Texts(Kind):
    """A NULL-terminated array of strings (argv, envp)."""


@dataclass(frozen=True)
class Message(Kind):
    """A struct msghdr with all that it points to."""

    out: bool


@dataclass(frozen=True)
class Messages(Kind):
    """An array of `args[count]` struct mmsghdr with all that they point to."""

    count: int
    out: bool


@dataclass(frozen=True)
class Counted(Kind):
    """A buffer whose length is at the pointer `args[length]`, which the kernel rewrites
    with the length that it has (socket addresses and options)."""

    length: int
    limit: int
    reads: bool = False
    clamp: bool = False
    """The kernel never writes more than `limit`, whatever length it is told; otherwise a
    longer one makes the pointer a bad one."""


class Inner(NamedTuple):
    """A pointer at byte `offset` of a Struct to `length(struct's bytes)` bytes.

    -1 for a length means that the kernel does not follow the pointer. For Rule.COUNTED
    the count is in the Struct itself.
    """

    offset: int
    length: Callable[[bytes], int]
    reads: bool = True
    valid: Valid = NOTHING


@dataclass(frozen=True)
class Struct(Kind):
    """A buffer that itself holds pointers."""

    length: int
    inner: tuple[Inner, ...]
    reads: bool = True
    valid: Valid = NOTHING


@dataclass(frozen=True)
class SelfSized(Kind):
    """A struct that tells its own length: `length(first `header` bytes)`."""

    header: int
    length: Callable[[bytes], int]
    valid: Valid = NOTHING


Unwrapping = Generator[Acquire, None, "tuple[Row, list[int]] | int"]


@dataclass(frozen=True, eq=False)
class Row:
    """One system call. Rows are compared by identity."""

    name: str
    where: Where
    args: tuple[Kind, ...] = ()
    handler: str = ""
    """Name of the code for Where.HANDLER and Where.SPACE."""
    answer: int | None = None
    """What the program gets for Where.ANSWER and Where.REFUSE: a value or a negative errno."""
    why: str = ""
    """A sentence, for Where.REFUSE, Where.ANSWER and a row with an Opaque argument."""
    quiet: bool = False
    """No other thread can observe by it that this one has come so far, so stores that
    are still buffered (DESIGN §5 rule 2) need not be flushed before it."""
    blocks: bool = False
    """It may wait for another thread or the world outside."""
    choose: Callable[[Args], Row] | None = field(default=None, repr=False)
    """The row for these arguments, where one of them says what the others are."""
    runs_as: str = ""
    """Name of the call that runs in its place."""
    number: int = -1
    """Set when the row takes its place in a table."""
    arch: Arch = field(default=X86_64, repr=False)
    wide_times: bool = False
    """An i386 call for 64-bit times: they are laid out as x86-64's."""
    unwrap: Callable[[Args, Guest], Unwrapping] | None = field(default=None, repr=False)
    """For a call whose arguments are in memory: the row and the arguments that it stands
    for, or its outcome."""

    @property
    def timespec(self) -> struct.Struct:
        """The layout of its struct timespec or timeval."""
        return (X86_64 if self.wide_times else self.arch).timespec

    def __post_init__(self) -> None:
        pointers = any(type(kind) is not Value for kind in self.args)
        # Invariant: the kernel gets no guest pointer without the supervisor between.
        assert not (pointers and self.where in (Where.NATIVE, Where.HOME_NATIVE)), self.name
        assert (self.where in (Where.HANDLER, Where.SPACE)) == bool(self.handler), self.name
        assert self.where is not Where.ANSWER or self.answer is not None, self.name
        assert self.where is not Where.REFUSE or self.why, self.name


def varied(row: Row, **changes: Any) -> Row:
    """A row that differs in so much. (Unlike dataclasses.replace(3) it checks nothing again,
    which for a thousand rows was a noticeable part of a program's start.)"""
    made = copy.copy(row)
    made.__dict__.update(changes)
    return made


def home(name: str, *args: Kind, quiet: bool = False, blocks: bool = False) -> Row:
    return Row(name, Where.HOME, args, quiet=quiet, blocks=blocks)


def native(name: str, *args: Kind) -> Row:
    return Row(name, Where.HOME_NATIVE, args, quiet=True)


def space(name: str, *args: Kind) -> Row:
    return Row(name, Where.SPACE, args, handler=name)


def handled(
    name: str, *args: Kind, by: str = "", quiet: bool = False, blocks: bool = False
) -> Row:
    return Row(name, Where.HANDLER, args, handler=by or name, quiet=quiet, blocks=blocks)


def answered(name: str, answer: int, why: str = "") -> Row:
    return Row(name, Where.ANSWER, answer=answer, why=why, quiet=True)


def refused(name: str, answer: int | None, why: str) -> Row:
    return Row(name, Where.REFUSE, answer=answer, why=why, quiet=True)


def unknown(name: str, why: str, *args: Kind) -> Row:
    """A row that ends with an Opaque argument."""
    return Row(name, Where.HOME, (*args, Opaque()), why=why)


def chosen(name: str, choose: Callable[[Args], Row]) -> Row:
    """A row that only its arguments make precise; `where` is that of the row chosen."""
    return Row(name, Where.HOME, (), choose=choose)
