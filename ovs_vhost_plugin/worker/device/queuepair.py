# SPDX-License-Identifier: Apache-2.0
"""A queue pair: two vrings, a queue of the tap, and the thread that runs the compiled loop.

Python's objects end here, and the arrays that the loop works on begin. While the thread runs,
nothing else writes the arrays; counters may be read at any time.
"""

from __future__ import annotations

import _thread
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.loop import run
from ovs_vhost_plugin.jit.net.learn import look_again, tell_worker
from ovs_vhost_plugin.jit.recovery.resume import resume, stands_at_base
from ovs_vhost_plugin.jit.ring import iotlb
from ovs_vhost_plugin.jit.syscalls import read_event
from ovs_vhost_plugin.vhost.fds.kind import is_eventfd
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.worker.device.vringconfig import (
    Kind,
    PairConfig,
    VringConfig,
    Words,
    no_views,
    views,
)
from ovs_vhost_plugin.worker.learned.stations import LearnedStation, read
from ovs_vhost_plugin.worker.recovery import inflight_packed, journal
from ovs_vhost_plugin.worker.recovery import inflight_split as inflight
from ovs_vhost_plugin.worker.tap import backlog

# gso_type (virtio 1.2, 5.1.6.1) of each feature that lets the driver use it
_GSO_TYPES = {
    Feature.HOST_TSO4: 1,
    Feature.HOST_UFO: 3,
    Feature.HOST_TSO6: 4,
    Feature.HOST_USO: 5,
}
_JOIN_PATIENCE = 0.1  # seconds


