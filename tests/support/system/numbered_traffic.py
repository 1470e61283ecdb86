# SPDX-License-Identifier: Apache-2.0
"""Numbered frames both ways between a guest and its tap, and what became of each of them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from support.system.soft_ports import ETHERTYPE, GUEST_MAC, OTHER_MAC

from ovs_vhost_plugin.guest.frontend.connection import BackEndError, FrontEndConnection
from ovs_vhost_plugin.guest.migrate import Migration
from ovs_vhost_plugin.guest.soft import SoftGuest
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.measure.capture import ETH_P_ALL, SO_RCVBUFFORCE
from ovs_vhost_plugin.lab.process import wait_until

_NUMBER = struct.Struct("!QI")
_LENGTHS = (60, 61, 128, 590, 1100, 1514)  # bytes of frames
_ROOM = 1 << 22  # bytes of the socket's buffer
_LATE = 8  # frames sent at once, at most, by a sender that is late
_RETRY = 0.02  # seconds between attempts to connect
_MARGIN = 1.0  # seconds before and after an outage in which a frame may be of it
_QUIET = 2.0  # seconds without a frame, after which none is under way any more


Span = tuple[float, float]
"""From when to when; CLOCK_MONOTONIC."""


def within(at: float, spans: Iterable[Span]) -> bool:
    """Whether a time is in one of the spans, or close to it."""
    return any(begin - _MARGIN <= at <= end + _MARGIN for begin, end in spans)


@dataclass
class Way:
    """One direction: when each number was sent, and the numbers that came, in their order."""

    name: str
    sent: list[float] = field(default_factory=list)
    came: list[int] = field(default_factory=list)
    changed: list[bytes] = field(default_factory=list)
    """Frames that came otherwise than they were sent."""

    def take(self, frame: bytes) -> None:
        """Note a frame that has come."""
        number = int.from_bytes(frame[14:22], "big")
        if number < len(self.sent) and frame == frame_of(number, frame[:6], frame[6:12]):
            self.came.append(number)
        else:
            self.changed.append(frame)

    @property
    def in_order(self) -> bool:
        """Whether each frame came once, in the order of their numbers."""
        return not self.changed and self.came == list(range(len(self.sent)))

    def faults(self, outages: list[Span]) -> list[str]:
        """What must not be: frames that were changed, came twice, or were lost without a cause."""
        times = Counter(self.came)
        changed = [f"{len(frame)} bytes {frame[14:34].hex()}" for frame in self.changed[:3]]
        found = [f"{len(self.changed)} frames {self.name} were changed: {changed}"] * bool(changed)
        twice = [number for number, came in times.items() if came > 1]
        if twice:
            found.append(f"frames {self.name} came twice: {twice[:10]}")
        lost = [
            number
            for number, at in enumerate(self.sent)
            if number not in times and not within(at, outages)
        ]
        if lost:
            found.append(f"{len(lost)} frames {self.name} were lost: {lost[:10]}")
        return found


def frame_of(number: int, to: bytes, source: bytes) -> bytes:
    """Frame `number`, which has its own length and content."""
    length = _LENGTHS[number % len(_LENGTHS)]
    check = number * 2654435761 & 0xFFFFFFFF
    pattern = _NUMBER.pack(number, check)
    return (to + source + ETHERTYPE + pattern * (length // len(pattern) + 1))[:length]


class NumberedTraffic:
    """A guest and its tap send to each other until `stop`; a guest that lost its port comes back.

    namespace, tap  where the bridge's end is
    guest           nobody else may use it meanwhile
    rate            frames a second of each direction
    """

    def __init__(self, namespace: Namespace, tap: str, guest: SoftGuest, rate: float) -> None:
        self.outages: list[Span] = []
        """From when to when the guest had no port, or was to have none."""
        self.expected: list[Span] = []
        """The blocks of `outage`."""
        self.inward, self.outward = Way("to the guest"), Way("from the guest")
        self.slow_until = 0.0
        """Until then the guest takes no frames."""
        self._namespace, self._tap, self._guest = namespace, tap, guest
        self._tick = 1 / rate
        self._wire: socket.socket | None = None
        self._stop, self._hang_up = threading.Event(), threading.Event()
        self._move_to: Path | None = None
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"traffic of {tap}")

    def start(self) -> None:
        """Begin."""
        self._open()
        self._thread.start()

    def stop(self) -> None:
        """End, when all that was sent had time to come; raise what went wrong on the way."""
        self._stop.set()
        self._thread.join()
        if self._wire is not None:
            self._wire.close()
        if self._fault is not None:
            raise self._fault

    def hang_up(self) -> None:
        """Let the guest leave its port and come back."""
        self._hang_up.set()

    def move(self, path: Path) -> None:
        """Let the guest migrate to the port whose socket this is, and whose tap has its name."""
        self._move_to = path

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """The guest loses its port in the block; at its end the guest is awaited."""
        begun, had = time.monotonic(), len(self.outages)
        yield
        wait_until(
            lambda: self._fault is not None or len(self.outages) > had,
            f"{self._tap}: the guest's return",
        )
        self.expected.append((begun, time.monotonic()))

    @property
    def came(self) -> int:
        """The number of frames that have come, both ways."""
        return len(self.inward.came) + len(self.outward.came)

    def wait_for_more(self, count: int = 100) -> None:
        """Return when so many more frames have come each way, or the traffic has a fault."""
        ways = [(way, len(way.came) + count) for way in (self.inward, self.outward)]
        wait_until(
            lambda: self._fault is not None or all(len(way.came) >= n for way, n in ways),
            f"{self._tap}: {count} more frames each way",
        )

    def faults(self) -> list[str]:
        """What must not be."""
        ways = (self.inward, self.outward)
        return [f"{self._tap}: {fault}" for way in ways for fault in way.faults(self.outages)]

    def unexpected(self) -> list[str]:
        """Outages outside of all blocks of `outage`."""
        lengths = [end - begin for begin, end in self.outages if not within(begin, self.expected)]
        return [f"{self._tap}: {length:.1f} s without a port" for length in lengths]

    def _open(self) -> None:
        if self._wire is not None:
            self._wire.close()
        self._wire = self._namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _ROOM)
        self._wire.setblocking(False)
        # Bound to tap and protocols in one call, so that no frame of another tap gets in.
        self._wire.bind((self._tap, ETH_P_ALL))

    def _run(self) -> None:
        try:
            due_at = time.monotonic()
            while not self._stop.is_set():
                now = time.monotonic()
                if self._move_to is not None:
                    self._move(self._move_to, now)
                    self._move_to = None
                try:
                    if self._hang_up.is_set():
                        self._hang_up.clear()
                        raise BackEndError("the guest was told to leave")
                    self._turn()
                except (BackEndError, OSError):
                    self._come_back(now)
                due_at = max(due_at, now - _LATE * self._tick) + self._tick
                self._stop.wait(max(0.0, due_at - time.monotonic()))
            self._take_last()
        except BaseException as error:  # told by `stop`
            self._fault = error

    def _turn(self) -> None:
        assert self._wire is not None
        number = len(self.outward.sent)
        self.outward.sent.append(time.monotonic())
        self._guest.send(frame_of(number, OTHER_MAC, GUEST_MAC))
        number = len(self.inward.sent)
        self.inward.sent.append(time.monotonic())
        self._wire.send(frame_of(number, GUEST_MAC, OTHER_MAC))
        self._take()

    def _take(self) -> None:
        assert self._wire is not None
        if time.monotonic() >= self.slow_until:
            for frame in self._guest.receive(0):
                if frame[12:14] == ETHERTYPE:
                    self.inward.take(frame)
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = self._wire.recvfrom(2048)
                if kind != socket.PACKET_OUTGOING and frame[12:14] == ETHERTYPE:
                    self.outward.take(frame)

    def _take_last(self) -> None:
        """Take what is still under way: until all has come, or nothing comes any more."""
        quiet_since = time.monotonic()
        while not self._all_came() and time.monotonic() < quiet_since + _QUIET:
            had = self.came
            with contextlib.suppress(BackEndError, OSError):
                self._take()
            if self.came != had:
                quiet_since = time.monotonic()
            time.sleep(0.005)

    def _all_came(self) -> bool:
        return all(len(way.came) >= len(way.sent) for way in (self.inward, self.outward))

    def _move(self, path: Path, since: float) -> None:
        destination = self._guest.initialise(FrontEndConnection.connect(path))
        migration = Migration(self._guest, destination)
        migration.begin()
        self._take()
        migration.copy_dirty()
        migration.switch()
        migration.release_source()
        self._take()
        self._guest.path, self._tap = path, path.name
        self._open()
        self.outages.append((since, time.monotonic()))

    def _come_back(self, since: float) -> None:
        """Connect again, however long it takes."""
        if self._guest.frontend is not None:
            self._guest.frontend.close()
        while not self._stop.is_set():
            with contextlib.suppress(BackEndError, OSError):
                self._guest.start()
                self._open()
                break
            time.sleep(_RETRY)
        self.outages.append((since, time.monotonic()))


class LossyTraffic(NumberedTraffic):
    """1,000 frames a second each way through a SoftPort, in a `with` block.

    At its end each frame has come exactly once, or was lost while the guest had no port.
    """

    def __init__(self, port, guest):
        super().__init__(port.host.namespace, port.name, guest, rate=1000)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self.stop()
        if kind is None:
            assert self.faults() == []


class WholeTraffic(LossyTraffic):
    """The same; the guest never loses its port, so nothing is lost."""

    def __exit__(self, kind, *_) -> None:
        super().__exit__(kind)
        if kind is None:
            assert self.outages == []
