# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts whose processors differ show what all have."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.arch.cpuid import (
    EAX,
    EBX,
    ECX,
    EDX,
    INSTRUCTIONS,
    MAX_BASIC,
    MAX_EXTENDED,
    WORDS,
    Word,
    combined,
    instructions,
    without,
)
from supervisor.cluster.hostinfo import local_info, misfit
from supervisor.cluster.processors import AS_IT_IS, Processor, local_processor, shown, unfit
from supervisor.tracee import cpuid as real
from supervisor.tracee.xstate import ALL_STATES

HERE = local_processor(local_info(1).processor.features)


def lacking(*names: str) -> Processor:
    return msgspec.structs.replace(
        HERE,
        features=tuple(each for each in HERE.features if each not in names),
        words=without(HERE.words, names),
    )


def by_flags(*features: str) -> Processor:
    return Processor(features)


def test_instructions_are_those_of_proc_cpuinfo() -> None:
    """The names are the kernel's: what CPUID says and a flag tells agree."""
    known = instructions(HERE.words) - {"osxsave"}  # has no flag
    recent = {"uintr", "raoint", "cmpccxadd", "avx10", "apx", "prefetchi", "movrs", "user_msr",
              "ptwrite", "prefetchwt1", "key_locker"}  # fmt: skip
    assert {"sse2", "pni", "fxsr"} <= known
    assert known - recent <= set(HERE.features)


def test_alike_processors_answer_for_themselves() -> None:
    assert shown([HERE]) is AS_IT_IS
    alike = shown([HERE, HERE, HERE])
    assert alike.words is None
    assert alike.features == frozenset(HERE.features)


def test_what_one_lacks_is_hidden_whoever_it_is() -> None:
    for hosts in ([HERE, lacking("popcnt")], [lacking("popcnt"), HERE, HERE]):
        seen = shown(hosts)
        assert seen.hidden == {"popcnt"}
        assert seen.features == frozenset(HERE.features) - {"popcnt"}
        assert not seen.answer(1, 0)[2] >> 23 & 1
        assert real.ask(1)[2] >> 23 & 1


def test_what_only_the_kernel_uses_may_differ() -> None:
    other = msgspec.structs.replace(
        HERE, features=(*HERE.features, "arat"),
        words=tuple(
            value ^ 1 << 7 if word == Word(7, 0, EBX) else value  # SMEP
            for word, value in zip(WORDS, HERE.words, strict=True)
        ),
    )  # fmt: skip
    assert unfit(HERE, other) == ""
    assert shown([HERE, other]).words is None
    assert shown([HERE, other]).features == frozenset(HERE.features)


def test_leaves_beyond_what_all_have_are_empty() -> None:
    small = dict(zip(WORDS, lacking("popcnt").words, strict=True))
    small[MAX_BASIC], small[MAX_EXTENDED] = 7, 0x8000_0004
    other = msgspec.structs.replace(HERE, words=tuple(small.values()))
    seen = shown([HERE, other])
    assert seen.answer(0, 0)[0] == 7
    assert seen.answer(0xD, 0) == seen.answer(0x8000_0008, 0) == (0, 0, 0, 0)
    assert seen.answer(0x8000_0004, 0) == real.ask(0x8000_0004)
    assert seen.answer(7, 1 << 20) == (0, 0, 0, 0)


def test_other_leaves_are_the_hosts_own() -> None:
    seen = shown([HERE, lacking("popcnt")])
    assert seen.answer(0xD, 0) == real.ask(0xD, 0)
    assert seen.answer(0x4000_0000, 0) == real.ask(0x4000_0000)
    assert seen.answer(1, 99)[3] == real.ask(1)[3]


def test_words_are_combined_by_what_they_mean() -> None:
    def host(**values: int) -> tuple[int, ...]:
        named = {
            "vendor": Word(0, 0, EBX), "signature": Word(1, 0, EAX), "seven": Word(7, 0, EBX),
            "sizes": Word(0x8000_0008, 0, EAX), "avx10": Word(0x24, 0, EBX),
            "invariant": Word(0x8000_0007, 0, EDX),
        }  # fmt: skip
        words = dict.fromkeys(WORDS, 0) | {named[name]: value for name, value in values.items()}
        return tuple(words.values())

    both = combined([
        host(vendor=1, signature=2, seven=0x2020, sizes=0x302E, avx10=0x7_0001, invariant=0x100),
        host(vendor=3, signature=4, seven=0x0060, sizes=0x2F30, avx10=0x3_0002, invariant=0x180),
    ])  # fmt: skip
    assert both[Word(0, 0, EBX)] == 1
    assert both[Word(1, 0, EAX)] == 2
    # AVX2 is of both; that the x87 lacks something is told if any does.
    assert both[Word(7, 0, EBX)] == 0x2060
    assert both[Word(0x8000_0008, 0, EAX)] == 0x2F2E
    assert both[Word(0x24, 0, EBX)] == 0x3_0001
    assert both[Word(0x8000_0007, 0, EDX)] == 0x100


