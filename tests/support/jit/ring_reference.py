# SPDX-License-Identifier: Apache-2.0
"""Split rings in plain, slow Python: a driver, and what a device should make of a chain.

Written from virtio 1.2 section 2.7 and nothing else; shares no code with the kernels. Guest
memory is bytearrays at guest addresses, the rings are struct.pack'ed into it.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field

import numpy as np

NEXT, WRITE, INDIRECT = 1, 2, 4


class GuestMemory:
    """Regions [(guest address, size)]; in this process they are never neighbours."""

    def __init__(self, *regions: tuple[int, int]) -> None:
        self.parts = [(guest, np.zeros(size + 64, np.uint8)) for guest, size in sorted(regions)]
        self.sizes = dict(regions)

    def table(self) -> np.ndarray:
        rows = [(guest, self.sizes[guest], self.host(guest)) for guest, _ in self.parts]
        return np.array(rows, [("guest", "<u8"), ("size", "<u8"), ("host", "<u8")])

    def host(self, guest: int) -> int:
        """The address in this process, 16-aligned for the start of a region."""
        for start, array in self.parts:
            if start <= guest < start + self.sizes[start]:
                aligned = -array.ctypes.data % 16
                return array.ctypes.data + aligned + guest - start
        raise KeyError(hex(guest))

    def view(self, guest: int, length: int) -> np.ndarray:
        for start, array in self.parts:
            if start <= guest and guest + length <= start + self.sizes[start]:
                at = -array.ctypes.data % 16 + guest - start
                return array[at : at + length]
        raise KeyError(hex(guest))

    def read(self, guest: int, length: int) -> bytes:
        return b"".join(
            self.view(address, part).tobytes() for address, part in self.pieces(guest, length)
        )

    def write(self, guest: int, data: bytes) -> None:
        for address, part in self.pieces(guest, len(data)):
            self.view(address, part)[:] = np.frombuffer(data[:part], np.uint8)
            data = data[part:]

    def pieces(self, guest: int, length: int) -> list[tuple[int, int]]:
        """[guest, +length) cut at the ends of regions; KeyError outside of them."""
        found = []
        while length:
            for start, size in self.sizes.items():
                if start <= guest < start + size:
                    part = min(length, start + size - guest)
                    break
            else:
                raise KeyError(hex(guest))
            found.append((guest, part))
            guest, length = guest + part, length - part
        return found

    def snapshot(self) -> dict[int, bytes]:
        return {guest: self.view(guest, size).tobytes() for guest, size in self.sizes.items()}


@dataclass
class Eventfds:
    kick: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK))
    call: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK))
    err: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK))

    def close(self) -> None:
        for fd in (self.kick, self.call, self.err):
            os.close(fd)


class Driver:
    """A driver's side of one split ring at guest address `base` of `memory`."""

    def __init__(self, memory: GuestMemory, size: int, base: int, first: int = 0) -> None:
        self.memory, self.size = memory, size
        self.desc = base
        self.avail = base + 16 * size
        self.used = (self.avail + 6 + 2 * size + 3) & ~3
        self.end = self.used + 6 + 8 * size
        self.next_avail = self.seen = first
        self.put(self.avail + 2, first)
        self.put(self.used + 2, first)

    def put(self, guest: int, value: int) -> None:
        self.memory.write(guest, struct.pack("<H", value & 0xFFFF))

    def get(self, guest: int) -> int:
        return int(struct.unpack("<H", self.memory.read(guest, 2))[0])

    def describe(
        self, index: int, address: int, length: int, flags: int = 0, after: int = 0
    ) -> None:
        self.memory.write(self.desc + 16 * index, descriptor(address, length, flags, after))

    def chain(self, start: int, buffers: list[tuple[int, int]], write: bool) -> int:
        """Descriptors start, start + 1, ... for `buffers`: the head."""
        for i, (address, length) in enumerate(buffers):
            last = i == len(buffers) - 1
            flags = (WRITE if write else 0) | (0 if last else NEXT)
            self.describe(start + i, address, length, flags, 0 if last else start + i + 1)
        return start

    def offer(self, *heads: int) -> None:
        for head in heads:
            self.put(self.avail + 4 + 2 * (self.next_avail % self.size), head)
            self.next_avail = (self.next_avail + 1) & 0xFFFF
        self.put(self.avail + 2, self.next_avail)

    @property
    def used_idx(self) -> int:
        return self.get(self.used + 2)

    @property
    def used_flags(self) -> int:
        return self.get(self.used)

    @property
    def avail_event(self) -> int:
        return self.get(self.used + 4 + 8 * self.size)

    def set_used_event(self, value: int) -> None:
        self.put(self.avail + 4 + 2 * self.size, value)

    def set_no_interrupt(self, value: int) -> None:
        self.put(self.avail, value)

    def collect(self) -> list[tuple[int, int]]:
        """(head, written) of what came back since last time."""
        found = []
        while self.seen != self.used_idx:
            element = self.memory.read(self.used + 4 + 8 * (self.seen % self.size), 8)
            found.append(struct.unpack("<II", element))
            self.seen = (self.seen + 1) & 0xFFFF
        return found

    def views(self) -> dict[str, np.ndarray]:
        return {
            "desc": self.memory.view(self.desc, 16 * self.size),
            "avail": self.memory.view(self.avail, 6 + 2 * self.size),
            "used": self.memory.view(self.used, 6 + 8 * self.size),
        }


