# SPDX-License-Identifier: Apache-2.0
"""The device behind a session: executes its effects on memory, dirty log, rings and tap.

Everything that rings depend on changes only while they are stopped: the queue pairs are joined,
the change is made, and the rings go on at the index they had reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.vhost import effects
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.eventfd import require_eventfd
from ovs_vhost_plugin.vhost.log import DirtyLog
from ovs_vhost_plugin.vhost.memory import MemoryTable
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import Feature, VringAddressFlag, used_bytes
from ovs_vhost_plugin.worker.holding import Holding
from ovs_vhost_plugin.worker.queuepair import Kind, PairConfig, QueuePair, VringConfig
from ovs_vhost_plugin.worker.tapqueues import TapQueues

_DESC_BYTES = 16  # virtio 1.2, 2.7.5
_AVAIL_BYTES = 6  # flags, idx, used_event (2.7.6), beside 2 an entry


class Observer(Protocol):
    """Who is told what the device learns."""

    def rarp(self, mac: bytes) -> None:
        """The front-end asks to announce `mac`."""

    def started(self, base: int) -> None:
        """The guest's rings begin to run at the avail index `base`."""

    def error(self, error: PeerError) -> None:
        """A peer's mistake that did not cost it the connection."""


class Device:
    """Memory, log and queue pairs of one port, for one session after the other."""

    def __init__(
        self,
        pairs: Sequence[QueuePair],
        taps: TapQueues,
        observer: Observer,
        holding: Holding,
        *,
        finish_offloads: bool,
    ) -> None:
        self.pairs = tuple(pairs)
        self.expecting = False  # frames are let into the tap for a guest that does not run yet
        self.mtu: int | None = None
        self._taps = taps
        self._observer = observer
        self._holding = holding
        self._finish_offloads = finish_offloads
        self._session: Session | None = None
        self._memory: MemoryTable | None = None
        self._log: DirtyLog | None = None
        self._next_avail: dict[int, int] = {}  # running vrings
        self._has_run = False  # whether any ring has, in this session
        self._broken: set[int] = set()
        taps.set_format(self.header_size, self._features)

    def attach(self, session: Session) -> None:
        """Serve `session`; the one before was detached."""
        self._session = session

    def detach(self) -> None:
        """The front-end has gone: stop, and let its memory go."""
        for pair in self.pairs:
            self._stop_pair(pair)
            pair.forget()
        self._next_avail.clear()
        self._broken.clear()
        self._holding.front_end_gone()
        self.expecting = self._has_run = False
        self.update_tap()
        self._replace_memory(None)
        self._replace_log(None)
        if self._session is not None:
            self._session.close()
            self._session = None
        self._taps.set_format(self.header_size, self._features)

    @property
    def running(self) -> bool:
        """Whether the guest can receive."""
        return any(self._receives(pair.index) for pair in self.pairs)

    @property
    def header_size(self) -> int:
        """Bytes of a virtio-net header: num_buffers is there or not (virtio 1.2, 5.1.6.1)."""
        return 12 if self._has(Feature.VERSION_1) or self._has(Feature.MRG_RXBUF) else 10

    def set_finish_offloads(self, finish: bool) -> None:
        """Follow the bridge: whether its datapath takes checksums and segmentation undone."""
        if finish != self._finish_offloads:
            with self._stopped(*self.pairs):
                self._finish_offloads = finish

    def answer(self, message: Message) -> Message | None:
        """Have the session handle `message`, execute its effects; the reply, if there is one.

        Raises the PeerError that costs the front-end its connection.
        """
        assert self._session is not None
        conversation = self._session.receive(message)
        try:
            effect = next(conversation)
            while True:
                try:
                    result = self.execute(effect)
                except PeerError as error:
                    effect = conversation.throw(error)
                else:
                    effect = conversation.send(result)
        except StopIteration as stop:
            reply: Message | None = stop.value
            return reply

    def execute(self, effect: effects.Effect) -> object:
        """Carry out `effect`; the answer goes back into the session. Raises PeerError."""
        match effect:
            case effects.SetFeatures():
                with self._stopped(*self.pairs):
                    self._taps.set_format(self.header_size, self._features)
            case effects.SetMemoryTable(regions, fds):
                table = MemoryTable(regions, fds)
                with self._stopped(*self.pairs):
                    self._replace_memory(table)
            case effects.SetLog(size, offset, fd):
                log = DirtyLog(size, offset, fd)
                if self._memory is not None:
                    log.require(self._memory.guest_end)
                with self._stopped(*self.pairs):
                    self._replace_log(log)
            case effects.ReconfigureVring(index):
                self._reconfigure(index)
            case effects.StopVring(index):
                return self._stop_vring(index)
            case effects.SendRarp(mac):
                self._expect()
                self._observer.rarp(mac)
            case effects.SetMtu(mtu):
                self.mtu = mtu
            case effects.Refused(error):
                self._observer.error(error)
        return None

    def collect_faults(self, pair: QueuePair) -> None:
        """Take note of rings the loop gave up."""
        self._note_faults(pair)
        self.update_tap()

    # -- rings ---------------------------------------------------------------------------------

    @contextmanager
    def _stopped(self, *pairs: QueuePair) -> Iterator[None]:
        for pair in pairs:
            self._stop_pair(pair)
        try:
            yield
        finally:
            for pair in pairs:
                for error in self._start_pair(pair).values():
                    self._observer.error(error)

    def _reconfigure(self, index: int) -> None:
        assert self._session is not None
        vring = self._session.vrings[index]
        for fd in (vring.kick_fd, vring.call_fd, vring.err_fd):
            if fd >= 0:
                require_eventfd(fd)
        if vring.base and index % 2 == 0:
            self._expect()
        pair = self.pairs[index // 2]
        self._stop_pair(pair)
        errors = self._start_pair(pair)
        own = errors.pop(index, None)
        for error in errors.values():  # the other ring's: not what was asked for
            self._observer.error(error)
        if own is not None:
            raise own

    def _stop_vring(self, index: int) -> int:
        """Stop one vring for GET_VRING_BASE: nothing is written for it after this returns."""
        assert self._session is not None
        pair = self.pairs[index // 2]
        leaves = index % 2 == 0 and self._receives(pair.index) and self._has(Feature.LOG_ALL)
        self._stop_pair(pair)
        base = self._next_avail.pop(index, self._session.vrings[index].base)
        self._broken.discard(index)
        if leaves and self._holding.enabled:
            self._leave(pair)
        for error in self._start_pair(pair, without=index).values():
            self._observer.error(error)
        return base

    def _leave(self, pair: QueuePair) -> None:
        """The guest migrates, ring by ring: keep what came to this one's queue, in order.

        While another pair receives, it is that one's: a queue that is detached loses what is in
        it. Queue 0 stays attached, and is left as it is. With the last pair the hold begins.
        """
        other = next((p for p in self.pairs if self._receives(p.index)), None)
        if other is None:
            self._holding.begin(pair.index, pair.take_waiting())
            if pair.index > 0:
                with self._stopped(self.pairs[0]):  # its transmit ring may go on
                    self._holding.begin(0, self.pairs[0].take_waiting())
        elif pair.index > 0:
            with self._stopped(other):
                frames = self._holding.drain(pair.index, pair.take_waiting())
                self.update_tap()
                other.give(frames)

    def _stop_pair(self, pair: QueuePair) -> None:
        pair.stop()
        for kind, index in _vrings_of(pair):
            if index in self._next_avail:
                self._next_avail[index] = pair.next_avail(kind)
        # Later they would be taken for those of the session, or the start, that comes next.
        self._note_faults(pair)

    def _note_faults(self, pair: QueuePair) -> None:
        for kind, fault in pair.take_faults():
            index = 2 * pair.index + (kind == "tx")
            self._broken.add(index)
            self._observer.error(PeerError(fault.kebab, f"vring {index} stopped"))

    def _start_pair(self, pair: QueuePair, without: int = -1) -> dict[int, PeerError]:
        """Start what of `pair` can run; return why a vring cannot, by index."""
        errors = {}
        fresh = not self._next_avail
        vrings: dict[Kind, VringConfig | None] = {}
        for kind, index in _vrings_of(pair):
            try:
                vrings[kind] = None if index == without else self._vring(index)
            except PeerError as error:
                self._next_avail.pop(index, None)
                vrings[kind] = None
                # Without the frames it passed, which would keep views of guest memory mapped.
                errors[index] = error.with_traceback(None)
        rx, tx = vrings["rx"], vrings["tx"]
        if rx is not None and rx.enabled:
            self._welcome(pair)
        self.update_tap()  # before the loop reads: it takes a detached queue for a broken one
        if self._memory is not None and (rx is not None or tx is not None):
            self._has_run = True
            pair.start(self._pair_config(rx, tx, self._memory))
            if fresh:
                self._observer.started(max(v.next_avail for v in (rx, tx) if v is not None))
        return errors

    def _welcome(self, pair: QueuePair) -> None:
        """Decide what of all that came before its ring runs is the guest's.

        What a hold kept, if it comes back to where it left; what came since it was expected; else
        nothing: a tap keeps what nobody reads, however old, and a guest must not get it.
        """
        if self._holding.covers(pair.index):
            pair.give(self._holding.give_back(pair.index))
        elif not self._taps.carrier:
            self._discard()

    def _discard(self) -> None:
        self._taps.discard()
        for pair in self.pairs:
            if not pair.running:
                pair.take_waiting()

    def _expect(self) -> None:
        """Let frames into the tap for a guest that is about to run: the network may know already.

        SEND_RARP comes before the rings are set up; a tap queue keeps `txqueuelen` frames. A guest
        that was here before and is stopped is not about to run.
        """
        if not self._has_run and not self._taps.carrier:
            self._discard()
            self.expecting = True
            self.update_tap()

    def expect_no_more(self) -> None:
        """The rings have not started in time: what came is dropped when they do."""
        self.expecting = False
        self.update_tap()

    def _pair_config(
        self, rx: VringConfig | None, tx: VringConfig | None, memory: MemoryTable
    ) -> PairConfig:
        features = self._features
        logging = self._log is not None and self._has(Feature.LOG_ALL)
        return PairConfig(
            rx=rx,
            tx=tx,
            regions=memory.regions,
            log=self._log.bitmap if self._log is not None and logging else None,
            header_size=self.header_size,
            features=features,
            finish_offloads=self._finish_offloads,
        )

    def _vring(self, index: int) -> VringConfig | None:
        if self._session is None or self._memory is None or index in self._broken:
            return None
        vring = self._session.vrings[index]
        if not vring.ready():
            return None
        view = self._memory.view
        used = view(vring.used_user, used_bytes(vring.size), 4)
        return VringConfig(
            size=vring.size,
            desc=view(vring.desc_user, _DESC_BYTES * vring.size, 16),
            avail=view(vring.avail_user, _AVAIL_BYTES + 2 * vring.size, 2),
            used=used,
            next_avail=self._next_avail.setdefault(index, _first_avail(vring.base, used)),
            kick_fd=vring.kick_fd,
            call_fd=vring.call_fd,
            err_fd=vring.err_fd,
            enabled=vring.enabled,
            log_used=bool(vring.flags & VringAddressFlag.LOG),
            log_guest=vring.log_guest,
        )

    # -- what rings depend on --------------------------------------------------------------------

    @property
    def _features(self) -> int:
        return 0 if self._session is None else self._session.features

    def _has(self, bit: Feature) -> bool:
        return bool(self._features & bit.mask)

    def _receives(self, pair_index: int) -> bool:
        index = 2 * pair_index
        return (
            self._session is not None
            and index in self._next_avail
            and index not in self._broken
            and self._session.vrings[index].enabled
        )

    def update_tap(self) -> None:
        """Let the tap follow what receives, is held or expected: steering and carrier."""
        receives = [self._receives(pair.index) for pair in self.pairs]
        self.expecting = self.expecting and not any(receives)
        held = [self._holding.covers(pair.index) for pair in self.pairs]
        # A queue that is detached loses what is in it.
        self._taps.set_attached([a or b for a, b in zip(receives, held, strict=True)])
        self._taps.set_carrier(any(receives) or any(held) or self.expecting)

    def _replace_memory(self, table: MemoryTable | None) -> None:
        old, self._memory = self._memory, table
        if old is not None:
            old.close()

    def _replace_log(self, log: DirtyLog | None) -> None:
        old, self._log = self._log, log
        if old is not None:
            old.close()


def _vrings_of(pair: QueuePair) -> tuple[tuple[Kind, int], tuple[Kind, int]]:
    """The vrings of a queue pair (virtio 1.2, 5.1.2): the guest receives from the even one."""
    return ("rx", 2 * pair.index), ("tx", 2 * pair.index + 1)


def _first_avail(base: int, used: NDArray[np.uint8]) -> int:
    """Where a ring that starts goes on: at the base its front-end gives.

    A front-end whose back-end died was not told a base. QEMU then takes the used index, as a
    split ring gives chains back in order; DPDK's virtio-user says 0 and leaves that to us.
    """
    return base or int.from_bytes(used[2:4].tobytes(), "little")  # virtio 1.2, 2.7.8: idx
