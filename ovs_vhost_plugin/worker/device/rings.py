# SPDX-License-Identifier: Apache-2.0
"""Starts and stops the rings: a ring resumes at the index that it had reached.

Everything that rings depend on changes only while they are stopped: the queue pairs' threads are
joined, the change is made, and the rings resume. A front-end sets a ring up in five messages: the
pair stops at the first of the messages that are waiting, and resumes after the last (`settle`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.memory.iotlb import MissingError, overlap
from ovs_vhost_plugin.vhost.spec import Feature, IotlbAccess
from ovs_vhost_plugin.worker.device.misses import Misses
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.resources import Basis
from ovs_vhost_plugin.worker.device.vringconfig import Kind, VringConfig
from ovs_vhost_plugin.worker.tap.arrivals import Arrivals


class OnStart(Protocol):
    """Called when the guest's rings begin to run."""

    def __call__(self, base: int, *, further: bool) -> None:
        """`base`: the largest avail index at which a ring begins.

        `further`: the earlier rings all began at zero, and one more has now begun elsewhere.
        """


class Rings:
    """The vrings of one port's queue pairs, which serve one session after the other."""

    def __init__(
        self,
        pairs: Sequence[QueuePair],
        basis: Basis,
        arrivals: Arrivals,
        misses: Misses,
        *,
        on_start: OnStart,
        on_error: Callable[[PeerError], None],
        on_fault: Callable[[int, Fault], None],
    ) -> None:
        self.pairs = tuple(pairs)
        self._basis = basis
        self._arrivals = arrivals
        self._on_start = on_start
        self._on_error = on_error
        self._on_fault = on_fault
        self._misses = misses
        self._tables: dict[int, NDArray[np.void]] = {}  # translations of running pairs
        self._next_avail: dict[int, int] = {}  # of vrings that were started
        self._running: set[int] = set()  # started vrings whose memory is there
        self._began: dict[int, int] = {}  # vring: where it began, since all stood still
        self.has_run = False
        """Whether any ring has run in this session."""
        self._kicked: dict[int, int] = {}  # vring: its kicks before it was started
        self._broken: set[int] = set()
        self._unsettled: set[int] = set()  # pairs that `settle` will start
        self._to_call: set[int] = set()  # vrings whose drivers are called when they resume

    @property
    def running(self) -> bool:
        """Whether the guest can receive."""
        return any(self._receives(pair.index) for pair in self.pairs)

    def kicks(self, index: int) -> int:
        """The number of kicks of vring `index` since it was started."""
        return self._kicks_ever(index) - self._kicked.get(index, self._kicks_ever(index))

    @contextmanager
    def stopped(self, *pairs: QueuePair) -> Iterator[None]:
        """Stop the rings of `pairs` during a change; of all pairs, if none is named."""
        for pair in pairs or self.pairs:
            self._stop_pair(pair)
        try:
            yield
        finally:
            for pair in pairs or self.pairs:
                if any(self._matters(index) for _, index in _vrings_of(pair)):
                    for error in self._start_pair(pair).values():
                        self._on_error(error)

    def restart(self, index: int) -> None:
        """Let `settle` run vring `index` with the session's present configuration.

        Its pair stops at once: the session closes fds that were replaced. Raises PeerError if the
        vring cannot run; the other vring of the pair resumes all the same.
        """
        pair = self.pairs[index // 2]
        if not self._matters(index):
            return
        self._pause(pair)
        if index % 2 == 0 and index in self._running and not self._receives(pair.index):
            self._hand_over(pair)  # it was switched off
        if index not in self._broken:
            try:
                self._basis.vring(index, self._next_avail.get(index))
            except MissingError:
                pass  # `settle` asks for the translation
            except PeerError as error:
                raise _bare(error) from None

    def settle(self) -> None:
        """Start the pairs that wait: no more messages are waiting, or a message needs its reply.

        An error here is of the pair's other ring, or the front-end was told of it before.
        """
        for number in sorted(self._unsettled):
            for error in self._start_pair(self.pairs[number]).values():
                self._on_error(error)

    def note_misses(self, pair: QueuePair) -> None:
        """Ask for the translations that the rings of `pair` wait for."""
        for kind, iova, access in pair.misses():
            self._misses.missed(2 * pair.index + (kind == "tx"), iova, IotlbAccess(access))

    def updated(self, iova: int, size: int, access: IotlbAccess) -> None:
        """Let `settle` run the vrings that waited for this translation."""
        for number in {index // 2 for index in self._misses.updated(iova, size, access)}:
            self._pause(self.pairs[number], quietly=True)

    def invalidate(self, iova: int, size: int) -> None:
        """Drop translations, so that no ring uses them. `settle` restarts rings that did."""
        for pair in self.pairs:
            if pair.running and overlap(self._tables[pair.index], iova, size):
                self._pause(pair, quietly=True)
        self._basis.iotlb.invalidate(iova, size)

    def stop_vring(self, index: int, base: int) -> int:
        """Stop one vring for GET_VRING_BASE: nothing is written for it after this returns.

        Return the base at which it resumes; `base` if it never ran.
        """
        pair = self.pairs[index // 2]
        leaves = index % 2 == 0 and self._receives(pair.index) and self._basis.has(Feature.LOG_ALL)
        self._stop_pair(pair)
        pair.forget_place("tx" if index % 2 else "rx")
        if index in self._next_avail:
            base = self._basis.base(index, self._hand_in(pair, index, self._next_avail.pop(index)))
        self._running.discard(index)
        self._broken.discard(index)
        self._misses.drop(index)
        if leaves and self._arrivals.holding.enabled:
            self._leave(pair)
        for error in self._start_pair(pair, without=index).values():
            self._on_error(error)
        return base

    def note_faults(self, pair: QueuePair) -> None:
        """Record the vrings that broke; a vring stays broken until it is stopped."""
        for kind, fault in pair.take_faults():
            index = 2 * pair.index + (kind == "tx")
            self._broken.add(index)
            self._on_fault(index, fault)

    def expect(self) -> None:
        """Let frames into the tap for a guest about to run: the network may know of it already.

        SEND_RARP comes before the rings are set up; a tap queue keeps `txqueuelen` frames. A guest
        that ran here before and is stopped is not about to run.
        """
        if not self.has_run and self._arrivals.expect():
            self.update_tap()

    def forget(self) -> None:
        """Stop all rings for good: the front-end has gone."""
        for pair in self.pairs:
            self._stop_pair(pair)
            pair.forget()
        self._unsettled.clear()
        self._next_avail.clear()
        self._running.clear()
        self._broken.clear()
        self._misses.clear()
        self.has_run = False

    def update_tap(self) -> None:
        """Set the tap by the rings that receive, are held or expected."""
        self._arrivals.update([self._receives(pair.index) for pair in self.pairs])

    def _hand_in(self, pair: QueuePair, index: int, next_avail: int) -> int:
        """Leave nothing in flight in a stopped vring with an inflight region; return its place."""
        if self._basis.inflight is None:
            return next_avail
        try:
            vring = self._basis.vring(index, next_avail)
        except (PeerError, MissingError):
            return next_avail  # the vring's memory has gone
        if vring is None or vring.inflight is None:
            return next_avail
        kind: Kind = "tx" if index % 2 else "rx"
        return pair.give_up(kind, vring, self._basis.pair(None, None), keep=self._basis.suspends)

    def _leave(self, pair: QueuePair) -> None:
        """Keep the frames of this pair's queue, in order: the guest migrates, ring by ring.

        While another pair receives, that pair gets them. With the last pair the hold begins.
        """
        holding = self._arrivals.holding
        if self.running:
            self._hand_over(pair)
            return
        holding.begin(pair.index, pair.take_waiting())
        if pair.index > 0:
            with self.stopped(self.pairs[0]):  # its transmit ring may still run
                holding.begin(0, self.pairs[0].take_waiting())

    def _hand_over(self, pair: QueuePair) -> None:
        """Move the frames of this pair's queue to another pair that receives, in order.

        A detached queue loses its frames. Queue 0 stays attached, and is left as it is.
        """
        other = next((p for p in self.pairs if self._receives(p.index)), None)
        if other is not None and pair.index > 0:
            with self.stopped(other):
                frames = self._arrivals.holding.drain(pair.index, pair.take_waiting())
                self.update_tap()
                other.give(frames)

    def _pause(self, pair: QueuePair, *, quietly: bool = False) -> None:
        """Stop a pair until `settle`."""
        self._stop_pair(pair, quietly=quietly)
        self._unsettled.add(pair.index)

    def _stop_pair(self, pair: QueuePair, *, quietly: bool = False) -> None:
        """Stop a pair; `quietly`: only for a translation, which may happen with each frame."""
        pair.stop()
        if not quietly:
            self._to_call.update(index for _, index in _vrings_of(pair))
        for kind, index in _vrings_of(pair):
            if index in self._running:
                self._next_avail[index] = pair.next_avail(kind)
        # Later the faults would be taken for those of the next session, or the next start.
        self.note_faults(pair)

    def _start_pair(self, pair: QueuePair, without: int = -1) -> dict[int, PeerError]:
        """Start the vrings of `pair` that can run; return the errors of the others, by index."""
        errors = {}
        self._unsettled.discard(pair.index)
        if not self._next_avail:
            self._began.clear()
        vrings: dict[Kind, VringConfig | None] = {}
        for kind, index in _vrings_of(pair):
            try:
                vrings[kind] = None if index == without else self._vring(index)
            except MissingError as missing:
                # For the tap, the vring runs: the tap keeps the frames that come meanwhile.
                self._misses.missed(index, missing.iova, missing.access)
                vrings[kind] = None
            except PeerError as error:
                # Front-ends replace memory region by region: `_next_avail` stays known.
                self._running.discard(index)
                vrings[kind] = None
                errors[index] = _bare(error)
        rx, tx = vrings["rx"], vrings["tx"]
        if rx is not None and rx.enabled:
            self._arrivals.welcome(pair)
        self.update_tap()  # before the loop reads: it takes a detached queue for a broken one
        if rx is not None or tx is not None:
            self.has_run = True
            config = pair.resumed(self._basis.pair(rx, tx))
            self._tables[pair.index] = config.regions
            started = zip(_vrings_of(pair), (config.rx, config.tx), strict=True)
            # Before the loop runs: frames that the guest has sent by then are from before.
            self._begin({index: v.next_avail for (_, index), v in started if v is not None})
            pair.start(config)
        return errors

    def _begin(self, started: Mapping[int, int]) -> None:
        """Record where vrings begin that have not run since all stood still, and tell `on_start`.

        A front-end sets up one ring after the other, and a guest may have used only some of them.
        So a first ring at zero does not show that the guest has used none.
        """
        first, before = not self._began, max(self._began.values(), default=0)
        self._began = {**started, **self._began}
        base = max(self._began.values())
        if first or base > before == 0:
            self._on_start(base, further=not first)

    def _vring(self, index: int) -> VringConfig | None:
        if index in self._broken:
            return None
        vring = self._basis.vring(index, self._next_avail.get(index))
        if vring is not None:
            if index not in self._next_avail:
                self._kicked[index] = self._kicks_ever(index)
            self._next_avail[index] = vring.next_avail
            self._running.add(index)
            vring = replace(vring, call_first=index in self._to_call)
            self._to_call.discard(index)
        return vring

    def _kicks_ever(self, index: int) -> int:
        counters = self.pairs[index // 2].counters
        return counters["tx_kicks" if index % 2 else "rx_kicks"]

    def _matters(self, index: int) -> bool:
        """Whether a vring runs or can run now. One that is only being set up disturbs nobody."""
        session = self._basis.session
        return index in self._next_avail or (session is not None and session.vrings[index].ready())

    def _receives(self, pair_index: int) -> bool:
        index = 2 * pair_index
        session = self._basis.session
        return (
            session is not None
            and index in self._running
            and index not in self._broken
            and session.vrings[index].enabled
        )


def _bare(error: PeerError) -> PeerError:
    """The error without its traceback, whose frames would keep guest memory mapped."""
    return error.with_traceback(None)


def _vrings_of(pair: QueuePair) -> tuple[tuple[Kind, int], tuple[Kind, int]]:
    """The vrings of a queue pair (virtio 1.2, 5.1.2): the guest receives from the even one."""
    return ("rx", 2 * pair.index), ("tx", 2 * pair.index + 1)
