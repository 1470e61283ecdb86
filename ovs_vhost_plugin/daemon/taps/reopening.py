# SPDX-License-Identifier: Apache-2.0
"""Makes ovs-vswitchd reopen a tap that was deleted and created again under the same name.

A userspace bridge keeps its receive socket on the interface that it opened. When that interface
goes and another comes under its name (`exit --cleanup` and a new daemon, a port that is deleted and
added within milliseconds, a tap that somebody removed), frames still go out to the new interface,
but its own frames are not read, and the database shows nothing wrong. Removing the interface from
the datapath alone (ovs-dpctl(8), del-if) leaves row, OpenFlow number and flows; at the next link
event ovs-vswitchd misses the port and opens it again.

The kernel's bridges need none of this: the kernel tells them when a device goes.

The switch can also set a new tap down: it reads an interface's flags when it opens it, and later
writes these flags back to make the interface promiscuous. So a new tap is set up once more when the
switch has opened it.
"""

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.common.timers import Timers
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.tap import TapError
from ovs_vhost_plugin.vswitchd.unixctl import Answer, NoAnswer, Question, Switchd

vlog = Vlog("vhost_reopening")

RETRY_AFTER = 1.0
"""Seconds until a port is looked at again."""

_DATAPATH = "netdev@ovs-netdev"  # all userspace bridges of an ovs-vswitchd share it


class SwitchTaps(Protocol):
    """The switch's side of taps, as tap/taps.py has it."""

    def is_open_in_switch(self, name: str) -> bool:
        """Whether the switch has opened this very tap."""

    def set_up(self, name: str) -> None:
        """Set a tap up; raises TapError."""

    def link_event(self, name: str) -> None:
        """Make a link event; raises TapError."""


class TapReopener:
    """The ports of `unopened`, each until the switch has its tap open."""

    def __init__(
        self,
        taps: SwitchTaps,
        unopened: dict[str, bool],
        switchd: Switchd,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`unopened`: see daemon/ports.py."""
        self._taps = taps
        self._unopened = unopened
        self._switchd = switchd
        self._clock = clock
        self._asked_at: dict[str, float] = {}
        self._again = Timers()

    def run(self, names: Iterable[str], snapshot: Snapshot, now: float) -> None:
        """Ask the switch to close each port whose tap is not the one it has open.

        names  the ports that something happened to; others are looked at when their time has come
        """
        for name in sorted({*names, *self._again.take_due(now)}):
            if name not in self._unopened:
                self._asked_at.pop(name, None)
                continue
            port = snapshot.ports.get(name)
            # ovs-vswitchd opens the tap first and gives the row its number then.
            if port is None or port.ofport is None:
                self._asked_at.pop(name, None)
            elif not port.userspace or self._taps.is_open_in_switch(name):
                self._opened(name)
            elif now < (again_at := self._asked_at.get(name, -math.inf) + RETRY_AFTER):
                self._again.set(name, again_at)
            else:
                self._asked_at[name] = now
                self._again.set(name, now + RETRY_AFTER)
                question = Question("dpctl/del-if", (_DATAPATH, name))
                self._switchd.ask(question, partial(self._closed, name), self._clock())

    def get_timer(self) -> float | None:
        """The time at which `run` has to be called again, or None."""
        return self._again.get_timer()

    def _opened(self, name: str) -> None:
        """Set up a tap that the switch has opened: the flags it wrote back may have set it down."""
        self._asked_at.pop(name, None)
        if self._unopened.pop(name):
            try:
                self._taps.set_up(name)
            except TapError as error:
                vlog.warn(f"{name}: {error}")

    def _closed(self, name: str, reply: Answer | NoAnswer, _now: float) -> None:
        """Take the switch's answer: it has closed the old interface, or refused to."""
        if isinstance(reply, NoAnswer):
            vlog.warn(f"{name}: the switch has another tap open than this one: {reply.reason}")
            return
        try:
            self._taps.link_event(name)
        except TapError as error:
            vlog.warn(f"{name}: {error}")
        else:
            vlog.info(f"{name}: the switch had an earlier tap open; it opens this one")
