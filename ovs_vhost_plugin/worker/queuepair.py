# SPDX-License-Identifier: Apache-2.0
"""A queue pair: two vrings, a queue of the tap, and the thread that runs the compiled loop.

Here end Python's objects and begin the arrays that the loop works on. While the thread runs,
nothing else writes them; what is only counted may be read at any time.
"""

from __future__ import annotations

import _thread
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.learn import look_again, tell
from ovs_vhost_plugin.jit.loop import run
from ovs_vhost_plugin.jit.packed import stands_at_base
from ovs_vhost_plugin.jit.syscalls import read_event
from ovs_vhost_plugin.vhost.eventfd import is_eventfd
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.worker.stations import Station, read

Kind = Literal["rx", "tx"]
Bytes = NDArray[np.uint8]

# gso_type (virtio 1.2, 5.1.6.1) of each feature that lets the driver use it
_GSO_TYPES = {Feature.HOST_TSO4: 1, Feature.HOST_TSO6: 4, Feature.HOST_USO: 5}
_JOIN_PATIENCE = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class VringConfig:
    """A vring to run: where it is, where it goes on, and whom to wake. fds stay the caller's."""

    size: int
    desc: Bytes  # 16 bytes an entry, aligned to 16
    avail: Bytes  # 6 + 2 bytes an entry, aligned to 2; packed: driver event area, 4 and 4
    used: Bytes  # 6 + 8 bytes an entry, aligned to 4; packed: device event area, 4 and 4
    next_avail: int  # packed: a position, see vhost/packed_base.py
    kick_fd: int = -1  # an eventfd; -1: the driver does not kick, so the ring is looked at every ms
    call_fd: int = -1  # an eventfd; -1: the driver polls
    err_fd: int = -1
    enabled: bool = True
    log_used: bool = False
    log_guest: int = 0  # guest address of `used` in the dirty log
    log_desc: int = 0  # packed: of `desc`


@dataclass(frozen=True, slots=True)
class PairConfig:
    """All that a queue pair depends on while it runs."""

    rx: VringConfig | None  # the guest receives: vring 2i
    tx: VringConfig | None  # the guest transmits: vring 2i + 1
    regions: NDArray[Any]  # fields guest, size, host; with an IOMMU also logged, access
    log: Bytes | None  # dirty log; None: nothing is logged
    header_size: int  # of the virtio-net header, here and on the tap: 10 or 12
    features: int  # negotiated
    finish_offloads: bool  # whether checksums and segments are finished before the tap


