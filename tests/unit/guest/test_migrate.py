# SPDX-License-Identifier: Apache-2.0
"""Migration between two reference back-ends; one that forgets to log must be caught."""

import itertools
from ipaddress import IPv4Address

import pytest
from support.guest.guest_lab import Lab
from support.guest.reference_backend import ReferenceBackEnd
from support.guest.reference_rings import Behaviour

from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory
from ovs_vhost_plugin.guest.frontend.connection import RequestRefusedError
from ovs_vhost_plugin.guest.frontend.dirtylog import DirtyBitmap
from ovs_vhost_plugin.guest.migrate import (
    ChainsLostError,
    MemoryDiffersError,
    Migration,
    differing_pages,
    unlogged_pages,
)
from ovs_vhost_plugin.guest.soft import FEATURES, Config, SoftGuest
from ovs_vhost_plugin.vhost.spec import Feature

# Used elements, used index and avail event on pages of their own, so that each can be forgotten
APART = Config(size=1024, first_index=600)
_numbers = itertools.count()


def traffic(guest: SoftGuest, frames: int = 10) -> None:
    for _ in range(frames):
        frame = next(_numbers).to_bytes(4) * 700
        guest.send(frame)
        received = guest.receive(5)
        assert received == [frame]


def migration(
    lab: Lab, guest: SoftGuest, behaviour: Behaviour | None = None
) -> tuple[Migration, ReferenceBackEnd]:
    back_end = lab.back_end(guest, behaviour)
    return Migration(guest, guest.connect()), back_end


@pytest.mark.parametrize("config", [Config(), APART, Config(queue_pairs=2, size=16)])
def test_the_guest_arrives_whole_and_goes_on(lab: Lab, config: Config) -> None:
    guest, _ = lab.pair(config)
    traffic(guest)
    for _ in range(3):
        move, destination = migration(lab, guest)
        move.begin()
        for _ in range(3):
            traffic(guest)
            move.copy_dirty()
        traffic(guest)
        move.switch()
        move.release_source()
        traffic(guest)
        assert destination.seen.kicks > 0
    guest.drain()
    assert guest.pairs[0].tx.queue.free == config.size


def test_frames_under_way_arrive_once(lab: Lab) -> None:
    guest, _ = lab.pair(Config())
    move, _ = migration(lab, guest)
    move.begin()
    frames = [bytes([number]) * 3000 for number in range(30)]
    for frame in frames:
        guest.send(frame)
    move.switch()
    received: list[bytes] = []
    while len(received) < 30:
        more = guest.receive(5)
        assert more
        received += more
    assert received == frames
    assert guest.receive(0) == []


def test_rounds_become_short_without_traffic(lab: Lab) -> None:
    guest, _ = lab.pair(Config())
    move, _ = migration(lab, guest)
    move.begin()
    traffic(guest)
    assert move.copy_dirty() > 0
    assert move.copy_dirty() == 0


@pytest.mark.parametrize("forgotten", ["payload", "elements", "index", "event"])
def test_what_is_not_logged_is_found(lab: Lab, forgotten: str) -> None:
    guest, _ = lab.pair(APART, Behaviour(forget=frozenset([forgotten])))
    move, _ = migration(lab, guest)
    move.begin()
    traffic(guest)
    move.copy_dirty()
    traffic(guest)
    with pytest.raises(MemoryDiffersError):
        move.switch()


@pytest.mark.parametrize("forgotten", ["", "payload", "elements", "index", "event"])
def test_strict_check_of_the_log_between_two_snapshots(lab: Lab, forgotten: str) -> None:
    guest, _ = lab.pair(APART, Behaviour(forget=frozenset([forgotten])))
    log = DirtyBitmap(guest.memory)
    assert guest.frontend is not None
    guest.frontend.start_logging(log, guest.vrings)
    guest.memory.written.clear()
    before = guest.memory.snapshot()
    traffic(guest)
    guest.stop_rings()
    after = guest.memory.snapshot()
    found = unlogged_pages(before, after, log.logged() | guest.memory.written)
    used = guest.pairs[0].tx.queue.used_address // PAGE_SIZE
    expected = {"index": used, "elements": used + 1, "event": used + 2}
    if not forgotten:
        assert found == []
    elif forgotten == "payload":
        assert len(found) == 10, "20 buffers of half a page"
    else:
        assert expected[forgotten] in found


