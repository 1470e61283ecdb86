# SPDX-License-Identifier: Apache-2.0
"""The driver's side of a split virtqueue (virtio 1.2, 2.7 "Split Virtqueues").

Three arrays in guest memory. The driver writes two of them, the device one:

- the *descriptor table*: buffers (guest address, length), linked into chains;
- the *avail ring*: heads of the chains that the driver makes available, and the next free slot;
- the *used ring*: heads of the chains that the device has used, the bytes it wrote into each, and
  the index of the next slot.

Both indices only count up, modulo 65536. Everything is plain stores and loads here: the only
subtle point is order, see `full_barrier`.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory

DESCRIPTOR = struct.Struct("@QIHH")  # 2.7.5: address, length, flags, next; little-endian hosts
F_NEXT, F_WRITE, F_INDIRECT = 1, 2, 4  # 2.7.5
AVAIL_F_NO_INTERRUPT = 1  # 2.7.6
USED_F_NO_NOTIFY = 1  # 2.7.8
INDIRECT_ENTRIES = 64
"""Entries of each indirect table; 64 KiB in pieces of 2 KiB and a header need 34."""

_barrier = threading.Lock()


class RingFullError(Exception):
    """The chain needs more descriptors than are free."""


class DeviceBrokenError(Exception):
    """The device wrote an illegal used element or header."""


class Buffer(NamedTuple):
    """A stretch of guest memory: one descriptor."""

    address: int
    length: int


@dataclass(frozen=True, slots=True)
class Used:
    """A chain that the device has used."""

    token: object
    written: int
    """Bytes written into the writable part, as the device reports."""


@dataclass(frozen=True, slots=True)
class _Chain:
    descriptors: tuple[int, ...]
    writable: int
    token: object


def full_barrier() -> None:
    """Keep a store before a later load of another address.

    Processors may delay the store, so that driver and device each miss the other's store and both
    sleep (2.7.13.4.1, 2.7.14). Python has no fence, but taking a lock is an atomic exchange, which
    is a full fence.
    """
    with _barrier:
        pass


def need_event(event: int, new: int, old: int) -> bool:
    """Whether an index that went from `old` to `new` passed `event` (2.7.10, modulo 65536)."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


