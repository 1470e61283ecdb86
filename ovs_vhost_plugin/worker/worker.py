# SPDX-License-Identifier: Apache-2.0
"""A worker: the wiring of one port, and one loop over its sockets.

The loop sleeps until the front-end, the daemon, a ring's fault or a new address of the guest's
wakes it. The queue pairs' threads move packets in compiled code, and this loop takes no part.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import assert_never

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.announce.frames.announcements import rarp
from ovs_vhost_plugin.common import build
from ovs_vhost_plugin.ipc.commands import (
    KNOWN,
    OLDEST,
    PROTOCOL,
    CaptureFrames,
    Command,
    Configure,
    Connected,
    DaemonHello,
    EndCapture,
    ForgetStations,
    GetStats,
    GiveQueue,
    GiveUserfaultfd,
    HandOver,
    Inject,
    Quit,
    RefuseUserfaultfd,
    Release,
)
from ovs_vhost_plugin.ipc.reports import FirstReceived, Rarp, Started, Stats, WorkerHello
from ovs_vhost_plugin.ipc.spec import Inheritance, PortSettings, WorkerSpec
from ovs_vhost_plugin.ipc.vitals import Pulse
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.features import Nic, Offer, offer
from ovs_vhost_plugin.vhost.withheld import Withheld
from ovs_vhost_plugin.worker.capture import PortCapture
from ovs_vhost_plugin.worker.complaints import Complaints
from ovs_vhost_plugin.worker.daemonlink import DaemonLink
from ovs_vhost_plugin.worker.device.device import Device
from ovs_vhost_plugin.worker.device.firstframe import FirstFrame
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.userfaultdevice import UserfaultDevice
from ovs_vhost_plugin.worker.frontend import FrontEndLink
from ovs_vhost_plugin.worker.handover import take
from ovs_vhost_plugin.worker.handover.give import Giving
from ovs_vhost_plugin.worker.handover.parts import Parts
from ovs_vhost_plugin.worker.learned.addresses import Addresses
from ovs_vhost_plugin.worker.learned.devicestate import DeviceState
from ovs_vhost_plugin.worker.learned.movedon import Watch
from ovs_vhost_plugin.worker.outbox import Outbox
from ovs_vhost_plugin.worker.overview import Overview
from ovs_vhost_plugin.worker.recovery import journal
from ovs_vhost_plugin.worker.signals import Signals
from ovs_vhost_plugin.worker.tap.gate import TapGate
from ovs_vhost_plugin.worker.tap.hold import Reason
from ovs_vhost_plugin.worker.tap.holding import Holding
from ovs_vhost_plugin.worker.tap.queues import TapQueues
from ovs_vhost_plugin.worker.tap.requests import QueueRequests

_DAEMON_PATIENCE = 5.0
"""Seconds for the daemon to end a worker that has given its port away."""


class Worker:
    """The wiring of one port."""

    def __init__(
        self,
        spec: WorkerSpec,
        inheritance: Inheritance,
        pulse: Pulse,
        estate: take.Estate | None = None,
    ) -> None:
        """With `estate`, a worker whose rings do not run yet, made of what another one gave."""
        self._spec = spec
        self._pulse = pulse
        self._selector = selectors.DefaultSelector()
        self._outbox = Outbox(self._selector, time.monotonic)
        self._complaints = Complaints()
        self._quitting = False
        fds = [inheritance.tap] if estate is None else estate.taps
        self._taps = taps = TapQueues(fds, None if estate is None else estate.tap)
        self._queue_requests = QueueRequests(self._outbox, len(fds))
        self._learned_fd = learned_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._heard = watch = Watch()
        self._journals = journal.open_file(inheritance.journal, 2 * spec.queues)
        self._urings = inheritance.urings
        pairs = [self._make_pair(index, fd) for index, fd in enumerate(fds)]
        clock, settings = time.monotonic, spec.settings
        self._addresses = Addresses(pairs, learned_fd, watch, self._outbox)
        self._holding = Holding(taps, self._selector, self._outbox, clock, settings)
        self._state = DeviceState(self._addresses, self._selector, clock)
        self._userfaultfds = UserfaultDevice(self._outbox, clock, settings)
        gate = TapGate(pairs, taps, self._holding)
        self._first_frame = FirstFrame(pairs, lambda at: self._outbox.tell(FirstReceived(at)))
        self._device = Device(gate, self._state, self._selector, self, settings, self._userfaultfds)
        self._capture = PortCapture(self._device.pairs, spec.queues, self._complaints)
        listener = inheritance.listener
        listening = None if listener is None else socket.socket(fileno=listener)
        self._front_end = FrontEndLink(
            spec.path,
            listening,
            self._device,
            self._selector,
            outbox=self._outbox,
            complaints=self._complaints,
            make_offer=self._offer,
            awaited_until=self._userfaultfds.awaited_until,
        )
        self._overview = Overview(
            self._front_end,
            self._device,
            self._addresses,
            self._holding,
            self._userfaultfds,
            self._complaints,
        )
        control = socket.socket(fileno=inheritance.control)
        self._daemon = DaemonLink(control, self._selector, self._obey, self._left)
        parts = Parts(
            *(control, listening, inheritance.journal, taps, gate),
            *(self._front_end, self._device, self._addresses, self._state, self._holding),
            *(self._complaints, self._overview, self._outbox),
        )
        self._giving = Giving(parts, self._selector, clock)
        if estate is not None:
            take.prepare(parts, estate, spec, clock())
        self._watch(learned_fd, self._addresses.woken)
        signals = Signals(self._quit)
        self._watch(signals.fd, signals.drain)

    # -- the loop --------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve until told to quit, or until the port is another worker's."""
        parts = (
            self._userfaultfds,
            self._front_end,
            self._addresses,
            self._device,
            self._first_frame,
            self._queue_requests,
            self._outbox,
            self._giving,
        )
        while not self._ended():
            now = time.monotonic()
            for part in parts:
                part.handle_timer(now)
            if self._ended():
                return
            self._tell()
            times = [at for at in (part.get_timer() for part in parts) if at is not None]
            timeout = max(0.0, min(times) - now) if times else None
            self._pulse.beat(0)
            ready = self._selector.select(timeout)
            self.busy()
            handle(ready, self._selector, self._ended)

    def _ended(self) -> bool:
        return self._quitting or self._giving.done

    def busy(self) -> None:
        """Set the pulse: this worker is at work from now on, and hangs if that lasts too long."""
        self._pulse.beat(time.monotonic_ns())

    def begin(self) -> None:
        """Run the rings of a port that has been taken over."""
        self._device.start_pending()

    def close(self) -> None:
        """Stop the rings before their memory is unmapped; touch nothing that is another's now."""
        if self._giving.done:
            self._daemon.await_end(_DAEMON_PATIENCE)
            return
        self._front_end.close(time.monotonic())
        self._device.end_hold(Reason.OFF)
        self._tell()

    def _tell(self) -> None:
        """Report the present state to the daemon: first the hold, which is of the guest before."""
        if (hold := self._holding.report()) is not None:
            self._outbox.keep(hold)
        self._outbox.keep(self._overview.state())

    def _watch(self, fd: int, callback: Callable[[float], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def _quit(self) -> None:
        self._quitting = True

    # -- the device's news (device.Observer) -----------------------------------------------------

    def rarp(self, mac: bytes) -> None:
        """Pass SEND_RARP to the daemon; without a daemon, send a RARP by the guest's own tap.

        At once: the front-end's next messages start the rings, which takes time.
        """
        self._overview.rarps += 1
        if not self._outbox.tell(Rarp(mac, time.monotonic())):
            self._inject([rarp(mac)])

    def started(self, base: int, *, further: bool) -> None:
        """Tell the daemon that the guest's rings run: earlier errors are over."""
        if not further:
            self._complaints.mended()
        sent = sum(pair.counters["tx_packets"] for pair in self._device.pairs)
        now = time.monotonic()
        self._outbox.tell(Started(base, sent, self._state.take_arrival(), further, now))
        self._first_frame.begin()

    def error(self, error: PeerError) -> None:
        """Count a peer's error."""
        self._complaints.note(error)

    def lasting(self, error: PeerError | None) -> None:
        """Count a lasting error once, and publish it until it is over."""
        self._complaints.judge(error)

    def migrates(self) -> None:
        """Tell it at once: the guest may have left before the loop reports again."""
        self._tell()

    def pairs_wanted(self, pairs: int) -> None:
        """Ask for the tap queues of further pairs."""
        self._queue_requests.want(pairs)

    def _make_pair(self, index: int, tap_fd: int) -> QueuePair:
        uring = self._urings[index] if index < len(self._urings) else None
        journals = self._journals[2 * index : 2 * index + 2]
        heard = self._heard.tables
        pair = QueuePair(
            index, tap_fd, self._learned_fd, journals=journals, watch=heard, uring=uring
        )
        self._watch(pair.fault_fd, partial(self._faults, pair))
        return pair

    def _add_queue(self, index: int, fd: int) -> None:
        """Take a further queue of the tap, and serve its pair."""
        if index != self._queue_requests.have:
            os.close(fd)
            return
        self._taps.add(fd)
        self._queue_requests.came()
        self._device.add_pair(self._make_pair(index, fd))
        self._addresses.woken(time.monotonic())  # tells each pair what it is to report
        self._capture.follow(self._device.pairs[index])

    def _faults(self, pair: QueuePair, _now: float) -> None:
        self._device.collect_faults(pair)

    # -- the daemon's commands -------------------------------------------------------------------

    def _obey(self, command: Command, fds: Sequence[int]) -> None:
        match command:
            case DaemonHello():
                self._greet(*fds)
            case Connected():
                (fd,) = fds
                self._front_end.adopt(socket.socket(fileno=fd), time.monotonic())
            case GiveQueue(index):
                (fd,) = fds
                self._add_queue(index, fd)
            case GiveUserfaultfd():
                (fd,) = fds
                self._userfaultfds.take(fd)
            case RefuseUserfaultfd(why):
                self._userfaultfds.refused(why)
            case Configure(settings):
                self._configure(settings)
            case Release(number, stations):
                self._holding.release(number, stations)
            case ForgetStations(stations):
                self._addresses.elsewhere(stations, time.monotonic())
            case GetStats(request):
                self._outbox.tell(Stats(request, self._overview.stats()))
            case Inject(injected):
                self._inject(injected)
            case HandOver(number):
                (fd,) = fds
                self._giving.begin(number, fd)
            case CaptureFrames():
                self._capture.begin(command, *fds)
            case EndCapture():
                self._capture.end()
            case Quit():
                self._quit()
            case _:
                assert_never(command)

    def _greet(self, reports: int, black_box: int, alarm: int) -> None:
        """Report everything to a daemon that has come."""
        self._pulse.adopt(black_box, alarm)
        self._outbox.open(reports, self._hello())
        self._tell()

    def _left(self) -> None:
        """The daemon has gone."""
        self._outbox.close()
        self._capture.end()

    def _hello(self) -> WorkerHello:
        code, queues = build.of_this_code(), self._queue_requests.have
        return WorkerHello(__version__, self._spec, queues, PROTOCOL, OLDEST, code, KNOWN)

    def _configure(self, settings: PortSettings) -> None:
        """Apply changed settings; a new offer is for the next connection."""
        self._spec = replace(self._spec, settings=settings)
        for part in (self._device, self._userfaultfds):
            part.configure(settings)

    def _inject(self, injected: Sequence[bytes]) -> None:
        """Write frames into the tap as if the guest had sent them."""
        header = bytes(self._device.header_size)
        for frame in injected:
            try:
                os.write(self._taps.fds[0], header + frame)
            except OSError as error:
                self._complaints.counts[f"inject-{error.errno}"] += 1

    def _offer(self) -> Offer:
        settings = self._spec.settings
        nic = Nic(settings.mac or None, settings.link_up) if settings.config else None
        return offer(
            self._spec.queues,
            settings.mtu,
            device_state=settings.state,
            postcopy=self._userfaultfds.there,
            nic=nic,
            any_memory=settings.any_memory,
            withheld=Withheld(settings.features_off, settings.protocol_features_off),
        )


def handle(
    ready: Sequence[tuple[selectors.SelectorKey, int]],
    selector: selectors.BaseSelector,
    ended: Callable[[], bool],
) -> None:
    """Call the handlers of what is `ready`, until one of them ends this worker's part.

    What is ready beside a handover is the successor's: a message that is read here is lost to it,
    and the answer to a request that is sent here would come to it.
    """
    for key, _ in ready:
        if ended():
            return
        if key.fd in selector.get_map():  # not dropped by an earlier handler
            key.data(time.monotonic())
