# SPDX-License-Identifier: Apache-2.0
"""One case of the ring fuzzer: what a hostile driver does to a pair of rings, and what must be.

The kernels run in this thread, burst by burst, on guest memory and private arrays that are guarded
all around. After each burst the plain walker of the unit tests says what it may have come to: which
fault, which bytes of the guest's may have been written, which frames may have left.

A case is a dict, see `test_fuzz_rings.py`, which makes them.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import numpy as np
from support.fuzz.guarded_memory import Guarded, GuardedMemory, guarded_zeros
from support.fuzz.ring_outcome import Range, outcome
from support.jit.kernel_views import kernel_ring
from support.jit.ring_reference import INDIRECT, NEXT, WRITE, Driver, descriptor

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import FIRST_OF_FRAMES, Fault
from ovs_vhost_plugin.jit.net.receive import receive
from ovs_vhost_plugin.jit.net.transmit import BURST, transmit
from ovs_vhost_plugin.jit.ring.split import enable_notification

RINGS, TABLES, LOW, NEXT_TO_IT = 0x10000, 0x40000, 0x100000, 0x120000
HIGH = 2**64 - 0x4000
ODD_END = NEXT_TO_IT + 0x8011
RINGS_SIZE = 0x10000
"""Guest memory: both rings; indirect tables; two neighbours for the guest; the last addresses."""
REGIONS = (
    (RINGS, RINGS_SIZE),
    (TABLES, 0x8000),
    (LOW, NEXT_TO_IT - LOW),
    (NEXT_TO_IT, ODD_END - NEXT_TO_IT),
    (HIGH, 2**64 - HIGH),
)
LOG_BYTES = -(-(ODD_END >> 12) // 8) + 1
_PAGE = 4096
UDP = 1 << 3 | 1 << 5  # gso_types that may be cut also where the tap takes all
_ROUNDS = 200_000  # bursts, each of which moves something, that a case can need at most

Entry = tuple[int, int, int, int]


class RingCase:
    """Two rings, their driver, and a socket for a tap."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.memory = GuardedMemory(*REGIONS)
        rng = np.random.default_rng(case["seed"])
        for guest, size in REGIONS[1:]:
            self.memory.view(guest, size)[:] = rng.integers(0, 256, size, np.uint8)
        size, first = case["size"], case["first"]
        self.drivers = {
            "rx": Driver(self.memory, size, RINGS, first),
            "tx": Driver(self.memory, size, RINGS + RINGS_SIZE // 2, first),
        }
        self.flags: dict[str, int] = case["flags"]
        with patch.object(np, "zeros", guarded_zeros):
            self.net = fresh.new_net()
            self.queues = {kind: fresh.new_queue() for kind in ("rx", "tx")}
            self.learned = fresh.new_learned(-1)
        self.learned.watching[0] = 1  # so that what is received is looked at
        self.rings = {kind: self._ring(kind) for kind in ("rx", "tx")}
        log = Guarded(LOG_BYTES if case["log"] == "whole" else 3).bytes
        log[:] = 0
        self.log_is_whole = case["log"] == "whole"
        self.regions = layout.Memory(
            fresh.region_table(self.memory.table()), log if case["log"] else log[:0]
        )
        self.tap, self.wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.fault_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._negotiate(case)
        self.writable: list[Range] = []
        self.offered: set[bytes] = set()  # frames that may leave
        self.given_back = 0  # chains of transmit rings that were given up
        self.pure = True  # the device has not been told to write into rings and tables

    def _ring(self, kind: str) -> layout.Vring:
        driver = self.drivers[kind]
        return kernel_ring(
            driver,
            writes=kind == "rx",
            enabled=self.flags["enabled"] or kind == "rx",
            event_idx=self.flags["event_idx"],
            indirect=self.flags["indirect"],
            log_used=self.flags["log_used"],
            log_guest=driver.used,
        )

    def _negotiate(self, case: dict[str, Any]) -> None:
        state = self.net.state
        self.tap.setblocking(False)
        self.wire.setblocking(False)
        for name in ("mergeable", "guest_csum", "csum", "ecn", "finish_offloads", "finish_udp"):
            state[f"cfg_{name}"] = self.flags[name]
        state["cfg_tap_fd"] = self.tap.fileno()
        state["cfg_fault_fd"] = state["cfg_wake_fd"] = self.fault_fd
        state["cfg_header_size"] = case["header_size"]
        state["cfg_gso_types"] = case["gso_types"]

    def close(self) -> None:
        self.tap.close()
        self.wire.close()
        os.close(self.fault_fd)

    # -- what the driver and the bridge do -------------------------------------------------------

    def do(self, step: tuple[Any, ...]) -> None:
        """What a driver or the bridge does; a driver starts a ring that broke again."""
        if step[0] in ("chain", "raw", "offer", "index") and self.broken(step[1]):
            self._restart(step[1])
        getattr(self, f"_do_{step[0]}")(*step[1:])

    def broken(self, kind: str) -> bool:
        return bool(self.rings[kind].state[0]["fault"])

    def _restart(self, kind: str) -> None:
        driver, state = self.drivers[kind], self.rings[kind].state[0]
        if kind == "tx":
            self.given_back += (int(state["next_avail"]) - driver.seen) & 0xFFFF
            for name in ("tx_iovec", "tx_headers", "tx_position"):
                self.net.state[name] = 0
        driver.next_avail = driver.seen = driver.used_idx
        driver.put(driver.avail + 2, driver.used_idx)
        fresh.empty(self.queues[kind])
        self.rings[kind] = self._ring(kind)

    def _do_chain(self, kind: str, head: int, buffers: list[Range]) -> None:
        """A chain as a good driver makes it, but of any buffers."""
        driver = self.drivers[kind]
        head %= driver.size
        flags = WRITE if kind == "rx" else 0
        for i, (address, length) in enumerate(buffers):
            index, more = (head + i) % driver.size, NEXT if i + 1 < len(buffers) else 0
            driver.describe(index, address, length, flags | more, (index + 1) % driver.size)
        driver.offer(head)

    def _do_raw(self, kind: str, entries: list[Entry], head: int) -> None:
        """Descriptors of any kind, from 0 on."""
        driver = self.drivers[kind]
        for index, entry in enumerate(entries[: driver.size]):
            driver.describe(index, *entry)
        driver.offer(head)

    def _do_indirect(
        self, kind: str, table: int, entries: list[Entry], excess: int, flags: int
    ) -> None:
        """A table of any descriptors; the next "offer" of 0 uses it."""
        data = b"".join(descriptor(*entry) for entry in entries)
        with suppress(KeyError):  # outside of memory
            self.memory.write(table, data)
        length = max(0, len(data) + excess)
        self.drivers[kind].describe(0, table, length, INDIRECT | flags)

    def _do_offer(self, kind: str, heads: list[int]) -> None:
        self.drivers[kind].offer(*heads)

    def _do_index(self, kind: str, ahead: int) -> None:
        driver = self.drivers[kind]
        driver.put(driver.avail + 2, driver.next_avail + ahead)

    def _do_event(self, kind: str, event: int, no_interrupt: int) -> None:
        self.drivers[kind].set_used_event(event)
        self.drivers[kind].set_no_interrupt(no_interrupt)

    def _do_write(self, address: int, data: bytes) -> None:
        self.memory.write(address, data)

    def _do_frames(self, lengths: list[int]) -> None:
        for length in lengths:
            try:
                self.wire.send(random.Random(length).randbytes(length))
            except BlockingIOError:
                return

    def _do_late(self) -> None:
        self.net.state["rx_pending_until"] = 0

    # -- what the device makes of it -------------------------------------------------------------

    def settle(self) -> None:
        """Run both rings until they have nothing to do, and look at all they did."""
        self.net.state["tx_tap_full"] = self.net.state["rx_tap_lost"] = 0
        for _ in range(_ROUNDS):
            if not (self._burst("tx") + self._burst("rx")):
                break
            self.net.state["tx_tap_full"] = 0
        else:
            raise AssertionError("it never comes to rest")
        for kind in ("rx", "tx"):
            enable_notification(self.rings[kind], self.regions, self.net)
        self._check_counts()

    def _burst(self, kind: str) -> int:
        ring = self.rings[kind]
        if ring.state[0]["fault"]:
            return 0
        before = self.memory.snapshot()
        self.regions.log[:] = 0
        indirect = bool(self.flags["indirect"])
        expected, chains = outcome(self.drivers[kind], ring.state[0], indirect)
        if kind == "tx":
            done = transmit(ring, self.queues["tx"], self.regions, self.net, self.learned)
            self._check_frames(chains)
        else:
            self._allow(chains)
            done = receive(ring, self.queues["rx"], self.regions, self.net, self.learned)
        self._check_written(kind, before)
        fault = int(ring.state[0]["fault"])
        if fault:
            assert Fault(fault).breaks_ring
            assert self.net.faults[fault] > 0
        if self.pure:
            assert fault in expected | {0}, (fault, expected)
            iovecs = sum(len(chain) for chain in chains)
            full = self.net.state[0]["tx_tap_full"] or iovecs > layout.HELD_IOVECS_MAX
            if kind == "tx" and not full and done < BURST:
                assert fault in expected, (fault, expected)
        return int(done)

    # -- what must be ----------------------------------------------------------------------------

    def _allow(self, chains: list[list[Range]]) -> None:
        rings = [(self.memory.host(guest), size) for guest, size in REGIONS[:2]]
        for chain in chains:
            self.writable += chain
            for host, length in chain:
                if any(start < host + length and host < start + size for start, size in rings):
                    self.pure = False

    def _check_written(self, kind: str, before: dict[int, bytes]) -> None:
        """Only buffers that the driver offered, and this ring's used ring; each page logged."""
        self.memory.check()
        driver = self.drivers[kind]
        for guest, size in REGIONS:
            now = self.memory.view(guest, size)
            changed = np.flatnonzero(now != np.frombuffer(before[guest], np.uint8))
            if not len(changed):
                continue
            host = self.memory.host(guest)
            allowed = np.zeros(size, bool)
            if guest == RINGS:
                allowed[driver.used - RINGS : driver.end - RINGS] = True
            if kind == "rx":
                for start, length in self.writable:
                    if host <= start < host + size:
                        allowed[start - host : start - host + length] = True
            if self.pure:
                assert allowed[changed].all(), f"written at {guest + changed[0]:#x}"
            if len(self.regions.log):
                self._check_logged(guest, changed, kind)

    def _check_logged(self, guest: int, changed: Any, kind: str) -> None:
        driver = self.drivers[kind]
        bits = np.unpackbits(self.regions.log, bitorder="little")
        for at in changed[np.unique(changed // _PAGE, return_index=True)[1]].tolist():
            address, page = guest + at, (guest + at) >> 12
            if driver.used <= address < driver.end and not self.flags["log_used"]:
                continue
            if page >= len(bits):
                assert self.net.faults[Fault.LOG_TOO_SMALL] > 0
            else:
                assert bits[page], f"not logged: {address:#x}"

    def _check_frames(self, chains: list[list[Range]]) -> None:
        """What left is what the guest offered: nothing of anybody's memory but its buffers."""
        header = int(self.net.state[0]["cfg_header_size"])
        for chain in chains:
            data = b"".join(self._at(*piece).tobytes() for piece in chain)
            self.offered.add(data[header:])
        for frame in self._sent():
            segmented = self.flags["finish_offloads"] or self.net.state[0]["cfg_gso_types"] & UDP
            if segmented or not self.pure:
                continue
            assert frame[header:] in self.offered, "a frame that nobody offered"

    def _sent(self) -> Iterator[bytes]:
        while True:
            try:
                yield self.wire.recv(1 << 17)
            except BlockingIOError:
                return

    def _at(self, host: int, length: int) -> Any:
        for guest, size in REGIONS:
            start = host - self.memory.host(guest)
            if 0 <= start < size:
                return self.memory.view(guest + start, length)
        raise KeyError(hex(host))

    def _check_counts(self) -> None:
        counters = self.net.counters[0]
        for kind, ring in self.rings.items():
            state = ring.state[0]
            held = int(self.queues[kind].state[0]["count"])
            assert (int(state["next_pop"]) - int(state["next_avail"])) & 0xFFFF == held
            assert state["flushed"] == state["next_used"]
        gone = sum(int(counters[name]) for name in counters.dtype.names if name.startswith("tx_"))
        gone -= int(counters["tx_bytes"]) + int(counters["tx_kicks"]) + int(counters["tx_calls"])
        tx = self.rings["tx"].state[0]
        since = (int(tx["next_avail"]) - self.drivers["tx"].seen) & 0xFFFF
        assert gone == self.given_back + since
        frames = sum(int(n) for n in self.net.faults[FIRST_OF_FRAMES : Fault.LOG_TOO_SMALL])
        assert frames == counters["tx_dropped_faulty"]


def run(case: dict[str, Any]) -> None:
    """Run one case; AssertionError if something was that must not be."""
    rings = RingCase(case)
    try:
        for step in case["steps"]:
            rings.do(step)
            if step[0] not in ("describe", "indirect", "event", "write"):
                rings.settle()
        rings.settle()
    finally:
        rings.close()
