# SPDX-License-Identifier: Apache-2.0
"""Instructions a packet of the compiled data path, on rings in memory.

    make bench-instructions     or: python -m bench.bench_instructions [--json]

Each case runs bursts of packets; counted is a long run less a short one, divided by the packets
in between, so that neither start-up nor the counting itself is in it. NUMBA_CPU_NAME and
NUMBA_CPU_FEATURES say for which processor the kernels are compiled: tests hold the counts for
x86-64-v2 against instructions.json.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable

import numba
import numpy as np
from numba import types
from rich.console import Console
from rich.table import Table

from bench import singlestep
from bench.memory_ring import HEADER, MemoryRing, new_net
from bench.ring_kernels import BURST, PACKET_MAX, put, take
from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.receive import receive
from ovs_vhost_plugin.jit.transmit import BURST as PORT_BURST
from ovs_vhost_plugin.jit.transmit import transmit

FRAME = b"\xff" * 6 + b"\x52\x54\0\0\0\1" + b"\x08\0\x45" + bytes(45)
SHORT, LONG = 1, 2  # bursts
_F_SETPIPE_SZ = 1031  # linux/fcntl.h
_PIPE_BYTES = 1 << 20  # what any user may have; a packet takes a page
_MARKER = int(singlestep.MARKER)

_raise = types.ExternalFunction("raise", types.int32(types.int32))
_compiled = numba.njit(nogil=True, _nrt=False)  # as the kernels: no reference counts


@_compiled
def _takes(ring, queue, memory, net, packets, lengths, bursts):
    for i in range(1 + bursts):
        if i == 1:
            _raise(_MARKER)
        ring.avail[1] += BURST
        take(ring, queue, memory, net, packets, lengths)
    _raise(_MARKER)


@_compiled
def _puts(ring, queue, memory, net, packets, lengths, bursts):
    for i in range(1 + bursts):
        if i == 1:
            _raise(_MARKER)
        ring.avail[1] += BURST
        put(ring, queue, memory, net, packets, lengths, BURST)
    _raise(_MARKER)


@_compiled
def _transmits(ring, queue, memory, net, learned, bursts):
    for i in range(1 + bursts):
        if i == 1:
            _raise(_MARKER)
        ring.avail[1] += PORT_BURST
        transmit(ring, queue, memory, net, learned)
    _raise(_MARKER)


@_compiled
def _receives(ring, queue, memory, net, bursts):
    ring.avail[1] += len(ring.avail) - 3
    for i in range(1 + bursts):
        if i == 1:
            _raise(_MARKER)
        receive(ring, queue, memory, net)
        ring.avail[1] += PORT_BURST
    _raise(_MARKER)


def _private() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((BURST, PACKET_MAX), np.uint8), np.full(BURST, HEADER + len(FRAME))


def ring_take(bursts: int) -> layout.Net:
    """Frames of a transmit ring copied into private packets."""
    ring, net = MemoryRing([FRAME]), new_net(-1)
    _takes(ring.ring, ring.queue, ring.memory, net, *_private(), bursts)
    return net


def ring_put(bursts: int) -> layout.Net:
    """Private packets copied into buffers of a receive ring."""
    ring, net = MemoryRing(), new_net(-1)
    _puts(ring.ring, ring.queue, ring.memory, net, *_private(), bursts)
    return net


def port_transmit(bursts: int) -> layout.Net:
    """All that a port does to send, with learning; the system call counts as one."""
    fd = os.open(os.devnull, os.O_WRONLY)
    ring, net = MemoryRing([FRAME]), new_net(fd)
    _transmits(ring.ring, ring.queue, ring.memory, net, layout.new_learned(-1), bursts)
    return net


def port_receive(bursts: int) -> layout.Net:
    """All that a port does to receive; the system call counts as one."""
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)  # each write is a packet: pipe(2)
    fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE_BYTES)
    ring, net = MemoryRing(), new_net(reader)
    for _ in range((1 + bursts) * PORT_BURST):
        os.write(writer, bytes(HEADER) + FRAME)
    _receives(ring.ring, ring.queue, ring.memory, net, bursts)
    return net


CASES: dict[str, tuple[Callable[[int], layout.Net], str, int]] = {
    "take": (ring_take, "tx_packets", BURST),
    "put": (ring_put, "rx_packets", BURST),
    "transmit": (port_transmit, "tx_packets", PORT_BURST),
    "receive": (port_receive, "rx_packets", PORT_BURST),
}


def measure(name: str) -> float:
    """Instructions a packet of a case, which must have dealt with each of its packets."""
    case, counter, burst = CASES[name]
    signal.signal(singlestep.MARKER, signal.SIG_IGN)
    case(SHORT)  # compiles it

    def steps(bursts: int) -> int:
        def run() -> None:
            net = case(bursts)
            assert net.counters[counter][0] == (1 + bursts) * burst

        return singlestep.count(run)

    return (steps(LONG) - steps(SHORT)) / (burst * (LONG - SHORT))


def main(options: list[str]) -> None:
    counts = {name: measure(name) for name in CASES}
    if "--json" in options:
        print(json.dumps(counts))
        return
    table = Table("instructions a packet", "", "what it does")
    for name, (case, _, _) in CASES.items():
        table.add_row(name, f"{counts[name]:.0f}", (case.__doc__ or "").strip())
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
