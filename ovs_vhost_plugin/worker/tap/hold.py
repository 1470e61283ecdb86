# SPDX-License-Identifier: Apache-2.0
"""Frames for a guest that has just left: kept in order, bounded, sans-IO.

The frames go to the place where the bridge learns the guest next, or into this port's own rings if
the guest comes back before. Time is an argument, in CLOCK_MONOTONIC seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from ovs_vhost_plugin.net.station import StationKey, receiver_of, sender_of

SECONDS = 10.0
"""A hold's longest time. QEMU's downtime is below a second unless somebody raises it, and its
last announcement comes 0.8 s after; no protocol waits for older frames."""
QUIET = 1.0
"""A hold ends sooner, once all was handed over and no frame has come for so long.

A flow that a switch has cached goes on to the old place until its revalidator runs, after half a
second."""
FRAMES = 16384
"""10,000 frames a second for more than a second of downtime."""
BYTES = 16 << 20
"""Room for that at 1,500 bytes a frame; only guests that leave need it, so few at once."""
STATIONS = 64
"""The most stations reported: a guest's own and those nested in it, each with its VLANs."""


class Reason(StrEnum):
    """Why a held frame was dropped."""

    FULL = "full"  # the oldest gives way to the newest
    EXPIRED = "expired"  # nobody asked for it in time
    GROUP = "group"  # to a group: every port got its own copy, also the guest's new port
    UNFINISHED = "unfinished"  # a checksum or segmentation that cannot be finished
    OTHER_GUEST = "other-guest"  # another front-end started the rings: its guest is another
    OFF = "off"  # the port was removed, or holding switched off


@dataclass(frozen=True, slots=True)
class Held:
    """A complete frame, and the tap queue that it came from."""

    queue: int
    station: StationKey | None
    frame: bytes


class HoldBuffer:
    """The frames of one hold after the other; `counts` are over all holds."""

    def __init__(self, frames: int = FRAMES, size: int = BYTES) -> None:
        self.counts: Counter[str] = Counter()
        self.stations: list[StationKey] = []  # of this hold, in order of appearance
        self.sighted = 0
        """The number of group frames from these stations, which are elsewhere now."""
        self.size = 0  # bytes
        self._frames = frames
        self._most = size
        self._held: dict[int, Held] = {}  # by number, in order
        self._next = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, frame: bytes, queue: int) -> None:
        """Keep the newest frame, at the cost of the oldest."""
        station = receiver_of(frame)
        if station is not None and station not in self.stations and len(self.stations) < STATIONS:
            self.stations.append(station)
        if station is None and sender_of(frame) in self.stations:
            self.sighted += 1
        self.counts["held"] += 1
        self._held[self._next] = Held(queue, station, frame)
        self._next += 1
        self.size += len(frame)
        while len(self._held) > self._frames or self.size > self._most:
            self._remove(next(iter(self._held)))
            self.drop(Reason.FULL)

    def drop(self, reason: Reason, count: int = 1) -> None:
        """Count frames that will reach nobody."""
        if count:
            self.counts[f"dropped_{reason}"] += count

    @property
    def wanted(self) -> bool:
        """Whether there is a frame that may yet be forwarded."""
        return any(held.station is not None for held in self._held.values())

    def waiting(self, stations: Collection[StationKey]) -> int:
        """The number of frames held for `stations`."""
        return sum(held.station in stations for held in self._held.values())

    def take(self, stations: Collection[StationKey], frames: int, size: int) -> list[bytes]:
        """Take the oldest for `stations`: at most `frames`, of `size` bytes unless it is one."""
        taken: list[int] = []
        for number, held in self._held.items():
            if held.station not in stations:
                continue
            size -= len(held.frame)
            if taken and (size < 0 or len(taken) == frames):
                break
            taken.append(number)
        batch = [self._remove(number).frame for number in taken]
        self.counts["forwarded"] += len(batch)
        return batch

    def give_back(self, queue: int) -> list[bytes]:
        """Take all frames from a tap queue, oldest first: the guest is here again."""
        mine = [number for number, held in self._held.items() if held.queue == queue]
        self.counts["returned"] += len(mine)
        return [self._remove(number).frame for number in mine]

    def clear(self, reason: Reason) -> None:
        """End a hold: count the frames that are left as dropped."""
        groups = sum(held.station is None for held in self._held.values())
        self.drop(Reason.GROUP, groups)
        self.drop(reason, len(self._held) - groups)
        self._held.clear()
        self.stations = []
        self.sighted = 0
        self.size = 0

    def _remove(self, number: int) -> Held:
        held = self._held.pop(number)
        self.size -= len(held.frame)
        return held
