# SPDX-License-Identifier: Apache-2.0
"""Has the switch open the tap that there is, where it opened one of the same name before.

A userspace bridge keeps its receive socket on the interface that it opened. When that interface
goes and another comes by its name (`exit --cleanup` and a new daemon, a port that is deleted and
added within milliseconds, a tap that somebody removed), frames still go out to the new one, but
nothing that comes from it is heard, and the database shows nothing wrong. Removing the interface
from the datapath alone (ovs-dpctl(8), del-if) leaves row, OpenFlow number and flows; at the next
link event ovs-vswitchd misses the port and opens it anew.

The kernel's bridges need none of this: the kernel tells them when a device goes.

A tap that was just made can also be set down by the switch: it reads the flags of an interface when
it opens it, and writes them back, as it remembers them, to make it promiscuous. So a new tap is set
up once more when that is done.
"""

import math
import time
from collections.abc import Callable
from typing import Protocol

import ovs.poller
import ovs.vlog

from ovs_vhost_plugin.daemon.ovsdb.database import Snapshot
from ovs_vhost_plugin.tap import TapError
from ovs_vhost_plugin.vswitchd.unixctl import Answer, Question, Switchd

vlog = ovs.vlog.Vlog("vhost_reopening")

RETRY_AFTER = 1.0
"""Seconds until a port is looked at again."""

_DATAPATH = "netdev@ovs-netdev"  # all userspace bridges of an ovs-vswitchd share it


class Ears(Protocol):
    """What is asked of taps (tap/taps.py)."""

    def heard(self, name: str) -> bool:
        """Whether the switch has opened this very tap."""

    def set_up(self, name: str) -> None:
        """Have it up; raises TapError."""

    def nudge(self, name: str) -> None:
        """Make a link event; raises TapError."""


class Reopening:
    """The ports of `unheard`, each until the switch hears it."""

    def __init__(
        self,
        taps: Ears,
        unheard: dict[str, bool],
        connect: Callable[[str], Switchd] = Switchd,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`unheard`: see daemon/ports.py; `connect` makes a link to a run directory's switch."""
        self._taps = taps
        self._unheard = unheard
        self._connect = connect
        self._clock = clock
        self._switchd: Switchd | None = None
        self._rundir = ""
        self._again_at: dict[str, float] = {}

    def run(self, snapshot: Snapshot, now: float) -> None:
        """Ask the switch for what it has open in vain, and nudge it when that is closed."""
        switchd = self._switch_of(snapshot.switch.rundir)
        for name in self._again_at.keys() - self._unheard:
            del self._again_at[name]
        for name in sorted(self._unheard):
            port = snapshot.ports.get(name)
            # ovs-vswitchd opens the tap first and gives the row its number then.
            if port is None or port.ofport is None:
                self._again_at.pop(name, None)
                continue
            if not port.userspace or self._taps.heard(name):
                self._heard(name)
            elif now >= self._again_at.get(name, 0.0):
                self._again_at[name] = now + RETRY_AFTER
                switchd.ask(Question("dpctl/del-if", (_DATAPATH, name)), self._clock())
        for answer in switchd.run(self._clock()):
            name = answer.question.params[1]
            if isinstance(answer, Answer):
                self._reopen(name)
            else:
                vlog.warn(f"{name}: the switch hears another tap than this one: {answer.reason}")

    def _heard(self, name: str) -> None:
        """The switch has it open. What it remembered of a tap so new may have set it down again."""
        if self._unheard.pop(name):
            try:
                self._taps.set_up(name)
            except TapError as error:
                vlog.warn(f"{name}: {error}")

    def _reopen(self, name: str) -> None:
        try:
            self._taps.nudge(name)
        except TapError as error:
            vlog.warn(f"{name}: {error}")
        else:
            vlog.info(f"{name}: the switch had an earlier tap open; it opens this one")

    def _switch_of(self, rundir: str) -> Switchd:
        if self._switchd is None or rundir != self._rundir:
            self.close()
            self._switchd, self._rundir = self._connect(rundir), rundir
        return self._switchd

    def wait(self, poller: ovs.poller.Poller, now: float) -> None:
        """Register what `run` has to be called again for."""
        if self._switchd is not None:
            self._switchd.wait(poller)
        for name in self._unheard.keys() & self._again_at.keys():
            poller.timer_wait(math.ceil((self._again_at[name] - now) * 1000))

    def close(self) -> None:
        """Close the connection to the switch."""
        if self._switchd is not None:
            self._switchd.close()
