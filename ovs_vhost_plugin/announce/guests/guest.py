# SPDX-License-Identifier: Apache-2.0
"""Decides, from the reports of a port's worker, when its guest has to be announced, and why.

Never because a front-end connects: QEMU connects long before its guest runs. Rings that begin at
an index above zero belong to a guest that has used them elsewhere, or before the connection to it
was lost; so do rings whose device state came from another host. That, once the guest runs, is the
trigger. Other rings that begin at zero belong to a driver that has just started: it asks for
addresses, and so announces, itself. But rings begin one by one, and only the last to begin may be
one that was used: what such a driver makes forgotten is kept aside for that.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ovs_vhost_plugin.announce.triggers import Trigger
from ovs_vhost_plugin.net.station import Station, StationKey, merge, without

REMEMBERED = 60.0
"""Seconds for which a guest whose connection broke is expected back: QEMU tries every second."""

UNNAMED = 10.0
"""Seconds for which a guest of whom nothing is known is announced once its first frame tells.

A frame of its own teaches a switch at once, unless it takes a cached flow, as it may where the
guest has been before. Open vSwitch forgets a flow that nothing took for 10 s (max-idle).
"""

MAX_BEFORE = 64
"""Stations that are remembered of it meanwhile: as many as a worker tells of at once."""

_RUNNING, _CONNECTED, _AWAY = 2, 1, 0
_LEVELS = {"running": _RUNNING, "connected": _CONNECTED}


@dataclass(frozen=True, slots=True)
class Change:
    """The outcome of a report.

    trigger  the reason to announce the guest now, "" for none
    stopped  cancel the announcements that are pending
    """

    trigger: str = ""
    stopped: bool = False


NO_CHANGE = Change()


@dataclass(frozen=True, slots=True)
class Arrival:
    """The guest of `port` has come from elsewhere, or is about to: `trigger` told it, at `at`."""

    port: str
    trigger: Trigger
    at: float


@dataclass(frozen=True, slots=True)
class _Aside:
    """Of a guest whose rings began at zero: what it would be if one had been used before."""

    trigger: str
    rarp: tuple[Station, ...] = ()
    learned: tuple[Station, ...] = ()
    before: tuple[Station, ...] = ()


class GuestState:
    """The guest behind one port, as far as its worker has told. Times are told."""

    def __init__(self) -> None:
        self.sent_at_start = 0
        self._level = _AWAY
        self._ran = False  # on this connection
        self._began = False  # its rings, on this connection
        self._began_at: float | None = None  # and when, if that was told
        self._replaced = False  # it is about to go, and its port is another's already
        self._aside: _Aside | None = None  # while its rings run that began at zero
        self._pending = ""
        self._lost_at: float | None = None
        self._unnamed = ""  # the trigger for which it is to be announced, once it has a name
        self._unnamed_until = 0.0
        self._rarp: tuple[Station, ...] = ()
        self._learned: tuple[Station, ...] = ()
        self._before: tuple[Station, ...] = ()  # learned before the connection was lost,
        self._before_until = 0.0  # and until when that counts

    @property
    def running(self) -> bool:
        """Whether the guest can send and receive."""
        return self._level == _RUNNING

    @property
    def away(self) -> bool:
        """Whether there is no front-end."""
        return self._level == _AWAY

    def began_since(self, at: float) -> bool:
        """Whether its rings began for the first time on this connection at `at` or later."""
        return self._began_at is not None and self._began_at >= at

    def known(self, now: float) -> tuple[Station, ...]:
        """The stations that SEND_RARP and the guest's own frames tell of. These are claims."""
        if now > self._before_until:
            self._before = ()
        return merge((*self._rarp, *self._learned, *self._before))

    def rarp(self, mac: bytes) -> None:
        """Take note of SEND_RARP."""
        self._rarp = (Station(mac),)
        self._unnamed = ""

    def moved_on(self, keys: Collection[StationKey]) -> None:
        """Forget these stations: others have them now."""
        self._rarp = without(self._rarp, keys)
        self._learned = without(self._learned, keys)
        self._before = without(self._before, keys)

    def replaced(self) -> None:
        """Its port is another guest's from now on, of which nothing is known."""
        self._forget()
        self._unnamed = self._pending = ""
        self._aside = None
        self._replaced = not self.away

    def unnamed(self, trigger: str, now: float) -> None:
        """It was to be announced for `trigger`, and nothing is known of it."""
        self._unnamed, self._unnamed_until = trigger, now + UNNAMED

    def uses(self, stations: tuple[Station, ...], now: float) -> Change:
        """Take the stations that its frames have shown so far."""
        self._learned = stations
        if not stations or not self.running:
            return NO_CHANGE
        trigger, self._unnamed = self._unnamed, ""
        return Change(trigger if now <= self._unnamed_until else "")

    def started(
        self,
        base: int,
        sent: int,
        now: float,
        *,
        moved_in: bool = False,
        further: bool = False,
    ) -> Change:
        """Its rings have begun to run at `base`; it had sent `sent` frames before.

        `moved_in`: its state has come from another host, so that it is known to have moved in.
        `further`: it was told that they began at zero, and now one has begun at `base`.
        """
        if further and self._aside is not None:
            self._bring_back(self._aside)
            return self._due()
        self.sent_at_start = sent
        trigger = self._origin(now)
        if not self._began:
            self._began, self._began_at = True, now
        if moved_in:
            self._pending, self._aside = Trigger.MOVED_IN, _Aside("")
        elif base:
            self._pending, self._aside = trigger, None
        else:
            self._pending = ""
            self._aside = _Aside(trigger, self._rarp, self._learned, self._before)
            self._forget()
        return self._due()

    def told(self, status: str, now: float) -> Change:
        """Take the port's status."""
        before, self._level = self._level, _LEVELS.get(status, _AWAY)
        if self._level < before:
            return self._stopped(before, now)
        return self._due()

    def ended(self, now: float) -> Change:
        """Its worker has ended."""
        before, self._level = self._level, _AWAY
        return self._stopped(before, now)

    def _origin(self, now: float) -> str:
        """The trigger of a guest whose rings have been used before."""
        if self._lost_at is not None and now - self._lost_at <= REMEMBERED:
            return Trigger.RECONNECT
        return Trigger.RESUMED if self._began else Trigger.MOVED_IN

    def _bring_back(self, aside: _Aside) -> None:
        """Its rings have been used; what has been told of it since counts first."""
        self._aside = None
        self._pending = self._pending or aside.trigger
        self._rarp = self._rarp or aside.rarp
        self._learned = self._learned or aside.learned
        self._before = self._before or aside.before

    def _due(self) -> Change:
        if not self.running:
            return NO_CHANGE
        self._ran = True
        trigger, self._pending = self._pending, ""
        if trigger:
            self._lost_at = None
        return Change(trigger)

    def _stopped(self, before: int, now: float) -> Change:
        self._pending = self._unnamed = ""
        self._aside = None
        if self._level == _AWAY:
            if self._replaced:
                self._forget()
                self._replaced = False
            elif before == _RUNNING:
                self._lost_at = now
                self._before = merge((*self._learned, *self._before))[:MAX_BEFORE]
                self._before_until = now + REMEMBERED
            elif self._ran:
                self._forget()  # it stopped its rings first: it has moved out, or was shut down
            self._ran = self._began = False
            self._began_at = None
        elif self._ran:
            self._began = True  # though a daemon before this one may have seen it
        return Change(stopped=before > _AWAY)

    def _forget(self) -> None:
        self._rarp = self._learned = self._before = ()
        self._lost_at = None
