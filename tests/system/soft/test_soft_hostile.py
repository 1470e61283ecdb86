# SPDX-License-Identifier: Apache-2.0
"""What a hostile guest writes into its rings costs it that ring, by name, and nobody else."""

import struct

import pytest
from support.system.soft_ports import check_inward, check_outward, frame_of

from ovs_vhost_plugin.guest.driver.driver import (
    F_NEEDS_CSUM,
    GSO_TCPV4,
    GSO_UDP_L4,
    NetHeader,
)
from ovs_vhost_plugin.guest.driver.split import DESCRIPTOR, F_INDIRECT, F_NEXT, F_WRITE
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

SIZE = 8
RX, TX = 0, 1
TOP = 2**64 - 1
OFFLOADS = Feature.CSUM.mask | Feature.HOST_TSO4.mask | Feature.HOST_USO.mask
CONFIG = Config(size=SIZE, features=FEATURES | OFFLOADS)


class Ring:
    """A virtqueue written without a driver's care."""

    def __init__(self, guest, index):
        self.guest = guest
        self.memory = guest.memory
        self.vring = guest.vrings[index]
        self.queue = self.vring.queue
        self.buffer = guest.memory.allocate(4096)
        self.table = guest.memory.allocate(4096)
        self.next = int.from_bytes(self.memory.read(self.queue.avail_address + 2, 2), "little")

    def describe(self, index, address, length, flags=0, following=0):
        """Write a descriptor."""
        self.write(self.queue.desc_address, index, address, length, flags, following)

    def describe_indirect(self, index, address, length, flags=0, following=0):
        """Write a descriptor of the indirect table."""
        self.write(self.table, index, address, length, flags, following)

    def write(self, table, index, *fields):
        self.memory.write(table + 16 * index, DESCRIPTOR.pack(*fields))

    def offer(self, *heads):
        """Make chains available and kick."""
        for head in heads:
            slot = self.queue.avail_address + 4 + 2 * (self.next % SIZE)
            self.memory.write(slot, struct.pack("<H", head))
            self.next = (self.next + 1) & 0xFFFF
        self.show(self.next)

    def show(self, index):
        """Set the avail index, whatever it is, and kick."""
        self.memory.write(self.queue.avail_address + 2, struct.pack("<H", index & 0xFFFF))
        self.vring.kick.signal()


def jumps(ring):
    ring.show(ring.next + SIZE + 1)


def goes_back(ring):
    ring.show(ring.next - 1)


def head_out_of_range(ring):
    ring.offer(SIZE)


def next_out_of_range(ring):
    ring.describe(0, ring.buffer, 64, F_NEXT, SIZE)
    ring.offer(0)


def loops(ring):
    ring.describe(0, ring.buffer, 64, F_NEXT, 1)
    ring.describe(1, ring.buffer, 64, F_NEXT, 0)
    ring.offer(0)


def writable(ring):
    ring.describe(0, ring.buffer, 64, F_WRITE)
    ring.offer(0)


def zero_length(ring):
    ring.describe(0, ring.buffer, 0)
    ring.offer(0)


def zero_length_nowhere(ring):
    ring.describe(0, 8, 0)
    ring.offer(0)


def wraps(ring):
    ring.describe(0, TOP - 10, 64)
    ring.offer(0)


def outside(ring):
    ring.describe(0, 0x1000, 64)
    ring.offer(0)


def beyond_the_end(ring):
    ring.describe(0, ring.memory.end - 32, 64)
    ring.offer(0)


def indirect(ring, *descriptors, length=None, flags=F_INDIRECT, address=None):
    for index, fields in enumerate(descriptors):
        ring.describe_indirect(index, *fields)
    length = 16 * len(descriptors) if length is None else length
    ring.describe(0, ring.table if address is None else address, length, flags, 1)
    ring.offer(0)


def nested(ring):
    indirect(ring, (ring.table, 16, F_INDIRECT, 0))


def odd_table(ring):
    indirect(ring, (ring.buffer, 64, 0, 0), length=24)


def huge_table(ring):
    indirect(ring, (ring.buffer, 64, 0, 0), length=16 * 65536)


def empty_table(ring):
    indirect(ring)


def indirect_and_next(ring):
    indirect(ring, (ring.buffer, 64, 0, 0), flags=F_INDIRECT | F_NEXT)


def table_outside(ring):
    indirect(ring, address=TOP - 100, length=64)


def indirect_next_out_of_range(ring):
    indirect(ring, (ring.buffer, 64, F_NEXT, 2), (ring.buffer, 64, 0, 0))


def indirect_loops(ring):
    indirect(ring, (ring.buffer, 8, F_NEXT, 1), (ring.buffer, 8, F_NEXT, 0))


TRANSMIT = {
    jumps: "avail-jumps",
    goes_back: "avail-goes-back",
    head_out_of_range: "head-out-of-range",
    next_out_of_range: "next-out-of-range",
    loops: "chain-loops",
    writable: "wrong-direction",
    zero_length: "zero-length",
    zero_length_nowhere: "zero-length",
    wraps: "address-wraps",
    outside: "address-outside-memory",
    beyond_the_end: "address-outside-memory",
    nested: "indirect-nested",
    odd_table: "indirect-length",
    huge_table: "indirect-too-large",
    empty_table: "indirect-empty",
    indirect_and_next: "indirect-with-next",
    table_outside: "indirect-outside-memory",
    indirect_next_out_of_range: "next-out-of-range",
    indirect_loops: "chain-loops",
}


