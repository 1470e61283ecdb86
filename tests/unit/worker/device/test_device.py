# SPDX-License-Identifier: Apache-2.0
"""The device against a real session and real memory; queue pairs and tap are stand-ins."""

import gc
import mmap
import os
import selectors
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
from support.worker.device_parts import FakeHolding, FakePair, FakeState, FakeTaps, Observed

from ovs_vhost_plugin.ipc.spec import JOURNAL_BYTES, PortSettings
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.vhost import effects, spec
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.features import Nic, offer
from ovs_vhost_plugin.vhost.message import Message, encode
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import BackendRequest, Feature, FrontendRequest
from ovs_vhost_plugin.vhost.transport import Connection
from ovs_vhost_plugin.worker.device.device import Device
from ovs_vhost_plugin.worker.recovery import journal
from ovs_vhost_plugin.worker.tap.gate import EARLY_SECONDS, TapGate
from ovs_vhost_plugin.worker.tap.hold import Reason

MEMORY = 1 << 20
USER = 0x7F0000000000
SIZE = 8


SETTINGS = PortSettings(hold=True)


class Port:
    """A device with a session, driven by messages; `pairs`: those whose tap queues are there."""

    def __init__(self, pairs: int = 2) -> None:
        self.pairs = [FakePair(index) for index in range(pairs)]
        self.taps = FakeTaps()
        self.observed = Observed()
        self.holding = FakeHolding()
        self.state = FakeState()
        self.selector = selectors.DefaultSelector()
        self.device = Device(
            TapGate(self.pairs, self.taps, self.holding),  # type: ignore[arg-type]
            self.state,  # type: ignore[arg-type]
            self.selector,
            self.observed,
            SETTINGS,
        )
        self.channel = self.device.channel
        self.session = Session(offer(2, None))
        self.device.attach(self.session)
        self.more = False  # whether each message is there before the one before it was handled

    def ask(self, request: FrontendRequest, payload: bytes = b"", *fds: int) -> Message | None:
        reply = self.device.answer(Message(request, payload, spec.VERSION, fds))
        if not self.more:
            self.device.start_pending()
        return reply

    def memory(
        self, size: int = MEMORY, used_index: int = 0, used: Sequence[int] = range(4)
    ) -> None:
        """Give memory, in which the used index of the vrings `used` is `used_index`."""
        fd = os.memfd_create("guest")
        os.ftruncate(fd, size)
        for at in (index * 0x1000 for index in used if index * 0x1000 < size):
            os.pwrite(fd, used_index.to_bytes(2, "little"), at + 0x800 + 2)
        payload = spec.MEMORY_HEADER.pack(1, 0) + spec.MEMORY_REGION.pack(0, size, USER, 0)
        self.ask(FrontendRequest.SET_MEM_TABLE, payload, fd)

    def features(self, *bits: Feature) -> None:
        mask = sum(1 << bit for bit in (*bits, Feature.PROTOCOL_FEATURES))
        self.ask(FrontendRequest.SET_FEATURES, spec.U64.pack(mask))

    def vring(self, index: int, base: int = 0, enabled: bool = True) -> None:
        at = USER + index * 0x1000
        self.ask(FrontendRequest.SET_VRING_NUM, spec.VRING_STATE.pack(index, SIZE))
        self.ask(FrontendRequest.SET_VRING_BASE, spec.VRING_STATE.pack(index, base))
        self.ask(
            FrontendRequest.SET_VRING_ADDR,
            spec.VRING_ADDR.pack(index, 0, at, at + 0x800, at + 0x400, 0),
        )
        fd = os.eventfd(0)
        self.ask(FrontendRequest.SET_VRING_KICK, spec.U64.pack(index), fd)
        self.ask(FrontendRequest.SET_VRING_ENABLE, spec.VRING_STATE.pack(index, int(enabled)))

    def base(self, index: int) -> int:
        reply = self.ask(FrontendRequest.GET_VRING_BASE, spec.VRING_STATE.pack(index, 0))
        assert reply is not None
        return int(spec.VRING_STATE.unpack(reply.payload)[1])


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port()
    yield port
    port.device.detach()
    for pair in port.pairs:
        pair.close()
    assert not port.selector.get_map()
    port.selector.close()


def set_up(port: Port, base: int = 0) -> None:
    port.features(Feature.VERSION_1, Feature.MRG_RXBUF)
    port.memory(used_index=base)
    port.vring(0, base)
    port.vring(1, base)


def test_kicks_before_a_ring_was_started_are_not_of_its_driver(port: Port) -> None:
    """QEMU kicks once whenever it starts a ring: a guest that stops and goes on has not kicked."""
    port.memory()
    for _ in range(3):
        port.vring(0)
        port.pairs[0].kicks["rx_kicks"] += 1
        assert port.device.sharing._rings.kicks(0) == 1
        port.base(0)


def test_a_kick_shows_that_the_memory_is_shared_and_no_timer_is_left(port: Port) -> None:
    set_up(port, base=5)
    port.device.handle_timer(70.0)
    assert port.device.get_timer() == 72.0
    port.pairs[0].config.rx.avail[2] = 1  # the driver's index
    port.device.collect_faults(port.pairs[0])
    port.device.handle_timer(71.0)
    assert port.device.get_timer() is None


def test_a_ring_runs_when_all_is_there_and_the_carrier_follows(port: Port) -> None:
    port.features(Feature.VERSION_1)
    port.memory()
    assert not port.taps.carrier
    port.vring(0)
    assert port.taps.carrier
    assert port.taps.attached == [True, False]
    assert port.pairs[0].config.rx.enabled
    assert port.taps.header_size == 12


def test_a_disabled_ring_gets_no_frames(port: Port) -> None:
    port.features(Feature.VERSION_1)
    port.memory()
    port.vring(0, enabled=False)
    assert port.pairs[0].config.rx is not None
    assert not port.taps.carrier


def test_rings_set_up_by_messages_that_are_all_there_start_once(port: Port) -> None:
    port.more = True
    set_up(port, base=9)
    assert port.pairs[0].starts == 0 and port.observed.bases == []
    port.device.start_pending()
    assert port.pairs[0].starts == 1 and port.observed.bases == [9]
    assert port.pairs[0].config.rx.next_avail == port.pairs[0].config.tx.next_avail == 9
    port.device.start_pending()
    assert port.pairs[0].starts == 1