class SplitQueue:
    """A virtqueue as its driver sees it: `add` chains, `publish`, later `collect` them.

    Descriptor table and avail ring share pages that only the guest writes; the used ring has pages
    that only the device writes. So a guest's write to the same page cannot hide a missing log bit.
    """

    def __init__(
        self, memory: GuestMemory, size: int, event_index: bool = True, first_index: int = 0
    ) -> None:
        """Make a ring of `size` descriptors (a power of two).

        Both indices begin at `first_index`, as on a ring that has run before. Calls are disabled
        at first.
        """
        self.size = size
        self.event_index = event_index
        self.desc_address = memory.allocate(16 * size, PAGE_SIZE)
        self.avail_address = memory.allocate(6 + 2 * size, 2)
        used_pages = -(-(6 + 8 * size) // PAGE_SIZE)
        self.used_address = memory.allocate(used_pages * PAGE_SIZE, PAGE_SIZE)
        self._next = self._published = self._seen = first_index
        self._free = deque(range(size))
        self._chains: dict[int, _Chain] = {}
        self._tables: dict[int, int] = {}
        self.move_to(memory)
        self._store_avail(1, first_index)
        self._used[1] = first_index
        self.want_calls(False)

    def move_to(self, memory: GuestMemory) -> None:
        """Move to other memory that holds the same bytes at the same guest addresses."""
        self.memory = memory
        size = self.size
        self._desc = memory.view(self.desc_address, 16 * size)
        self._avail = memory.view(self.avail_address, 6 + 2 * size).cast("H")
        self._used = memory.view(self.used_address, 6 + 8 * size).cast("H")
        self._used_elements = memory.view(self.used_address + 4, 8 * size).cast("I")

    @property
    def used_index(self) -> int:
        """The device's index, at which a device without state of its own resumes (split rings)."""
        return self._used[1]

    @property
    def base(self) -> int:
        """The SET_VRING_BASE value for a device that has used every chain it took."""
        return self.used_index

    @property
    def avail_base(self) -> int:
        """The avail index as a base, for front-ends that send that one."""
        return self._published

    @property
    def outstanding(self) -> int:
        """Number of chains that the device has not used yet."""
        return len(self._chains)

    @property
    def free(self) -> int:
        """Number of descriptors free for the next chain."""
        return len(self._free)

    def add(
        self,
        readable: Sequence[Buffer],
        writable: Sequence[Buffer],
        token: object = None,
        indirect: bool = False,
    ) -> int:
        """Write a chain and put its head into the next avail slot; return the head.

        Readable buffers come before writable ones (2.7.4.2). The chain is available at `publish`.
        """
        buffers = [(buffer, 0) for buffer in readable]
        buffers += [(buffer, F_WRITE) for buffer in writable]
        if indirect and len(buffers) > INDIRECT_ENTRIES:
            raise ValueError(f"{len(buffers)} buffers do not fit an indirect table")
        needed = 1 if indirect else len(buffers)
        if needed > len(self._free):
            raise RingFullError(f"{needed} descriptors needed, {len(self._free)} free")
        descriptors = tuple(self._free.popleft() for _ in range(needed))
        head = descriptors[0]
        if indirect:
            self._write_indirect(head, buffers)
        else:
            self._write_chain(descriptors, buffers)
        self._chains[head] = _Chain(descriptors, sum(b.length for b in writable), token)
        self._store_avail(2 + self._next % self.size, head)
        self._next = (self._next + 1) & 0xFFFF
        return head

    def publish(self) -> bool:
        """Make added chains available; return whether the device wants a kick (2.7.13)."""
        if self._next == self._published:
            return False
        old, self._published = self._published, self._next
        full_barrier()  # the chains before the index that shows them
        self._store_avail(1, self._next)
        full_barrier()  # the index before the question whether anybody wants to know
        if self.event_index:
            avail_event = self._used[2 + 4 * self.size]
            return need_event(avail_event, self._next, old)
        return not self._used[0] & USED_F_NO_NOTIFY

    def collect(self) -> list[Used]:
        """Take all chains that the device has used, in its order (2.7.14)."""
        count = (self._used[1] - self._seen) & 0xFFFF
        if count > len(self._chains):
            raise DeviceBrokenError(f"{count} chains used, {len(self._chains)} outstanding")
        full_barrier()
        return [self._take() for _ in range(count)]

    def want_calls(self, wanted: bool) -> bool:
        """Enable or disable a call at the next used chain.

        True if a chain was used meanwhile: then no call may come for it, so `collect` first.
        """
        if self.event_index:
            # the value one step behind is the last one that the device passes
            self._store_avail(2 + self.size, (self._seen - (not wanted)) & 0xFFFF)
        else:
            self._store_avail(0, 0 if wanted else AVAIL_F_NO_INTERRUPT)
        full_barrier()
        return self._used[1] != self._seen

    def _take(self) -> Used:
        slot = self._seen % self.size
        head, written = self._used_elements[2 * slot], self._used_elements[2 * slot + 1]
        chain = self._chains.pop(head, None)
        if chain is None:
            raise DeviceBrokenError(f"used element names chain {head}, which is not outstanding")
        if written > chain.writable:
            raise DeviceBrokenError(f"{written} bytes written into {chain.writable}")
        self._free.extend(chain.descriptors)
        self._seen = (self._seen + 1) & 0xFFFF
        return Used(chain.token, written)

    def _write_chain(self, indices: Sequence[int], buffers: Sequence[tuple[Buffer, int]]) -> None:
        for position, (buffer, flags) in enumerate(buffers):
            last = position + 1 == len(buffers)
            following = 0 if last else indices[position + 1]
            flags |= 0 if last else F_NEXT
            self._store_descriptor(indices[position], buffer, flags, following)

    def _write_indirect(self, head: int, buffers: Sequence[tuple[Buffer, int]]) -> None:
        """Write a chain into an indirect table, which takes one descriptor (2.7.5.3)."""
        if head not in self._tables:
            self._tables[head] = self.memory.allocate(16 * INDIRECT_ENTRIES)
        last = len(buffers) - 1
        table = b"".join(
            DESCRIPTOR.pack(*buffer, flags | (F_NEXT if i < last else 0), i + 1 if i < last else 0)
            for i, (buffer, flags) in enumerate(buffers)
        )
        self.memory.write(self._tables[head], table)
        self._store_descriptor(head, Buffer(self._tables[head], len(table)), F_INDIRECT, 0)

    def _store_descriptor(self, index: int, buffer: Buffer, flags: int, following: int) -> None:
        DESCRIPTOR.pack_into(self._desc, 16 * index, *buffer, flags, following)
        self.memory.mark(self.desc_address + 16 * index, 16)

    def _store_avail(self, index: int, value: int) -> None:
        """Store by one 16-bit store: the device must never see half an index."""
        self._avail[index] = value
        self.memory.mark(self.avail_address + 2 * index, 2)