def check_broken(port, guest, index, name):
    """The fault has its name everywhere, its ring stands, the other one of the pair goes on."""
    wait_until(lambda: port.errors().get(name), name)
    port.wait_published(f"{name}: vring {index} stopped")
    assert port.errors() == {name: 1}
    assert port.stats()["faults"] == {name: 1}
    used = guest.vrings[index].queue.used_index
    if index == TX:
        check_inward(port, guest, range(60, 1500, 100), burst=4)
    else:
        check_outward(port, guest, range(60, 1500, 100))
    guest.vrings[index].kick.signal()
    assert guest.vrings[index].queue.used_index == used
    # GET_VRING_BASE answers for the broken ring too: where it stood.
    assert guest.frontend.stop_vring(index) == used
    assert port.errors() == {name: 1}


@pytest.mark.parametrize("attack", TRANSMIT, ids=lambda attack: attack.__name__)
def test_a_transmit_ring_that_is_wrong_stops_by_name(port, attack):
    guest = port.guest(CONFIG)
    check_outward(port, guest, [100] * 3)
    attack(Ring(guest, TX))
    check_broken(port, guest, TX, TRANSMIT[attack])
    # A new start of the guest begins with a ring that works.
    guest.close()
    check_outward(port, port.guest(CONFIG), [100])
    wait_until(lambda: not port.published_error(), "the end of the error")


def readable(ring):
    ring.describe(0, ring.buffer, 2048)
    ring.offer(0)


def readable_after_writable(ring):
    ring.describe(0, ring.buffer, 2048, F_WRITE | F_NEXT, 1)
    ring.describe(1, ring.buffer, 2048)
    ring.offer(0)


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (jumps, "avail-jumps"),
        (readable, "wrong-direction"),
        (readable_after_writable, "readable-after-writable"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_receive_ring_that_is_wrong_stops_by_name(port, attack, name):
    guest = port.guest(CONFIG)
    # All buffers but what the attack offers are used up.
    port.inject(*[frame_of(100) for _ in range(SIZE)])
    wait_until(lambda: port.counters()["rx_packets"] == SIZE, "no buffers left")
    attack(Ring(guest, RX))
    port.inject(frame_of(100))
    check_broken(port, guest, RX, name)
    assert not port.carrier


SHORT = NetHeader()
FRAMES = {
    "frame-too-short": (SHORT, 13),
    "frame-too-long": (SHORT, 65_600),
    "csum-outside-frame": (NetHeader(F_NEEDS_CSUM, csum_start=90, csum_offset=16), 100),
    "gso-not-negotiated": (NetHeader(F_NEEDS_CSUM, gso_type=4, gso_size=100), 2000),
    "gso-unknown": (NetHeader(F_NEEDS_CSUM, gso_type=0x7F, gso_size=100), 2000),
    "gso-without-csum": (NetHeader(gso_type=GSO_TCPV4, gso_size=100), 2000),
    "gso-size": (NetHeader(F_NEEDS_CSUM, GSO_TCPV4, 54, 0, 34, 16), 2000),
    "gso-headers": (NetHeader(F_NEEDS_CSUM, GSO_UDP_L4, 42, 100, 34, 6), 2000),
    "header-length-beyond-frame": (NetHeader(F_NEEDS_CSUM, GSO_TCPV4, 2001, 100, 34, 16), 2000),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_is_wrong_is_dropped_by_name_and_the_ring_goes_on(port, name):
    guest = port.guest(Config(features=FEATURES | OFFLOADS))
    header, size = FRAMES[name]
    with port.capture() as capture:
        guest.send(frame_of(max(size, 14), outward=True)[:size], header=header)
        guest.send(after := frame_of(100, outward=True))
        guest.drain()
        assert port.sent(capture, 1) == [after]
    counters = port.counters()
    assert port.stats()["faults"] == {name: 1}
    assert counters["tx_dropped_faulty"] == 1
    assert port.published_error() == ""


def test_a_chain_that_is_no_longer_than_the_header_is_dropped(port):
    guest = port.guest(CONFIG)
    ring = Ring(guest, TX)
    ring.describe(0, ring.buffer, 5, F_NEXT, 1)
    ring.describe(1, ring.buffer, 7)
    ring.offer(0)
    wait_until(lambda: port.stats()["faults"].get("chain-without-frame"), "the fault")
    assert port.errors() == {}


def test_a_kick_that_never_stops_and_a_ring_without_buffers_cost_the_neighbour_nothing(plug):
    hostile, other = plug(), plug()
    guest = hostile.guest(CONFIG)
    neighbour = other.guest(Config())
    kick = guest.vrings[TX].kick
    hostile.inject(*[frame_of(100) for _ in range(3 * SIZE)])  # its buffers are used up
    for _ in range(50):
        for _ in range(200):
            kick.signal()
        check_outward(other, neighbour, [60, 1514])
        check_inward(other, neighbour, [60, 1514])
    assert hostile.errors() == {}


@pytest.mark.parametrize("attack", [jumps, loops, outside], ids=lambda attack: attack.__name__)
def test_other_pairs_and_other_ports_go_on(plug, attack):
    port, other = plug(queues=2), plug()
    config = Config(size=SIZE, features=FEATURES, queue_pairs=2)
    guest, neighbour = port.guest(config), other.guest(Config())
    attack(Ring(guest, 2 + TX))
    wait_until(port.errors, "the fault")
    wait_until(lambda: port.published_error().endswith("vring 3 stopped"), "it is published")
    check_outward(port, guest, range(60, 1500, 50))
    check_outward(other, neighbour, range(60, 1500, 50))
    check_inward(other, neighbour, range(60, 1500, 50))
    assert other.errors() == {}
    assert guest.stop_rings()[3] == 0
