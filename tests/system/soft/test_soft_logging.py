# SPDX-License-Identifier: Apache-2.0
"""What a worker writes into the guest's memory it names in the dirty log, and then it stops.

The guest's memory before and after is compared page by page; no page may differ without its bit.
"""

import time

import pytest
from support.system.soft_ports import (
    BURST,
    check_inward,
    check_outward,
    datagram,
    frame_of,
    receive,
    receive_all,
    settle,
)

from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory, Region
from ovs_vhost_plugin.guest.frontend.dirtylog import DirtyBitmap
from ovs_vhost_plugin.guest.migrate import unlogged_pages
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

SIZES = (60, 1514, 64, 590, 4100, 9014, 20_000, 100)
PLAIN = FEATURES & ~Feature.RING_EVENT_IDX.mask
PACKED = FEATURES | Feature.RING_PACKED.mask
RINGS_APART = 1 << 30


class Watch:
    """The guest's memory from here on, with logging switched on."""

    def __init__(self, guest):
        self.guest = guest
        self.log = DirtyBitmap(guest.memory)
        guest.frontend.start_logging(self.log, guest.vrings)
        settle(guest)
        self.log.harvest()  # what the start of logging itself touched
        self.before = guest.memory.snapshot()
        guest.memory.written.clear()

    def close(self):
        self.log.close()

    def check(self):
        """Nothing is unlogged; how many pages were logged, and how many of them are the same."""
        after = self.guest.memory.snapshot()
        logged = self.log.logged()
        changed = {page for page, content in self.before.items() if after[page] != content}
        assert changed, "nothing happened"
        assert unlogged_pages(self.before, after, logged | self.guest.memory.written) == []
        return len(logged), len(logged - changed)


@pytest.fixture
def watch():
    watches = []

    def make(guest):
        watches.append(Watch(guest))
        return watches[-1]

    yield make
    for made in watches:
        made.close()


def traffic(port, guest, rounds=3):
    for _ in range(rounds):
        check_outward(port, guest, SIZES)
        check_inward(port, guest, SIZES, burst=2)


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(features=PLAIN),
        # A used ring of three pages: idx, the elements in use and avail_event on one each.
        Config(size=1024, receive_pieces=[100, 28], first_index=700),
        Config(indirect=True, first_index=65_530),
        Config(features=0, receive_pieces=[10, *[4096] * 5], size=64),
        Config(features=PACKED, size=300, first_index=290),
        Config(features=PACKED | Feature.IN_ORDER.mask, indirect=True, receive_pieces=[1000, 500]),
    ],
    ids=[
        *("event-index", "flags", "large-rings", "indirect-wrapping", "legacy"),
        *("packed-wrapping", "packed-in-order"),
    ],
)
def test_every_page_that_changed_has_its_bit(port, watch, config):
    guest = port.guest(config)
    seen = watch(guest)
    if config.features:
        traffic(port, guest)
    else:
        check_outward(port, guest, SIZES[:4], pieces=[10, 2048])
        check_inward(port, guest, SIZES, burst=2)
    guest.stop_rings()
    logged, unchanged = seen.check()
    # Only what the worker wrote may be marked: rings' pages can come out as they were, and the
    # content of a frame is random, so the pages of buffers cannot.
    assert unchanged <= len(guest.vrings), f"{unchanged} of {logged} pages for nothing"
    assert port.errors() == {}


def test_regions_far_apart_and_buffers_across_two_of_them_are_logged(port, watch):
    regions = [
        Region(0, 64 * PAGE_SIZE, 0x7000_0000_0000, PAGE_SIZE),
        Region(64 * PAGE_SIZE, 64 * PAGE_SIZE, 0x7100_0000_0000),
        Region(RINGS_APART, 512 * PAGE_SIZE, 0x7200_0000_0000),
    ]
    config = Config(memory=GuestMemory(regions), receive_pieces=[3000])
    guest = port.guest(config)
    seen = watch(guest)
    traffic(port, guest)
    guest.stop_rings()
    seen.check()


def test_a_bit_comes_while_the_rings_run_and_again_after_it_was_taken(port, watch):
    """What QEMU does over and over: take the log, copy, until little is left."""
    guest = port.guest(Config(size=64))
    seen = watch(guest)
    for _ in range(5):
        before = guest.memory.snapshot()
        seen.log.harvest()
        guest.memory.written.clear()
        check_inward(port, guest, SIZES, burst=2)
        settled = port.counters()["rx_packets"]
        after = guest.memory.snapshot()
        assert unlogged_pages(before, after, seen.log.logged() | guest.memory.written) == []
        assert settled % len(SIZES) == 0


