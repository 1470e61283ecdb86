# SPDX-License-Identifier: Apache-2.0
"""Packed rings in plain, slow Python: a driver with the same methods as that of split rings.

Written from virtio 1.2 section 2.8 and nothing else; shares no code with the kernels.
"""

from __future__ import annotations

import struct

import numpy as np
from support.jit.ring_reference import NEXT, WRITE, GuestMemory

AVAIL, USED = 1 << 7, 1 << 15


class PackedDriver:
    """A driver's side of one packed ring at guest address `base` of `memory`.

    Chains are described under a buffer id first, and get their slots when they are offered.
    Positions count modulo twice the size; in the lower half the wrap counter is 1.
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        base: int,
        first: int = 0,
        in_order: bool = False,
    ) -> None:
        self.memory, self.size, self.in_order = memory, size, in_order
        self.desc = base
        self.avail = base + 16 * size
        self.used = self.avail + 4
        self.end = self.used + 4
        self.next_avail = self.seen = first % (2 * size)
        self.described: dict[int, list[tuple[int, int, int]]] = {}
        self.outstanding: list[tuple[int, int]] = []  # (id, slots), oldest first
        for slot in range(size):  # as after the rounds before
            round_ = self.wrap(self.seen) == (slot < self.seen % size)
            self.put(self.desc + 16 * slot + 14, AVAIL | USED if round_ else 0)

    def put(self, guest: int, value: int) -> None:
        self.memory.write(guest, struct.pack("<H", value & 0xFFFF))

    def get(self, guest: int) -> int:
        return int(struct.unpack("<H", self.memory.read(guest, 2))[0])

    def wrap(self, position: int) -> bool:
        return position < self.size

    def advance(self, position: int, count: int) -> int:
        return (position + count) % (2 * self.size)

    def describe(
        self, index: int, address: int, length: int, flags: int = 0, after: int = 0
    ) -> None:
        self.described[index] = [(address, length, flags)]

    def chain(self, start: int, buffers: list[tuple[int, int]], write: bool) -> int:
        """A chain of `buffers` under the id `start`, which is returned."""
        last = len(buffers) - 1
        self.described[start] = [
            (address, length, (WRITE if write else 0) | (NEXT if i < last else 0))
            for i, (address, length) in enumerate(buffers)
        ]
        return start

    def available(self, position: int) -> int:
        return AVAIL if self.wrap(position) else USED

    def offer(self, *ids: int) -> None:
        for buffer_id in ids:
            entries = self.described[buffer_id]
            positions = [self.advance(self.next_avail, i) for i in range(len(entries))]
            for position, entry in reversed(list(zip(positions, entries, strict=True))):
                address, length, flags = entry
                flags |= self.available(position)
                self.put_descriptor(position, address, length, buffer_id, flags)
            self.outstanding.append((buffer_id, len(entries)))
            self.next_avail = self.advance(self.next_avail, len(entries))

    def put_descriptor(
        self, position: int, address: int, length: int, buffer_id: int, flags: int
    ) -> None:
        data = packed_descriptor(address, length, flags, buffer_id)
        self.memory.write(self.desc + 16 * (position % self.size), data)

    def put_used(self, position: int, buffer_id: int) -> None:
        """As a device that uses the chain at `position` and writes nothing into its buffers."""
        self.put_descriptor(position, 0, 0, buffer_id, AVAIL | USED if self.wrap(position) else 0)

    def descriptor(self, position: int) -> tuple[int, int, int, int]:
        """Address, length, id, flags."""
        data = self.memory.read(self.desc + 16 * (position % self.size), 16)
        address, length, buffer_id, flags = struct.unpack("<QIHH", data)
        return address, length, buffer_id, flags

    def collect(self) -> list[tuple[int, int]]:
        """(id, written) of what came back since last time; those skipped in order have 0."""
        found, self.seen, self.outstanding = self._used()
        return found

    def _used(self) -> tuple[list[tuple[int, int]], int, list[tuple[int, int]]]:
        found, seen, waiting = [], self.seen, list(self.outstanding)
        while waiting:
            _, length, buffer_id, flags = self.descriptor(seen)
            if {bool(flags & AVAIL), bool(flags & USED)} != {self.wrap(seen)}:
                break
            ids = [chain[0] for chain in waiting]
            count = 1 + (ids.index(buffer_id) if self.in_order else 0)
            chains = waiting[:count] if self.in_order else [waiting[ids.index(buffer_id)]]
            for chain in chains:
                waiting.remove(chain)
                found.append((chain[0], length if chain[0] == buffer_id else 0))
                seen = self.advance(seen, chain[1])
        return found, seen, waiting

    @property
    def used_idx(self) -> int:
        """The position up to which the device has used the ring."""
        return self._used()[1]

    @property
    def event(self) -> tuple[int, int]:
        """The device event area: slot and wrap counter, flags."""
        return self.get(self.used), self.get(self.used + 2)

    def set_event(self, position: int) -> None:
        """Ask for a call when the descriptor at `position` is used."""
        self.put(self.avail, position % self.size | (0x8000 if self.wrap(position) else 0))
        self.put(self.avail + 2, 2)

    def set_no_interrupt(self, value: int) -> None:
        self.put(self.avail + 2, value)

    def views(self) -> dict[str, np.ndarray]:
        return {
            "desc": self.memory.view(self.desc, 16 * self.size),
            "avail": self.memory.view(self.avail, 4),
            "used": self.memory.view(self.used, 4),
        }


def packed_descriptor(address: int, length: int, flags: int = 0, buffer_id: int = 0) -> bytes:
    return struct.pack("<QIHH", address, length, buffer_id & 0xFFFF, flags)
