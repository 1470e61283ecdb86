# SPDX-License-Identifier: Apache-2.0
"""What a split ring's region of inflight I/O says, in plain Python.

Written from vhost-user "Inflight I/O tracking" and nothing else; shares no code with the kernels.
`Reference` gives chains back in any order, as a disk's back-end does.
"""

from __future__ import annotations

import struct

import numpy as np
from support.jit.ring_reference import Driver

HEADER = struct.Struct("<QHHHH")  # features, version, desc_num, last_batch_head, used_idx
ENTRY = struct.Struct("<B5xHQ")  # inflight, next, counter


class Reference:
    """A back-end that keeps `region`, bytes of a queue, of `driver`'s ring."""

    def __init__(self, driver: Driver, region: np.ndarray) -> None:
        self.driver, self.region = driver, region
        self.counter = 0
        self.next_avail = driver.used_idx
        self.number = (len(region) - HEADER.size) // ENTRY.size

    def header(self) -> list[int]:
        return list(HEADER.unpack(self.region[: HEADER.size].tobytes()))

    def put_header(self, **fields: int) -> None:
        names = ("features", "version", "desc_num", "last_batch_head", "used_idx")
        known = dict(zip(names, self.header(), strict=True)) | fields
        self.region[: HEADER.size] = np.frombuffer(HEADER.pack(*known.values()), np.uint8)

    def entry(self, head: int) -> tuple[int, int, int]:
        """Inflight, next, counter."""
        at = HEADER.size + ENTRY.size * head
        inflight, following, counter = ENTRY.unpack(self.region[at : at + ENTRY.size].tobytes())
        return inflight, following, counter

    def put_entry(self, head: int, inflight: int, following: int, counter: int) -> None:
        at = HEADER.size + ENTRY.size * head
        data = np.frombuffer(ENTRY.pack(inflight, following, counter), np.uint8)
        self.region[at : at + ENTRY.size] = data

    def begin(self) -> None:
        self.region[:] = 0
        self.put_header(version=1, desc_num=self.number, used_idx=self.driver.used_idx)

    def take(self) -> int:
        """The next available chain's head."""
        slot = self.next_avail % self.driver.size
        head = self.driver.get(self.driver.avail + 4 + 2 * slot)
        self.next_avail = (self.next_avail + 1) & 0xFFFF
        self.put_entry(head, 1, self.entry(head)[1], self.counter)
        self.counter += 1
        return head

    def give_back(self, heads: list[int], steps: int = 4) -> None:
        """A batch; after `steps` it is killed."""
        used = self.driver.used_idx
        for i, head in enumerate(heads):
            slot = (used + i) % self.driver.size
            self.driver.memory.write(self.driver.used + 4 + 8 * slot, struct.pack("<II", head, 0))
            if steps >= 1:
                inflight, _, counter = self.entry(head)
                self.put_entry(head, inflight, self.header()[3], counter)
                self.put_header(last_batch_head=head)
        if steps >= 2:
            self.driver.put(self.driver.used + 2, used + len(heads))
        for head in heads[: len(heads) if steps >= 4 else 1 if steps == 3 else 0]:
            self.put_entry(head, 0, *self.entry(head)[1:])
        if steps >= 4:
            self.put_header(used_idx=self.driver.used_idx)

    def in_flight(self) -> list[int]:
        """What the next back-end is to resubmit, in order ("When reconnecting")."""
        *_, head, used_idx = self.header()
        marked = {i: self.entry(i)[2] for i in range(self.number) if self.entry(i)[0] == 1}
        for _ in range((self.driver.used_idx - used_idx) & 0xFFFF):
            marked.pop(head, None)
            head = self.entry(head)[1]
        return sorted(marked, key=lambda i: marked[i])
