# SPDX-License-Identifier: Apache-2.0
"""Instructions a packet of the compiled data path, on rings in memory of each layout.

    make bench-instructions     or: python -m bench.bench_instructions [--json]

Each case runs a burst of packets after a first one. The count of an empty run is subtracted, so
that the result excludes start-up and the counting itself. The kernels are compiled for the
processor in NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, and libc's memcpy is counted with them: tests
hold the counts for x86-64-v2, with the memcpy of the same, against instructions.json.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence

import numba
import numpy as np
from numba import types
from rich.console import Console
from rich.table import Table

from bench import singlestep
from ovs_vhost_plugin.bench.rings.kernels import BURST, PACKET_MAX, new_packets, put, take
from ovs_vhost_plugin.bench.rings.memory_ring import HEADER, SIZE, MemoryRing, RingKind, new_net
from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import LEARNED_T, MEMORY_T, NET_T, QUEUE_T, VRING_T
from ovs_vhost_plugin.jit.net.receive import receive
from ovs_vhost_plugin.jit.net.transmit import BURST as PORT_BURST
from ovs_vhost_plugin.jit.net.transmit import transmit

FRAME = b"\x52\x54\0\0\0\2" + b"\x52\x54\0\0\0\1" + b"\x08\0\x45" + bytes(45)
_F_SETPIPE_SZ = 1031  # linux/fcntl.h
_PIPE_BYTES = 1 << 20  # the most for any user; a packet takes a page
_MARKER = int(singlestep.MARKER)

_raise = types.ExternalFunction("raise", types.int32(types.int32))
_compiled = numba.njit(nogil=True, _nrt=False)  # as the kernels: no reference counts
# What is kept of them depends on the kernels' sources, but not on those of `take` and `put`.
_kept = kernel(types.void(VRING_T, QUEUE_T, MEMORY_T, NET_T, LEARNED_T, types.int64))


@_compiled
def _takes(ring, queue, memory, net, packets, lengths, bursts):
    take(ring, queue, memory, net, packets, lengths)
    _raise(_MARKER)
    for _ in range(bursts):
        take(ring, queue, memory, net, packets, lengths)
    _raise(_MARKER)


@_compiled
def _puts(ring, queue, memory, net, packets, lengths, bursts):
    put(ring, queue, memory, net, packets, lengths, BURST)
    _raise(_MARKER)
    for _ in range(bursts):
        put(ring, queue, memory, net, packets, lengths, BURST)
    _raise(_MARKER)


@_kept
def _transmits(ring, queue, memory, net, learned, bursts):
    transmit(ring, queue, memory, net, learned)
    _raise(_MARKER)
    for _ in range(bursts):
        transmit(ring, queue, memory, net, learned)
    _raise(_MARKER)


@_kept
def _receives(ring, queue, memory, net, learned, bursts):
    receive(ring, queue, memory, net, learned)
    _raise(_MARKER)
    for _ in range(bursts):
        receive(ring, queue, memory, net, learned)
    _raise(_MARKER)


def _offered(kind: RingKind, frames: Sequence[bytes] | None = None) -> MemoryRing:
    """A ring whose driver has made all chains available."""
    ring = MemoryRing(frames, kind)
    if not kind.packed:
        ring.ring.avail[1] = SIZE
    return ring


def _private(length: int) -> tuple[np.ndarray, np.ndarray]:
    return new_packets(), np.full(BURST, HEADER + length)


def ring_take(kind: RingKind, bursts: int) -> layout.Net:
    """Frames of a transmit ring copied into private packets."""
    ring, net = _offered(kind, [FRAME]), new_net(-1)
    _takes(ring.ring, ring.queue, ring.memory, net, *_private(0), bursts)
    return net


def ring_put(kind: RingKind, bursts: int) -> layout.Net:
    """Private packets copied into buffers of a receive ring."""
    ring, net = _offered(kind), new_net(-1)
    _puts(ring.ring, ring.queue, ring.memory, net, *_private(len(FRAME)), bursts)
    return net


def ring_merge(kind: RingKind, bursts: int) -> layout.Net:
    """Private packets, each copied into two buffers of a receive ring."""
    ring, net = _offered(kind), new_net(-1)
    _puts(ring.ring, ring.queue, ring.memory, net, *_private(PACKET_MAX - HEADER), bursts)
    return net


def port_transmit(kind: RingKind, bursts: int) -> layout.Net:
    """All of a port's work to send, with learning; the system call counts as one."""
    fd = os.open(os.devnull, os.O_WRONLY)
    ring, net = _offered(kind, [FRAME]), new_net(fd)
    _transmits(ring.ring, ring.queue, ring.memory, net, fresh.new_learned(-1), bursts)
    return net


def port_receive(kind: RingKind, bursts: int) -> layout.Net:
    """All of a port's work to receive; the system call counts as one."""
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)  # each write is a packet: pipe(2)
    fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE_BYTES)
    ring, net = _offered(kind), new_net(reader)
    for _ in range((1 + bursts) * PORT_BURST):
        os.write(writer, bytes(HEADER) + FRAME)
    learned = fresh.new_learned(-1)
    learned.watching[0] = 1  # as where the guest has an address
    _receives(ring.ring, ring.queue, ring.memory, net, learned, bursts)
    return net


KINDS = {
    "split": RingKind(),
    "split, indirect": RingKind(indirect=True),
    "packed": RingKind(packed=True),
    "packed, in order": RingKind(packed=True, in_order=True),
    "packed, indirect": RingKind(packed=True, indirect=True),
}
WORK: dict[str, tuple[Callable[[RingKind, int], layout.Net], str, int]] = {
    "take": (ring_take, "tx_packets", BURST),
    "put": (ring_put, "rx_packets", BURST),
    "merge": (ring_merge, "rx_packets", BURST // 2),
    "transmit": (port_transmit, "tx_packets", PORT_BURST),
    "receive": (port_receive, "rx_packets", PORT_BURST),
}


def measure(work: str, kind: RingKind) -> float:
    """Instructions a packet of `work`, which must handle each of its packets."""
    function, counter, burst = WORK[work]

    def steps(bursts: int) -> int:
        def run() -> None:
            net = function(kind, bursts)
            assert net.counters[counter][0] == (1 + bursts) * burst

        return singlestep.count(run)

    return (steps(1) - steps(0)) / burst


def main(options: list[str]) -> None:
    signal.signal(singlestep.MARKER, signal.SIG_IGN)
    for function, _, _ in WORK.values():
        function(RingKind(), 0)  # compiles it
    counts = {
        name: {work: round(measure(work, kind), 1) for work in WORK} for name, kind in KINDS.items()
    }
    if "--json" in options:
        print(json.dumps(counts, indent=2))
        return
    table = Table("instructions a packet", *WORK)
    for name, row in counts.items():
        table.add_row(name, *(f"{count:.0f}" for count in row.values()))
    console = Console()
    console.print(table)
    for work, (function, _, _) in WORK.items():
        console.print(f"{work}: {(function.__doc__ or '').strip()}")


if __name__ == "__main__":
    main(sys.argv[1:])