def test_a_change_of_running_rings_stops_them_at_once(port: Port) -> None:
    set_up(port)
    port.more = True
    for _ in range(2):
        port.ask(FrontendRequest.SET_VRING_CALL, spec.U64.pack(0), os.eventfd(0))
        assert not port.pairs[0].running
    at = port.pairs[0].rx.position
    port.device.start_pending()
    assert port.pairs[0].config.rx.next_avail == at
    assert port.pairs[0].config.rx.call_fd == port.session.vrings[0].call_fd


def test_what_is_acknowledged_has_taken_effect(port: Port) -> None:
    set_up(port)
    port.more = True
    port.session.protocol_features = spec.ProtocolFeature.REPLY_ACK.mask
    disable = spec.VRING_STATE.pack(0, 0)
    flags = spec.VERSION | spec.NEED_REPLY
    reply = port.device.answer(Message(FrontendRequest.SET_VRING_ENABLE, disable, flags, ()))
    assert reply is not None and reply.payload == spec.U64.pack(0)
    assert not port.pairs[0].config.rx.enabled


def test_a_front_end_that_goes_in_the_middle_of_it_leaves_nothing_to_start(port: Port) -> None:
    port.more = True
    set_up(port)
    port.device.detach()
    port.device.start_pending()
    assert port.pairs[0].starts == 0


def test_a_ring_that_is_only_being_set_up_leaves_its_neighbour_running(port: Port) -> None:
    port.features(Feature.VERSION_1)
    port.memory()
    port.vring(0)
    starts = port.pairs[0].starts
    at = USER + 0x1000
    port.ask(FrontendRequest.SET_VRING_NUM, spec.VRING_STATE.pack(1, SIZE))
    port.ask(FrontendRequest.SET_VRING_BASE, spec.VRING_STATE.pack(1, 0))
    where = spec.VRING_ADDR.pack(1, 0, at, at + 0x800, at + 0x400, 0)
    port.ask(FrontendRequest.SET_VRING_ADDR, where)
    assert port.pairs[0].starts == starts
    port.ask(FrontendRequest.SET_VRING_KICK, spec.U64.pack(1), os.eventfd(0))
    assert port.pairs[0].starts == starts
    port.ask(FrontendRequest.SET_VRING_ENABLE, spec.VRING_STATE.pack(1, 1))
    assert port.pairs[0].config.tx.next_avail == 0


def test_what_waits_in_the_tap_is_discarded_before_the_guest_receives_and_not_later(
    port: Port,
) -> None:
    port.features(Feature.VERSION_1)
    port.memory()
    port.vring(0, enabled=False)
    assert port.taps.discarded == 0
    port.ask(FrontendRequest.SET_VRING_ENABLE, spec.VRING_STATE.pack(0, 1))
    assert port.taps.discarded == 1
    port.features(Feature.VERSION_1, Feature.LOG_ALL)
    assert port.taps.discarded == 1


def test_rings_go_on_where_they_were_when_anything_changes(port: Port) -> None:
    set_up(port, base=65534)
    before = port.pairs[0].config.rx.next_avail
    port.features(Feature.VERSION_1, Feature.MRG_RXBUF, Feature.LOG_ALL)
    assert port.pairs[0].config.rx.next_avail == (before + 3) % 65536
    port.memory()
    assert port.pairs[0].config.rx.next_avail == (before + 6) % 65536


def test_rings_follow_what_the_bridge_takes(port: Port) -> None:
    set_up(port)
    took = []
    for finish, udp in ((False, True), (False, False), (True, True)):
        port.device.configure(replace(SETTINGS, finish_offloads=finish, finish_udp=udp))
        config = port.pairs[0].config
        took.append((config.finish_offloads, config.finish_udp))
    assert took == [(False, True), (False, False), (True, True)]
    starts = port.pairs[0].starts
    port.device.configure(replace(SETTINGS, finish_offloads=True, state=True))
    assert port.pairs[0].starts == starts


def test_a_tap_that_takes_no_large_udp_frames_has_them_finished(port: Port) -> None:
    set_up(port)
    port.taps.takes_uso = False
    port.device.configure(replace(SETTINGS, finish_udp=False))
    assert port.pairs[0].config.finish_udp


def test_a_hold_ends_in_its_time_or_when_it_is_switched_off(port: Port) -> None:
    for end in (
        lambda: port.device.configure(replace(SETTINGS, hold=False)),
        lambda: port.device.handle_timer(port.holding.until),
    ):
        port.holding.enabled, port.holding.until = True, 50.0
        port.holding.begin(0, [])
        port.device.update_tap()
        assert port.taps.carrier and port.device.get_timer() == 50.0
        port.device.handle_timer(49.0)
        assert port.taps.carrier and port.holding.active
        end()
        assert not port.taps.carrier and port.device.get_timer() is None
    assert port.holding.ended == [Reason.OFF, Reason.EXPIRED]


def test_get_vring_base_answers_where_the_ring_stopped_and_leaves_the_other_running(
    port: Port,
) -> None:
    set_up(port, base=100)
    at = port.pairs[0].config.rx.next_avail
    assert port.base(0) == at + 3
    assert port.pairs[0].config.rx is None
    assert port.pairs[0].config.tx is not None
    assert not port.taps.carrier
    port.base(1)
    assert not port.pairs[0].running


def test_a_ring_started_again_goes_on_where_its_used_ring_is_then(port: Port) -> None:
    set_up(port)
    port.base(0)
    port.base(1)
    port.memory(used_index=7)
    port.vring(0, base=7)
    assert port.pairs[0].config.rx.next_avail in (7, 10)  # 10: stopped and started by ENABLE
    assert port.observed.bases == [0, 7]