class QueuePair:
    """Queue pair `index` on the tap queue `tap_fd`, which is non-blocking.

    learned_fd  an eventfd, written when `stations` has something new; -1: nobody waits
    loop        runs in the thread until `Pair.stop` is set
    journals    the two rings' journals, which outlive this process; None: journals that do not
    watch       the port's addresses, to report others' claims to them
    """

    def __init__(
        self,
        index: int,
        tap_fd: int,
        learned_fd: int = -1,
        loop: Callable[[layout.Pair], None] = run,
        journals: Sequence[Words] | None = None,
        watch: fresh.Watch | None = None,
    ) -> None:
        self.index = index
        self._loop = loop
        self.fault_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when a ring broke: call `take_faults` then."""
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = np.zeros(1, np.int64)
        self._net = fresh.new_net()
        self._net.state["cfg_tap_fd"] = tap_fd
        self._net.state["cfg_wake_fd"] = self._wake_fd
        self._net.state["cfg_fault_fd"] = self.fault_fd
        # Each pair of each worker begins with another value (RFC 7739, 5).
        self._net.state["tx_fragment_id"] = secrets.randbits(32)
        self._learned = fresh.new_learned(learned_fd, watch)
        self._queues: dict[Kind, layout.Queue] = {
            "rx": fresh.new_queue(),
            "tx": fresh.new_queue(),
        }
        self._states = {"rx": np.zeros(1, layout.RING_DTYPE), "tx": np.zeros(1, layout.RING_DTYPE)}
        rx, tx = journals or (journal.fresh(), journal.fresh())
        self._journals: dict[Kind, Words] = {"rx": rx, "tx": tx}
        self._tracking: dict[Kind, inflight.Tracking | None] = {}  # held while the loop runs
        self._faults: list[tuple[Kind, Fault]] = []
        self._told: set[Kind] = set()  # rings whose fault is in `_faults`, or was
        self._ended: threading.Event | None = None  # set when the thread has left the loop
        self.used = False
        """Whether the pair has ever run."""
        self.on_stuck: Callable[[float], object] = lambda _seconds: None
        """Called while the loop does not follow a `stop`, with the seconds waited so far."""

    @property
    def running(self) -> bool:
        """Whether the loop may touch guest memory, log and tap."""
        return self._ended is not None

    @property
    def counters(self) -> dict[str, int]:
        """Counts since the pair was made; a fault that occurred counts as "fault_<name>"."""
        counts = self._net.counters[0]
        names = layout.COUNTERS_DTYPE.names or ()
        faults = {f"fault_{f.name.lower()}": int(self._net.faults[f]) for f in Fault}
        learned = {"learned_replaced": int(self._learned.state["replaced"][0])}
        return (
            {name: int(counts[name]) for name in names}
            | learned
            | {name: count for name, count in faults.items() if count}
        )

    def resumed(self, config: PairConfig) -> PairConfig:
        """`config`, in which each ring whose journal names it resumes where the journal says.

        Chains that the journal has begun are given back first. Only while stopped.
        """
        rx = self._resumed("rx", config.rx, config)
        return replace(config, rx=rx, tx=self._resumed("tx", config.tx, config))

    def start(self, config: PairConfig) -> None:
        """Run the loop in a thread of its own. A loop that runs is stopped first."""
        self.stop()
        self._collect_faults()
        self._told.clear()
        self._configure(config)
        pair = layout.Pair(
            rx=self._vring("rx", config.rx, config),
            tx=self._vring("tx", config.tx, config),
            rx_queue=self._queues["rx"],
            tx_queue=self._queues["tx"],
            rx_memory=config.memory("rx"),
            tx_memory=config.memory("tx"),
            net=self._net,
            learned=self._learned,
            poll=np.zeros(4, layout.POLLFD_DTYPE),
            stop=self._stop,
        )
        self._stop[0] = 0
        self.used = True
        ended = threading.Event()
        # Not threading.Thread: its start() waits until the new thread runs, milliseconds on a busy
        # host, during which a guest that has moved stands still.
        _thread.start_new_thread(self._run, (pair, ended))
        self._ended = ended  # a thread that could not be started is not waited for

    def stop(self) -> None:
        """End the loop: after this nothing writes to guest memory, log or tap."""
        ended, self._ended = self._ended, None
        if ended is None:
            return
        self._stop[0] = 1
        os.eventfd_write(self._wake_fd, 1)
        waits = 1
        while not ended.wait(_JOIN_PATIENCE):
            self._unblock()
            self.on_stuck(waits * _JOIN_PATIENCE)
            waits += 1

    def _run(self, pair: layout.Pair, ended: threading.Event) -> None:
        """The thread: tell the front-end of rings that do not begin, and run the loop."""
        try:
            for ring in (pair.rx, pair.tx):
                err_fd = int(ring.state["err_fd"][0])
                if ring.state["fault"][0] and err_fd >= 0:
                    with suppress(BlockingIOError):  # full: its reader wakes anyway
                        os.eventfd_write(err_fd, 1)
            self._loop(pair)
        finally:
            ended.set()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        os.close(self._wake_fd)
        os.close(self.fault_fd)

    def next_avail(self, kind: Kind) -> int:
        """The place where a stopped vring resumes: the index of the first chain not given back.

        For a packed ring it is a position.
        """
        return int(self._states[kind]["next_avail"][0])

    def forget_place(self, kind: Kind) -> None:
        """End the journal of a stopped vring: its next start is at a place that is given."""
        journal.end(self._journals[kind])

    def give_up(self, kind: Kind, vring: VringConfig, config: PairConfig, *, keep: bool) -> int:
        """Leave nothing in flight in a stopped vring; return where it resumes. See `hand_over`."""
        ring = views(kind, vring, config, self._states[kind], self._journals[kind])
        try:
            tracking = self._track(kind, ring, vring, config)
        except inflight.DamagedError:
            return vring.next_avail
        assert tracking is not None
        if ring.state[0]["packed"]:
            return inflight_packed.hand_over(ring, tracking)
        return inflight.hand_over(ring, tracking, config.memory(kind), self._net, keep=keep)

    def take_waiting(self) -> list[bytes]:
        """Take the frames read, not delivered, oldest first, with headers. Only while stopped."""
        state, net = self._net.state, self._net
        pending = int(state["rx_pending"][0])
        waiting = [net.pending[:pending].tobytes()] if pending else []
        header = bytes(int(state["cfg_header_size"][0]))
        waiting += [header + frame for frame in backlog.frames(self._net)]
        state["rx_pending"] = 0
        self._net = backlog.filled(self._net, [])
        return waiting

    def give(self, frames: Sequence[bytes]) -> None:
        """Deliver complete `frames` to the guest, in order, before the tap's frames.

        Only while stopped. A frame has at most `layout.FRAME_MAX` bytes.
        """
        self._net = backlog.filled(self._net, [*backlog.frames(self._net), *frames])

    def take_faults(self) -> list[tuple[Kind, Fault]]:
        """The rings that broke since the last call, and the faults."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fault_fd)
        self._collect_faults()
        faults, self._faults = self._faults, []
        return faults

    def misses(self) -> list[tuple[Kind, int, int]]:
        """The rings that wait for a translation: kind, IOVA, and READ or WRITE."""
        found: list[tuple[Kind, int, int]] = []
        for kind, queue in self._queues.items():
            asked = queue.state["iotlb_asked"][0]
            written = kind == "rx" and asked == iotlb.BUFFER
            if asked:
                access = iotlb.WRITE if written else iotlb.READ
                found.append((kind, int(queue.state["iotlb_missed"][0]), access))
        return found

    def stations(self, now: int) -> list[LearnedStation]:
        """The stations that the guest has used of late; `learned_fd` tells of more. `now`: ms."""
        look_again(self._learned)
        return read(self._learned, now)

    def tell_of_claims(self, tell: bool) -> None:
        """Set whether every claim of the guest is news, or only that of an unseen address."""
        self._learned.state["cfg_every_claim"] = tell

    def forget(self) -> None:
        """Forget the stations of a guest that has gone. The pair is stopped."""
        if self._learned.state["stations"][0]:
            fresh.empty_learned(self._learned)
            tell_worker(self._learned)

    def _collect_faults(self) -> None:
        kinds: tuple[Kind, ...] = ("rx", "tx")
        for kind in kinds:
            fault = int(self._states[kind]["fault"][0])
            if fault and kind not in self._told:
                self._told.add(kind)
                self._faults.append((kind, Fault(fault)))

    def _configure(self, config: PairConfig) -> None:
        """Set the state that both directions share. A frame that waits for buffers stays."""
        state = self._net.state
        if state["cfg_header_size"][0] != config.header_size:
            state["rx_pending"] = 0
        state["cfg_header_size"] = config.header_size
        state["cfg_mergeable"] = config.has(Feature.MRG_RXBUF)
        state["cfg_guest_csum"] = config.has(Feature.GUEST_CSUM)
        state["cfg_csum"] = config.has(Feature.CSUM)
        state["cfg_ecn"] = config.has(Feature.HOST_ECN)
        state["cfg_gso_types"] = sum(1 << n for bit, n in _GSO_TYPES.items() if config.has(bit))
        state["cfg_finish_offloads"] = config.finish_offloads
        state["cfg_finish_udp"] = config.finish_udp
        for name in ("tx_iovec", "tx_headers", "tx_position", "tx_tap_full", "rx_tap_lost"):
            state[name] = 0
        state["cfg_iommu"] = config.iommu
        state["cfg_log_rows"] = len(config.regions) if config.iommu else 0
        for kind, queue in self._queues.items():
            fresh.empty(queue)
            if config.iommu:
                iotlb.look_up(queue, config.regions, writes=kind == "rx")

    def _resumed(
        self, kind: Kind, vring: VringConfig | None, config: PairConfig
    ) -> VringConfig | None:
        words = self._journals[kind]
        if vring is None or not vring.resumes or not journal.names(words, vring.identity):
            return vring
        ring = views(kind, vring, config, self._states[kind], words)
        try:
            tracking = self._track(kind, ring, vring, config)
        except inflight.DamagedError:
            return vring  # the ring will not begin
        at = resume(ring, config.memory(kind), self._net)
        del tracking  # holds the region's views until here
        if at < 0:
            journal.end(words)
            return vring
        return replace(vring, next_avail=at, resumed=True)

    def _track(
        self, kind: Kind, ring: layout.Vring, vring: VringConfig, config: PairConfig
    ) -> inflight.Tracking | None:
        """Track the chains in flight in the front-end's region, if any. Raises DamagedError."""
        if vring.inflight is None:
            return None
        if ring.state[0]["packed"]:
            return inflight_packed.track(ring, vring.inflight, config.memory(kind), self._net)
        return inflight.track(ring, vring.inflight)

    def _vring(self, kind: Kind, vring: VringConfig | None, config: PairConfig) -> layout.Vring:
        """The loop's record of a vring; without entries if there is no vring."""
        state, words = self._states[kind], self._journals[kind]
        if vring is None:
            return no_views(state, words)
        made = views(kind, vring, config, state, words)
        self._check_eventfds(state)
        try:
            self._tracking[kind] = self._track(kind, made, vring, config)
        except inflight.DamagedError as error:
            self._break(state, error.fault)
        if state["packed"][0] and not config.pages_missing and not stands_at_base(made):
            self._break(state, Fault.BASE_STALE)
        journal.begin(made, vring.identity)
        return made

    def _check_eventfds(self, state: layout.Records) -> None:
        """Break a ring whose fds could block the loop for ever, or always be ready."""
        for name, fault in (
            ("kick_fd", Fault.KICK_NOT_EVENTFD),
            ("call_fd", Fault.CALL_NOT_EVENTFD),
            ("err_fd", Fault.CALL_NOT_EVENTFD),
        ):
            fd = int(state[name][0])
            if fd >= 0 and not is_eventfd(fd):
                state[name] = -1
                self._break(state, fault)
            elif fd >= 0 and name != "kick_fd":
                os.set_blocking(fd, False)

    def _break(self, state: layout.Records, fault: Fault) -> None:
        """Keep a ring from beginning, by `fault`."""
        state["fault"] = fault
        self._net.faults[fault] += 1
        os.eventfd_write(self.fault_fd, 1)

    def _unblock(self) -> None:
        """Free a loop that a peer blocks in a write, by an eventfd counted up to its limit.

        The peer has the same fds, so it can make them blocking again.
        """
        scratch = np.zeros(6, np.int64)
        for state in self._states.values():
            for name in ("call_fd", "err_fd"):
                if state[name][0] >= 0:
                    read_event(int(state[name][0]), scratch)
