# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver's small parts: scratch memory, placement, signal actions, trap maps."""

from __future__ import annotations

import itertools
import signal

import pytest

from supervisor.arch import ALL, I386, Arch
from supervisor.driver import messages, signals
from supervisor.driver.bystander_calls import BystanderCalls
from supervisor.driver.bystanders import PTRACE_EVENT_CLONE, Bystanders
from supervisor.driver.code import CodeObject, Lead, TrapMap
from supervisor.driver.machine import Machine
from supervisor.driver.placement import Placement
from supervisor.driver.scratch import Scratch
from supervisor.errors import PeerError
from supervisor.tracee import ptrace
from supervisor.tracee.stops import Stop, StopKind
from supervisor.units import HostId


@pytest.mark.parametrize("arch", ALL, ids=lambda arch: arch.name)
def test_scratch_is_given_out_once_and_taken_back(arch: Arch) -> None:
    scratch = Scratch(arch)
    leases = [scratch.lease() for _ in range(3)]
    spans = []
    for lease in leases:
        for length in (1, 5000, 70_000, 3 << 20):
            address = lease.allocate(length)
            spans.append((address, address + length))
            lease.write(address, b"z" * length)
            assert lease.read(address, length) == b"z" * length
    spans.sort()
    assert all(low[1] <= high[0] for low, high in itertools.pairwise(spans))
    before = len(scratch._free_large)
    for lease in leases:
        lease.release()
    assert len(scratch._free_large) <= before
    assert scratch.lease().allocate(8) in {span[0] for span in spans}


def test_threads_are_shared_out_by_processors() -> None:
    placement = Placement([1, 1])
    hosts = []
    for _ in range(4):
        host = placement.choose()
        placement.started(host)
        hosts.append(host)
    assert hosts == [1, 0, 1, 0]
    placement = Placement([4, 2])
    for _ in range(6):
        placement.started(placement.choose())
    assert placement.threads == [4, 2]
    placement.moved(HostId(1), HostId(0))
    assert placement.threads == [5, 1]


def test_the_main_thread_counts_elsewhere_than_at_home() -> None:
    placement = Placement([1, 1])
    placement.moved(HostId(0), HostId(1), main=True)
    assert placement.threads == [0, 1]
    assert placement.choose() == HostId(0)
    placement.moved(HostId(1), HostId(0), main=True)
    assert placement.threads == [0, 0]


def test_forced_signals_are_never_ignored_nor_deferred_in_the_kernel() -> None:
    ignore = signals.ACTION.pack(signals.SIG_IGN, 0, 0, 0)
    handler = signals.ACTION.pack(0x1234, 0, 0, (1 << 64) - 1)
    for arch in ALL:
        def unpacked(number: int, action: bytes, arch: Arch = arch) -> tuple[int, ...]:
            return arch.action.unpack(signals.for_kernel(number, action, arch))

        assert unpacked(signal.SIGSEGV, ignore)[0] == signals.SIG_DFL
        kept = unpacked(signal.SIGILL, handler)
        assert kept[0] == 0x1234 and kept[1] & signals.SA_NODEFER
        assert not kept[3] & signals.FORCED_MASK
        assert unpacked(signal.SIGUSR1, ignore)[0] == signals.SIG_IGN


def test_handlers_of_i386_return_though_the_vdso_is_hidden() -> None:
    with_info = signals.ACTION.pack(0x1234, signals.SA_SIGINFO, 0, 0)
    own = signals.ACTION.pack(0x1234, signals.SA_RESTORER, 0x5678, 0)
    action = signals.for_kernel(signal.SIGUSR1, with_info, I386)
    assert I386.action.unpack(action)[2] == I386.restorers[1]
    assert I386.action.unpack(signals.for_kernel(signal.SIGUSR1, own, I386))[2] == 0x5678


def test_actions_after_execve() -> None:
    actions = signals.Actions()
    actions.set(signal.SIGUSR1, signals.ACTION.pack(0x1234, signals.SA_RESTART, 0, 0))
    actions.set(signal.SIGUSR2, signals.ACTION.pack(signals.SIG_IGN, 0, 0, 0))
    assert actions.runs_handler(signal.SIGUSR1)
    assert actions.restarts(signal.SIGUSR1, -512)
    assert not actions.restarts(signal.SIGUSR1, -514)
    actions.executed()
    assert not actions.runs_handler(signal.SIGUSR1)
    assert actions.ignored(signal.SIGUSR2)


def test_where_traps_lead() -> None:
    traps = TrapMap()
    found = CodeObject(
        0x1000, {0x100: 0x110, 0x200: 0x210}, {0x20: 0x108}, {0xF8: 0x110}, {0x200: 0x212}
    )
    assert traps.add(found)
    assert not traps.add(found)
    assert traps.find(0x1100) == Lead(0x1110, True)
    assert traps.find(0x1200) == Lead(0x1210, True, behind=0x1212)
    assert traps.find(0x1020) == Lead(0x1108, False)
    assert traps.find(0x1021) is None
    assert traps.past_check(0x10F7) is None
    assert traps.past_check(0x10F8) == 0x1110
    assert traps.past_check(0x1110) == 0x1110
    assert traps.past_check(0x1111) is None


def test_what_was_met_of_traps_is_forgotten_when_code_comes() -> None:
    traps = TrapMap()
    traps.bare[0x1100] = 0x1110
    assert traps.copy().bare == {}
    assert traps.add(CodeObject(0x1000, {0x100: 0x120}, {}, {}, {}))
    assert traps.bare == {}


@pytest.mark.parametrize("data", [b"", b"\x90", b"\x92\xa5areas\x01", b"\xff" * 40])
def test_malformed_control_messages_are_the_peer_s_fault(data: bytes) -> None:
    with pytest.raises(PeerError):
        messages.decode(data)


def test_control_messages_survive_the_wire() -> None:
    message = messages.SpecialCall(7, 202, [1, 2, 3, 4, 5, 2**64 - 1], b"p", b"r", b"x")
    assert messages.decode(messages.encode(message)) == message


@pytest.mark.parametrize("newborn", [set(), {7}], ids=["parent-first", "child-first"])
def test_a_childs_thread_goes_on_whichever_stop_comes_first(
    newborn: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed: list[int] = []
    monkeypatch.setattr(ptrace, "get_event_message", lambda task: 7)
    monkeypatch.setattr(ptrace, "cont", lambda task, signal_number=0: resumed.append(task))
    children = Bystanders(newborn, BystanderCalls(Machine([1])))
    children.add(5, None)
    assert children.on_stop(Stop(5, StopKind.EVENT, PTRACE_EVENT_CLONE))
    if not newborn and 7 not in resumed:
        assert children.on_stop(Stop(7, StopKind.GROUP_STOP, signal.SIGTRAP))
    assert sorted(resumed) == [5, 7]
    assert newborn == set()
