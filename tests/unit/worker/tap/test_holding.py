# SPDX-License-Identifier: Apache-2.0
"""A hold from begin to end, with datagram sockets as the tap's queues."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from support.worker.fake_outbox import FakeOutbox

from ovs_vhost_plugin.ipc.channel import HELD_BATCH_FRAMES
from ovs_vhost_plugin.ipc.reports import HeldFrames, HoldState
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.worker.tap.hold import QUIET, SECONDS, Reason
from ovs_vhost_plugin.worker.tap.holding import Holding

GUEST = bytes.fromhex("525400000001")
STATION = StationKey(GUEST, 0)
HEADER = bytes(12)


def frame(number: int, to: bytes = GUEST) -> bytes:
    return to + b"\2" * 6 + b"\x08\x00" + number.to_bytes(46, "big")


class Rig:
    def __init__(self) -> None:
        self.now = 100.0
        self.outbox = FakeOutbox()
        self.selector = selectors.DefaultSelector()
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
        self.taps, self.wires = zip(*pairs, strict=True)
        for tap in self.taps:
            tap.setblocking(False)
        self.queues = SimpleNamespace(
            fds=[tap.fileno() for tap in self.taps], header_size=12, discard=self._discard
        )
        self.discarded = 0
        self.holding = self.made()

    def made(self, *, enabled: bool = True) -> Holding:
        return Holding(
            self.queues, self.selector, self.outbox, lambda: self.now, PortSettings(hold=enabled)
        )  # type: ignore[arg-type]

    def arrive(self, *numbers: int, queue: int = 0, to: bytes = GUEST) -> None:
        for number in numbers:
            self.wires[queue].send(HEADER + frame(number, to))
        self.turn()

    def turn(self) -> None:
        while ready := self.selector.select(0):
            for key, _ in ready:
                key.data(self.now)

    def batches(self) -> list[tuple[int, list[bytes], bool]]:
        taken, self.outbox.told[:] = list(self.outbox.told), []
        return [(e.id, list(e.frames), e.left) for e in taken if isinstance(e, HeldFrames)]

    def _discard(self) -> None:
        self.discarded += 1

    def close(self) -> None:
        self.holding.end(Reason.OFF)
        for sock in (*self.taps, *self.wires):
            sock.close()
        self.selector.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def report(rig: Rig) -> HoldState:
    found = rig.holding.report()
    assert found is not None
    return found


def frames(*numbers: int) -> list[bytes]:
    return [frame(number) for number in numbers]


def test_what_waited_in_the_pair_comes_first_and_what_comes_later_follows(rig: Rig) -> None:
    rig.holding.begin(0, [HEADER + frame(1)])
    rig.arrive(2, 3)
    rig.holding.release(7, [STATION])
    assert rig.batches() == [(7, frames(1, 2, 3), False)]
    rig.arrive(4)
    assert rig.batches() == []  # one request, one answer
    rig.holding.release(8, [STATION])
    assert rig.batches() == [(8, frames(4), False)]
    rig.holding.release(9, [STATION])
    rig.arrive(5)
    assert rig.batches() == [(9, frames(5), False)]


def test_a_request_from_before_the_hold_is_not_one_for_it(rig: Rig) -> None:
    rig.holding.release(1, [STATION])
    rig.holding.begin(0, [])
    rig.arrive(1)
    assert rig.batches() == []
    rig.holding.release(2, [STATION])
    assert rig.batches() == [(2, frames(1), 0)]


def test_a_guest_that_announces_itself_elsewhere_is_sighted(rig: Rig) -> None:
    everybody = b"\xff" * 6

    def come_from(mac: bytes, tag: bytes = b"") -> int:
        rig.wires[0].send(HEADER + everybody + mac + tag + b"\x80\x35" + bytes(46))
        rig.turn()
        return report(rig).sighted

    rig.holding.begin(0, [])
    assert come_from(GUEST) == 0, "nobody has sent to it yet"
    rig.arrive(1)
    assert come_from(b"\x52\x54\0\0\0\x09") == 0
    assert come_from(GUEST, tag=b"\x81\x00\x00\x07") == 0
    assert come_from(GUEST) == 1
    rig.arrive(2)
    assert come_from(GUEST) == 2
    rig.holding.end(Reason.EXPIRED)
    rig.holding.begin(0, [])
    assert report(rig).sighted == 0


def test_only_whom_the_daemon_names_and_never_a_group(rig: Rig) -> None:
    rig.holding.begin(0, [])
    rig.arrive(1, to=b"\xff" * 6)
    rig.arrive(2, to=b"\x52\x54\0\0\0\x09")
    rig.holding.release(1, [STATION])
    rig.arrive(3)
    assert rig.batches() == [(1, frames(3), False)]


def test_much_goes_in_batches(rig: Rig) -> None:
    rig.holding.begin(0, [])
    for first in range(0, 200, 4):
        rig.arrive(*range(first, first + 4))
    for number in (1, 2, 3):
        rig.holding.release(number, [STATION])
    (_, first, _), (_, second, left), (_, third, none_left) = rig.batches()
    assert 0 < len(first) < HELD_BATCH_FRAMES, "the longest waiting goes first, soon"
    assert len(first) < len(second) <= HELD_BATCH_FRAMES
    assert left and third and not none_left
    assert [*first, *second, *third] == frames(*range(200))


def test_a_guest_that_comes_back_gets_each_queues_frames(rig: Rig) -> None:
    rig.holding.begin(0, [])
    rig.holding.begin(1, [])
    rig.arrive(1, 2)
    rig.arrive(3, queue=1)
    assert rig.holding.give_back(0) == frames(1, 2)
    assert rig.holding.active and not rig.holding.covers(0)
    rig.wires[0].send(HEADER + frame(9))
    rig.turn()  # newer, and the ring's own to read
    assert rig.holding.give_back(1) == frames(3)
    assert not rig.holding.active and rig.discarded == 0
    assert os.read(rig.taps[0].fileno(), 100) == HEADER + frame(9)
    assert report(rig).counts == {"held": 3, "returned": 3}


def test_another_front_ends_guest_gets_nothing(rig: Rig) -> None:
    rig.holding.begin(0, [])
    rig.arrive(1)
    rig.holding.front_end_gone()
    assert rig.holding.active  # the network may still learn where the guest is
    assert rig.holding.give_back(0) == []
    assert not rig.holding.active and rig.discarded == 1
    assert report(rig).counts == {"held": 1, "dropped_other-guest": 1}


def test_it_ends_in_time_without_a_sound_and_nothing_is_left(rig: Rig) -> None:
    rig.holding.begin(0, [])
    rig.arrive(1)
    assert rig.holding.get_timer() == rig.now + SECONDS
    rig.now += SECONDS
    assert rig.holding.expired(rig.now)
    rig.holding.end(Reason.EXPIRED)
    assert rig.holding.get_timer() is None and len(rig.holding.buffer) == 0
    assert len(rig.selector.get_map()) == 0


def test_it_ends_sooner_when_all_was_handed_over_and_it_is_quiet(rig: Rig) -> None:
    rig.holding.begin(0, [])
    rig.arrive(1)
    rig.holding.release(1, [STATION])
    assert rig.holding.get_timer() == rig.now + QUIET
    rig.arrive(2)
    assert rig.holding.get_timer() == rig.now + SECONDS
    rig.holding.release(2, [STATION])
    assert rig.holding.get_timer() == rig.now + QUIET
    rig.now += SECONDS - QUIET / 2
    rig.holding.release(3, [STATION])
    rig.arrive(3)
    assert rig.holding.expired(100.0 + SECONDS)  # and never later


def test_the_daemon_is_told_of_begin_addresses_and_end_but_not_of_each_frame(rig: Rig) -> None:
    assert rig.holding.report() is None
    told: list[HoldState] = []
    rig.holding.begin(0, [])
    told.append(report(rig))
    for number in range(3):
        rig.arrive(number)
        told.append(report(rig))
    rig.holding.end(Reason.OFF)
    told.append(report(rig))
    assert [(t.active, t.stations) for t in told] == [
        (True, ()),
        *[(True, (STATION,))] * 3,
        (False, ()),
    ]
    assert told[1] == told[3]
    rig.holding.begin(0, [])
    assert report(rig).hold == told[0].hold + 1


def test_switched_off_nothing_is_held(rig: Rig) -> None:
    rig.holding.enabled = False
    rig.holding.begin(0, [HEADER + frame(1)])
    assert not rig.holding.active and rig.holding.report() is None


def test_a_tap_that_fails_is_left_alone(rig: Rig) -> None:
    ended, other = socket.socketpair()
    rig.queues.fds[0] = ended.fileno()
    rig.holding.begin(0, [])
    other.close()
    rig.turn()  # returns
    assert not rig.holding.covers(0) and len(rig.holding.buffer) == 0
    ended.close()


def test_what_cannot_be_finished_is_dropped_by_name(rig: Rig) -> None:
    rig.holding.begin(0, [bytes([1, 0, 0, 0, 0, 0, 0xFF, 0xFF]) + bytes(4) + frame(1)])
    assert rig.holding.buffer.counts == {"dropped_unfinished": 1}


def test_a_queue_that_is_given_up_is_emptied_in_order(rig: Rig) -> None:
    for number in (2, 3):
        rig.wires[1].send(HEADER + frame(number))
    assert rig.holding.drain(1, [HEADER + frame(1)]) == frames(1, 2, 3)
    assert rig.holding.drain(1, []) == [] and not rig.holding.active
