# SPDX-License-Identifier: Apache-2.0
"""Frames that are written together, on a real tap."""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from support.jit.batches import batches

from ovs_vhost_plugin.bench.rings.memory_ring import HEADER, SIZE, MemoryRing, RingKind, new_net
from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.net.transmit import BURST, transmit
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.tap import device
from ovs_vhost_plugin.worker.birth import calibration
from ovs_vhost_plugin.worker.tap.queues import TapQueues

pytestmark = pytest.mark.integration

TAP = "batched"
ETH_P_ALL = 3


@dataclass
class Port:
    """A tap, a socket that hears what comes out of it, and the record of a pair."""

    tap: int
    queues: TapQueues
    wire: socket.socket
    net: layout.Net

    def heard(self) -> list[bytes]:
        frames = []
        try:
            while True:
                frames.append(self.wire.recv(70000))
        except BlockingIOError:
            return frames

    def counted(self, name: str) -> int:
        return int(self.net.counters[name][0])


@pytest.fixture
def port() -> Iterator[Port]:
    with Namespace("batches") as namespace, namespace.entered():
        tap = device.make(TAP)
        queues = TapQueues([tap])
        queues.set_format(HEADER, 0)
        queues.set_carrier(True)
        device.set_flags(TAP, device.IFF_UP)
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        wire.bind((TAP, ETH_P_ALL))
        wire.setblocking(False)
        net = new_net(tap)
        with wire, batches(net, tap):
            yield Port(tap, queues, wire, net)
        os.close(tap)


def frame(number: int) -> bytes:
    """A frame of a type that nobody answers, of 60 to 1,514 bytes."""
    header = bytes.fromhex("025400000002025400000001") + b"\x88\xb5"
    return (header + number.to_bytes(2, "big")).ljust(60 + 97 * number % 1455, b"\xaa")


@pytest.mark.parametrize(
    "kind", [RingKind(), RingKind(indirect=True), RingKind(packed=True)], ids=str
)
def test_all_frames_go_through_a_real_tap_in_order(port: Port, kind: RingKind) -> None:
    frames = [frame(number) for number in range(SIZE)]
    ring, learned = MemoryRing(frames, kind), fresh.new_learned(-1)
    if not kind.packed:
        ring.ring.avail[1] = SIZE
    heard = []
    for _ in range(SIZE // BURST):
        assert transmit(ring.ring, ring.queue, ring.memory, port.net, learned) == BURST
        heard += port.heard()
    assert heard == frames
    assert port.counted("tx_batched") == port.counted("tx_packets") == SIZE


def test_a_tap_that_is_down_takes_none_and_each_is_counted(port: Port) -> None:
    device.set_flags(TAP, 0)
    ring = MemoryRing([frame(1)])
    ring.ring.avail[1] = BURST
    learned = fresh.new_learned(-1)
    assert transmit(ring.ring, ring.queue, ring.memory, port.net, learned) == BURST
    assert (port.counted("tx_packets"), port.counted("tx_dropped_tap_down")) == (0, BURST)
    assert learned.state["stations"][0] == 0
    device.set_flags(TAP, device.IFF_UP)
    port.wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # ENETDOWN, told once
    ring.ring.avail[1] += BURST
    assert transmit(ring.ring, ring.queue, ring.memory, port.net, learned) == BURST
    assert port.counted("tx_packets") == BURST
    assert port.heard() == [frame(1)] * BURST


def test_the_choice_is_measured_or_the_administrators(
    require: Callable[[object, str], None],
) -> None:
    measured = calibration.choose("")
    require("times as fast" in measured.words, f"io_uring: {measured.words}")
    assert measured.words.startswith("io_uring" if measured.together else "writev")
    on = calibration.choose("on")
    assert on.together
    for queues, count in (1, 1), (2, 2), (8, 8), (9, 1), (128, 1):
        made = on.make_urings(queues)
        for uring in made:
            uring.close()
        assert len(made) == count
    off = calibration.choose("off")
    assert (off.together, off.make_urings(2)) == (False, ())


@pytest.mark.parametrize(("ratio", "together"), [(1.14, False), (1.16, True)])
def test_it_is_used_where_it_pays(ratio: float, together: bool) -> None:
    assert calibration.judge(ratio, "").together is together
    assert calibration.judge(ratio, "on").together
