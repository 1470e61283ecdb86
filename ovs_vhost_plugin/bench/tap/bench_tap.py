# SPDX-License-Identifier: Apache-2.0
"""A frame's cost on its way to a real tap: by writev, and by io_uring.

    make bench-tap          or: python -m ovs_vhost_plugin.bench.tap.bench_tap [--rounds N] [--json]

A transmit ring in memory is sent to a tap in a network namespace of the bench's own, by the port's
own kernels: each frame is taken, checked, written, learned from and given back. As a switch would
be, a packet socket listens at the tap, or nobody does. In each round both ways are timed one after
the other, in bursts of each size; printed are the medians of the rounds' ratios, from lowest to
highest. All the work is in the calling thread, also the kernel's, so the time is the processor's.

A second table has the system calls of reading alone (`reading.py`).
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numba
from rich.console import Console
from rich.table import Table

from ovs_vhost_plugin.bench.rings.memory_ring import SIZE, MemoryRing, new_net
from ovs_vhost_plugin.bench.tap.reading import TapReader
from ovs_vhost_plugin.common import process, uring
from ovs_vhost_plugin.common.uring import SLOTS
from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.net.transmit import transmit
from ovs_vhost_plugin.jit.uring import new_batch
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
class Ratio:
    """Nanoseconds a frame, and how many times as fast io_uring is: median, lowest, highest."""

    singly: float
    io_uring: float
    ratio: float
    least: float
    most: float

    @property
    def cells(self) -> tuple[str, ...]:
        """For a table."""
        spread = f"{self.least:.2f}-{self.most:.2f}"
        return f"{self.singly:.0f}", f"{self.io_uring:.0f}", f"{self.ratio:.2f}", spread


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
    """Offer the ring's frames in bursts, and have each burst transmitted."""
    for _ in range(bursts):
        ring.avail[1] += burst
        transmit(ring, queue, memory, net, learned)


def frame_of(length: int) -> bytes:
    """A frame to another host's MAC."""
    return (_TO_ANOTHER + _IPV4).ljust(length, b"\0")


class Sender:
    """A transmit ring of frames of `length` bytes, whose driver offers them again and again."""

    def __init__(self, length: int, tap: int, batch: layout.Records) -> None:
        self._ring = MemoryRing([frame_of(length)] * SIZE)
        self._net = new_net(tap)
        self._batch = batch.ctypes.data
        self._learned = fresh.new_learned(-1)
        self._sent = 0

    def time(self, burst: int, together: bool) -> float:
        """Nanoseconds a frame, in bursts of `burst`."""
        self._net.state["cfg_batch"] = self._batch if together else 0
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


def measure(time_one: Callable[[bool], float], rounds: int) -> Ratio:
    """Both ways by turns, after a first round that does not count."""
    pairs = []
    for number in range(rounds + 1):
        order = (False, True) if number % 2 else (True, False)
        times = {together: time_one(together) for together in order}
        pairs.append((times[False], times[True]))
    ratios = [singly / together for singly, together in pairs[1:]]
    singly, together = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
    return Ratio(singly, together, statistics.median(ratios), min(ratios), max(ratios))


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
        """Close the socket."""
        self._sock.close()


@dataclass(frozen=True, slots=True)
class Written:
    """A burst's frames on their way to the tap."""

    length: int
    burst: int
    listener: bool
    ratio: Ratio


def write(tap: int, rounds: int, listener: Listener | None) -> list[Written]:
    """Bursts of all sizes and lengths; `listener` reads what was written."""
    ring = uring.Uring(SLOTS, uring.WRITEV)
    batch, _memory = new_batch(ring, tap)

    def time_one(together: bool, sender: Sender, burst: int) -> float:
        took = sender.time(burst, together=together)
        if listener is not None:
            listener.drain()
        return took

    rows = []
    for length in LENGTHS:
        sender = Sender(length, tap, batch)
        for burst in BURSTS:
            ratio = measure(partial(time_one, sender=sender, burst=burst), rounds)
            rows.append(Written(length, burst, listener is not None, ratio))
    ring.close()
    return rows


def read(tap: int, rounds: int) -> dict[int, Ratio]:
    """The ratio of reading alone, by the frame's length."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((TAP, 0))
        reader = TapReader(tap, wire)
        return {n: measure(partial(reader.time, frame_of(n)), rounds) for n in LENGTHS}


def main() -> None:
    """Print the figures, as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tap = make_tap()
    written = write(tap, options.rounds, None)
    listener = Listener()
    written += write(tap, options.rounds, listener)
    listener.close()
    was_read = read(tap, options.rounds)
    if options.json:
        reads = {length: asdict(ratio) for length, ratio in was_read.items()}
        print(json.dumps({"written": [asdict(row) for row in written], "read": reads}, indent=2))
        return
    heads = "ns each", "ns by io_uring", "ratio", "from-to"
    table = Table("bytes written", "burst", "listener", *heads)
    for row in written:
        listens = "yes" if row.listener else ""
        table.add_row(str(row.length), str(row.burst), listens, *row.ratio.cells)
    reading = Table("bytes read", *heads)
    for length, ratio in was_read.items():
        reading.add_row(str(length), *ratio.cells)
    for one in (table, reading):
        Console().print(one)


if __name__ == "__main__":
    main()
