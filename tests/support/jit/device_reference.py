# SPDX-License-Identifier: Apache-2.0
"""The device's side of both kinds of ring, in plain, slow Python: what the kernels have to do.

Written from virtio 1.2, sections 2.7 and 2.8; shares no code with the kernels. Both take chains in
order, hold them, give them back in order, show what they gave back, and ask for kicks or not.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from support.jit.packed_reference import AVAIL, USED, PackedDriver
from support.jit.ring_reference import (
    INDIRECT,
    NEXT,
    WRITE,
    Driver,
    indirect_problem,
    reference_walk,
)

PIECES_MAX, TABLE_MAX = 1022, 1024
Pieces = list[tuple[int, int]]


@dataclass
class Held:
    """A chain that was taken: its head or buffer id, its pieces, its descriptors in the ring."""

    head: int
    pieces: Pieces
    slots: int = 1


@dataclass
class Settings:
    event_idx: bool
    indirect: bool
    in_order: bool
    writes: bool


@dataclass
class SplitDevice:
    driver: Driver
    settings: Settings
    held: list[Held] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.next_pop = self.avail_idx = self.next_used = self.driver.next_avail
        self.called: int | None = None
        self.kicks_on = False

    def pop_avail(self, chains: int, length: int) -> str:
        driver, state = self.driver, self.settings
        while len(self.held) < chains and held_bytes(self.held) < length:
            if self.next_pop == self.avail_idx and (problem := self._look()):
                return problem
            if self.next_pop == self.avail_idx:
                return ""
            head = driver.get(driver.avail + 4 + 2 * (self.next_pop % driver.size))
            found = reference_walk(
                driver, head, write=state.writes, indirect=state.indirect,
                pieces_max=PIECES_MAX, table_max=TABLE_MAX,
            )  # fmt: skip
            if isinstance(found, str):
                return found
            self.held.append(Held(head, found))
            self.next_pop = (self.next_pop + 1) % 65536
        return ""

    def _look(self) -> str:
        index = self.driver.get(self.driver.avail + 2)
        oldest = (self.next_pop - len(self.held)) % 65536
        ahead, known = (index - oldest) % 65536, (self.avail_idx - oldest) % 65536
        if ahead > self.driver.size:
            return "AVAIL_JUMPS" if ahead < 32768 else "AVAIL_GOES_BACK"
        if ahead < known:
            return "AVAIL_GOES_BACK"
        self.avail_idx = index
        return ""

    def add_used(self, written: int) -> None:
        driver = self.driver
        at = driver.used + 4 + 8 * (self.next_used % driver.size)
        driver.memory.write(at, struct.pack("<II", self.held.pop(0).head, written))
        self.next_used = (self.next_used + 1) % 65536

    def flush_used(self) -> bool:
        changed = self.driver.used_idx != self.next_used
        self.driver.put(self.driver.used + 2, self.next_used)
        return changed

    def needs_notification(self) -> bool:
        driver, now = self.driver, self.next_used
        if not self.settings.event_idx:
            return not driver.get(driver.avail) & 1
        event = driver.get(driver.avail + 4 + 2 * driver.size)
        old, self.called = self.called, now
        return old is None or event in {(old + i) % 65536 for i in range((now - old) % 65536)}

    def enable_notification(self) -> bool:
        driver = self.driver
        if not self.kicks_on:
            if self.settings.event_idx:
                driver.put(driver.used + 4 + 8 * driver.size, self.next_pop)
            else:
                driver.put(driver.used, 0)
        self.kicks_on = True
        return driver.get(driver.avail + 2) != self.next_pop

    def disable_notification(self) -> None:
        if self.kicks_on and not self.settings.event_idx:
            self.driver.put(self.driver.used, 1)
        self.kicks_on = False


@dataclass
class PackedDevice:
    driver: PackedDriver
    settings: Settings
    held: list[Held] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.next_pop = self.next_used = self.driver.next_avail
        self.called: int | None = None
        self.kicks_on = False
        self.done: list[tuple[int, Held, int]] = []  # given back and not shown: where, what, bytes

    def pop_avail(self, chains: int, length: int) -> str:
        while len(self.held) < chains and held_bytes(self.held) < length:
            look = self._look(self.next_pop) if self._room() else "nothing"
            if look != "available":
                return "" if look == "nothing" else look
            found = self._walk()
            if isinstance(found, str):
                return found
            self.held.append(found)
            self.next_pop = self.driver.advance(self.next_pop, found.slots)
        return ""

    def _room(self) -> int:
        return self.driver.size - sum(chain.slots for chain in self.held)

    def _look(self, position: int) -> str:
        wrap = self.driver.wrap(position)
        flags = self.driver.descriptor(position)[3]
        match bool(flags & AVAIL) == wrap, bool(flags & USED) == wrap:
            case True, False:
                return "available"
            case True, True:
                return "WRAP_COUNTER_WRONG"
        return "nothing"

    def _walk(self) -> Held | str:
        position = self.next_pop
        found: Pieces = []
        for slots in range(1, self._room() + 1):
            address, length, buffer_id, flags = self.driver.descriptor(position)
            if flags & INDIRECT:
                problem = self._indirect(found, address, length, flags, slots)
            else:
                problem = self._buffer(found, address, length, flags)
            if problem:
                return problem
            if not flags & NEXT:
                good = buffer_id < self.driver.size
                return Held(buffer_id, found, slots) if good else "ID_OUT_OF_RANGE"
            position = self.driver.advance(position, 1)
            if self._look(position) != "available":
                return "NEXT_NOT_AVAILABLE"
        return "CHAIN_LOOPS"

    def _indirect(
        self, found: Pieces, address: int, length: int, flags: int, slots: int
    ) -> str | None:
        negotiated = self.settings.indirect
        if negotiated and slots > 1:
            return "INDIRECT_WITH_NEXT"
        problem = indirect_problem(flags, length, False, negotiated, TABLE_MAX)
        if problem:
            return problem
        if address + length > 1 << 64:
            return "ADDRESS_WRAPS"
        try:
            table = self.driver.memory.read(address, length)
        except KeyError:
            return "INDIRECT_OUTSIDE_MEMORY"
        for buffer, size, _, raw in struct.iter_unpack("<QIHH", table):
            bits = raw if self.settings.writes else 0  # DPDK's driver has F_WRITE on its header
            if problem := self._buffer(found, buffer, size, bits):
                return problem
        return None

    def _buffer(self, found: Pieces, address: int, length: int, flags: int) -> str | None:
        writes = self.settings.writes
        if bool(flags & WRITE) != writes:
            return "READABLE_AFTER_WRITABLE" if writes and found else "WRONG_DIRECTION"
        if length == 0:
            return "ZERO_LENGTH"
        if address + length > 1 << 64:
            return "ADDRESS_WRAPS"
        try:
            parts = self.driver.memory.pieces(address, length)
        except KeyError:
            return "ADDRESS_OUTSIDE_MEMORY"
        found += [(self.driver.memory.host(start), part) for start, part in parts]
        return "CHAIN_TOO_LONG" if len(found) > PIECES_MAX else None

    def add_used(self, written: int) -> None:
        chain = self.held.pop(0)
        self.done.append((self.next_used, chain, written))
        self.next_used = self.driver.advance(self.next_used, chain.slots)

    @property
    def _one_for_all(self) -> bool:
        return self.settings.in_order and not self.settings.writes

    def _write(self, position: int, chain: Held, written: int) -> None:
        driver = self.driver
        flags = AVAIL | USED if driver.wrap(position) else 0
        flags |= WRITE if self.settings.writes else 0
        address = driver.descriptor(position)[0]
        driver.put_descriptor(position, address, written, chain.head, flags)

    def flush_used(self) -> bool:
        done, self.done = self.done, []
        if done:
            _, chain, written = done[-1 if self._one_for_all else 0]
            self._write(done[0][0], chain, written)
        for rest in () if self._one_for_all else done[1:]:
            self._write(*rest)
        return bool(done)

    def needs_notification(self) -> bool:
        driver, now = self.driver, self.next_used
        old, self.called = self.called, now
        flags = driver.get(driver.avail + 2) & 3
        if flags != 2 or not self.settings.event_idx:
            return flags != 1
        event = driver.get(driver.avail)
        position = event % 32768 + (0 if event >= 32768 else driver.size)
        around = 2 * driver.size
        passed = () if old is None else range((now - old) % around)
        return old is None or position % around in {(old + i) % around for i in passed}

    def enable_notification(self) -> bool:
        if not self.kicks_on:
            self._say(2 if self.settings.event_idx else 0)
        self.kicks_on = True
        return self._room() > 0 and self._look(self.next_pop) != "nothing"

    def disable_notification(self) -> None:
        if self.kicks_on:
            self._say(1)
        self.kicks_on = False

    def _say(self, flags: int) -> None:
        """The event is always the next descriptor to be fetched, looked at or not."""
        driver, at = self.driver, self.next_pop
        driver.put(driver.used, at % driver.size | (32768 if driver.wrap(at) else 0))
        driver.put(driver.used + 2, flags)


def held_bytes(held: list[Held]) -> int:
    return sum(length for chain in held for _, length in chain.pieces)
