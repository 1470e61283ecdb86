# SPDX-License-Identifier: Apache-2.0
"""What a packed ring's region of inflight I/O says, in plain Python.

Written from vhost-user "Inflight I/O tracking" and nothing else; shares no code with the kernels.
`PackedReference` gives chains back in any order, as a disk's back-end does.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import numpy as np
from support.jit.packed_reference import AVAIL, USED, PackedDriver
from support.jit.ring_reference import NEXT

HEADER = struct.Struct("<QHHHHHHBB10x")
ENTRY = struct.Struct("<BxHHHQHHIQ")
HEADER_FIELDS = (
    "features", "version", "desc_num", "free_head", "old_free_head", "used_idx", "old_used_idx",
    "used_wrap_counter", "old_used_wrap_counter",
)  # fmt: skip
ENTRY_FIELDS = ("inflight", "next", "last", "num", "counter", "id", "flags", "len", "addr")


class PackedReference:
    """A back-end that keeps `region`, bytes of a queue, of `driver`'s ring."""

    def __init__(self, driver: PackedDriver, region: np.ndarray) -> None:
        self.driver, self.region = driver, region
        self.counter = 0
        self.next_avail = driver.seen
        self.number = (len(region) - HEADER.size) // ENTRY.size

    def header(self) -> dict[str, int]:
        values = HEADER.unpack(self.region[: HEADER.size].tobytes())
        return dict(zip(HEADER_FIELDS, values, strict=True))

    def put_header(self, **fields: int) -> None:
        data = HEADER.pack(*(self.header() | fields).values())
        self.region[: HEADER.size] = np.frombuffer(data, np.uint8)

    def entry(self, index: int) -> dict[str, int]:
        at = HEADER.size + ENTRY.size * index
        values = ENTRY.unpack(self.region[at : at + ENTRY.size].tobytes())
        return dict(zip(ENTRY_FIELDS, values, strict=True))

    def put_entry(self, index: int, **fields: int) -> None:
        at = HEADER.size + ENTRY.size * index
        data = ENTRY.pack(*(self.entry(index) | fields).values())
        self.region[at : at + ENTRY.size] = np.frombuffer(data, np.uint8)

    def used(self, position: int) -> dict[str, int]:
        """The fields that say a position."""
        size = self.driver.size
        return {"used_idx": position % size, "used_wrap_counter": int(position < size)}

    def begin(self) -> None:
        self.region[:] = 0
        for index in range(self.number):
            self.put_entry(index, next=index + 1)
        place = self.used(self.next_avail)
        old = {f"old_{name}": value for name, value in place.items()}
        self.put_header(version=1, desc_num=self.number, **place, **old)

    def take(self, steps: int | None = None) -> int:
        """The next available chain: the index of its head's entry; killed after `steps`."""
        head = self.header()["old_free_head"]
        for _ in itertools.islice(self._take(head), steps):
            pass
        return head

    def _take(self, head: int) -> Iterator[None]:
        """As the driver's buffers are received; yields after each store."""
        self.put_entry(head, num=0)
        yield
        self.put_entry(head, counter=self.counter)
        self.counter += 1
        yield
        self.put_entry(head, inflight=1)
        yield
        last = False
        while not last:
            address, length, buffer_id, flags = self.driver.descriptor(self.next_avail)
            self.next_avail = self.driver.advance(self.next_avail, 1)
            last = not flags & NEXT
            free = self.header()["free_head"]
            if last:
                self.put_entry(head, last=free)
                yield
            self.put_entry(head, num=self.entry(head)["num"] + 1)
            yield
            self.put_entry(free, addr=address, len=length, id=buffer_id, flags=flags)
            yield
            self.put_header(free_head=self.entry(free)["next"])
            yield
        self.put_header(old_free_head=self.header()["free_head"])

    def give_back(self, heads: list[int], steps: int | None = None) -> None:
        """A batch, by the entries of its heads; killed after `steps`."""
        for _ in itertools.islice(self._give_back(heads), steps):
            pass

    def _give_back(self, heads: list[int]) -> Iterator[None]:
        """As used buffers are supplied, the first one last; yields after each store."""
        place, shown = self.position("old_"), []
        for head in heads:
            entry = self.entry(head)
            shown.append((place, self.entry(entry["last"])["id"]))
            place = self.driver.advance(place, entry["num"])
            self.put_entry(entry["last"], next=self.header()["free_head"])
            yield
            self.put_header(free_head=head)
            yield
        self.put_header(**self.used(place))
        yield
        for at, buffer_id in reversed(shown):
            flags = AVAIL | USED if self.driver.wrap(at) else 0
            address = self.driver.descriptor(at)[0]
            self.driver.put_descriptor(at, address, 0, buffer_id, flags)
            yield
        for head in heads:
            self.put_entry(head, inflight=0)
            yield
        for name in ("free_head", "used_wrap_counter", "used_idx"):
            self.put_header(**{f"old_{name}": self.header()[name]})
            if name != "used_wrap_counter":  # the two say one thing
                yield

    def position(self, which: str = "") -> int:
        header = self.header()
        wrap = header[f"{which}used_wrap_counter"]
        return header[f"{which}used_idx"] + (0 if wrap else self.driver.size)

    def in_flight(self) -> tuple[int, list[int]]:
        """Where the ring is used up to, and what the next back-end is to resubmit: buffer ids.

        "When reconnecting", on a copy. A batch around the whole ring leaves `used_idx` as it was:
        the wrap counter belongs to it.
        """
        which = "old_"
        if self.position() != self.position("old_"):
            flags = self.driver.descriptor(self.position("old_"))[3] & (AVAIL | USED)
            if flags != self.driver.available(self.position("old_")):
                which = ""
        free, head = set(), self.header()[f"{which}free_head"]
        while head < self.number:
            free.add(head)
            head = self.entry(head)["next"]
        entries = [self.entry(i) for i in range(self.number) if i not in free]
        heads = sorted((e for e in entries if e["inflight"]), key=lambda e: e["counter"])
        return self.position(which), [self.entry(e["last"])["id"] for e in heads]
