# SPDX-License-Identifier: Apache-2.0
"""A front-end keeps what is in flight: workers are killed, another back-end was there before."""

import contextlib
import os
import signal
import struct

import pytest
from support.system.soft_ports import check_inward, check_outward, frame_of, settle

from ovs_vhost_plugin.guest.frontend.connection import BackEndError
from ovs_vhost_plugin.guest.frontend.frontend import PROTOCOL_FEATURES
from ovs_vhost_plugin.guest.frontend.inflight import InflightKeeper
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.memory.inflight import stride
from ovs_vhost_plugin.vhost.spec import MAX_VRING_SIZE, Feature, ProtocolFeature

pytestmark = pytest.mark.system

SIZE = 64
KEPT = ProtocolFeature.INFLIGHT_SHMFD.mask
SUSPENDED = ProtocolFeature.GET_VRING_BASE_INFLIGHT.mask
SIZES = range(60, 1515, 91)
RX, TX = 0, 1
HEADER = struct.Struct("<QHHHH")
ENTRY = struct.Struct("<B5xHQ")
PACKED = FEATURES | Feature.RING_PACKED.mask
PACKED_SIZES = 32, 32  # of header and entry


class Kept:
    """A guest on `port` whose front-end keeps what is in flight."""

    def __init__(self, port, config, more=0):
        self.port, self.config, self.more = port, config, more
        self.guest = port.guest(config)
        self.bases = self.guest.stop_rings()
        self.inflight = None
        self.reconnect()

    def reconnect(self, prepare=None, bases=None):
        """A new session, told no more than a front-end knows that has lost its back-end."""
        guest = self.guest
        guest.frontend.close()
        guest.frontend = guest.connect()
        guest.frontend.initialise(PROTOCOL_FEATURES | KEPT | self.more)
        connection = guest.frontend.connection
        guest.frontend.set_features(self.config.features)
        if self.inflight is None:
            self.inflight = InflightKeeper(connection, len(guest.vrings), SIZE)
        if prepare is not None:
            prepare()
        self.inflight.give(connection)
        guest.run_on(guest.frontend, bases or [vring.queue.base for vring in guest.vrings])
        settle(guest)
        wait_until(lambda: self.port.carrier, "the carrier")

    def marked(self, index):
        queue = self.inflight.queue(index)
        packed = self.config.features & Feature.RING_PACKED.mask
        header, entry = PACKED_SIZES if packed else (HEADER.size, ENTRY.size)
        return [h for h in range(SIZE) if queue[header + entry * h] == 1]


@pytest.fixture
def kept(port):
    made = []

    def keep(**options):
        made.append(Kept(port, Config(size=SIZE, **options)))
        return made[-1]

    yield keep
    for one in made:
        one.inflight.close()


def kill(port):
    killed = port.pid
    os.kill(killed, signal.SIGKILL)
    await_another(port, killed)


def await_another(port, killed):
    def another():
        try:
            return port.pid != killed
        except (FileNotFoundError, IndexError):
            return False

    wait_until(another, "another worker", 20)
    port.host.wait_status(port.name, "listening")


def lose_journal(port):
    """What the next worker is to know, it shall know from its front-end."""
    port.host.journal(port.path).write_bytes(b"")


@pytest.mark.parametrize("journal", [True, False], ids=["journal", "no journal"])
@pytest.mark.parametrize(
    "options",
    [{}, {"indirect": True}, {"features": PACKED}],
    ids=["direct", "indirect", "packed"],
)
def test_rings_go_on_after_a_worker_was_killed_under_traffic(port, kept, journal, options):
    kept = kept(**options)
    guest = kept.guest
    for _ in range(2):
        check_outward(port, guest, SIZES)
        check_inward(port, guest, SIZES)
        wait_until(lambda: not kept.marked(TX), "nothing in flight")
        assert kept.marked(RX)
        for size in SIZES:
            guest.send(frame_of(size, outward=True))
            port.inject(frame_of(size))
        if not journal:
            lose_journal(port)
        kill(port)
        kept.reconnect()
        guest.drain()
        while guest.receive(0.2):
            pass
        assert guest.pairs[0].rx.queue.outstanding == SIZE
    check_outward(port, guest, SIZES)
    check_inward(port, guest, SIZES)
    assert port.errors() == {}
    guest.stop_rings()
    assert [kept.marked(index) for index in (RX, TX)] == [[], []]


