# SPDX-License-Identifier: Apache-2.0
"""Reads a tap whose guest has left, and hands the frames over when the guest's place is known.

A hold begins when GET_VRING_BASE stops a receive ring under dirty logging: the guest migrates, and
the network goes on sending here until it has learned the new place. The hold ends when the guest's
rings run here again (the migration failed: the frames go into the rings), when its time is over, or
when it is switched off. In between the daemon asks for the frames of stations that the bridge has
learned elsewhere. Each request allows one answer, so the worker never sends frames that the daemon
has no use for. Later frames for such a station follow in the same way.
"""

from __future__ import annotations

import mmap
import os
import selectors
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ovs_vhost_plugin.ipc.channel import HELD_BATCH_BYTES, HELD_BATCH_FRAMES
from ovs_vhost_plugin.ipc.reports import HeldFrames, HoldState
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.worker.outbox import Outbox
from ovs_vhost_plugin.worker.tap.finish import Finisher, UnfinishedError
from ovs_vhost_plugin.worker.tap.hold import QUIET, SECONDS, HoldBuffer, Reason
from ovs_vhost_plugin.worker.tap.queues import LONGEST_FRAME, LONGEST_QUEUE, TapQueues

_BURST = 64  # frames read before the worker's other sockets have their turn
_FIRST_BATCH = 16  # frames: few, so that the oldest frame does not wait for many to be packed
_BATCH = 128
"""Frames of a later batch: a packet socket, which a switch may read them by, holds twice that."""

_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

assert _BATCH <= HELD_BATCH_FRAMES


@dataclass(frozen=True, slots=True)
class _Release:
    """The daemon's leave to send one batch of frames for `stations`."""

    id: int
    stations: frozenset[StationKey]


