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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ovs_vhost_plugin.common.uring import Uring
from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.layout import FRAME_MAX, HEADER_MAX
from ovs_vhost_plugin.jit.loop import run
from ovs_vhost_plugin.jit.net.learn import look_again, tell_worker
from ovs_vhost_plugin.jit.uring import new_batch
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.worker.device.ring import Ring
from ovs_vhost_plugin.worker.device.vringconfig import (
    Kind,
    PairCapture,
    PairConfig,
    VringConfig,
    Words,
)
from ovs_vhost_plugin.worker.learned.stations import LearnedStation, read
from ovs_vhost_plugin.worker.recovery import journal
from ovs_vhost_plugin.worker.tap import backlog

# gso_type (virtio 1.2, 5.1.6.1) of each feature that lets the driver use it
_GSO_TYPES = {
    Feature.HOST_TSO4: 1,
    Feature.HOST_UFO: 3,
    Feature.HOST_TSO6: 4,
    Feature.HOST_USO: 5,
}
_JOIN_PATIENCE = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Counters and faults by name, and the stations and addresses that made room for others."""

    counters: Mapping[str, int]
    faults: Mapping[str, int]
    replaced: int


class QueuePair:
    """Queue pair `index` on the tap queue `tap_fd`, which is non-blocking.

    learned_fd  an eventfd, written when `stations` has something new; -1: nobody waits
    loop        runs in the thread until `Pair.stop` is set
    journals    the two rings' journals, which outlive this process; None: journals that do not
    watch       the port's addresses, to report others' claims to them
    uring       by which frames of the guest go to the tap together; None: each goes by itself
    """

    def __init__(
        self,
        index: int,
        tap_fd: int,
        learned_fd: int = -1,
        loop: Callable[[layout.Pair], None] = run,
        journals: Sequence[Words] | None = None,
        watch: fresh.Watch | None = None,
        uring: Uring | None = None,
    ) -> None:
        self.index = index
        rx_journal, tx_journal = journals or (journal.fresh(), journal.fresh())
        self.rx = Ring(2 * index, rx_journal)  # virtio 1.2, 5.1.2: receiveq1, transmitq1, ...
        self.tx = Ring(2 * index + 1, tx_journal)
        self.rings = (self.rx, self.tx)
        self._loop = loop
        self.fault_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when a ring broke, or as the `tell_of_...` say: call `take_faults` then."""
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = np.zeros(1, np.int64)
        self._net = fresh.new_net()
        self._net.state["cfg_tap_fd"] = tap_fd
        self._net.state["cfg_wake_fd"] = self._wake_fd
        self._net.state["cfg_fault_fd"] = self.fault_fd
        # Each pair of each worker begins with another value (RFC 7739, 5).
        self._net.state["tx_fragment_id"] = secrets.randbits(32)
        self._batch = None if uring is None else (uring, *new_batch(uring, tap_fd))
        if self._batch is not None:
            self._net.state["cfg_batch"] = self._batch[1].ctypes.data
        self._learned = fresh.new_learned(learned_fd, watch)
        self._prepared: layout.Pair | None = None
        self._served: layout.Pair | None = None  # while the loop runs
        self._capture: tuple[PairCapture | None, layout.Records | None] = None, None  # kept alive
        self._ended: threading.Event | None = None  # set when the thread has left the loop
        self.regions = np.zeros(0, layout.REGION_DTYPE)
        """The regions, or translations, by which the rings were last prepared."""
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

    @property
    def fill(self) -> dict[str, int]:
        """The size of each ring, and how full it is, by name; at any time, as counters."""
        found: dict[str, int] = {}
        for ring in self.rings:
            found[f"{ring.kind}_ring_size"], found[f"{ring.kind}_ring_filled"] = ring.fill
        return found

    def prepare(self, config: PairConfig) -> None:
        """Make the rings ready to run as `config` says; `start` runs them. Stops a running loop."""
        if self.running:
            self.stop()
        self._configure(config)
        self.regions = config.regions
        self._prepared = layout.Pair(
            rx=self.rx.prepare(config.rx, config, self._net),
            tx=self.tx.prepare(config.tx, config, self._net),
            rx_queue=self.rx.queue,
            tx_queue=self.tx.queue,
            rx_memory=config.memory("rx"),
            tx_memory=config.memory("tx"),
            net=self._net,
            learned=self._learned,
            poll=np.zeros(4, layout.POLLFD_DTYPE),
            stop=self._stop,
        )

    def start(self) -> None:
        """Run the loop in a thread of its own, on the rings as they were prepared."""
        pair, self._prepared = self._prepared, None
        assert pair is not None
        self.used = True
        self._begin_loop(pair, self._run)

    def stop(self, *, quietly: bool = False) -> None:
        """End the loop: after this nothing writes to guest memory, log or tap.

        The drivers are called when their rings resume, unless they stop `quietly`.
        """
        self._end_loop()
        for ring in self.rings:
            ring.pause()
            ring.call_first = ring.call_first or not quietly

    def capture(self, capture: PairCapture | None) -> None:
        """Record frames as `capture` says from now on; None: no more. The loop rests meanwhile."""
        served = self._end_loop()
        record = None if capture is None else capture.record()
        self._net.state["cfg_capture"] = 0 if record is None else record.ctypes.data
        self._capture = capture, record
        if served is not None:
            for ring in (served.rx, served.tx):
                ring.state["call_first"] = 0  # no call was lost: the driver notices nothing
            self._begin_loop(served, self._resume)

    def _begin_loop(
        self, pair: layout.Pair, run: Callable[[layout.Pair, threading.Event], None]
    ) -> None:
        self._stop[0] = 0
        ended = threading.Event()
        # Not threading.Thread: its start() waits until the new thread runs, milliseconds on a busy
        # host, during which a guest that has moved stands still.
        _thread.start_new_thread(run, (pair, ended))
        # A thread that could not be started is not waited for.
        self._served, self._ended = pair, ended

    def _end_loop(self) -> layout.Pair | None:
        """End the loop; return what it served, None if it did not run."""
        ended, self._ended = self._ended, None
        served, self._served = self._served, None
        if ended is not None:
            self._stop[0] = 1
            os.eventfd_write(self._wake_fd, 1)
            waits = 1
            while not ended.wait(_JOIN_PATIENCE):
                for ring in self.rings:
                    ring.unblock()
                self.on_stuck(waits * _JOIN_PATIENCE)
                waits += 1
        return served

    def _run(self, pair: layout.Pair, ended: threading.Event) -> None:
        """The thread: tell the front-end of rings that do not begin, and run the loop."""
        try:
            for ring in (pair.rx, pair.tx):
                err_fd = int(ring.state["err_fd"][0])
                if ring.state["fault"][0] and err_fd >= 0:
                    with suppress(BlockingIOError):  # full: its reader wakes anyway
                        os.eventfd_write(err_fd, 1)
        finally:
            self._resume(pair, ended)

    def _resume(self, pair: layout.Pair, ended: threading.Event) -> None:
        """The thread of a loop that rested."""
        try:
            self._loop(pair)
        finally:
            ended.set()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        os.close(self._wake_fd)
        os.close(self.fault_fd)

    def hand_over(self, ring: Ring, vring: VringConfig, config: PairConfig, *, keep: bool) -> int:
        """Leave nothing in flight in a stopped vring; return where it resumes (`Ring`)."""
        return ring.hand_over(vring, config, self._net, keep=keep)

    @property
    def counts(self) -> PairCounts:
        """The counts so far, for another process to go on from."""
        counts = self._net.counters[0]
        return PairCounts(
            {name: int(counts[name]) for name in layout.COUNTERS_DTYPE.names or ()},
            {f.kebab: count for f in Fault if (count := int(self._net.faults[f]))},
            int(self._learned.state["replaced"][0]),
        )

    @property
    def pending(self) -> tuple[bytes, int]:
        """The frame that waits for buffers, with its header, and until when (ms). While stopped."""
        state = self._net.state[0]
        return self._net.pending[: int(state["rx_pending"])].tobytes(), int(
            state["rx_pending_until"]
        )

    @property
    def backlog(self) -> list[bytes]:
        """The frames that the guest gets before those of the tap. While stopped."""
        return backlog.frames(self._net)

    def go_on_from(
        self, counts: PairCounts, pending: bytes, until: int, header_size: int, *, used: bool
    ) -> None:
        """Go on where the pair of another process stopped; names that are not known are left.

        Raises ValueError if `pending` is no header and frame.
        """
        if pending and not header_size < len(pending) <= HEADER_MAX + FRAME_MAX:
            raise ValueError(f"{len(pending)} bytes of a header and a frame")
        most = (1 << 62) - 1
        for name in set(counts.counters).intersection(layout.COUNTERS_DTYPE.names or ()):
            self._net.counters[name] = min(counts.counters[name], most)
        for fault in Fault:
            self._net.faults[fault] = min(counts.faults.get(fault.kebab, 0), most)
        self._learned.state["replaced"] = min(counts.replaced, most)
        self._net.pending[: len(pending)] = np.frombuffer(pending, np.uint8)
        state = self._net.state
        state["cfg_header_size"], state["rx_pending"] = header_size, len(pending)
        state["rx_pending_until"] = until
        self.used = used

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
        faults = ((ring.kind, ring.take_fault()) for ring in self.rings)
        return [(kind, fault) for kind, fault in faults if fault is not None]

    def stations(self, now: int) -> list[LearnedStation]:
        """The stations that the guest has used of late; `learned_fd` tells of more. `now`: ms."""
        look_again(self._learned)
        return read(self._learned, now)

    def tell_of_claims(self, tell: bool) -> None:
        """Set whether every claim of the guest is news, or only that of an unseen address."""
        self._learned.state["cfg_every_claim"] = tell

    def tell_of_kicks(self, tell: bool) -> None:
        """Set whether `fault_fd` is readable after each kick as well."""
        self._net.state["cfg_tell_kicks"] = tell

    @property
    def tells_of_frames(self) -> bool:
        """Whether `fault_fd` will be readable once the guest's ring has been given frames.

        Set by `tell_of_frames`; over as soon as it has happened.
        """
        return bool(self._net.state["tell_received"][0])

    def tell_of_frames(self, tell: bool) -> None:
        """Set `tells_of_frames`."""
        self._net.state["tell_received"] = tell

    def forget(self) -> None:
        """Forget the stations of a guest that has gone. The pair is stopped."""
        if self._learned.state["stations"][0]:
            fresh.empty_learned(self._learned)
            tell_worker(self._learned)

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
