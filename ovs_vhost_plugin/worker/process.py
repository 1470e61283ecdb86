# SPDX-License-Identifier: Apache-2.0
"""A worker from birth to exit: one loop over its sockets.

Whoever made it has put it into its sandbox (`birth.py`).

The loop sleeps until the front-end, the daemon, a ring's fault or a new address of the guest's
wakes it: packets are moved by the queue pairs' threads, in compiled code, without this loop
taking part.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ovs_vhost_plugin.announce import frames
from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.ipc.channel import Inheritance, WorkerSpec
from ovs_vhost_plugin.ipc.vitals import Pulse
from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.features import Nic, Offer, offer
from ovs_vhost_plugin.vhost.spec import ProtocolFeature
from ovs_vhost_plugin.vhost.withheld import Withheld
from ovs_vhost_plugin.worker.backend import BackEndChannel
from ovs_vhost_plugin.worker.daemonlink import DaemonLink
from ovs_vhost_plugin.worker.device import statistics
from ovs_vhost_plugin.worker.device.device import Device
from ovs_vhost_plugin.worker.device.inband import InBand
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.userfaultdevice import UserfaultDevice
from ovs_vhost_plugin.worker.device.vringconfig import PairConfig
from ovs_vhost_plugin.worker.frontend import FrontEndLink
from ovs_vhost_plugin.worker.learned.addresses import Addresses
from ovs_vhost_plugin.worker.learned.devicestate import DeviceState
from ovs_vhost_plugin.worker.learned.movedon import Watch
from ovs_vhost_plugin.worker.recovery import journal
from ovs_vhost_plugin.worker.tap.expectation import Expectation
from ovs_vhost_plugin.worker.tap.hold import Reason
from ovs_vhost_plugin.worker.tap.holding import Holding
from ovs_vhost_plugin.worker.tap.queues import TapQueues

# Further fields of a worker's spec that the daemon may change
_MAY_CHANGE = (
    *("finish_udp", "hold", "state", "config", "mac", "link_up", "postcopy", "any_memory"),
    *("features_off", "protocol_features_off"),
)


def warm() -> None:
    """Run an empty queue pair once, in the process that workers are forked from.

    Importing has compiled every kernel or loaded it; the first run makes the types of its
    arguments known as well, and shows that the kernels run on this machine.
    """
    threads = process.threads()
    pair = QueuePair(0, tap_fd=-1)
    nothing = np.zeros(0, layout.REGION_DTYPE)
    pair.start(PairConfig(None, None, nothing, None, 12, 0, finish_offloads=False))
    pair.close()
    # A thread that was joined leaves the kernel's list a moment later, and only a process with
    # one thread may be forked.
    while process.threads() > threads:
        os.sched_yield()


def run(spec: WorkerSpec, inheritance: Inheritance) -> int:
    """Be the worker of `spec` until told to quit; return the exit status."""
    worker = Worker(spec, inheritance, Pulse())
    try:
        worker.serve()
    finally:
        worker.close()
    return 0


class Worker:
    """The wiring of one port."""

    def __init__(self, spec: WorkerSpec, inheritance: Inheritance, pulse: Pulse) -> None:
        tap_fds = inheritance.taps
        self._spec = spec
        self._pulse = pulse
        self._selector = selectors.DefaultSelector()
        self._errors: Counter[str] = Counter()
        self._last_error: PeerError | None = None
        self._not_shared: PeerError | None = None
        self._rarps = 0
        self._quitting = False
        taps = TapQueues(tap_fds)
        self._takes_uso = taps.takes_uso
        taps.set_attached([False] * len(tap_fds))
        self._tap_fd = tap_fds[0]
        learned_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        journals = journal.open_file(inheritance.journal, 2 * len(tap_fds))
        os.close(inheritance.journal)
        watch = Watch()
        pairs = [
            QueuePair(
                index,
                fd,
                learned_fd,
                journals=journals[2 * index : 2 * index + 2],
                watch=watch.tables,
            )
            for index, fd in enumerate(tap_fds)
        ]
        self._addresses = Addresses(pairs, learned_fd, watch)
        self._holding = Holding(
            taps,
            self._selector,
            lambda event: self._daemon.send(event),
            time.monotonic,
            enabled=spec.hold,
        )
        self._state = DeviceState(
            self._addresses,
            self._selector,
            time.monotonic,
            # At once: the daemon is to know it before the rings start, which is what announces.
            on_load=lambda: self._daemon.tell_addresses(time.monotonic()),
        )
        self._userfaultfds = UserfaultDevice(
            lambda: self._daemon.send({"event": "userfaultfd"}),
            time.monotonic,
            wanted=spec.postcopy,
        )
        channel = BackEndChannel(self._selector, self.error)
        self._device = Device(
            pairs,
            taps,
            self,
            self._holding,
            self._state,
            channel,
            InBand(self._selector, channel),
            finish_offloads=spec.finish_offloads,
            finish_udp=self._finishes_udp(spec),
            userfaultfds=self._userfaultfds,
        )
        self._expectation = Expectation()
        self._daemon = DaemonLink(
            socket.socket(fileno=inheritance.control),
            self._selector,
            lambda: self._spec,
            self._snapshot,
            lambda: self._addresses.current,
            self._holding.report,
            self._command,
            pulse.adopt,
            on_daemon=lambda: self._front_end.daemon_came(),
        )
        listener = inheritance.listener
        self._front_end = FrontEndLink(
            spec.path,
            None if listener is None else socket.socket(fileno=listener),
            self._device,
            self._selector,
            make_offer=self._offer,
            on_error=self.error,
            ask_daemon=lambda: self._daemon.send({"event": "connect"}),
            waits=self._userfaultfds.awaited,
        )
        for pair in pairs:
            self._watch(pair.fault_fd, partial(self._faults, pair))
        self._watch(learned_fd, self._addresses.woken)
        self._wake_on_signals()

    # -- the loop --------------------------------------------------------------------------------

    def serve(self) -> None:
        """Until told to quit."""
        while not self._quitting:
            now = time.monotonic()
            self._userfaultfds.run(now)
            self._front_end.run(now)
            self._addresses.run(now)
            self._give_up(now)
            self._judge_memory(now)
            self._daemon.run(now)
            waits = (
                self._userfaultfds.due(now),
                self._front_end.due(now),
                self._addresses.due(now),
                self._daemon.due(now),
                self._holding.due(now),
                self._expectation.due(now),
                self._device.sharing.due(now),
            )
            timeout = min((w for w in waits if w is not None), default=None)
            self._pulse.beat(0)
            ready = self._selector.select(timeout)
            self.busy()
            for key, _ in ready:
                if key.fd in self._selector.get_map():  # not dropped by the one before it
                    key.data(time.monotonic())

    def busy(self) -> None:
        """Say that this worker does something now; if it does not say it again, it hangs."""
        self._pulse.beat(time.monotonic_ns())

    def close(self) -> None:
        """Stop the rings before the memory behind them goes."""
        self._front_end.close(time.monotonic())
        self._end_hold(Reason.OFF)
        self._daemon.run(time.monotonic())

    def _give_up(self, now: float) -> None:
        """End what has lasted too long: a hold, and the expectation of a guest."""
        if self._holding.expired(now):
            self._end_hold(Reason.EXPIRED)
        if self._expectation.overdue(now, expecting=self._device.expecting):
            self._device.expect_no_more()

    def _judge_memory(self, now: float) -> None:
        """Name memory that is not shared, until it turns out to be."""
        error, before = self._device.sharing.run(now), self._not_shared
        self._not_shared = error
        if error is not None and error is not before:
            self.error(error)
        elif error is None and before is not None and self._last_error_is(before.name):
            self._last_error = None

    def _last_error_is(self, name: str) -> bool:
        return self._last_error is not None and self._last_error.name == name

    def _end_hold(self, reason: Reason) -> None:
        if self._holding.active:
            self._holding.end(reason)
            self._device.update_tap()

    def _watch(self, fd: int, callback: Callable[[float], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def _wake_on_signals(self) -> None:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer)
        signal.signal(signal.SIGTERM, lambda *_: self._quit())
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)
        self._signals = (reader, writer)
        self._watch(reader, self._drain_signals)

    def _drain_signals(self, _now: float) -> None:
        os.read(self._signals[0], 64)

    def _quit(self) -> None:
        self._quitting = True

    # -- what the device tells (device.Observer) ------------------------------------------------

    def rarp(self, mac: bytes) -> None:
        """Pass SEND_RARP to the daemon; while there is none, the guest's own tap must do."""
        self._rarps += 1
        if not self._daemon.rarp(mac, time.monotonic()):
            self._inject([frames.rarp(mac)])

    def started(self, base: int, *, further: bool) -> None:
        """Tell the daemon that the guest's rings run: what went wrong before is over."""
        if not further:
            self._last_error = None
            self._device.sharing.begin()
        sent = sum(pair.counters["tx_packets"] for pair in self._device.pairs)
        moved_in = self._state.take_arrival()
        event = {"event": "started", "base": base, "sent": sent, "moved_in": moved_in}
        self._daemon.started({**event, "further": further}, time.monotonic())

    def error(self, error: PeerError) -> None:
        """Count a peer's mistake; the daemon publishes the last one."""
        self._errors[error.name] += 1
        # Only its words: a traceback would keep frames, and the mappings in them, alive.
        self._last_error = PeerError(error.name, error.detail)

    def _faults(self, pair: QueuePair, _now: float) -> None:
        self._device.collect_faults(pair)

    # -- the daemon's commands -------------------------------------------------------------------

    def _command(self, command: dict[str, Any], fds: list[int]) -> None:
        if command.get("op") == "connected" and len(fds) == 1:
            self._front_end.adopt(socket.socket(fileno=fds.pop()), time.monotonic())
        if command.get("op") == "userfaultfd" and len(fds) == 1:
            self._userfaultfds.take(fds.pop())
        for fd in fds:
            os.close(fd)
        match command:
            case {"op": "userfaultfd", "error": why}:
                self._userfaultfds.refused(why)
            case {"op": "configure", "mtu": mtu, "finish_offloads": finish, **more}:
                known = {name: more[name] for name in _MAY_CHANGE if name in more}
                spec = replace(self._spec, mtu=mtu, finish_offloads=finish, **known)
                self._configure(spec)
            case {"op": "release", "id": number, "stations": stations}:
                self._holding.release(number, map(StationKey.decode, stations))
            case {"op": "elsewhere", "stations": stations}:
                self._addresses.elsewhere(map(StationKey.decode, stations), time.monotonic())
            case {"op": "stats", "id": request}:
                self._daemon.send({"event": "stats", "id": request, "stats": self._stats()})
            case {"op": "inject", "frames": hex_frames}:
                self._inject([bytes.fromhex(frame) for frame in hex_frames])
            case {"op": "quit"}:
                self._quit()

    def _finishes_udp(self, spec: WorkerSpec) -> bool:
        """Whether large UDP frames are finished here: bridge or tap take none."""
        return spec.finish_udp or not self._takes_uso

    def _configure(self, spec: WorkerSpec) -> None:
        """Follow what has changed of the spec; a new offer is for the next connection."""
        self._spec = spec
        self._device.set_finish_offloads(spec.finish_offloads, self._finishes_udp(spec))
        self._device.follow_port(link_up=spec.link_up, mtu=spec.mtu)
        self._userfaultfds.want(spec.postcopy)
        self._holding.enabled = spec.hold
        if not spec.hold:
            self._end_hold(Reason.OFF)

    def _inject(self, injected: list[bytes]) -> None:
        """Write frames into the tap as if the guest had sent them."""
        header = bytes(self._device.header_size)
        for frame in injected:
            try:
                os.write(self._tap_fd, header + frame)
            except OSError as error:
                self._errors[f"inject-{error.errno}"] += 1

    # -- what the daemon is told -----------------------------------------------------------------

    def _offer(self) -> Offer:
        spec = self._spec
        mac = bytes.fromhex(spec.mac) or None
        nic = Nic(mac, spec.link_up) if spec.config else None
        return offer(
            spec.queues,
            spec.mtu,
            device_state=spec.state,
            postcopy=self._userfaultfds.there,
            nic=nic,
            any_memory=spec.any_memory,
            withheld=Withheld(spec.features_off, spec.protocol_features_off),
        )

    def _snapshot(self) -> dict[str, Any]:
        session = self._front_end.session
        vrings = [] if session is None else [v for v in session.vrings if v.size]
        return {
            "status": self._front_end.status,
            "socket": self._front_end.path,
            "features": "" if session is None else f"0x{session.features:016x}",
            "protocol_features": "" if session is None else f"0x{session.protocol_features:x}",
            "num_vrings": len(vrings),
            "vring_sizes": [v.size for v in vrings],
            "mtu": self._device.mtu,
            "error": "" if self._last_error is None else str(self._last_error.name),
            "error_detail": "" if self._last_error is None else self._last_error.detail,
            "errors": self._errors.total(),
        }

    def _postcopy(self) -> str:
        """Whether it is offered, or why not."""
        session = self._front_end.session
        if not self._userfaultfds.there:
            return f"not offered: {self._userfaultfds.why_not}"
        if session is None or session.offer.protocol_features & ProtocolFeature.PAGEFAULT.mask:
            return "offered"
        return "not offered: to this front-end, which came before; to the next one"

    def _stats(self) -> dict[str, Any]:
        pairs = self._device.pairs
        last = max((pair.index for pair in pairs if pair.used), default=0)
        return {
            "status": self._front_end.status,
            "connections": self._front_end.connections,
            "rarps": self._rarps,
            "postcopy": self._postcopy(),
            "hold": {"waiting": len(self._holding.buffer), **self._holding.buffer.counts},
            "errors": dict(self._errors),
            **self._device.iotlb_counts,
            "addresses": self._addresses.current,
            **statistics.of_pairs([pair.counters for pair in pairs[: last + 1]]),
        }
