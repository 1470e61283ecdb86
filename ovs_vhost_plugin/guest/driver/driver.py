# SPDX-License-Identifier: Apache-2.0
"""A virtio-net driver on two virtqueues: frames in and out (virtio 1.2, 5.1.6).

Each frame in a buffer has a header before it, which carries the work that is left to do: a
checksum to fill in, segments to cut. Two rules shape the buffers:

- with MRG_RXBUF the device spreads a large frame over several small receive buffers and writes
  their number into the first header; without it each buffer must hold the largest frame;
- with VERSION_1 or ANY_LAYOUT the driver cuts header and frame into descriptors as it likes;
  without them the header has a descriptor of its own.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE
from ovs_vhost_plugin.guest.driver.packed import Virtqueue
from ovs_vhost_plugin.guest.driver.split import Buffer, DeviceBrokenError, RingFullError, Used

HEADER = struct.Struct("<BBHHHHH")  # 5.1.6, struct virtio_net_hdr
F_NEEDS_CSUM, F_DATA_VALID = 1, 2  # 5.1.6, flags
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 3, 4, 5, 0x80
LARGEST_FRAME = 14 + 65536
"""A frame before segmentation: 64 KiB of IP behind an Ethernet header (5.1.6.3.1)."""


@dataclass(frozen=True, slots=True)
class NetHeader:
    """The header before a frame; the names are the specification's."""

    flags: int = 0
    gso_type: int = GSO_NONE
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    num_buffers: int = 0

    def pack(self, size: int) -> bytes:
        """The header's bytes: 12, or 10 without `num_buffers` (legacy without MRG_RXBUF)."""
        return HEADER.pack(
            self.flags,
            self.gso_type,
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
            self.num_buffers,
        )[:size]

    @classmethod
    def unpack(cls, data: bytes) -> NetHeader:
        """A header from its 10 or 12 bytes."""
        return cls(*HEADER.unpack(data.ljust(HEADER.size, b"\0")))


PLAIN = NetHeader()
"""The header of a frame that is complete."""


@dataclass(frozen=True, slots=True)
class Received:
    """A frame from the device, and its header."""

    frame: bytes
    header: NetHeader


def cut(length: int, sizes: Sequence[int]) -> Iterator[int]:
    """Lengths that sum up to `length`: `sizes`, with the last one repeated as needed."""
    position = 0
    while length > 0:
        piece = min(length, sizes[min(position, len(sizes) - 1)])
        yield piece
        length -= piece
        position += 1


class TransmitQueue:
    """Frames to the device (5.1.6.2)."""

    def __init__(
        self, queue: Virtqueue, header_size: int, indirect: bool = False, slot_size: int = 2048
    ) -> None:
        """Take a slot of memory for each descriptor of the ring; no descriptor is longer."""
        self.queue = queue
        self.indirect = indirect
        self.slot_size = slot_size
        self._header_size = header_size
        base = queue.memory.allocate(queue.size * slot_size, PAGE_SIZE, may_cross=True)
        self._slots = deque(base + i * slot_size for i in range(queue.size))

    def add(
        self, frame: bytes, header: NetHeader = PLAIN, pieces: Sequence[int] | None = None
    ) -> None:
        """Add a frame to the ring, not yet available; RingFullError if it does not fit now.

        `pieces` are the descriptors' lengths, the last one repeated; by default a slot's.
        """
        data = memoryview(header.pack(self._header_size) + frame)
        sizes = [min(size, self.slot_size) for size in pieces or [self.slot_size]]
        lengths = list(cut(len(data), sizes))
        if len(lengths) > len(self._slots):
            raise RingFullError(f"{len(lengths)} slots needed, {len(self._slots)} free")
        slots = [self._slots[i] for i in range(len(lengths))]
        buffers = [Buffer(*pair) for pair in zip(slots, lengths, strict=True)]
        self.queue.add(buffers, [], token=slots, indirect=self.indirect)
        at = 0
        for slot, length in buffers:
            self._slots.popleft()
            self.queue.memory.write(slot, data[at : at + length])
            at += length

    def reap(self) -> int:
        """Free the slots of frames that the device has used; return how many frames."""
        done = self.queue.collect()
        for used in done:
            assert isinstance(used.token, list)
            self._slots.extend(used.token)
        return len(done)


class ReceiveQueue:
    """Frames from the device (5.1.6.3, 5.1.6.4)."""

    def __init__(
        self,
        queue: Virtqueue,
        header_size: int,
        mergeable: bool,
        pieces: Sequence[int],
        indirect: bool = False,
    ) -> None:
        """Take memory for as many buffers as fit the ring, each with descriptors of `pieces`."""
        self.queue = queue
        self.indirect = indirect
        self._header_size = header_size
        self._mergeable = mergeable
        self._idle = deque(self._buffer(pieces) for _ in range(queue.size // len(pieces)))

    def fill(self) -> bool:
        """Make all free buffers available to the device; return whether it wants a kick."""
        while self._idle:
            buffer = self._idle.popleft()
            self.queue.add([], buffer, token=buffer, indirect=self.indirect)
        return self.queue.publish()

    def receive(self) -> list[Received]:
        """All frames that have arrived, in order. `fill` returns their buffers to the device."""
        chunks = deque(self._content(used) for used in self.queue.collect())
        frames = []
        while chunks:
            frames.append(self._frame(chunks))
        return frames

    def _frame(self, chunks: deque[bytes]) -> Received:
        first = chunks.popleft()
        if len(first) < self._header_size:
            raise DeviceBrokenError(f"{len(first)} bytes are less than a header")
        header = NetHeader.unpack(first[: self._header_size])
        further = header.num_buffers - 1 if self._header_size == HEADER.size else 0
        # 5.1.6.4.1: without MRG_RXBUF num_buffers must be 1; with it the buffers are used together
        if not 0 <= further <= (len(chunks) if self._mergeable else 0):
            raise DeviceBrokenError(f"num_buffers {header.num_buffers}, {len(chunks) + 1} used")
        rest = [chunks.popleft() for _ in range(further)]
        return Received(b"".join([first[self._header_size :], *rest]), header)

    def _content(self, used: Used) -> bytes:
        """The bytes that the device wrote into a buffer; this frees the buffer."""
        buffer = used.token
        assert isinstance(buffer, list)
        self._idle.append(buffer)
        left, content = used.written, []
        for address, length in buffer:
            content.append(self.queue.memory.read(address, min(left, length)))
            left -= len(content[-1])
        return b"".join(content)

    def _buffer(self, pieces: Sequence[int]) -> list[Buffer]:
        memory = self.queue.memory
        return [Buffer(memory.allocate(size, 2, may_cross=True), size) for size in pieces]
