# SPDX-License-Identifier: Apache-2.0
"""What a frame costs on its way to a real tap: by writev, and by io_uring.

    make bench-tap          or: python -m bench.bench_tap [--rounds N] [--json]

A transmit ring in memory is sent to a tap in a network namespace of the bench's own, by the port's
own kernels: each frame is taken, checked, written, learned from and given back. As a switch would
be, a packet socket listens at the tap, or nobody does. In each round both ways are timed one after
the other, in bursts of each size; printed are the medians of the rounds' ratios, from lowest to
highest. All the work is in the calling thread, also the kernel's, so the time is the processor's.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import struct
import time
from dataclasses import asdict, dataclass

import numba
from rich.console import Console
from rich.table import Table

from bench.memory_ring import SIZE, MemoryRing, new_net
from ovs_vhost_plugin.common import process, uring
from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.net.transmit import transmit
from ovs_vhost_plugin.jit.uring import SLOTS, new_batch
from ovs_vhost_plugin.tap import device
from ovs_vhost_plugin.worker.tap.queues import TapQueues

FRAMES = 64 * 40
"""Frames that are timed at once: bursts of each size divide them."""
BURSTS = 1, 2, 4, 8, 16, 32, 64
LENGTHS = 64, 1514
TAP = "bench-tap"
_TO_ANOTHER = bytes.fromhex("025400000002") + bytes.fromhex("025400000001")  # the host drops it
_IPV4 = struct.pack("!H", 0x0800) + b"\x45"
_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True, slots=True)
class Row:
    """Nanoseconds a frame, and how many times as fast io_uring is: median, lowest, highest."""

    length: int
    burst: int
    listener: bool
    writev: float
    io_uring: float
    ratio: float
    least: float
    most: float


@numba.njit(nogil=True, _nrt=False)  # as the kernels: no reference counts
def send(
    ring: layout.Vring,
    queue: layout.Queue,
    memory: layout.Memory,
    net: layout.Net,
    learned: layout.Learned,
    burst: int,
    bursts: int,
) -> None:
    for _ in range(bursts):
        ring.avail[1] += burst
        transmit(ring, queue, memory, net, learned)


class Sender:
    """A transmit ring of frames of `length` bytes, whose driver offers them again and again."""

    def __init__(self, length: int, tap: int, batch: layout.Records) -> None:
        frame = (_TO_ANOTHER + _IPV4).ljust(length, b"\0")
        self._ring = MemoryRing([frame for _ in range(SIZE)])
        self._net = new_net(tap)
        self._batch = batch.ctypes.data
        self._learned = fresh.new_learned(-1)
        self._sent = 0

    def time(self, burst: int, *, batched: bool) -> float:
        """Nanoseconds a frame, in bursts of `burst`."""
        self._net.state["cfg_batch"] = self._batch if batched else 0
        ring = self._ring
        begin = time.perf_counter_ns()
        send(
            *(ring.ring, ring.queue, ring.memory, self._net, self._learned),
            *(burst, FRAMES // burst),
        )
        took = time.perf_counter_ns() - begin
        self._sent += FRAMES
        assert self._net.counters["tx_packets"][0] == self._sent
        return took / FRAMES


def measure(sender: Sender, length: int, burst: int, rounds: int, listener: Listener | None) -> Row:
    """Both ways by turns, after a first round that does not count."""
    pairs = []
    for number in range(rounds + 1):
        order = (False, True) if number % 2 else (True, False)
        times = {}
        for way in order:
            times[way] = sender.time(burst, batched=way)
            if listener is not None:
                listener.drain()
        pairs.append((times[False], times[True]))
    ratios = [plain / batched for plain, batched in pairs[1:]]
    plain, batched = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
    spread = statistics.median(ratios), min(ratios), max(ratios)
    return Row(length, burst, listener is not None, plain, batched, *spread)


def make_tap() -> int:
    """A tap in a new network namespace, as a port's is: its first queue."""
    process.unshare(process.NEW_NET)
    fd = device.make(TAP)
    device.offer_offloads(fd)
    queues = TapQueues([fd])
    queues.set_format(12, 0)
    queues.set_carrier(True)
    device.set_flags(TAP, device.IFF_UP)
    return fd


class Listener:
    """A packet socket at the tap, as a switch's, with room for all that is timed at once."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
        self._sock.bind((TAP, _ETH_P_ALL))
        self._sock.setblocking(False)

    def drain(self) -> None:
        """Read all frames; there must be as many as were timed."""
        for _ in range(FRAMES):
            self._sock.recv(1)

    def close(self) -> None:
        self._sock.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tap = make_tap()
    ring = uring.Uring(SLOTS, uring.WRITEV)
    batch, _memory = new_batch(ring, tap)
    rows = []
    for listens in (False, True):
        listener = Listener() if listens else None
        for length in LENGTHS:
            sender = Sender(length, tap, batch)
            rows += [measure(sender, length, burst, options.rounds, listener) for burst in BURSTS]
        if listener is not None:
            listener.close()
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table("bytes", "burst", "listener", "writev, ns", "io_uring, ns", "ratio", "from-to")
    for row in rows:
        table.add_row(
            *(str(row.length), str(row.burst), "yes" if row.listener else ""),
            *(f"{row.writev:.0f}", f"{row.io_uring:.0f}", f"{row.ratio:.2f}"),
            f"{row.least:.2f}-{row.most:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
