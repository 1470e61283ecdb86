# SPDX-License-Identifier: Apache-2.0
"""The driver's side of a packed virtqueue (virtio 1.2, 2.8 "Packed Virtqueues").

One ring of descriptors, which the driver fills in ring order and the device overwrites with used
ones; two event areas, in which each side asks for or refuses notifications. A descriptor's flags,
compared with a wrap counter that toggles each time around, give its owner (2.8.1). A position
counts modulo twice the size, so that it holds slot and wrap counter.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory
from ovs_vhost_plugin.guest.driver.split import (
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    INDIRECT_ENTRIES,
    Buffer,
    DeviceBrokenError,
    RingFullError,
    SplitQueue,
    Used,
    full_barrier,
)
from ovs_vhost_plugin.vhost import packed_base

PACKED_DESCRIPTOR = struct.Struct("@QIHH")  # 2.8.13: address, length, buffer id, flags
_BODY = struct.Struct("@QIH")  # the same without flags
F_AVAIL, F_USED = 1 << 7, 1 << 15  # 2.8.1
EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC = 0, 1, 2  # 2.8.14
_WRAP = 1 << 15


@dataclass(frozen=True, slots=True)
class _Chain:
    slots: int
    writable: int
    token: object


class PackedQueue:
    """A virtqueue as its driver sees it, with the methods of `SplitQueue`.

    The device event area has a page that only the device writes.
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        event_index: bool = True,
        first_index: int = 0,
        in_order: bool = False,
    ) -> None:
        """Make a ring of `size` descriptors, any number, that begins at position `first_index`.

        `in_order`: the device may use several chains by the last one's id (2.8.8).
        """
        self.size = size
        self.event_index = event_index
        self.in_order = in_order
        self.desc_address = memory.allocate(16 * size, PAGE_SIZE)
        self.avail_address = memory.allocate(4, 4)
        self.used_address = memory.allocate(PAGE_SIZE, PAGE_SIZE)
        self._next = self._published = self._seen = first_index % (2 * size)
        self._ids = deque(range(size))
        self._chains: dict[int, _Chain] = {}  # in the order of the ring
        self._tables: dict[int, int] = {}
        self._first: tuple[int, int] | None = None  # position and flags that `publish` writes
        self.move_to(memory)
        for slot in range(size):  # as if earlier rounds had left them
            behind = slot < self._seen % size
            self._store_flags(slot, self._used_flags(self._seen + behind * size))
        self.want_calls(False)

    def move_to(self, memory: GuestMemory) -> None:
        """Move to other memory that holds the same bytes at the same guest addresses."""
        self.memory = memory
        self._desc = memory.view(self.desc_address, 16 * self.size)
        self._flags = memory.view(self.desc_address, 16 * self.size).cast("H")
        self._avail = memory.view(self.avail_address, 4).cast("H")
        self._used = memory.view(self.used_address, 4).cast("H")

    @property
    def base(self) -> int:
        """The SET_VRING_BASE value for a device that has used every chain it took."""
        position, chains = self._seen, dict(self._chains)
        while chains and self._is_used(position):
            for chain in self._take(position, chains):
                position = self._advance(position, chain[1].slots)
        return packed_base.encode(position, self.size)

    @property
    def avail_base(self) -> int:
        """The avail position as a base, for front-ends that send that one."""
        return packed_base.encode(self._published, self.size)

    @property
    def outstanding(self) -> int:
        """Number of chains that the device has not used yet."""
        return len(self._chains)

    @property
    def free(self) -> int:
        """Number of descriptors free for the next chain."""
        return self.size - sum(chain.slots for chain in self._chains.values())

    def add(
        self,
        readable: Sequence[Buffer],
        writable: Sequence[Buffer],
        token: object = None,
        indirect: bool = False,
    ) -> int:
        """Write a chain into the next descriptors; return its buffer id. Available at `publish`.

        Only the head of the first chain since the last `publish` still lacks its flags: the device
        looks at no descriptor while one before it is not available (2.8.21).
        """
        buffers = [(buffer, 0) for buffer in readable]
        buffers += [(buffer, F_WRITE) for buffer in writable]
        if indirect and len(buffers) > INDIRECT_ENTRIES:
            raise ValueError(f"{len(buffers)} buffers do not fit an indirect table")
        needed = 1 if indirect else len(buffers)
        if needed > self.free:
            raise RingFullError(f"{needed} descriptors needed, {self.free} free")
        buffer_id = self._ids.popleft()
        if indirect:
            buffers = [self._make_table(buffer_id, buffers)]
        self._chains[buffer_id] = _Chain(needed, sum(b.length for b in writable), token)
        last = len(buffers) - 1
        for i in range(last, -1, -1):  # the head last
            buffer, flags = buffers[i]
            position = self._advance(self._next, i)
            self._store_body(position % self.size, buffer, buffer_id)
            flags |= (F_NEXT if i < last else 0) | self._avail_flags(position)
            if i == 0 and self._first is None:
                self._first = (position, flags)
            else:
                full_barrier()
                self._store_flags(position % self.size, flags)
        self._next = self._advance(self._next, needed)
        return buffer_id

    def publish(self) -> bool:
        """Make added chains available; return whether the device wants a kick (2.8.21)."""
        if self._first is None:
            return False
        (position, flags), self._first = self._first, None
        old, self._published = self._published, self._next
        full_barrier()  # the chains before the flags that show them
        self._store_flags(position % self.size, flags)
        full_barrier()  # the flags before the question whether anybody wants to know
        event = self._used[1]
        if event != EVENT_DESC or not self.event_index:
            return event != EVENT_DISABLE
        wanted = self._position(self._used[0])
        around = 2 * self.size
        return (self._next - wanted - 1) % around < (self._next - old) % around

    def collect(self) -> list[Used]:
        """Take all chains that the device has used, in its order (2.8.22)."""
        done: list[Used] = []
        while self._chains and self._is_used(self._seen):
            full_barrier()
            position = self._seen
            for buffer_id, chain, written in self._take(position, self._chains):
                if written > chain.writable:
                    raise DeviceBrokenError(f"{written} bytes written into {chain.writable}")
                done.append(Used(chain.token, written))
                self._ids.append(buffer_id)
                self._seen = self._advance(self._seen, chain.slots)
        return done

    def want_calls(self, wanted: bool) -> bool:
        """Enable or disable a call at the next used chain.

        True if a chain was used meanwhile: then no call may come for it, so `collect` first.
        """
        if wanted and self.event_index:
            wrap = _WRAP if self._seen < self.size else 0
            self._store_event(0, self._seen % self.size | wrap)
            full_barrier()
            self._store_event(1, EVENT_DESC)
        else:
            self._store_event(1, EVENT_ENABLE if wanted else EVENT_DISABLE)
        full_barrier()
        return bool(self._chains) and self._is_used(self._seen)

    def _take(self, position: int, chains: dict[int, _Chain]) -> list[tuple[int, _Chain, int]]:
        """Take out of `chains` those that the used descriptor at `position` returns."""
        at = 16 * (position % self.size)
        _, written, buffer_id, _ = PACKED_DESCRIPTOR.unpack_from(self._desc, at)
        if buffer_id not in chains:
            raise DeviceBrokenError(f"chain {buffer_id} is used, and not outstanding")
        skipped = []
        while self.in_order and (first := next(iter(chains))) != buffer_id:
            skipped.append((first, chains.pop(first), 0))
        return [*skipped, (buffer_id, chains.pop(buffer_id), written)]

    def _advance(self, position: int, count: int) -> int:
        return (position + count) % (2 * self.size)

    def _position(self, event: int) -> int:
        return event % _WRAP + (0 if event & _WRAP else self.size)

    def _avail_flags(self, position: int) -> int:
        return F_AVAIL if position < self.size else F_USED

    def _used_flags(self, position: int) -> int:
        """Flags of a descriptor that was used in the round before `position`'s."""
        return 0 if position % (2 * self.size) < self.size else F_AVAIL | F_USED

    def _is_used(self, position: int) -> bool:
        both = F_AVAIL | F_USED
        flags = self._flags[8 * (position % self.size) + 7]
        return flags & both == (both if position < self.size else 0)

    def _make_table(
        self, buffer_id: int, buffers: Sequence[tuple[Buffer, int]]
    ) -> tuple[Buffer, int]:
        """Write a chain into an indirect table, which takes one descriptor (2.8.7)."""
        if buffer_id not in self._tables:
            self._tables[buffer_id] = self.memory.allocate(16 * INDIRECT_ENTRIES)
        table = b"".join(PACKED_DESCRIPTOR.pack(*buffer, 0, flags) for buffer, flags in buffers)
        self.memory.write(self._tables[buffer_id], table)
        return Buffer(self._tables[buffer_id], len(table)), F_INDIRECT

    def _store_body(self, slot: int, buffer: Buffer, buffer_id: int) -> None:
        _BODY.pack_into(self._desc, 16 * slot, *buffer, buffer_id)
        self.memory.mark(self.desc_address + 16 * slot, 16)

    def _store_flags(self, slot: int, flags: int) -> None:
        """Store the flags, which decide the descriptor's owner, by one 16-bit store."""
        self._flags[8 * slot + 7] = flags
        self.memory.mark(self.desc_address + 16 * slot, 16)

    def _store_event(self, index: int, value: int) -> None:
        self._avail[index] = value
        self.memory.mark(self.avail_address, 4)


Virtqueue = SplitQueue | PackedQueue
"""A driver's queue of either layout."""
