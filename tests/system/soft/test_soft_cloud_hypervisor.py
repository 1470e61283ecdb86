# SPDX-License-Identifier: Apache-2.0
"""A front-end that comes back with the avail index as base: nothing twice, nothing lost."""

import itertools
import os
import signal
import struct
from contextlib import ExitStack

import pytest
from support.system.soft_ports import SoftPort, frame_of, receive, settle

from ovs_vhost_plugin.guest.cloud_hypervisor import CloudHypervisor
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

SIZE = 64
BURST = SIZE // 2
LAYOUTS = {"split": FEATURES, "packed": FEATURES | Feature.RING_PACKED.mask}
NUMBER = struct.Struct("!I")
NUMBER_AT = 14
_numbers = itertools.count()


class Port(SoftPort):
    """A port in client mode to a guest that listens at `socket`; without one in server mode."""

    def __init__(self, host, socket):
        super().__init__(host)
        self._socket = socket
        self.waiting = "connected" if socket else "listening"

    def add(self, *settings):
        if self._socket is None:
            return super().add(*settings)
        return self.host.add_client_port(self.name, self._socket, *settings)


class Life:
    """A guest and the ports that it has had, one after the other."""

    def __init__(self, host, config, *, listens, keeps_inflight):
        self._host = host
        self._closing = ExitStack()
        self._captures = []
        self._socket = host.directory / "vm.sock" if listens else None
        if listens:
            self._closing.callback(self._socket.unlink, missing_ok=True)
        path = self._socket or host.directory
        self.guest = CloudHypervisor(path, config, server=listens, keeps_inflight=keeps_inflight)
        self._closing.callback(self.guest.close)
        self.port = None
        self.plug()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._closing.close()
        self.unplug()

    def plug(self):
        """Give the guest a port of a new name."""
        self.port = Port(self._host, self._socket).__enter__()
        self.guest.path = self._socket or self.port.path
        self._captures.append(self._closing.enter_context(self.port.capture()))

    def unplug(self):
        self.port.__exit__()

    def start(self):
        self.guest.start()
        settle(self.guest)
        self.port.wait_carrier()

    def sent(self):
        """The numbers of what the guest sent, in the order in which it passed."""
        return [
            number_of(frame.data)
            for capture in self._captures
            for frame in capture.frames()
            if not frame.outgoing
        ]


def numbered(count, *, outward=False):
    """Frames whose numbers count up, over all of this module."""
    frames = []
    for _ in range(count):
        frame = bytearray(frame_of(100, outward=outward))
        NUMBER.pack_into(frame, NUMBER_AT, next(_numbers))
        frames.append(bytes(frame))
    return frames


def number_of(frame):
    return NUMBER.unpack_from(frame, NUMBER_AT)[0]


def numbers_of(frames):
    return [number_of(frame) for frame in frames]


def kill(life):
    """By surprise, in the middle of whatever it does; the port stays."""
    killed = life.port.pid
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: life.port.pid != killed, "another worker", 20)


def replug(life):
    """In order: the port is removed, and another of another name has the guest."""
    life.unplug()
    life.plug()


WAYS = {
    # the end, whether the guest listens, and how many frames may be lost in it
    "killed": (kill, True, 1),
    "another name": (replug, True, 0),
    "another name and socket": (replug, False, 0),
}


CASES = [
    (layout, region, way)
    for layout in LAYOUTS
    for region in ("region", "no region")
    for way in WAYS
    # There nobody knows where the ring stands (docs/conformance.md, "Where a ring goes on").
    if (layout, region, way) != ("packed", "no region", "another name and socket")
]


@pytest.mark.parametrize(("layout", "region", "way"), CASES)
def test_nothing_comes_twice_and_nothing_is_lost(soft_host, layout, region, way):
    end, listens, lost = WAYS[way]
    keeps_inflight = region == "region"
    config = Config(size=SIZE, features=LAYOUTS[layout])
    with Life(soft_host, config, listens=listens, keeps_inflight=keeps_inflight) as life:
        life.start()
        expected = check_both_ways(life)
        for _ in range(2):
            expected += check_end(life, end, lost)
            expected += check_both_ways(life)
        sent = life.sent()
        assert sent == sorted(set(sent)), "twice, or out of order"
        assert set(expected) <= set(sent)
        assert life.port.errors() == {}


def check_both_ways(life):
    """More than a ring's worth of frames each way; the numbers of those that went out."""
    outward = numbered(2 * SIZE, outward=True)
    for frame in outward:
        life.guest.send(frame)
    life.guest.drain()
    for _ in range(2 * SIZE // BURST):
        some = numbered(BURST)
        life.port.inject(*some)
        assert receive(life.guest, BURST) == some
    # As many as there are buffers: had one been lost, the last frame would wait for it.
    all_at_once = numbered(SIZE)
    before = life.port.counters()["rx_packets"]
    life.port.inject(*all_at_once)
    wait_until(lambda: life.port.counters()["rx_packets"] == before + SIZE, "all buffers filled")
    assert receive(life.guest, SIZE) == all_at_once
    return numbers_of(outward)


def check_end(life, end, lost):
    """The worker ends with frames under way both ways; the numbers that must have gone out."""
    guest = life.guest
    under_way, inward = numbered(BURST, outward=True), numbered(BURST)
    for there, back in zip(under_way, inward, strict=True):
        guest.send(there)
        life.port.inject(back)
    end(life)
    meanwhile = numbered(SIZE - BURST - 1, outward=True)
    for frame in meanwhile:
        guest.pairs[0].tx.reap()
        guest.pairs[0].tx.add(frame)
    life.start()
    guest.drain()
    received = []
    while some := guest.receive(0.2):
        received += numbers_of(some)
    assert received == sorted(set(received)) and set(received) <= set(numbers_of(inward))
    gone = set(life.sent())
    missing = set(numbers_of(under_way)) - gone
    assert len(missing) <= lost
    return numbers_of(meanwhile)