def test_the_log_stays_when_the_memory_table_is_sent_again(port, watch):
    guest = port.guest(Config())
    seen = watch(guest)
    traffic(port, guest, rounds=1)
    guest.frontend.set_memory(guest.memory)
    settle(guest)
    seen.log.harvest()
    seen.before = guest.memory.snapshot()
    guest.memory.written.clear()
    traffic(port, guest, rounds=1)
    guest.stop_rings()
    seen.check()


def test_a_migration_given_up_ends_the_logging(port, watch):
    guest = port.guest(Config())
    seen = watch(guest)
    traffic(port, guest, rounds=1)
    assert seen.log.logged()
    guest.frontend.stop_logging(guest.vrings)
    settle(guest)
    seen.log.harvest()
    traffic(port, guest, rounds=1)
    assert seen.log.logged() == set()


@pytest.mark.parametrize("logging", [False, True], ids=["", "logging"])
def test_nothing_is_written_once_the_base_was_answered(plug, watch, logging):
    """Frames for the stopped pair go on arriving at the tap, and the other pair goes on."""
    port = plug(queues=2)
    guest = port.guest(Config(queue_pairs=2))
    seen = watch(guest) if logging else None
    # A flow's frames come to the queue pair that it was last sent from.
    with port.capture() as capture:
        for flow in (0, 1):
            guest.send(datagram(1000 + flow, 100, outward=True), queue=flow)
        guest.drain()
        port.sent(capture, 2)
    port.inject(*[datagram(1001, 1000) for _ in range(BURST)])
    assert {queue for queue, _ in receive_all(guest, BURST)} == {1}
    port.inject(*[datagram(1001, 1000) for _ in range(BURST)])  # under way while it stops
    bases = [guest.frontend.stop_vring(index) for index in (2, 3)]
    guest.receive(0.0)  # what came to this pair in time
    stopped = guest.memory.snapshot()
    logged = seen.log.logged() if seen else set()
    assert bases == [vring.queue.used_index for vring in guest.vrings[2:]]

    for _ in range(4):
        frames = [datagram(1001, 1000) for _ in range(BURST)]
        port.inject(*frames)
        assert [(0, frame) for frame in frames] == [
            (queue, got.frame) for queue, got in receive_all(guest, BURST)
        ]
    touched = pages_of(guest, 1)
    after = guest.memory.snapshot()
    assert {page for page in touched if after[page] != stopped[page]} == set()
    if seen:
        assert not touched & (seen.log.logged() - logged)


def test_a_stopped_guest_is_left_alone_however_much_comes(port, watch):
    guest = port.guest(Config())
    seen = watch(guest)
    port.inject(*[frame_of(1000) for _ in range(BURST)])
    bases = guest.stop_rings()
    assert bases == [vring.queue.used_index for vring in guest.vrings]
    stopped, logged = guest.memory.snapshot(), seen.log.logged()
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        port.inject(frame_of(1000))
    assert guest.memory.snapshot() == stopped
    assert seen.log.logged() == logged
    assert port.carrier  # what comes is held, in case it is to follow the guest
    assert len(guest.receive(0.0)) == bases[0]
    # Another front-end's start begins with nothing of what came meanwhile.
    guest.start()
    settle(guest)  # the carrier is no sign: the hold keeps it
    check_inward(port, guest, [300])


def pages_of(guest, pair):
    """The pages that only the device of one queue pair writes: used rings, receive buffers."""
    queues = [vring.queue for vring in guest.vrings[2 * pair : 2 * pair + 2]]
    pages = {queue.used_address // PAGE_SIZE for queue in queues}
    for chain in queues[0]._chains.values():
        pages |= {address // PAGE_SIZE for address, _ in chain.token}
    return pages


def test_bits_are_there_before_the_guest_can_see_the_frame(port, watch):
    """Write, mark, publish: whoever sees the used index finds the frame's pages marked."""
    guest = port.guest(Config())
    seen = watch(guest)
    for _ in range(50):
        seen.log.harvest()
        rx = guest.pairs[0].rx.queue
        at = rx.used_index
        port.inject(frame_of(1514))
        wait_until(lambda at=at, rx=rx: rx.used_index != at, "the frame", poll=0)
        logged = seen.log.logged()
        slot = at % rx.size
        chain = rx._chains[rx._used_elements[2 * slot]]
        assert {address // PAGE_SIZE for address, _ in chain.token} <= logged
        assert rx.used_address // PAGE_SIZE in logged
        receive(guest, 1)
