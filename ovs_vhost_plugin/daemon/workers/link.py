# SPDX-License-Identifier: Apache-2.0
"""The daemon's link to one worker: its phase, its last reports, its end.

The worker may have been taken over by its guest, so the link holds it to its own port. The worker's
reports are checked, and a flood of reports ends the worker. A worker that hangs is found by its
pulse. The process to kill is the one that the fork server recorded, whatever the worker reports.
"""

import contextlib
import os
import select
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.common import pidfile
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.common.ratelimit import TokenBucket
from ovs_vhost_plugin.daemon.handover.release import WorkerRelease
from ovs_vhost_plugin.daemon.reconcile import Phase
from ovs_vhost_plugin.daemon.workers.readiness import Readiness
from ovs_vhost_plugin.daemon.workers.report_rates import ReportRates
from ovs_vhost_plugin.ipc import reports
from ovs_vhost_plugin.ipc.channel import Channel, ChannelBroken, ChannelClosed
from ovs_vhost_plugin.ipc.codec import MessageError, UnknownKindError, printable
from ovs_vhost_plugin.ipc.commands import Command, Configure, DaemonHello, Quit
from ovs_vhost_plugin.ipc.reportpipe import ReportReader
from ovs_vhost_plugin.ipc.reports import (
    AskConnection,
    AskQueues,
    AskUserfaultfd,
    FirstReceived,
    GuestStations,
    HandedOver,
    HeldFrames,
    HoldState,
    PortState,
    Rarp,
    Report,
    Started,
    Stats,
    WorkerHello,
)
from ovs_vhost_plugin.ipc.spec import PortSettings, WorkerSpec
from ovs_vhost_plugin.ipc.vitals import Vitals
from ovs_vhost_plugin.net.station import Station

vlog = Vlog("vhost_worker")

_READ_AT_ONCE = 128 * 1024
"""Bytes of reports that are read before it is another worker's turn."""

_STUCK = "worker-stuck: it did not come back from what its peer asked"

HANG_ALARMS = 3
"""Alarms during the same work, after which the worker counts as hanging."""

_ALARMS_PER_SECOND, _ALARMS_AT_ONCE = 1.0, 10

_LAST_WORDS = ("postcopy-page-missing:", "fds-not-closed:")
"""The last words of workers that end because of their front-end."""


