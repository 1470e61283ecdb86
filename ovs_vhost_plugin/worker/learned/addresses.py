# SPDX-License-Identifier: Apache-2.0
"""The guest's stations, kept up to date without polling.

The loops write an eventfd when they have learned something, once until the next look at their
tables. So a guest that makes up addresses causes a look a second in the long run. One more look
comes when a station is about to age; the port of a quiet guest is not looked at again. Stations
that came with a guest that moved in count until they have aged. Stations that others have now do
not count.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from ovs_vhost_plugin.common.ratelimit import TokenBucket
from ovs_vhost_plugin.ipc.reports import GuestStations
from ovs_vhost_plugin.net.station import Station, StationKey
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.learned.movedon import MovedOn, Watch
from ovs_vhost_plugin.worker.learned.savedstate import Saved
from ovs_vhost_plugin.worker.learned.stations import LearnedStation, expiry, merge, unaged
from ovs_vhost_plugin.worker.outbox import Outbox

_LOOKS_PER_SECOND, _LOOKS_AT_ONCE = 1.0, 5


class Addresses:
    """The stations of the guest behind `pairs`, which write the eventfd `fd`."""

    def __init__(self, pairs: Sequence[QueuePair], fd: int, watch: Watch, outbox: Outbox) -> None:
        self.current: tuple[Station, ...] = ()
        """The stations as reported to the daemon; at most 64."""
        self.nic: bytes | None = None
        """The NIC's MAC in the state that came with the guest; it does not age."""
        self._inherited: Sequence[LearnedStation] = ()
        self._outbox = outbox
        self._pairs = pairs
        self._fd = fd
        self._watch = watch  # the pairs' own
        self._moved_on = MovedOn()
        self._looks = TokenBucket(_LOOKS_PER_SECOND, _LOOKS_AT_ONCE, 0.0)
        self._outdated = False  # the tables may have changed since the last look
        self._expiry: float | None = None

    def woken(self, _now: float) -> None:
        """Note that the eventfd is readable."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        self._outdated = True

    def handle_timer(self, now: float) -> None:
        """Look at the tables if they may have changed, and not too often."""
        if self._expiry is not None and now >= self._expiry:
            self._expiry = None
            self._outdated = True
        if self._outdated and self._looks.take(now):
            self._look(now)

    def get_timer(self) -> float | None:
        """The time at which `handle_timer` has something to do; None: it has nothing."""
        times = (self._looks.next_at() if self._outdated else None, self._expiry)
        return min((at for at in times if at is not None), default=None)

    def known(self, now: float) -> list[LearnedStation]:
        """The guest's stations, learned here or come with the guest."""
        inherited = unaged(self._inherited, int(1000 * now))
        self._moved_on.claimed(self._watch.claims())
        seen = merge([*(pair.stations(int(1000 * now)) for pair in self._pairs), inherited])
        return self._moved_on.without(seen)

    def elsewhere(self, keys: Iterable[StationKey], now: float) -> None:
        """Drop stations that the bridge has on other ports; report it without delay."""
        keys = set(keys)
        self._moved_on.elsewhere(keys, int(1000 * now))
        if self.nic is not None and StationKey(self.nic, 0) in keys:
            self.nic = None
        self._look(now)

    def inherit(self, saved: Saved, now: float) -> None:
        """Take the stations of a guest that moves in; report them without delay."""
        self.nic, self._inherited = saved.nic, saved.stations
        self._look(now)

    def disinherit(self) -> None:
        """Drop the stations that came with a guest that has gone."""
        if self._inherited or self.nic:
            self.nic, self._inherited = None, ()
            self._outdated = True

    def _look(self, now: float) -> None:
        self._outdated = False
        stations = self.known(now)
        expires = expiry(stations)
        self._expiry = None if expires is None else expires / 1000
        for pair in self._pairs:
            pair.tell_of_claims(self._moved_on.addresses)
        self._watch.follow(stations, int(1000 * now))
        if self.nic is not None:
            own = LearnedStation(self.nic, 0, int(1000 * now))
            stations = merge([[own], stations])
        current = tuple(one.told() for one in stations)
        if current != self.current:
            self.current = current
            self._outbox.keep(GuestStations(current))
