# SPDX-License-Identifier: Apache-2.0
"""The cost of learning from the guest's frames, and of listening to frames that it receives.

Learning as its share of sending frames to nobody:

    make bench-learn        or: python -m bench.bench_learn [ROUNDS]

A transmit ring of frames of 60 bytes is sent to /dev/null, which costs a third of a tap's write,
so a port's share is that much smaller. In each round sending (which learns from each frame) and
learning from the same frames alone are timed one after the other. The output is the median of the
rounds' ratios, for frames of several kinds.

Listening for others' claims is timed alone, on frames that lie in a buffer; its share is that of
sending the first kind of frame, as receiving needs somebody who sends.
"""

from __future__ import annotations

import os
import statistics
import struct
import sys
import time
from collections.abc import Callable

import numba
import numpy as np

from ovs_vhost_plugin.bench.rings.memory_ring import HEADER, SIZE, MemoryRing, new_net
from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.net.learn import learn, take_head
from ovs_vhost_plugin.jit.net.overhear import overhear, to_group
from ovs_vhost_plugin.jit.net.transmit import BURST, transmit

BURSTS = 500
MAC = bytes.fromhex("525400000001")


def ethernet(kind: int, payload: bytes, number: int = 0, tag: bytes = b"") -> bytes:
    source = MAC[:5] + bytes([number])
    return (bytes(6) + source + tag + struct.pack("!H", kind) + payload).ljust(60, b"\0")[:60]


ARP = bytes.fromhex("0001080006040001525400000001") + bytes([10, 0, 0, 9]) + bytes(10)


def ipv4(number: int = 0) -> bytes:
    return b"\x45" + bytes(11) + bytes([10, 0, 0, number])


KINDS: dict[str, Callable[[int], bytes]] = {
    "one flow, IPv4": lambda _: ethernet(0x800, ipv4()),
    "one flow, IPv6": lambda _: ethernet(0x86DD, b"\x60" + bytes(7) + b"\xfe\x80" + bytes(14)),
    "one flow, in a VLAN": lambda _: ethernet(0x800, ipv4(), tag=b"\x81\0\0\7"),
    "another source IP each": lambda i: ethernet(0x800, ipv4(i)),
    "16 MACs in turn": lambda i: ethernet(0x800, ipv4(), i % 16),
    "256 MACs in turn": lambda i: ethernet(0x800, ipv4(), i),
}


class Ring:
    """A transmit ring whose driver makes the same frames available again and again."""

    def __init__(self, frame: Callable[[int], bytes], fd: int) -> None:
        ring = MemoryRing([frame(i) for i in range(SIZE)])
        self.ring, self.queue, self.regions = ring.ring, ring.queue, ring.memory
        self.net = new_net(fd)
        self.learned = fresh.new_learned(-1)
        self.frames = fresh.new_queue()
        for i in range(SIZE):
            self.frames.iov[i] = ring.buffers[i].ctypes.data + HEADER, 60
        self._keep = ring

    def send(self) -> float:
        """Nanoseconds a frame of sending, learning included."""
        begin = time.perf_counter_ns()
        send(self.ring, self.queue, self.regions, self.net, self.learned, BURSTS)
        return (time.perf_counter_ns() - begin) / BURSTS / BURST

    def learn(self) -> float:
        """Nanoseconds a frame of learning alone."""
        now = time.monotonic_ns() // 1_000_000
        begin = time.perf_counter_ns()
        learn_only(self.learned, self.frames, now, BURSTS)
        return (time.perf_counter_ns() - begin) / BURSTS / BURST


@numba.njit(nogil=True, _nrt=False)  # as the kernels: no reference counts
def send(
    ring: layout.Vring,
    queue: layout.Queue,
    memory: layout.Memory,
    net: layout.Net,
    learned: layout.Learned,
    bursts: int,
) -> None:
    for _ in range(bursts):
        ring.avail[1] += BURST
        transmit(ring, queue, memory, net, learned)


@numba.njit(nogil=True, _nrt=False)  # as the kernels: no reference counts
def learn_only(learned: layout.Learned, frames: layout.Queue, now: int, bursts: int) -> None:
    for burst in range(bursts):
        for i in range(BURST):
            at = (burst * BURST + i) % SIZE
            learn(learned, learned.head, take_head(learned, frames, at, at + 1), now)


HEARD: dict[str, bytes] = {
    "to the guest": MAC + ethernet(0x800, ipv4())[6:],
    "broadcast, IPv4": b"\xff" * 6 + ethernet(0x800, ipv4())[6:],
    "broadcast, ARP of a stranger": b"\xff" * 6 + ethernet(0x806, ARP)[6:],
}


@numba.njit(nogil=True, _nrt=False)  # as the kernels: no reference counts
def listen(
    queue: layout.Queue, net: layout.Net, learned: layout.Learned, length: int, frames: int
) -> None:
    for _ in range(frames):
        if to_group(queue, net, learned):
            overhear(queue, net, learned, length)


def heard(frame: bytes) -> float:
    """Nanoseconds a frame of listening, where the guest has eight addresses."""
    buffer = np.frombuffer(bytes(HEADER) + frame, np.uint8).copy()
    queue, net, learned = fresh.new_queue(), new_net(-1), fresh.new_learned(-1)
    queue.iov[1] = buffer.ctypes.data, len(buffer)
    learned.watched["low"][:8] = np.arange(8) + 1
    learned.watching[0] = 8
    listen(queue, net, learned, len(buffer), 1)
    begin = time.perf_counter_ns()
    listen(queue, net, learned, len(buffer), BURSTS * BURST)
    return (time.perf_counter_ns() - begin) / BURSTS / BURST


def main(rounds: int) -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    print(f"{'frames of 60 bytes':28} {'sent, ns':>9} {'learned, ns':>12} {'share':>7}")
    medians = []
    for name, frame in KINDS.items():
        ring = Ring(frame, fd)
        ring.send(), ring.learn()
        pairs = [(ring.send(), ring.learn()) for _ in range(rounds)]
        assert ring.net.counters["tx_packets"][0] == (rounds + 1) * BURSTS * BURST
        sent, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
        share = statistics.median(learned / whole for whole, learned in pairs)
        print(f"{name:28} {sent:9.1f} {alone:12.1f} {share:7.1%}")
        medians.append(sent)
    os.close(fd)
    print(f"{'received':28} {'':9} {'heard, ns':>12} {'share':>7}")
    for name, one in HEARD.items():
        alone = statistics.median(heard(one) for _ in range(rounds))
        print(f"{name:28} {'':9} {alone:12.1f} {alone / medians[0]:7.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 41)