@pytest.mark.parametrize("told", [False, True], ids=["used index", "avail index"])
def test_what_another_back_end_left_in_flight_is_sent_in_its_order(port, kept, told):
    kept = kept()
    guest = kept.guest
    guest.stop_rings()
    tx, queue = guest.vrings[TX], kept.inflight.queue(TX)
    frames = [frame_of(100 + n, outward=True) for n in range(5)]
    for frame in frames:
        guest.pairs[0].tx.add(frame)
    tx.queue.publish()
    base = tx.queue.base
    heads = [tx.queue._avail[2 + (base + n) % SIZE] for n in range(5)]
    order = [2, 0, 1]  # of those that another back-end had taken

    def prepare():
        HEADER.pack_into(queue, 0, 0, 1, SIZE, 0, base)
        for counter, n in enumerate(order):
            ENTRY.pack_into(queue, HEADER.size + ENTRY.size * heads[n], 1, 0, 7 + counter)

    with port.capture() as capture:
        bases = [vring.queue.base for vring in guest.vrings]
        kept.reconnect(prepare, [bases[RX], base + 3 * told])
        guest.drain()
        assert port.sent(capture, 5) == [frames[n] for n in (*order, 3, 4)]
    wait_until(lambda: not kept.marked(TX), "nothing in flight")
    check_outward(port, guest, SIZES)
    assert port.errors() == {}


def test_a_region_that_is_damaged_costs_its_ring_alone(port, kept):
    kept = kept()
    queue = kept.inflight.queue(TX)
    kept.guest.stop_rings()
    kept.reconnect(lambda: HEADER.pack_into(queue, 0, 0, 2, SIZE, 0, 0))
    wait_until(lambda: port.errors() == {"inflight-version": 1}, "the fault")
    said = "inflight-version: vring 1 stopped"
    wait_until(lambda: port.published_error() == said, "the error")
    check_inward(port, kept.guest, SIZES)


def test_a_ring_larger_than_what_is_kept_does_not_start(port):
    guest = port.guest(Config(size=2 * SIZE))
    guest.stop_rings()
    guest.frontend.close()
    guest.frontend = guest.connect()
    guest.frontend.initialise(PROTOCOL_FEATURES | KEPT)
    inflight = InflightKeeper(guest.frontend.connection, len(guest.vrings), SIZE)
    inflight.give(guest.frontend.connection)
    with contextlib.suppress(BackEndError, BrokenPipeError):  # it may hang up before all is sent
        guest.run_on(guest.frontend, [vring.queue.base for vring in guest.vrings])
    wait_until(lambda: port.errors().get("inflight-queue-size"), "the error")
    inflight.close()
    guest.frontend.close()
    check_outward(port, port.guest(Config()), [100])


def test_a_file_that_is_cut_short_ends_that_worker_alone(port, kept):
    """The worker's own cannot be; a front-end may give another one."""
    kept = kept()
    kept.guest.stop_rings()
    fd = os.memfd_create("front-end")
    os.ftruncate(fd, len(kept.inflight.memory))
    kept.inflight.close()
    kept.inflight._fd = fd
    kept.reconnect()
    check_outward(port, kept.guest, [100])
    killed = port.pid
    os.ftruncate(fd, 0)
    kept.guest.send(frame_of(100, outward=True))
    await_another(port, killed)
    check_outward(port, port.guest(Config()), [100])


def test_as_much_as_the_largest_rings_take_can_be_had(plug):
    """Beyond what a worker may write into any other file."""
    port = plug(queues=4)
    guest = port.guest(Config(queue_pairs=4, features=PACKED))
    guest.stop_rings()
    guest.frontend.initialise(PROTOCOL_FEATURES | KEPT)
    inflight = InflightKeeper(guest.frontend.connection, 8, MAX_VRING_SIZE)
    assert len(inflight.memory) == 8 * stride(MAX_VRING_SIZE, packed=True)
    inflight.memory[-1] = 1
    inflight.close()
    assert port.errors() == {}