class Holding:
    """The holds of one port, at most one at a time."""

    def __init__(
        self,
        taps: TapQueues,
        selector: selectors.BaseSelector,
        outbox: Outbox,
        clock: Callable[[], float],
        settings: PortSettings,
    ) -> None:
        self.buffer = HoldBuffer()
        self.enabled = False
        self.configure(settings)
        self._taps = taps
        self._selector = selector
        self._outbox = outbox
        self._clock = clock
        self._finisher = Finisher()
        # Memory that is not touched before a hold begins, which few ports ever have.
        self._room = memoryview(mmap.mmap(-1, LONGEST_FRAME, flags=_PRIVATE))
        self._queues: set[int] = set()
        self._number = 0  # of the latest hold
        self._since = 0.0  # when it began
        self._until = self._end_at = 0.0  # the latest end, and the end as things are
        self._same_guest = False  # whether the front-end that stopped the rings is still here
        self._release: _Release | None = None
        self._before: dict[str, int] = {}  # the counts when the hold began
        self._batch = _FIRST_BATCH

    @property
    def active(self) -> bool:
        """Whether frames are being held."""
        return bool(self._queues)

    def covers(self, queue: int) -> bool:
        """Whether the frames of a tap queue are being held."""
        return queue in self._queues

    def configure(self, settings: PortSettings) -> None:
        """Apply the row's setting; a hold under way goes on."""
        self.enabled = settings.hold

    # -- begin and end ---------------------------------------------------------------------------

    def begin(self, queue: int, waiting: Sequence[bytes]) -> None:
        """Hold the frames of a tap queue; `waiting` were read from it and not delivered."""
        if not self.enabled or queue in self._queues:
            return
        if not self._queues:
            self._number += 1
            self._since = self._clock()
            self._until = self._end_at = self._since + SECONDS
            self._before = dict(self.buffer.counts)
            self._batch = _FIRST_BATCH
        self._same_guest = True
        self._queues.add(queue)
        for record in waiting:
            self._take(queue, record)
        self._selector.register(
            self._taps.fds[queue], selectors.EVENT_READ, partial(self._read, queue)
        )

    def drain(self, queue: int, waiting: Sequence[bytes]) -> list[bytes]:
        """The frames of a queue that is given up while the guest runs on without it."""
        frames = [frame for record in waiting for frame in self._finish(record)]
        for _ in range(LONGEST_QUEUE):
            try:
                length = os.readv(self._taps.fds[queue], [self._room])
            except OSError:  # empty
                break
            frames += self._finish(self._room[:length])
        return frames

    def give_back(self, queue: int) -> list[bytes]:
        """End the hold of a queue whose ring runs again; return its frames, oldest first.

        Frames still in the tap are newer, and the ring reads them itself. If another front-end
        started the ring, none of these frames are for its guest.
        """
        if not self._same_guest:
            self.end(Reason.OTHER_GUEST)
            self._taps.discard()
            return []
        self._leave(queue)
        frames = self.buffer.give_back(queue)
        if not self._queues:
            self.end(Reason.EXPIRED)
        return frames

    def front_end_gone(self) -> None:
        """Note that the next front-end has another guest; held frames may still be forwarded.

        The source's QEMU quits when the guest has left, often before the network has learned.
        """
        self._same_guest = False

    def end(self, reason: Reason) -> None:
        """End all holds, and drop the frames that are left."""
        for queue in list(self._queues):
            self._leave(queue)
        self.buffer.clear(reason)
        self._release = None

    def expired(self, now: float) -> bool:
        """Whether the hold's time is over."""
        return self.active and now >= self._end_at

    def get_timer(self) -> float | None:
        """The time at which the hold has `expired`; None without a hold."""
        return self._end_at if self.active else None

    def _leave(self, queue: int) -> None:
        self._queues.discard(queue)
        self._selector.unregister(self._taps.fds[queue])

    @property
    def number(self) -> int:
        """The number of the latest hold; 0: there was none."""
        return self._number

    def count_on_from(self, number: int, counts: Mapping[str, int]) -> None:
        """Number and count on from what another process has held."""
        self._number = number
        self.buffer.counts.update(counts)
        self._before = dict(counts)

    # -- the daemon ------------------------------------------------------------------------------

    def report(self) -> HoldState | None:
        """The hold as reported, whole; it changes only when it matters. None: no hold so far."""
        if not self._number:
            return None
        counts = {}
        if not self.active:
            before = self._before
            counts = {k: n - before.get(k, 0) for k, n in self.buffer.counts.items()}
        return HoldState(
            self._number,
            self.active,
            tuple(self.buffer.stations),
            {key: count for key, count in counts.items() if count},
            self.buffer.sighted,
            self._since,
        )

    def release(self, number: int, stations: Iterable[StationKey]) -> None:
        """Take the daemon's request for a batch; the answer comes once there is a frame for it."""
        if self.active:
            self._release = _Release(number, frozenset(stations))
            self._hand_over()

    def _hand_over(self) -> None:
        release = self._release
        if release is None or not self.buffer.waiting(release.stations):
            return
        self._release = None
        batch = self.buffer.take(release.stations, self._batch, HELD_BATCH_BYTES)
        self._batch = _BATCH
        left = self.buffer.waiting(release.stations) > 0
        self._outbox.tell(HeldFrames(release.id, tuple(batch), left))
        if not self.buffer.wanted:
            self._end_at = min(self._until, self._clock() + QUIET)

    # -- the tap ---------------------------------------------------------------------------------

    def _read(self, queue: int, _now: float) -> None:
        for _ in range(_BURST):
            try:
                length = os.readv(self._taps.fds[queue], [self._room])
            except BlockingIOError:
                break
            except OSError:
                length = 0
            if length < self._taps.header_size:
                # The interface is gone, or going: no more frames will come.
                self._leave(queue)
                break
            self._take(queue, self._room[:length])
        if self.buffer.wanted:
            self._end_at = self._until
        self._hand_over()

    def _take(self, queue: int, record: bytes | memoryview) -> None:
        for frame in self._finish(record):
            self.buffer.put(frame, queue)

    def _finish(self, record: bytes | memoryview) -> list[bytes]:
        try:
            return self._finisher.finish(record, self._taps.header_size)
        except UnfinishedError:
            self.buffer.drop(Reason.UNFINISHED)
            return []