AVX = (256, 576)
"""Size and offset, in an XSAVE area."""
PLAIN = (0x7, *AVX)
INTEL = (0x2E7, *AVX, 64, 1088, 512, 1152, 1024, 1664, 8, 2688)
AMD = (0x2E7, *AVX, 64, 832, 512, 896, 1024, 1408, 8, 2432)


def with_state(*state: int) -> Processor:
    """A processor that has every feature, and these states of registers."""
    every = tuple(sorted(INSTRUCTIONS))
    return Processor(every, (0xFFFF_FFFF,) * len(WORDS), state, faults=True)


def test_registers_that_one_lacks_are_hidden_with_what_uses_them() -> None:
    for hosts in ((INTEL, PLAIN), (PLAIN, INTEL)):
        assert unfit(*map(with_state, hosts)) == ""
        seen = shown([with_state(*state) for state in hosts])
        assert {"avx512f", "avx512_vnni", "avx10", "pku", "ospke"} <= seen.hidden
        assert not seen.hidden & {"avx", "avx2", "vaes", "sse2", "xsave"}
        assert seen.features == INSTRUCTIONS - seen.hidden
        assert seen.states == 0b111
        assert not seen.answer(7, 0)[EBX] >> 16 & 1
        assert not seen.answer(7, 0)[ECX] >> 3 & 1
        assert seen.answer(7, 0)[EBX] >> 5 & 1


def test_the_area_of_any_host_fits() -> None:
    """XSAVE of all that XCR0 says, on the host that has most, where another asked its size."""
    seen = shown([with_state(*PLAIN), with_state(*INTEL)])
    assert seen.answer(0xD, 0) == (0b111, 2696, 2696, 0)
    assert seen.answer(0xD, 1)[EBX] == 2696
    assert seen.answer(0xD, 2) == real.ask(0xD, 2)
    assert seen.answer(0xD, 5) == seen.answer(0xD, 9) == (0, 0, 0, 0)


def test_registers_that_are_laid_out_otherwise_are_hidden_too() -> None:
    seen = shown([with_state(*INTEL), with_state(*AMD)])
    assert seen.states == 0b111
    assert {"avx512f", "pku"} <= seen.hidden
    assert "avx2" not in seen.hidden


def test_without_xsave_there_is_no_avx() -> None:
    seen = shown([with_state(*PLAIN), with_state()])
    assert {"avx", "avx2", "fma", "avx512f"} <= seen.hidden
    assert "bmi2" not in seen.hidden
    assert seen.states == 0b11


def test_alike_registers_go_as_they_are() -> None:
    seen = shown([with_state(*INTEL), msgspec.structs.replace(with_state(*INTEL), faults=False)])
    assert seen.words is None
    assert (seen.states, seen.area) == (ALL_STATES, 0)


def test_cpuid_faults_where_all_can_have_it_fault() -> None:
    able, unable = lacking("popcnt"), msgspec.structs.replace(HERE, faults=False)
    able = msgspec.structs.replace(able, faults=True)
    seen = shown([able, unable])
    assert (seen.questions_fault, seen.questions_trap) == (False, True)
    seen = shown([able, msgspec.structs.replace(HERE, faults=True)])
    assert (seen.questions_fault, seen.questions_trap) == (True, False)
    assert not shown([unable, unable]).questions_trap


def test_what_is_never_asked_about_cannot_be_hidden() -> None:
    assert unfit(HERE, lacking("sse2", "avx2")) == "lacks sse2, which every program uses"


def test_without_cpuid_flags_must_agree() -> None:
    told = "(and CPUID could not be asked on both)"
    assert unfit(by_flags("avx2", "smep"), by_flags("avx2", "umip")) == ""
    assert unfit(by_flags("fma"), by_flags("fma4")) == (
        f"lacks fma, which home's has and has fma4, which home's lacks {told}"
    )
    assert unfit(HERE, by_flags("sse2")).startswith("lacks ")
    assert unfit(by_flags(), HERE) == unfit(HERE, by_flags()) == ""
    assert shown([HERE, by_flags()]).features == frozenset(HERE.features)


@pytest.mark.parametrize("words", [(1, 2), (-1,) * len(WORDS), (1 << 32,) * len(WORDS)])
def test_a_peer_may_tell_nonsense(words: tuple[int, ...]) -> None:
    assert unfit(HERE, msgspec.structs.replace(HERE, words=words)) == "tells what no CPUID says"


def test_the_line_names_the_host_and_the_feature() -> None:
    ours = local_info(2)
    assert misfit(ours, ours) == ""
    theirs = msgspec.structs.replace(
        ours, hostname="node2", address="10.0.0.2", processor=lacking("sse2")
    )
    assert misfit(ours, theirs).startswith(
        "the processor of node2 at 10.0.0.2 lacks sse2, which every program uses: "
    )