class WorkerLink:
    """One worker, from its request or adoption to its end.

    child   whether it is a child of this daemon's fork server, which reports its end
    spec    the spec as ordered, or as the worker reported it; None: unknown
    release what the worker understands
    """

    def __init__(
        self,
        name: str,
        channel: Channel,
        spec: WorkerSpec | None,
        record: Path,
        vitals: Vitals,
        ready: "Readiness[WorkerLink]",
        now: float,
        *,
        child: bool,
    ) -> None:
        """Take over the channel and the vitals. Raises OSError if there are no more fds.

        ready: watches the fds for which `receive` and `ended` have to be called.
        """
        self.name = name
        self.channel: Channel | None = channel
        self.spec = spec
        self.child = child
        self.pid: int | None = None
        self.release = WorkerRelease(ours=child)
        self.state: PortState | None = None
        self.stations: tuple[Station, ...] = ()
        self.phase = Phase.REQUESTED if child else Phase.STARTING
        self.since = self.began = now
        self.told_to_quit = False
        self._error = ""
        self._record = record
        self.vitals = vitals
        self._ready = ready
        self._reports = ReportReader()
        self._rates = ReportRates(now)
        self._pidfd: int | None = None
        self._pulse, self._alarms = 0, 0
        self._false_alarms = TokenBucket(_ALARMS_PER_SECOND, _ALARMS_AT_ONCE, now)
        ready.watch(self._reports.fileno(), select.POLLIN, self)
        self._greet(now)

    def _greet(self, now: float) -> None:
        """Send the hello, with the pipe for reports and the file for the pulse."""
        hello = DaemonHello(__version__)
        self.send(hello, now, (self._reports.writer, self.vitals.fd, self.vitals.alarm))
        self._reports.give_away()

    def born(self, pid: int, now: float) -> None:
        """Record the pid of the worker, which the fork server has forked."""
        self.pid = pid
        if self.phase is Phase.REQUESTED:
            self._enter(Phase.STARTING, now)

    def orphaned(self, now: float) -> None:
        """Watch the worker's pidfd from now on: the fork server has died."""
        self.child = False
        if self.phase is Phase.REQUESTED:
            self._enter(Phase.STARTING, now)
        elif self.phase in (Phase.ENDING, Phase.KILLED):
            self._open_pidfd()

    # -- commands --------------------------------------------------------------------------------

    def send(self, command: Command, now: float, fds: tuple[int, ...] = ()) -> bool:
        """Send a command; False: the worker is not there to receive it."""
        if self.channel is None or not self.knows(type(command)):
            return False
        assert len(fds) == command.FDS
        self._rates.told(type(command))
        packet = self.release.encode(command)
        try:
            if fds:
                return self.channel.send_now(packet, fds)
            self.channel.send(packet)
            self._watch_writing(self.channel)
        except ChannelClosed as closed:
            self._lost(closed, now)
            return False
        return True

    def _watch_writing(self, channel: Channel) -> None:
        if channel.wants_write:
            self._ready.watch(channel.fileno(), select.POLLOUT, self)
        else:
            self._ready.forget(channel.fileno())

    def knows(self, command: type[Command]) -> bool:
        """Whether the worker knows a command; one of an earlier release may not."""
        return self.release.knows(command)

    def configure(self, settings: PortSettings, now: float) -> None:
        """Send the port's settings, all of which may change while the worker runs."""
        assert self.spec is not None
        if self.send(Configure(settings), now):
            self.spec = replace(self.spec, settings=settings)

    def quit(self, now: float) -> None:
        """Tell the worker to end; in `Phase.ENDING` it has its time to do so."""
        self.told_to_quit = True
        self.send(Quit(), now)
        self._enter_ending(now)

    def kill(self, reason: str, now: float) -> None:
        """Kill the worker, for `reason`."""
        self._error = self._error or f"worker-channel: {reason}"
        self._open_pidfd()
        if self._pidfd is not None:
            pidfile.kill(self._pidfd)
        self._enter(Phase.KILLED, now)

    def replace(self, before: "WorkerLink") -> None:
        """Show what the worker before has told, until this one tells."""
        self.state, self.stations = before.state, before.stations

    def abandon(self) -> None:
        """Leave a killed worker to the kernel, which has not ended it; its pidfd tells its end."""
        self.child = False
        self._open_pidfd()
        self._close_channel()

    # -- reports ---------------------------------------------------------------------------------

    def receive(self, now: float) -> list[Report]:
        """Receive the reports; hellos, states and stations are also kept here."""
        if self.channel is None:
            return []
        heard: list[Report] = []
        said, end = self._reports.receive(_READ_AT_ONCE)
        try:
            self.channel.flush()
            self._watch_writing(self.channel)
            for event, size in said:
                if (report := self._checked(event, size, now)) is not None:
                    heard.append(report)
            if end is not None:
                raise end
        except (ChannelClosed, MessageError) as error:
            self._lost(error, now)
        for report in heard:
            self._keep(report, now)
        return heard

    def _checked(self, event: dict[str, Any], size: int, now: float) -> Report | None:
        """A report; None for one of an unknown kind. Raises MessageError."""
        try:
            kind = reports.kind_of(event)
        except UnknownKindError:
            self._rates.require_other(size, now)
            self.release.ignored += 1
            return None
        self._rates.require(kind, size, now)
        report = reports.decode(event)
        if isinstance(report, WorkerHello):
            self.release.has_settings(event)
        return _timely(report, now)

    def alarmed(self, now: float) -> None:
        """Handle an alarm: kill a worker that was busy with the same work for several alarms.

        Alarms are counted, not seconds: while this daemon was held up, so were its workers.
        """
        pulse = self.vitals.busy_since if self.phase is Phase.RUNNING else 0
        self._alarms = self._alarms + 1 if pulse and pulse == self._pulse else 1
        self._pulse = pulse
        self.vitals.rewind(busy=bool(pulse))
        if pulse and self._alarms >= HANG_ALARMS:
            vlog.warn(f"{self.name}: its worker hangs: killing it")
            self._error = self._error or _STUCK
            self.kill("it hangs", now)
        elif not self._false_alarms.take(now):
            self._lost(MessageError("a flood of alarms"), now)

    def ended(self) -> bool:
        """Whether a worker that is not the fork server's child has ended."""
        if self.child or self.phase not in (Phase.ENDING, Phase.KILLED):
            return False
        if self._pidfd is None:
            return True  # no pid recorded, or the worker ended before its pidfd could be opened
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def fault(self, status: int | None) -> str:
        """Why the worker ended, as name and text; "": it was told to. `status` None: unknown."""
        if self.told_to_quit:
            return ""
        words = self.vitals.last_words
        if status == -signal.SIGBUS or "Fatal Python error: Bus error" in words:
            return "memory-file-truncated: the front-end cut its memory file short; restart the VM"
        line = printable(words.strip().rpartition("\n")[2])
        if line.startswith(_LAST_WORDS):
            return line
        if status == -signal.SIGSYS:
            return "worker-sigsys: it made a system call that no worker may make"
        if self._error:
            return self._error
        if status is not None and status < 0:
            return f"worker-{signal.Signals(-status).name.lower()}: killed by a signal"
        name = "worker-died" if status is None else f"worker-exit-{status}"
        return f"{name}: {line or 'it says no more'}"

    def close(self) -> None:
        """Close the link, whether the worker lives or not."""
        self._close_channel()
        self._reports.close()
        self.vitals.close()
        if self._pidfd is not None:
            self._ready.forget(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _keep(self, report: Report, now: float) -> None:
        match report:
            case WorkerHello():
                self._met(report, now)
            case PortState():
                self.state = report
            case GuestStations(stations):
                self.stations = stations
            case AskConnection():
                pass  # `daemon/connector.py`
            case AskQueues() | AskUserfaultfd():
                pass  # `daemon/ports.py`
            case Rarp() | Started() | FirstReceived():
                pass  # `daemon/guests/announcing.py`, `moves.py`
            case HoldState() | HeldFrames():
                pass  # `daemon/guests/forwarding.py`
            case HandedOver():
                pass  # `workers.py`
            case Stats():
                pass  # `daemon/control/commands.py`, `daemon/guests/silence.py`
            case _:
                assert_never(report)

    def _met(self, hello: WorkerHello, now: float) -> None:
        if hello.spec.name != self.name:
            self._lost(MessageError(f"it says it is {hello.spec.name}"), now)
            return
        try:
            self.release.met(hello)
        except MessageError as error:
            self._lost(error, now)
            return
        self.spec = hello.spec
        # The hello may be here before the fork server's report of the birth.
        if self.phase in (Phase.REQUESTED, Phase.STARTING):
            self._enter(Phase.RUNNING, now)

    def _lost(self, why: Exception, now: float) -> None:
        # A closed channel is no reason in itself: the exit status or the log says more.
        if isinstance(why, ChannelBroken | MessageError):
            self._error = f"worker-channel: {printable(str(why))}"
        self._close_channel()
        if self.phase is not Phase.KILLED:
            self._enter_ending(now)

    def _enter_ending(self, now: float) -> None:
        if self.phase is not Phase.ENDING:
            self._enter(Phase.ENDING, now)
        if not self.child:
            self._open_pidfd()

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase = phase
        self.since = now
        self._ready.wake(self)  # what comes next may be due at a time from now on

    def _open_pidfd(self) -> None:
        if self._pidfd is None:
            self._pidfd = pidfile.open_process(self._record)
        if self._pidfd is None and self.child and self.pid is not None:
            # No pidfd yet. The fork server has not reported the end, so the pid is still its own.
            with contextlib.suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(self.pid)
        self._watch_end()

    def _watch_end(self) -> None:
        if self._pidfd is not None:
            self._ready.watch(self._pidfd, select.POLLIN, self)
        elif self.ended():
            self._ready.wake(self)

    def _close_channel(self) -> None:
        if self.channel is not None:
            self._ready.forget(self.channel.fileno())
            self._ready.forget(self._reports.fileno())
            self.channel.close()
            self.channel = None


def _timely(report: Report, now: float) -> Report:
    """`report` with times in the future set to `now`."""
    match report:
        case Rarp(at=at) | Started(at=at) | FirstReceived(at=at) if at > now:
            return replace(report, at=now)
        case HoldState(since=since) if since > now:
            return replace(report, since=now)
    return report
