# SPDX-License-Identifier: Apache-2.0
"""The rings of the reference back-end: guest memory and split virtqueues, slow and obvious.

It sends each frame of a transmit queue back on the receive queue of the same pair.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

ALL_FEATURES = (
    1 << 0  # CSUM
    | 1 << 1  # GUEST_CSUM
    | 1 << 7  # GUEST_TSO4
    | 1 << 11  # HOST_TSO4
    | 1 << 15  # MRG_RXBUF
    | 1 << 17  # CTRL_VQ
    | 1 << 21  # GUEST_ANNOUNCE
    | 1 << 22  # MQ
    | 1 << 26  # LOG_ALL
    | 1 << 28  # INDIRECT
    | 1 << 29  # EVENT_IDX
    | 1 << 30  # PROTOCOL_FEATURES
    | 1 << 32  # VERSION_1
)
ALL_PROTOCOL_FEATURES = 0b11111 | 1 << 19  # MQ, LOG_SHMFD, RARP, REPLY_ACK, MTU; DEVICE_STATE
NEXT, WRITE, INDIRECT = 1, 2, 4


@dataclass
class Vring:
    size: int = 0
    base: int = 0
    flags: int = 0
    desc: int = 0
    used: int = 0
    avail: int = 0
    log: int = 0
    kick: int = -1
    call: int = -1
    enabled: bool = False
    signalled: int | None = None  # used index at the last question whether to call


@dataclass
class Behaviour:
    """What it offers, and what it does wrong."""

    features: int = ALL_FEATURES
    protocol_features: int = ALL_PROTOCOL_FEATURES
    queue_pairs: int = 4
    silent_on: int = 0  # a request that gets no answer
    wrong_on: int = 0  # a request whose answer is another's
    state: bytes = b"state"  # its own, for the next back-end
    refuse: int = 0  # a request that is refused by REPLY_ACK
    hang_up_on: int = 0  # a request after which it is gone
    forget: frozenset[str] = frozenset()  # what it does not log: "payload", "elements", "index"
    hold_back: int = 0  # chains it takes before it gives them back, the last one first
    damage: str = ""  # what it does to the used ring


@dataclass
class Region:
    guest: int
    size: int
    user: int
    data: memoryview


@dataclass
class Seen:
    """What the front-end did, for tests to look at."""

    requests: list[tuple[int, bytes]] = field(default_factory=list)
    flags: dict[int, int] = field(default_factory=dict)
    headers: list[bytes] = field(default_factory=list)
    chains: list[list[int]] = field(default_factory=list)  # lengths of readable descriptors
    rarps: list[bytes] = field(default_factory=list)
    state: bytes = b""  # of another back-end
    kicks: int = 0
    calls: int = 0

    def names(self) -> list[int]:
        return [request for request, _ in self.requests]


class ReferenceRings:
    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.seen = Seen()
        self.features = 0
        self.regions: list[Region] = []
        self.log: mmap.mmap | None = None
        self.vrings = [Vring() for _ in range(2 * behaviour.queue_pairs)]
        self._waiting: dict[int, list[bytes]] = {}  # frames with no receive buffer yet, by pair
        self._held: list[tuple[int, int]] = []

    # Memory

    def map(self, payload: bytes, fds: list[int]) -> None:
        count = struct.unpack_from("<I", payload)[0]
        assert count == len(fds)
        self.regions = []
        for i, fd in enumerate(fds):
            guest, size, user, offset = struct.unpack_from("<QQQQ", payload, 8 + 32 * i)
            data = memoryview(mmap.mmap(fd, offset + size))[offset:]
            os.close(fd)
            self.regions.append(Region(guest, size, user, data))

    def guest(self, user: int) -> int:
        [region] = [r for r in self.regions if r.user <= user < r.user + r.size]
        return user - region.user + region.guest

    def _byte(self, guest: int) -> tuple[memoryview, int]:
        [region] = [r for r in self.regions if r.guest <= guest < r.guest + r.size]
        return region.data, guest - region.guest

    def read(self, guest: int, length: int) -> bytes:
        pieces = b""
        while len(pieces) < length:
            data, offset = self._byte(guest + len(pieces))
            pieces += data[offset : offset + length - len(pieces)]
        return pieces

    def write(self, guest: int, content: bytes, kind: str) -> None:
        done = 0
        while done < len(content):
            data, offset = self._byte(guest + done)
            n = min(len(content) - done, len(data) - offset)
            data[offset : offset + n] = content[done : done + n]
            done += n
        if kind == "payload":
            self._log(guest, len(content), kind)

    def _log(self, guest: int, length: int, kind: str) -> None:
        if self.log is None or not self.features & 1 << 26 or kind in self.behaviour.forget:
            return
        for page in range(guest // 4096, (guest + length - 1) // 4096 + 1):
            self.log[page // 8] |= 1 << page % 8

    def _u16(self, guest: int) -> int:
        return int.from_bytes(self.read(guest, 2), "little")

    def _write_used(self, vring: Vring, offset: int, content: bytes, kind: str) -> None:
        self.write(vring.used + offset, content, kind)
        if vring.flags & 1:
            self._log(vring.log + offset, len(content), kind)

    # Rings

    def serve(self, pair: int) -> None:
        tx = self.vrings[2 * pair + 1]
        if tx.kick >= 0 and tx.desc:
            for head in self._available(tx):
                self._transmit(pair, tx, head)
            self._call(tx)
        self._deliver(pair)

    def _available(self, vring: Vring) -> Iterator[int]:
        """Take chains until there are none and the driver knows that we sleep."""
        while True:
            while vring.base != self._u16(vring.avail + 2):
                head = self._u16(vring.avail + 4 + 2 * (vring.base % vring.size))
                vring.base = (vring.base + 1) & 0xFFFF
                yield head
            self._sleep_at(vring)
            if vring.base == self._u16(vring.avail + 2):
                return

    def _sleep_at(self, vring: Vring) -> None:
        if self.features & 1 << 29:
            event = struct.pack("<H", vring.base)
            self._write_used(vring, 4 + 8 * vring.size, event, "event")

    def _chain(self, vring: Vring, head: int) -> list[tuple[int, int, int]]:
        """The chain's descriptors: address, length, flags."""
        table, index = vring.desc, head
        chain: list[tuple[int, int, int]] = []
        while True:
            address, length, flags, following = struct.unpack(
                "<QIHH", self.read(table + 16 * index, 16)
            )
            if flags & INDIRECT:
                assert table == vring.desc and not flags & NEXT and length % 16 == 0
                table, index = address, 0
                continue
            assert not (chain and chain[-1][2] & WRITE and not flags & WRITE)
            chain.append((address, length, flags))
            if not flags & NEXT:
                return chain
            index = following
            assert len(chain) <= 2 * vring.size

    def _transmit(self, pair: int, tx: Vring, head: int) -> None:
        chain = self._chain(tx, head)
        data = b"".join(self.read(address, length) for address, length, _ in chain)
        self.seen.chains.append([length for _, length, _ in chain])
        self.seen.headers.append(data[: self._header_size])
        self._waiting.setdefault(pair, []).append(data[self._header_size :])
        self._held.append((head, 0))
        if len(self._held) > self.behaviour.hold_back:
            for element in reversed(self._held):
                self._use(tx, [element])
            self._held.clear()

    def _deliver(self, pair: int) -> None:
        rx = self.vrings[2 * pair]
        waiting = self._waiting.get(pair, [])
        while waiting and rx.enabled and rx.kick >= 0 and rx.desc:
            if not self._receive(rx, waiting[0]):
                return
            waiting.pop(0)
            self._call(rx)

    def _receive(self, rx: Vring, frame: bytes) -> bool:
        """Write a frame into as many buffers as it takes; False if there are not enough."""
        start, data, used = rx.base, bytes(self._header_size) + frame, []
        buffers = []
        for head in self._available(rx):
            chain = self._chain(rx, head)
            written = 0
            for address, length, flags in chain:
                assert flags & WRITE
                buffers.append((address, data[:length]))
                written += len(data[:length])
                data = data[length:]
            used.append((head, written))
            if not data:
                break
        mergeable = self.features & 1 << 15
        assert mergeable or len(used) <= 1, "the frame does not fit a buffer"
        if data:
            rx.base = start
            return False
        first, content = buffers[0]
        if self._header_size == 12:
            count = struct.pack("<H", self._num_buffers(len(used)))
            buffers[0] = first, content[:10] + count + content[12:]
        for address, content in buffers:
            if content:
                self.write(address, content, "payload")
        self._use(rx, used)
        return True

    def _num_buffers(self, right: int) -> int:
        return {"too-many-buffers": right + 1, "no-buffers": 0}.get(self.behaviour.damage, right)

    def _use(self, vring: Vring, elements: list[tuple[int, int]]) -> None:
        index = self._u16(vring.used + 2)
        if self.behaviour.damage == "index":
            index += vring.size
        for position, (head, written) in enumerate(elements):
            if self.behaviour.damage == "head":
                head += 1
            if self.behaviour.damage == "written":
                written += 1 << 20
            slot = (index + position) % vring.size
            self._write_used(vring, 4 + 8 * slot, struct.pack("<II", head, written), "elements")
        after = struct.pack("<H", (index + len(elements)) & 0xFFFF)
        self._write_used(vring, 2, after, "index")

    def _call(self, vring: Vring) -> None:
        new, old = self._u16(vring.used + 2), vring.signalled
        vring.signalled = new
        if self.features & 1 << 29:
            event = self._u16(vring.avail + 4 + 2 * vring.size)
            start = new - 0xFFFF if old is None else old  # a new one cannot know, so it calls
            wanted = event in {(start + i) & 0xFFFF for i in range((new - start) & 0xFFFF)}
        else:
            wanted = new != old and not self._u16(vring.avail) & 1
        if wanted:
            self.seen.calls += 1
            os.eventfd_write(vring.call, 1)

    @property
    def _header_size(self) -> int:
        return 12 if self.features & (1 << 32 | 1 << 15) else 10