def descriptor(address: int, length: int, flags: int = 0, after: int = 0) -> bytes:
    return struct.pack("<QIHH", address, length, flags, after)


def reference_walk(
    driver: Driver, head: int, *, write: bool, indirect: bool, pieces_max: int, table_max: int
) -> list[tuple[int, int]] | str:
    """The chain at `head` as [(host address, length)], or the name of the fault."""
    memory = driver.memory
    if head >= driver.size:
        return "HEAD_OUT_OF_RANGE"
    table = memory.read(driver.desc, 16 * driver.size)
    found: list[tuple[int, int]] = []
    nested = False
    index, steps = head, 0
    while True:
        entries = len(table) // 16
        if steps == entries:
            return "CHAIN_LOOPS"
        if index >= entries:
            return "NEXT_OUT_OF_RANGE"
        steps += 1
        address, length, flags, after = struct.unpack_from("<QIHH", table, 16 * index)
        if flags & INDIRECT:
            problem = indirect_problem(flags, length, nested, indirect, table_max)
            if problem:
                return problem
            try:
                if address + length > 1 << 64:
                    return "ADDRESS_WRAPS"
                table = memory.read(address, length)
            except KeyError:
                return "INDIRECT_OUTSIDE_MEMORY"
            nested, index, steps = True, 0, 0
            continue
        if bool(flags & WRITE) != write:
            return "READABLE_AFTER_WRITABLE" if write and found else "WRONG_DIRECTION"
        if length == 0:
            return "ZERO_LENGTH"
        if address + length > 1 << 64:
            return "ADDRESS_WRAPS"
        try:
            parts = memory.pieces(address, length)
        except KeyError:
            return "ADDRESS_OUTSIDE_MEMORY"
        found += [(memory.host(start), part) for start, part in parts]
        if len(found) > pieces_max:
            return "CHAIN_TOO_LONG"
        if not flags & NEXT:
            return found
        index = after


def indirect_problem(
    flags: int, length: int, nested: bool, negotiated: bool, table_max: int
) -> str | None:
    if nested:
        return "INDIRECT_NESTED"
    if not negotiated:
        return "INDIRECT_NOT_NEGOTIATED"
    if flags & NEXT:
        return "INDIRECT_WITH_NEXT"
    if length == 0:
        return "INDIRECT_EMPTY"
    if length % 16:
        return "INDIRECT_LENGTH"
    return "INDIRECT_TOO_LARGE" if length // 16 > table_max else None