@pytest.mark.parametrize("used", range(1, 4))
def test_that_one_ring_was_used_before_is_told_whichever_begins_first(
    port: Port, used: int
) -> None:
    """A guest may have sent and received nothing, or have used its second queue pair alone."""
    port.memory(used_index=9, used=[used])
    for index in range(4):
        port.vring(index)
    assert port.observed.bases == [0] and port.observed.further_bases == [9]
    for index in range(4):
        port.base(index)
    port.vring(used)
    assert port.observed.bases == [0, 9] and port.observed.further_bases == [9]


def test_that_the_guest_runs_is_told_before_it_can_have_sent_anything(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is silent is known by what was sent since."""
    told: list[list[int]] = []
    monkeypatch.setattr(port.pairs[0], "start", lambda: told.append([*port.observed.bases]))
    set_up(port)
    assert told and told[0] == [0]


def test_a_ring_that_is_started_again_among_others_says_nothing_of_the_guest(port: Port) -> None:
    set_up(port)
    port.base(1)
    port.memory(used_index=9, used=[1])
    port.vring(1)
    assert port.observed.bases == [0] and port.observed.further_bases == []


@pytest.mark.parametrize("base", [513, 0, 700, 512, 514, 65535], ids=lambda base: f"base {base}")
def test_a_split_ring_goes_on_at_its_used_index_whatever_its_front_end_says(
    port: Port, base: int
) -> None:
    """Cloud Hypervisor says the avail index, virtio-user 0, others what they were told last."""
    port.features(Feature.VERSION_1)
    port.memory(used_index=513)
    port.vring(0, base)
    assert port.observed.bases == [513]


def test_the_log_counts_only_while_log_all_is_acknowledged(port: Port) -> None:
    set_up(port)
    fd = os.memfd_create("log")
    os.ftruncate(fd, mmap.PAGESIZE)
    port.session.protocol_features = spec.ProtocolFeature.LOG_SHMFD.mask
    port.ask(FrontendRequest.SET_LOG_BASE, spec.LOG.pack(mmap.PAGESIZE, 0), fd)
    assert port.pairs[0].config.log is None
    port.features(Feature.VERSION_1, Feature.MRG_RXBUF, Feature.LOG_ALL)
    assert port.pairs[0].config.log is not None
    port.features(Feature.VERSION_1, Feature.MRG_RXBUF)
    assert port.pairs[0].config.log is None


def test_the_log_goes_with_its_front_end(port: Port) -> None:
    set_up(port)
    fd = os.memfd_create("log")
    os.ftruncate(fd, mmap.PAGESIZE)
    port.session.protocol_features = spec.ProtocolFeature.LOG_SHMFD.mask
    port.ask(FrontendRequest.SET_LOG_BASE, spec.LOG.pack(mmap.PAGESIZE, 0), fd)
    port.device.detach()
    port.session = Session(offer(2, None))
    port.device.attach(port.session)
    set_up(port)
    port.features(Feature.VERSION_1, Feature.MRG_RXBUF, Feature.LOG_ALL)
    assert port.pairs[0].running and port.pairs[0].config.log is None


def test_where_a_ring_was_goes_with_its_front_end(port: Port) -> None:
    set_up(port, base=5)
    port.device.detach()
    port.session = Session(offer(2, None))
    port.device.attach(port.session)
    set_up(port, base=70)
    assert port.pairs[0].config.tx.next_avail == 70
    assert port.observed.bases == [5, 70]


def test_a_log_that_cannot_hold_the_memory_is_refused_by_name(port: Port) -> None:
    set_up(port)
    fd = os.memfd_create("log")
    os.ftruncate(fd, mmap.PAGESIZE)
    port.session.protocol_features = spec.ProtocolFeature.LOG_SHMFD.mask
    with pytest.raises(PeerError, match="log-smaller-than-memory"):
        port.ask(FrontendRequest.SET_LOG_BASE, spec.LOG.pack(MEMORY // 4096 // 8 - 1, 0), fd)
    assert port.pairs[0].running


def region(port: Port, request: FrontendRequest, guest: int, user: int, size: int) -> None:
    fds = []
    if request == FrontendRequest.ADD_MEM_REG:
        fds = [os.memfd_create("slot")]
        os.ftruncate(fds[0], size)
    port.ask(request, spec.SINGLE_REGION.pack(0, guest, size, user, 0), *fds)


def test_memory_that_comes_region_by_region_makes_rings_run(port: Port) -> None:
    port.features(Feature.VERSION_1)
    region(port, FrontendRequest.ADD_MEM_REG, 0, USER, 0x1000)
    region(port, FrontendRequest.ADD_MEM_REG, 0x1000, USER + 0x1000, 0x1000)
    port.vring(0)
    port.vring(1)
    assert port.pairs[0].config.rx is not None and port.pairs[0].config.tx is not None
    assert [int(row["size"]) for row in port.pairs[0].config.regions] == [0x1000, 0x1000]
    region(port, FrontendRequest.ADD_MEM_REG, 0x9000, 0, 0x2000)
    assert len(port.pairs[0].config.regions) == 3


def test_a_ring_resumes_where_the_journal_says_and_the_daemon_is_told_so(port: Port) -> None:
    port.features(Feature.VERSION_1)
    region(port, FrontendRequest.ADD_MEM_REG, 0, USER, 0x1000)
    port.pairs[0].stands_at = 777
    port.vring(0)
    at = port.pairs[0].config.rx.next_avail
    assert at == 777
    assert port.observed.bases == [777]
    identity = port.pairs[0].config.rx.identity
    assert journal.names(port.pairs[0].rx.journal, identity)
    # Once it runs here nobody knows better.
    region(port, FrontendRequest.REM_MEM_REG, 0, USER, 0x1000)
    region(port, FrontendRequest.ADD_MEM_REG, 0, USER, 0x1000)
    assert port.pairs[0].config.rx.next_avail == at + 3
    assert port.base(0) == at + 6
    assert not journal.names(port.pairs[0].rx.journal, identity), "the next start is at a base"


def test_a_ring_whose_region_is_replaced_goes_on_where_it_was(port: Port) -> None:
    port.features(Feature.VERSION_1)
    region(port, FrontendRequest.ADD_MEM_REG, 0, USER, 0x1000)
    port.vring(0)
    at = port.pairs[0].config.rx.next_avail
    region(port, FrontendRequest.REM_MEM_REG, 0, USER, 0x1000)
    assert not port.pairs[0].running and not port.device.running
    assert [str(error.name) for error in port.observed.errors] == ["vring-outside-memory"]
    region(port, FrontendRequest.ADD_MEM_REG, 0, USER, 0x1000)
    assert port.pairs[0].config.rx.next_avail == at + 3
    assert port.observed.bases == [0]  # it has not started anew
    region(port, FrontendRequest.REM_MEM_REG, 0, USER, 0x1000)
    assert port.base(0) == at + 6


def test_a_region_that_comes_once_for_each_queue_pair_stops_nothing_the_second_time(
    port: Port,
) -> None:
    set_up(port)
    fd = os.memfd_create("slot")
    os.ftruncate(fd, 0x1000)
    payload = spec.SINGLE_REGION.pack(0, MEMORY, 0x1000, USER + MEMORY, 0)
    port.ask(FrontendRequest.ADD_MEM_REG, payload, os.dup(fd))
    config = port.pairs[0].config
    port.ask(FrontendRequest.ADD_MEM_REG, payload, fd)
    assert port.pairs[0].config is config and len(config.regions) == 2


def test_a_region_that_goes_once_for_each_queue_pair_stops_nothing_the_second_time(
    port: Port,
) -> None:
    set_up(port)
    region(port, FrontendRequest.ADD_MEM_REG, MEMORY, USER + MEMORY, 0x1000)
    region(port, FrontendRequest.REM_MEM_REG, MEMORY, USER + MEMORY, 0x1000)
    config = port.pairs[0].config
    region(port, FrontendRequest.REM_MEM_REG, MEMORY, USER + MEMORY, 0x1000)
    assert port.pairs[0].config is config and len(config.regions) == 1


def test_a_region_that_is_not_there_is_refused_and_all_runs_on(port: Port) -> None:
    set_up(port)
    with pytest.raises(PeerError, match="region-unknown"):
        region(port, FrontendRequest.REM_MEM_REG, 0x5000, USER, 0x1000)
    assert port.pairs[0].running


def test_a_reset_stops_all_rings_and_the_next_driver_begins_anew(port: Port) -> None:
    set_up(port, base=5)
    port.features(Feature.VERSION_1, Feature.MRG_RXBUF, Feature.LOG_ALL)
    port.ask(FrontendRequest.RESET_DEVICE)
    assert not port.pairs[0].running and not port.taps.carrier
    assert port.holding.held == {}  # a reset is no migration
    assert port.taps.header_size == 10
    port.features(Feature.VERSION_1)
    port.memory()  # the next driver zeroes its rings (virtio 1.2, 4.1.5.1.3)
    port.vring(0)
    assert port.pairs[0].config.rx.next_avail == 0
    assert port.taps.header_size == 12
    assert port.observed.errors == []


def test_a_ring_that_broke_shows_in_the_status_until_the_driver_resets(port: Port) -> None:
    set_up(port)

    def status() -> int:
        reply = port.ask(FrontendRequest.GET_STATUS)
        assert reply is not None
        return int(spec.U64.unpack(reply.payload)[0])

    port.ask(FrontendRequest.SET_STATUS, spec.U64.pack(0xF))
    assert status() == 0xF
    port.pairs[0].break_ring(port.pairs[0].tx, Fault.HEAD_OUT_OF_RANGE)
    port.device.collect_faults(port.pairs[0])
    assert status() == 0xF | 0x40
    port.ask(FrontendRequest.SET_STATUS, spec.U64.pack(0))
    assert status() == 0


def test_memory_without_the_rings_in_it_stops_them_by_name(port: Port) -> None:
    set_up(port)
    port.memory(size=4096)  # vring 1 lies beyond
    assert [str(error.name) for error in port.observed.errors] == ["vring-outside-memory"]
    assert port.pairs[0].config.rx is not None
    assert port.pairs[0].config.tx is None


def test_refused_memory_leaves_the_rings_as_they_were(port: Port) -> None:
    set_up(port)
    with pytest.raises(PeerError, match="file-shorter"):
        region = effects.MemoryRegion(0, MEMORY, USER, 0)
        port.device.execute(effects.SetMemoryTable((region,), (os.memfd_create("short"),)))
    assert port.pairs[0].running


def test_rarp_is_passed_on_before_any_ring_runs(port: Port) -> None:
    port.device.execute(effects.SendRarp(b"\x52\x54\0\1\2\3"))
    assert port.observed.rarps == port.state.asked == [b"\x52\x54\0\1\2\3"]


def test_the_state_is_moved_on_request_and_forgotten_with_the_front_end(port: Port) -> None:
    port.device.execute(effects.SaveState(7))
    port.device.execute(effects.LoadState(8))
    port.device.execute(effects.CheckState())
    port.device.detach()
    assert port.state.asked == [("save", 7), ("load", 8), "check", "forget"]


def test_the_bridge_may_change_while_no_front_end_is_there(port: Port) -> None:
    port.device.detach()
    port.device.configure(replace(SETTINGS, finish_offloads=True))
    port.device.attach(Session(offer(2, None)))


def test_what_the_guest_uses_is_remembered_until_the_front_end_has_gone(port: Port) -> None:
    set_up(port)
    port.base(0)
    port.base(1)
    port.vring(0)
    assert [pair.forgotten for pair in port.pairs] == [0, 0]
    port.device.detach()
    assert [pair.forgotten for pair in port.pairs] == [1, 1]


def test_nothing_is_left_after_the_front_end_has_gone(port: Port) -> None:
    gc.collect()  # the mappings of tests before this one
    before = len(list(Path("/proc/self/fd").iterdir()))
    set_up(port)
    port.device.detach()
    assert not port.pairs[0].running
    assert not port.taps.carrier
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def migrate(port: Port) -> None:
    """What QEMU sends when the guest leaves (seen of 7.2): LOG_ALL, then GET_VRING_BASE."""
    port.features(Feature.VERSION_1, Feature.MRG_RXBUF, Feature.LOG_ALL)
    port.base(0)
    port.base(1)


def test_a_guest_that_migrates_leaves_a_hold_and_its_waiting_frame_is_the_first(port: Port) -> None:
    set_up(port)
    port.pairs[0].waiting = [b"waiting"]
    migrate(port)
    assert port.holding.held == {0: [b"waiting"]}
    assert port.taps.carrier and port.taps.attached == [True, False]
    assert not port.device.running
    del port.holding.held[0]
    port.device.update_tap()
    assert not port.taps.carrier


def test_a_migration_is_told_while_the_rings_run(port: Port, monkeypatch: Any) -> None:
    """The front-end's next messages may be here already, and with them the guest's end."""
    set_up(port)
    told = []
    monkeypatch.setattr(port.observed, "migrates", lambda: told.append(port.device.running))
    port.more = True
    migrate(port)
    assert told == [True]


def test_a_guest_that_only_stops_leaves_none(port: Port) -> None:
    set_up(port)
    port.base(0)
    port.base(1)
    assert port.holding.held == {} and not port.taps.carrier


def test_a_ring_that_did_not_receive_leaves_none(port: Port) -> None:
    port.features(Feature.VERSION_1, Feature.LOG_ALL)
    port.memory()
    port.vring(0, enabled=False)
    port.base(0)
    assert port.holding.held == {}


def test_a_guest_that_comes_back_gets_what_was_held_and_nothing_is_discarded(port: Port) -> None:
    set_up(port)
    migrate(port)
    port.holding.held[0] = [b"first", b"second"]
    discarded = port.taps.discarded
    port.vring(0, base=7)
    assert port.pairs[0].given == [b"first", b"second"]
    assert port.holding.held == {} and port.taps.carrier
    assert port.taps.discarded == discarded


def test_the_hold_outlives_the_front_end_and_knows(port: Port) -> None:
    set_up(port)
    migrate(port)
    port.device.detach()
    assert port.taps.carrier and port.holding.gone == 1


def test_frames_are_let_in_for_a_guest_that_was_announced_before_its_rings_run(port: Port) -> None:
    port.features(Feature.VERSION_1)
    port.memory()
    port.device.execute(effects.SendRarp(b"\x52\x54\0\1\2\3"))
    assert port.taps.carrier and port.device._gate.early
    assert port.taps.discarded == 1  # what was there before is stale
    port.vring(0, base=7)
    assert port.taps.discarded == 1 and not port.device._gate.early
    assert port.taps.carrier


def test_frames_are_let_in_for_a_guest_that_goes_on_at_an_index(port: Port) -> None:
    port.features(Feature.VERSION_1)
    port.memory()
    port.ask(FrontendRequest.SET_VRING_BASE, spec.VRING_STATE.pack(0, 7))
    assert port.taps.carrier and port.device._gate.early
    port.device.detach()
    assert not port.taps.carrier and not port.device._gate.early


def test_frames_are_let_in_for_a_guest_whose_state_has_come(port: Port) -> None:
    port.device.execute(effects.CheckState())
    assert not port.device._gate.early
    port.state.brought = True
    port.device.execute(effects.CheckState())
    assert port.taps.carrier and port.device._gate.early


def test_a_guest_expected_in_vain_finds_nothing_when_it_comes_late(port: Port) -> None:
    port.features(Feature.VERSION_1)
    port.memory()
    port.device.execute(effects.SendRarp(b"\x52\x54\0\1\2\3"))
    port.pairs[0].waiting = [b"stale"]
    port.device.handle_timer(100.0)
    due = port.device.get_timer()
    assert due == 100.0 + EARLY_SECONDS and port.taps.carrier
    port.device.handle_timer(due)
    assert not port.taps.carrier
    port.vring(0)
    assert port.taps.discarded == 2 and port.pairs[0].waiting == []


def test_announcing_a_guest_that_runs_touches_nothing(port: Port) -> None:
    set_up(port)
    discarded = port.taps.discarded
    port.device.execute(effects.SendRarp(b"\x52\x54\0\1\2\3"))
    assert not port.device._gate.early and port.taps.discarded == discarded


def test_a_guest_that_was_stopped_is_not_expected(port: Port) -> None:
    set_up(port, base=5)
    port.base(0)
    port.base(1)
    port.ask(FrontendRequest.SET_VRING_ENABLE, spec.VRING_STATE.pack(0, 0))
    port.device.execute(effects.SendRarp(b"\x52\x54\0\1\2\3"))
    assert not port.device._gate.early and not port.taps.carrier


def test_a_guest_leaves_ring_by_ring_and_each_queues_frames_stay_its(port: Port) -> None:
    port.features(Feature.VERSION_1, Feature.MQ)
    port.memory()
    for index in range(4):
        port.vring(index)
    port.pairs[0].waiting, port.pairs[1].waiting = [b"first"], [b"second"]
    port.features(Feature.VERSION_1, Feature.MQ, Feature.LOG_ALL)
    port.base(0)
    assert port.holding.held == {} and port.pairs[0].waiting == [b"first"]
    assert port.device.running and port.taps.attached == [True, True]
    port.base(1)
    port.base(2)
    assert port.holding.held == {0: [b"first"], 1: [b"second"]}
    assert not port.device.running and port.taps.attached == [True, True]
    assert port.pairs[0].config is None and port.pairs[1].config.rx is None
    port.base(3)
    assert port.holding.held == {0: [b"first"], 1: [b"second"]} and port.taps.carrier


def migrate_with_the_second_pair_stopped(port: Port) -> None:
    port.features(Feature.VERSION_1, Feature.MQ)
    port.memory()
    for index in range(4):
        port.vring(index)
    port.features(Feature.VERSION_1, Feature.MQ, Feature.LOG_ALL)
    port.pairs[1].waiting = [b"waiting"]
    port.base(2)


def test_a_ring_that_is_reset_while_the_guest_migrates_has_its_frames(port: Port) -> None:
    migrate_with_the_second_pair_stopped(port)
    assert port.holding.held == {} and port.taps.attached == [True, True]
    port.vring(2)
    assert port.pairs[1].waiting == [b"waiting"] and port.pairs[0].given == []
    assert port.taps.attached == [True, True] and port.taps.detached == 0


def test_a_pair_that_stays_stopped_leaves_its_frames_to_another(port: Port) -> None:
    migrate_with_the_second_pair_stopped(port)
    port.device.handle_timer(100.0)
    assert port.pairs[0].given == []
    port.device.handle_timer(100.0 + EARLY_SECONDS)
    assert port.pairs[0].given == [b"waiting", b"queue 1"] and port.pairs[0].config.rx is not None
    assert port.holding.held == {} and port.taps.attached == [True, False]


def test_the_last_pair_to_leave_begins_the_hold_of_all(port: Port) -> None:
    migrate_with_the_second_pair_stopped(port)
    port.pairs[0].waiting = [b"first"]
    port.base(0)
    assert port.holding.held == {0: [b"first"], 1: [b"waiting"]}
    assert port.taps.detached == 0 and port.taps.attached == [True, True] and port.taps.carrier
    assert port.pairs[0].config.tx is not None and port.pairs[1].config.tx is not None


def test_a_queue_that_is_given_up_goes_to_one_that_the_guest_still_reads(port: Port) -> None:
    port.features(Feature.VERSION_1, Feature.MQ)
    port.memory()
    for index in range(4):
        port.vring(index)
    port.pairs[1].waiting = [b"waiting"]
    port.ask(FrontendRequest.SET_VRING_ENABLE, spec.VRING_STATE.pack(2, 0))
    assert port.pairs[0].given == [b"waiting", b"queue 1"] and port.pairs[0].config.rx is not None
    assert port.holding.held == {} and port.taps.attached == [True, False]


def test_nothing_is_taken_from_a_ring_where_holding_is_off(port: Port) -> None:
    port.holding.enabled = False
    set_up(port)
    migrate(port)
    assert port.holding.held == {} and not port.taps.carrier


def test_a_fault_noticed_as_the_front_end_goes_is_not_the_next_ones(port: Port) -> None:
    """The ring broke, and before the worker's loop came to it the connection ended."""
    set_up(port)
    port.pairs[0].break_ring(port.pairs[0].tx, Fault.AVAIL_JUMPS)
    port.device.detach()
    port.device.collect_faults(port.pairs[0])
    assert [error.name for error in port.observed.errors] == ["avail-jumps"]
    port.session = Session(offer(2, None))
    port.device.attach(port.session)
    set_up(port)
    assert port.pairs[0].config.tx is not None


def test_a_fault_noticed_as_the_ring_is_stopped_does_not_keep_it_from_starting(port: Port) -> None:
    set_up(port)
    port.pairs[0].break_ring(port.pairs[0].tx, Fault.AVAIL_JUMPS)
    port.base(1)
    port.device.collect_faults(port.pairs[0])
    port.vring(1)
    assert port.pairs[0].config.tx is not None


def test_a_broken_ring_stays_broken_whatever_else_changes(port: Port) -> None:
    set_up(port)
    port.pairs[0].break_ring(port.pairs[0].tx, Fault.AVAIL_JUMPS)
    port.memory()
    assert port.pairs[0].config.tx is None and port.pairs[0].config.rx is not None


def test_a_ring_that_lost_its_memory_is_no_reason_to_refuse_its_neighbour(port: Port) -> None:
    """Refused, the neighbour's new kick fd would be closed while its ring runs on it."""
    port.features(Feature.VERSION_1)
    port.memory()
    port.vring(1)
    port.memory(0x1800)  # vring 1 lies beyond
    port.observed.errors.clear()
    port.vring(0)
    rx = port.pairs[0].config.rx
    assert rx is not None and rx.kick_fd == port.session.vrings[0].kick_fd
    assert port.pairs[0].config.tx is None
    assert {error.name for error in port.observed.errors} == {"vring-outside-memory"}


def test_a_ring_that_cannot_be_does_not_keep_the_memory_mapped(port: Port) -> None:
    """Its used ring was found, its descriptors were not; the memory is given back at once."""
    port.features(Feature.VERSION_1)
    port.memory()
    gc.collect()
    gc.disable()
    try:
        port.vring(1)
        beyond = spec.VRING_ADDR.pack(1, 0, USER + 2 * MEMORY, USER, USER + 0x400, 0)
        with suppress(PeerError):
            port.ask(FrontendRequest.SET_VRING_ADDR, beyond)
        port.device.detach()
        assert "memfd:guest" not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()


def test_the_front_end_takes_its_back_end_channel_with_it(port: Port) -> None:
    ours, theirs = socket.socketpair()
    port.ask(FrontendRequest.SET_BACKEND_REQ_FD, b"", theirs.detach())
    assert port.channel.is_open
    port.device.detach()
    assert not port.channel.is_open and ours.recv(1) == b""
    ours.close()


def test_a_front_end_that_asks_for_the_configuration_is_told_of_changes(port: Port) -> None:
    port.device.detach()
    port.session = Session(offer(2, 1500, nic=Nic()))
    port.device.attach(port.session)
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    port.ask(FrontendRequest.SET_BACKEND_REQ_FD, b"", theirs.detach())
    port.device.configure(
        replace(SETTINGS, link_up=False, mtu=1500)
    )  # CONFIG was not negotiated yet
    protocol = port.session.offer.protocol_features
    port.ask(FrontendRequest.SET_PROTOCOL_FEATURES, spec.U64.pack(protocol))
    port.features(Feature.MTU)
    changed = encode(Message(BackendRequest.CONFIG_CHANGE_MSG))
    for link_up, mtu, tells in (
        (True, 1500, True),
        (True, 1500, False),
        (True, 1000, False),  # the driver has the old one
    ):
        port.device.configure(replace(SETTINGS, link_up=link_up, mtu=mtu))
        if tells:
            assert ours.recv(100) == changed
    port.ask(FrontendRequest.RESET_DEVICE)  # the next driver has the new one
    assert ours.recv(100) == changed
    port.device.detach()
    port.device.configure(replace(SETTINGS, link_up=False))
    assert ours.recv(1) == b""
    ours.close()


PAGE = 4096
UPDATE, INVALIDATE = spec.IotlbType.UPDATE, spec.IotlbType.INVALIDATE
READ, WRITE = spec.IotlbAccess.READ, spec.IotlbAccess.WRITE


class Iommu:
    """A front-end's IOMMU: IOVAs are the front-end's own addresses."""

    def __init__(self, port: Port) -> None:
        self.port = port
        ours, theirs = socket.socketpair()
        self.channel = Connection(ours)
        port.ask(FrontendRequest.SET_BACKEND_REQ_FD, b"", theirs.detach())
        port.features(Feature.VERSION_1, Feature.ACCESS_PLATFORM)
        port.memory()

    def tell(self, kind: int, page: int, access: int = READ | WRITE, pages: int = 1) -> None:
        payload = spec.IOTLB.pack(
            USER + page * PAGE, pages * PAGE, USER + page * PAGE, access, kind
        )
        self.port.ask(FrontendRequest.IOTLB_MSG, payload)

    def asked(self) -> list[tuple[int, int, int]]:
        """Page, access and type of what the back-end has asked since this was last called."""
        fields = (spec.IOTLB.unpack(m.payload) for m in self.channel.receive())
        return [((iova - USER) // PAGE, access, kind) for iova, _, _, access, kind in fields]


@pytest.fixture
def iommu(port: Port) -> Iterator[Iommu]:
    made = Iommu(port)
    yield made
    made.channel.close()


MISS, ACCESS_FAIL = spec.IotlbType.MISS, spec.IotlbType.ACCESS_FAIL


def test_a_ring_waits_for_the_translation_of_its_own_addresses(port: Port, iommu: Iommu) -> None:
    port.vring(0)
    assert not port.pairs[0].running
    assert iommu.asked() == [(0, READ, MISS)]
    iommu.tell(UPDATE, 0, READ)
    assert not port.pairs[0].running
    assert iommu.asked() == [(0, WRITE, MISS)]
    iommu.tell(UPDATE, 0, WRITE)
    assert port.pairs[0].running and port.taps.carrier
    assert port.pairs[0].rx.state["call_first"], "the call eventfd may be another one"
    assert port.pairs[0].config.regions["guest"].tolist() == [USER]
    assert iommu.asked() == []
    assert port.observed.errors == []


def test_an_invalidation_is_answered_when_no_ring_uses_the_translation(
    port: Port, iommu: Iommu
) -> None:
    iommu.tell(UPDATE, 0, pages=2)
    port.vring(0, base=7)
    at = port.pairs[0].config.rx.next_avail
    iommu.tell(INVALIDATE, 5)
    assert port.pairs[0].config.rx.next_avail == at, "nothing that it uses"
    iommu.tell(INVALIDATE, 1)
    assert port.pairs[0].config.rx.next_avail == at + 3
    assert port.pairs[0].config.regions["size"].tolist() == [PAGE]
    assert not port.pairs[0].rx.state["call_first"], "it may be so with each frame"
    iommu.tell(INVALIDATE, 0)
    assert not port.pairs[0].running
    assert port.taps.carrier, "the tap keeps what comes meanwhile"
    assert iommu.asked() == [(0, READ, MISS)]
    iommu.tell(UPDATE, 0)
    assert port.pairs[0].config.rx.next_avail == at + 6
    assert port.base(0) == at + 9


def test_a_miss_of_a_running_ring_is_asked_for_once(port: Port, iommu: Iommu) -> None:
    iommu.tell(UPDATE, 0, pages=2)
    port.vring(0)
    port.pairs[0].miss(port.pairs[0].rx, USER + 9 * PAGE + 5)
    port.pairs[0].miss(port.pairs[0].tx, USER + 8 * PAGE)
    at = port.pairs[0].config.rx.next_avail
    for _ in range(2):
        port.device.collect_faults(port.pairs[0])
    assert iommu.asked() == [(9, WRITE, MISS), (8, READ, MISS)]
    assert port.device.iotlb_counts == {"iotlb_misses": 2, "iotlb_replaced": 0}
    iommu.tell(UPDATE, 7)
    assert port.pairs[0].config.rx.next_avail == at, "nobody waits for it"
    iommu.tell(UPDATE, 9)
    assert port.pairs[0].config.rx.next_avail == at + 3
    assert port.observed.errors == []


def test_too_little_access_is_told_once_and_the_ring_waits_on(port: Port, iommu: Iommu) -> None:
    iommu.tell(UPDATE, 0, pages=2)
    port.vring(0)
    port.pairs[0].miss(port.pairs[0].rx, USER + 9 * PAGE)
    port.device.collect_faults(port.pairs[0])
    for _ in range(2):
        iommu.tell(UPDATE, 9, READ)
    assert iommu.asked() == [(9, WRITE, MISS), (9, WRITE, ACCESS_FAIL)]
    assert [error.name for error in port.observed.errors] == ["iotlb-access-denied"]


def test_what_was_missed_without_a_channel_is_named_and_asked_for_on_each_that_comes(
    port: Port,
) -> None:
    port.features(Feature.VERSION_1, Feature.ACCESS_PLATFORM)
    port.memory()
    port.vring(0)
    assert {error.name for error in port.observed.errors} == {"iotlb-without-channel"}
    for _ in range(2):
        ours, theirs = socket.socketpair()
        port.ask(FrontendRequest.SET_BACKEND_REQ_FD, b"", theirs.detach())
        asked = spec.IOTLB.unpack(ours.recv(100)[spec.HEADER.size :])
        assert asked[0] == USER + 0x800  # used ring
        ours.close()


def test_a_miss_that_the_front_end_refuses_is_named(port: Port) -> None:
    acknowledged = spec.ProtocolFeature.BACKEND_REQ.mask | spec.ProtocolFeature.REPLY_ACK.mask
    port.ask(FrontendRequest.SET_PROTOCOL_FEATURES, spec.U64.pack(acknowledged))
    iommu = Iommu(port)
    port.vring(0)
    for status in (0, 1):
        (miss,) = iommu.channel.receive()
        flags = spec.VERSION | spec.REPLY
        iommu.channel.send(Message(miss.request, spec.U64.pack(status), flags))
        ((key, _),) = port.selector.select(5)
        key.data(0.0)
        if status == 0:
            iommu.tell(UPDATE, 0, READ)
    assert [error.name for error in port.observed.errors] == ["iotlb-miss-refused"]
    iommu.channel.close()


def test_translations_go_with_their_front_end(port: Port, iommu: Iommu) -> None:
    iommu.tell(UPDATE, 0, pages=2)
    port.device.detach()
    port.session = Session(offer(2, None))
    port.device.attach(port.session)
    again = Iommu(port)
    port.vring(0)
    assert again.asked() == [(0, READ, MISS)]
    again.channel.close()


def test_a_journal_without_room_is_told_as_long_as_it_lasts_and_the_ring_runs(port: Port) -> None:
    with TemporaryFile() as file:
        file.truncate(2 * JOURNAL_BYTES)
        rx, tx = port.pairs[0].rings
        rx.journal, tx.journal = journal.open_file(file.fileno(), 2)
        file.truncate(0)
    set_up(port)
    for _ in range(2):
        port.device.handle_timer(0.0)
        assert port.pairs[0].running and port.observed.errors == []
        assert str(port.observed.wrong) == "journal-not-kept: vring 0: no room in the run directory"


@pytest.fixture
def small() -> Iterator[Port]:
    """A device that offers two pairs, and has the tap queue of the first one only."""
    port = Port(pairs=1)
    yield port
    port.device.detach()
    for pair in port.pairs:
        pair.close()
    port.selector.close()


def test_a_further_pair_tells_of_kicks_where_the_first_does(small: Port) -> None:
    set_up(small)
    small.device.handle_timer(70.0)
    small.device.add_pair(FakePair(1))
    assert [pair.tells_of_kicks for pair in small.pairs] == [True, True]


def test_the_tap_queue_of_a_further_pair_is_asked_for_at_its_first_message(small: Port) -> None:
    small.ask(FrontendRequest.SET_VRING_CALL, spec.U64.pack(1), os.eventfd(0))
    assert small.observed.pairs == 0
    small.ask(FrontendRequest.SET_VRING_CALL, spec.U64.pack(2), os.eventfd(0))
    assert small.observed.pairs == 2


def test_rings_that_are_all_enabled_by_a_feature_ask_for_nothing(small: Port) -> None:
    # Without PROTOCOL_FEATURES all rings are enabled, also those that no guest has.
    small.ask(FrontendRequest.SET_FEATURES, spec.U64.pack(0))
    assert small.observed.pairs == 0


def test_a_further_pair_runs_as_soon_as_its_tap_queue_has_come(small: Port) -> None:
    small.features()
    small.memory(used_index=3)
    for index in range(4):
        small.vring(index, base=3)
    assert small.pairs[0].running and small.taps.attached == [True]
    assert small.device._rings.kicks(3) == 0

    further = FakePair(1)
    small.taps.attached = [True, True]  # the kernel attaches it
    small.device.add_pair(further)  # type: ignore[arg-type]
    assert further.running and further.config.rx.next_avail == 3
    assert small.taps.attached == [True, True]
    assert small.observed.errors == []
    assert small.base(2) == 6


def test_a_further_pair_that_stopped_before_its_queue_came_does_not_run(small: Port) -> None:
    small.features()
    small.memory()
    for index in range(4):
        small.vring(index, base=3)
    assert small.base(2) == small.base(3) == 3
    further = FakePair(1)
    small.device.add_pair(further)  # type: ignore[arg-type]
    assert not further.running
    small.device.handle_timer(100.0)
    small.device.handle_timer(100.0 + EARLY_SECONDS)
    assert small.taps.attached == [True, False]


def test_what_came_to_a_queue_before_it_is_used_goes_to_the_pair_that_receives(
    small: Port,
) -> None:
    small.features()
    small.memory()
    small.vring(0)
    small.vring(1)
    small.device.add_pair(FakePair(1))  # type: ignore[arg-type]
    assert small.pairs[0].given == [b"queue 1"] and small.pairs[0].running
    assert small.taps.attached == [True, False]


@pytest.fixture
def expecting(small: Port) -> Port:
    """A guest with one pair that runs, and another that is enabled, whose queue comes now."""
    small.features()
    small.memory()
    small.vring(0, base=3)
    small.vring(1, base=3)
    small.ask(FrontendRequest.SET_VRING_ENABLE, spec.VRING_STATE.pack(2, 1))
    small.taps.attached = [True, True]  # the kernel attaches it
    small.device.add_pair(FakePair(1))  # type: ignore[arg-type]
    return small


def test_what_came_to_a_queue_waits_for_a_ring_that_is_about_to_run(expecting: Port) -> None:
    """Detached, and attached again with the ring, the queue would lose what came in between."""
    assert expecting.taps.attached == [True, True]
    expecting.vring(2, base=3)
    assert expecting.pairs[1].running and expecting.pairs[0].given == []
    assert expecting.taps.attached == [True, True] and expecting.taps.detached == 0
    assert not expecting.device._gate.overdue(1e9)


def test_what_waits_for_a_ring_that_is_late_goes_to_the_pair_that_receives(
    expecting: Port,
) -> None:
    expecting.device.handle_timer(100.0)
    expecting.device.handle_timer(100.0 + EARLY_SECONDS)
    assert expecting.pairs[0].given == [b"queue 1"]
    assert expecting.taps.attached == [True, False]


def test_a_queue_that_comes_before_the_guest_keeps_what_is_let_in_early(small: Port) -> None:
    small.features()
    small.memory()
    small.device.execute(effects.SendRarp(b"\x52\x54\0\1\2\3"))
    small.taps.attached = [True, True]  # the kernel attaches it
    small.device.add_pair(FakePair(1))  # type: ignore[arg-type]
    small.vring(0)
    small.vring(2)
    assert small.taps.attached == [True, True] and small.taps.detached == 0


def test_a_further_pair_that_is_set_up_wrongly_is_refused_before_its_queue_comes(
    small: Port,
) -> None:
    small.features()
    small.memory(size=0x2000, used=[0, 1])
    with pytest.raises(PeerError):
        small.vring(2)
    assert small.observed.pairs == 2