class QueuePair:
    """Queue pair `index` on the tap queue `tap_fd`, which is non-blocking.

    `learned_fd` is an eventfd, written when `stations` has something new; -1: nobody waits.
    `loop` is what the thread runs until `Pair.stop` is set.
    """

    def __init__(
        self,
        index: int,
        tap_fd: int,
        learned_fd: int = -1,
        loop: Callable[[layout.Pair], None] = run,
    ) -> None:
        self.index = index
        self._loop = loop
        self.fault_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when a ring broke: then `take_faults`."""
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = np.zeros(1, np.int64)
        self._net = layout.new_net()
        self._net.state["tap_fd"] = tap_fd
        self._net.state["wake_fd"] = self._wake_fd
        self._net.state["fault_fd"] = self.fault_fd
        self._learned = layout.new_learned(learned_fd)
        self._queues: dict[Kind, layout.Queue] = {
            "rx": layout.new_queue(),
            "tx": layout.new_queue(),
        }
        self._states = {"rx": np.zeros(1, layout.RING), "tx": np.zeros(1, layout.RING)}
        self._faults: list[tuple[Kind, Fault]] = []
        self._told: set[Kind] = set()  # whose fault is in there, or was
        self._ended: threading.Event | None = None  # set when the thread has left the loop

    @property
    def running(self) -> bool:
        """Whether the loop may touch guest memory, log and tap."""
        return self._ended is not None

    @property
    def counters(self) -> dict[str, int]:
        """Counts since the pair was made; a fault's as "fault_<name>", once there was one."""
        counts = self._net.counters[0]
        names = layout.COUNTERS.names or ()
        faults = {f"fault_{f.name.lower()}": int(self._net.faults[f]) for f in Fault}
        learned = {"learned_replaced": int(self._learned.state["replaced"][0])}
        return (
            {name: int(counts[name]) for name in names}
            | learned
            | {name: count for name, count in faults.items() if count}
        )

    def start(self, config: PairConfig) -> None:
        """Run the loop in a thread of its own; stops first what runs."""
        self.stop()
        self._collect_faults()
        self._told.clear()
        self._configure(config)
        pair = layout.Pair(
            rx=self._vring("rx", config.rx, config),
            tx=self._vring("tx", config.tx, config),
            rx_queue=self._queues["rx"],
            tx_queue=self._queues["tx"],
            memory=layout.Memory(
                regions=layout.region_table(config.regions),
                log=np.zeros(0, np.uint8) if config.log is None else config.log,
            ),
            net=self._net,
            learned=self._learned,
            poll=np.zeros(4, layout.POLLFD),
            stop=self._stop,
        )
        self._stop[0] = 0
        self._ended = threading.Event()
        # Not threading.Thread, whose start() waits until the processor has come to the new thread:
        # for milliseconds on a busy host, in which a guest that has moved stands still.
        _thread.start_new_thread(self._run, (pair, self._ended))

    def stop(self) -> None:
        """End the loop: after this nothing writes to guest memory, log or tap."""
        ended, self._ended = self._ended, None
        if ended is None:
            return
        self._stop[0] = 1
        os.eventfd_write(self._wake_fd, 1)
        while not ended.wait(_JOIN_PATIENCE):
            self._unblock()

    def _run(self, pair: layout.Pair, ended: threading.Event) -> None:
        try:
            self._loop(pair)
        finally:
            ended.set()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        os.close(self._wake_fd)
        os.close(self.fault_fd)

    def next_avail(self, kind: Kind) -> int:
        """Where a stopped vring goes on: the index of the first chain not given back.

        Of a packed one it is a position.
        """
        return int(self._states[kind]["next_avail"][0])

    def take_waiting(self) -> list[bytes]:
        """Take what was read for the guest and not delivered, oldest first, each with its header.

        Only while stopped.
        """
        state, net = self._net.state, self._net
        waiting = [net.pending[: state["pending"][0]].tobytes()] if state["pending"][0] else []
        header = bytes(int(state["header_size"][0]))
        waiting += [header + frame for frame in self._backlog()]
        state["pending"] = 0
        self._set_backlog([])
        return waiting

    def give(self, frames: Sequence[bytes]) -> None:
        """Have the guest receive complete `frames`, in order, before what the tap has.

        Only while stopped; each at most `layout.FRAME_MAX` bytes.
        """
        self._set_backlog([*self._backlog(), *frames])

    def take_faults(self) -> list[tuple[Kind, Fault]]:
        """Rings that broke since this was last called, and why."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fault_fd)
        self._collect_faults()
        faults, self._faults = self._faults, []
        return faults

    def misses(self) -> list[tuple[Kind, int, int]]:
        """What rings wait for: of each its IOVA, and READ or WRITE of the layout."""
        held = ((kind, queue.state[0]) for kind, queue in self._queues.items())
        return [(k, int(s["missed"]), int(s["missed_access"])) for k, s in held if s["asked"]]

    def stations(self, now: int) -> list[Station]:
        """What the guest has used of late, `now` in ms; `learned_fd` tells of what follows."""
        look_again(self._learned)
        return read(self._learned, now)

    def forget(self) -> None:
        """Forget what the guest uses: it has gone. The pair is stopped."""
        if self._learned.state["stations"][0]:
            layout.empty_learned(self._learned)
            tell(self._learned)

    def _backlog(self) -> list[bytes]:
        state = self._net.state
        data, frames = self._net.backlog, []
        at, end = int(state["backlog_at"][0]), int(state["backlog_end"][0])
        while at < end:
            begin = at + layout.BACKLOG_LENGTH
            at = begin + int.from_bytes(data[at:begin].tobytes(), "little")
            frames.append(data[begin:at].tobytes())
        return frames

    def _set_backlog(self, frames: Sequence[bytes]) -> None:
        parts = (len(f).to_bytes(layout.BACKLOG_LENGTH, "little") + f for f in frames)
        backlog = np.frombuffer(bytearray(b"".join(parts)), np.uint8)
        self._net = self._net._replace(backlog=backlog)
        self._net.state["backlog_at"] = 0
        self._net.state["backlog_end"] = len(backlog)

    def _collect_faults(self) -> None:
        kinds: tuple[Kind, ...] = ("rx", "tx")
        for kind in kinds:
            fault = int(self._states[kind]["fault"][0])
            if fault and kind not in self._told:
                self._told.add(kind)
                self._faults.append((kind, Fault(fault)))

    def _configure(self, config: PairConfig) -> None:
        """What both directions share. A frame that waits for buffers goes on waiting."""
        state = self._net.state
        if state["header_size"][0] != config.header_size:
            state["pending"] = 0
        state["header_size"] = config.header_size
        state["mergeable"] = _has(config, Feature.MRG_RXBUF)
        state["guest_csum"] = _has(config, Feature.GUEST_CSUM)
        state["csum"] = _has(config, Feature.CSUM)
        state["ecn"] = _has(config, Feature.HOST_ECN)
        state["gso_types"] = sum(1 << n for bit, n in _GSO_TYPES.items() if _has(config, bit))
        state["finish_offloads"] = config.finish_offloads
        for name in ("taken", "headers", "position", "tap_full", "tap_lost"):
            state[name] = 0
        for queue in self._queues.values():
            layout.empty(queue)

    def _vring(self, kind: Kind, vring: VringConfig | None, config: PairConfig) -> layout.Vring:
        """A vring as the loop takes it; without entries if there is none."""
        state = self._states[kind]
        if vring is None:
            stands_at = int(state["next_avail"][0])
            state[:] = 0
            state["next_avail"] = stands_at  # a broken one is asked for it later
            nothing = np.zeros(0, np.uint16)
            return layout.Vring(
                np.zeros(0, np.uint64), nothing, nothing, np.zeros(0, np.uint32), state
            )
        packed = _has(config, Feature.RING_PACKED)
        used = vring.used.view(np.uint16)
        next_used = vring.next_avail if packed else int(used[1])
        iommu = _has(config, Feature.ACCESS_PLATFORM)
        values = {
            "size": vring.size,
            "writes": kind == "rx",
            "enabled": vring.enabled,
            "event_idx": _has(config, Feature.RING_EVENT_IDX),
            "indirect": _has(config, Feature.RING_INDIRECT_DESC),
            "packed": packed,
            "in_order": _has(config, Feature.IN_ORDER),
            "iommu": iommu,
            "next_avail": vring.next_avail,
            "next_fetch": vring.next_avail,
            "avail_idx": vring.next_avail,
            "next_used": next_used,
            "published": next_used,
            "kick_fd": vring.kick_fd,
            "call_fd": vring.call_fd,
            "call_first": not iommu or vring.call_fd != state["call_fd"][0],
            "err_fd": vring.err_fd,
            "log_used": vring.log_used and config.log is not None,
            # One that wraps around is as far outside of any log.
            "log_guest": min(vring.log_guest, 2**64 - 2**20),
            "log_desc": vring.log_desc,
        }
        state[:] = 0
        for name, value in values.items():
            state[name] = value
        self._check_eventfds(state)
        elements = vring.used[4 : 4 if packed else 4 + 8 * vring.size]
        made = layout.Vring(
            desc=vring.desc[: 16 * vring.size].view(np.uint64),
            avail=vring.avail.view(np.uint16),
            used=used,
            elements=elements.view(np.uint32),
            state=state,
        )
        if packed and not stands_at_base(made):
            self._break(state, Fault.BASE_STALE)
        return made

    def _check_eventfds(self, state: layout.Records) -> None:
        """Break a ring whose fds could block the loop for ever, or never be done."""
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
        """Have a ring not begin."""
        state["fault"] = fault
        self._net.faults[fault] += 1
        os.eventfd_write(self.fault_fd, 1)

    def _unblock(self) -> None:
        """Let go a loop that a peer holds in a write, by an eventfd counted up to its limit.

        The fds are its as well as ours, so it can undo that we made them non-blocking.
        """
        scratch = np.zeros(6, np.int64)
        for state in self._states.values():
            for name in ("call_fd", "err_fd"):
                if state[name][0] >= 0:
                    read_event(int(state[name][0]), scratch)


def _has(config: PairConfig, bit: Feature) -> int:
    return config.features >> bit & 1