def test_used_rings_are_logged_only_by_their_flag(lab: Lab) -> None:
    guest, back_end = lab.pair(Config())
    log = DirtyBitmap(guest.memory)
    assert guest.frontend is not None
    guest.frontend.start_logging(log, guest.vrings)
    assert [vring.flags for vring in back_end.vrings[:2]] == [1, 1]
    guest.frontend.stop_logging(guest.vrings)
    guest.frontend.connection.ask(1)
    assert [vring.flags for vring in back_end.vrings[:2]] == [0, 0]
    log.harvest()
    traffic(guest)
    assert log.logged() == set()


def test_giving_up_leaves_the_guest_where_it_is(lab: Lab) -> None:
    guest, source = lab.pair(Config())
    move, _ = migration(lab, guest)
    move.begin()
    traffic(guest)
    move.cancel()
    traffic(guest)
    move.source.connection.ask(1)
    assert not source.features & Feature.LOG_ALL.mask


def test_chains_taken_and_not_given_back_are_found(lab: Lab) -> None:
    guest, _ = lab.pair(Config(), Behaviour(hold_back=100))
    move, _ = migration(lab, guest)
    move.begin()
    guest.send(bytes(60))
    assert guest.receive(5)
    with pytest.raises(ChainsLostError):
        move.switch()


def test_the_back_ends_own_state_moves_while_the_rings_are_stopped(lab: Lab) -> None:
    guest, source = lab.pair(Config(), Behaviour(state=b"what it knows"))
    move, destination = migration(lab, guest)
    move.begin()
    assert 42 not in source.seen.names()
    move.switch()
    assert destination.seen.state == b"what it knows"
    assert source.seen.names()[-2:] == [42, 43]
    names = destination.seen.names()
    assert names.index(42) < names.index(43) < names.index(2)  # before SET_FEATURES starts it


@pytest.mark.parametrize("who", ["source", "destination"])
def test_a_state_that_a_back_end_could_not_use_ends_the_migration(lab: Lab, who: str) -> None:
    refuses = Behaviour(refuse=43)
    guest, _ = lab.pair(Config(), refuses if who == "source" else None)
    move, _ = migration(lab, guest, refuses if who == "destination" else None)
    move.begin()
    with pytest.raises(RequestRefusedError, match="CHECK_DEVICE_STATE"):
        move.switch()


def test_without_the_protocol_feature_on_both_sides_no_state_is_moved(lab: Lab) -> None:
    guest, source = lab.pair(Config())
    move, destination = migration(lab, guest, Behaviour(protocol_features=0b11111))
    move.begin()
    move.switch()
    assert 42 not in source.seen.names() + destination.seen.names()


def test_a_silent_guest_is_announced_by_the_back_end(lab: Lab) -> None:
    guest, _ = lab.pair(Config())
    move, destination = migration(lab, guest)
    move.begin()
    move.switch()
    slept: list[float] = []
    move.announce(slept.append)
    move.destination.connection.ask(1)
    assert destination.seen.rarps == [guest.config.mac] * 5
    assert list(itertools.accumulate(slept)) == pytest.approx([0, 0.05, 0.2, 0.45, 0.8])


def test_a_guest_that_announces_itself_gets_no_rarp(lab: Lab) -> None:
    features = FEATURES | Feature.GUEST_ANNOUNCE.mask
    guest, _ = lab.pair(Config(features=features, address=IPv4Address("10.0.0.1")))
    move, destination = migration(lab, guest)
    move.begin()
    move.switch()
    move.announce(lambda _: None, rounds=[0, 0])
    frames = guest.receive(5)
    guest.drain()
    assert frames[0][:14] == b"\xff" * 6 + guest.config.mac + b"\x08\x06"
    assert destination.seen.rarps == []
    assert len(destination.seen.chains) == 2


def test_harvest_rounds_up_and_clears(lab: Lab) -> None:
    memory = GuestMemory.of_size(64 * PAGE_SIZE)
    log = DirtyBitmap(memory)
    first = memory.pages()[0]
    for page in (first + 1, first + 20):
        log._bytes[page // 8] |= 1 << page % 8
    assert log.logged() == {first + 1, first + 20}
    assert log.harvest() == {*range(first, first + 8), *range(first + 16, first + 24)}
    assert log.logged() == set()
    log.close()


def test_differing_pages_names_them() -> None:
    one = GuestMemory.of_size(16 * PAGE_SIZE)
    other = one.elsewhere()
    assert differing_pages(one, other) == []
    page = one.pages()[3]
    one.write((page + 1) * PAGE_SIZE - 1, b"xy")
    assert differing_pages(one, other) == [page, page + 1]
