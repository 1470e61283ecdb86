# SPDX-License-Identifier: Apache-2.0
"""Starts and stops the rings: a ring resumes at the index that it had reached.

Everything that rings depend on changes only while they are stopped: the queue pairs' threads are
joined, the change is made, and the rings resume. A front-end sets a ring up in five messages: the
pair stops at the first of the messages that are waiting, and resumes after the last
(`start_pending`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.memory.iotlb import MissingError, overlap
from ovs_vhost_plugin.vhost.spec import Feature, IotlbAccess
from ovs_vhost_plugin.worker.device.misses import Misses
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.resources import RingResources
from ovs_vhost_plugin.worker.device.ring import Ring, RingPhase, begin
from ovs_vhost_plugin.worker.device.vringconfig import PairConfig, VringConfig
from ovs_vhost_plugin.worker.tap.gate import TapGate


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
        pairs: list[QueuePair],
        resources: RingResources,
        gate: TapGate,
        misses: Misses,
        *,
        on_start: OnStart,
        on_error: Callable[[PeerError], None],
        on_fault: Callable[[int, Fault], None],
    ) -> None:
        self.pairs = pairs
        self._resources = resources
        self._gate = gate
        self._on_start = on_start
        self._on_error = on_error
        self._on_fault = on_fault
        self._misses = misses
        self.has_run = False
        """Whether any ring has run in this session."""
        self.journal_error: PeerError | None = None
        """Set when a ring has a journal that does not outlive this process."""
        self._tell_of_kicks = False
        self._pending: set[int] = set()  # pairs that `start_pending` will start

    @property
    def running(self) -> bool:
        """Whether the guest can receive."""
        return any(self._receives(pair) for pair in self.pairs)

    def kicks(self, index: int) -> int:
        """The number of kicks of vring `index` since it was started."""
        if not self._is_there(index):
            return 0
        ring = self._ring(index)
        return 0 if ring.kicks_before is None else self._counted(ring) - ring.kicks_before

    def tell_of_kicks(self, tell: bool) -> None:
        """Set whether `note_faults` is due after each kick as well."""
        self._tell_of_kicks = tell
        for pair in self.pairs:
            pair.tell_of_kicks(tell)

    @contextmanager
    def stopped(self, *pairs: QueuePair) -> Iterator[None]:
        """Stop the rings of `pairs` during a change; of all pairs, if none is named."""
        for pair in pairs or self.pairs:
            self._stop_pair(pair)
        try:
            yield
        finally:
            for pair in pairs or self.pairs:
                if any(self._matters(ring) for ring in pair.rings):
                    for error in self._start_pair(pair).values():
                        self._on_error(error)

    def add(self, pair: QueuePair) -> None:
        """Let `start_pending` run a further pair, whose tap queue has come, if it is set up.

        The kernel may have steered frames to the queue. They wait for a ring that is about to run.
        """
        self.pairs.append(pair)
        pair.tell_of_kicks(self._tell_of_kicks)
        if self._gate.early or self._is_enabled(pair):
            self._gate.await_ring(pair)
        else:
            self._hand_over(pair)
        self.update_tap()
        if any(self._matters(ring) for ring in pair.rings):
            self._pending.add(pair.index)

    def stand_still(self) -> None:
        """Stop all rings, until `restart_all`."""
        for pair in self.pairs:
            self._stop_pair(pair)

    @property
    def broken(self) -> bool:
        """Whether a ring is broken."""
        return any(r.phase is RingPhase.BROKEN for pair in self.pairs for r in pair.rings)

    def restart_all(self) -> None:
        """Stop all rings, and start those that can run: what they need may have come."""
        with self.stopped():
            pass

    def restart(self, index: int) -> None:
        """Let `start_pending` run vring `index` with the session's present configuration.

        Its pair stops at once: the session closes fds that were replaced. Raises PeerError if the
        vring cannot run; the other vring of the pair resumes all the same.
        """
        if not self._is_there(index):
            self._require(index, None)
            return
        pair, ring = self.pairs[index // 2], self._ring(index)
        if not self._matters(ring):
            return
        self._pause(pair)
        switched_off = ring.usable and not self._receives(pair)
        if ring is pair.rx and (switched_off or ring.phase is RingPhase.BROKEN):
            self._hand_over(pair)
        if ring.phase is not RingPhase.BROKEN:
            self._require(index, ring.position)

    def _require(self, index: int, position: int | None) -> None:
        """Check that a vring can run at `position`. Raises PeerError."""
        try:
            self._resources.vring(index, position)
        except MissingError:
            pass  # `start_pending` asks for the translation
        except PeerError as error:
            raise _bare(error) from None

    def start_pending(self) -> None:
        """Start the pairs that wait: no more messages are waiting, or a message needs its reply.

        An error here is of the pair's other ring, or the front-end was told of it before.
        """
        for number in sorted(self._pending):
            for error in self._start_pair(self.pairs[number]).values():
                self._on_error(error)

    def note_misses(self, pair: QueuePair) -> None:
        """Ask for the translations that the rings of `pair` wait for."""
        for ring in pair.rings:
            if (missing := ring.miss()) is not None:
                self._misses.missed(ring.index, *missing)

    def updated(self, iova: int, size: int, access: IotlbAccess) -> None:
        """Let `start_pending` run the vrings that waited for this translation."""
        for number in {index // 2 for index in self._misses.updated(iova, size, access)}:
            self._pause(self.pairs[number], quietly=True)

    def invalidate(self, iova: int, size: int) -> None:
        """Drop translations, so that no ring uses them. `start_pending` restarts rings that did."""
        for pair in self.pairs:
            if pair.running and overlap(pair.regions, iova, size):
                self._pause(pair, quietly=True)
        self._resources.iotlb.invalidate(iova, size)

    def stop_vring(self, index: int, base: int) -> int:
        """Stop one vring for GET_VRING_BASE: nothing is written for it after this returns.

        Return the base at which it resumes; `base` if it never ran.
        """
        if not self._is_there(index):
            return base
        pair, ring = self.pairs[index // 2], self._ring(index)
        leaves = ring is pair.rx and self._receives(pair) and self._resources.has(Feature.LOG_ALL)
        self._stop_pair(pair)
        ring.end_journal()
        if ring.position is not None:
            base = self._resources.base(index, self._hand_in(pair, ring, ring.position))
        ring.stop()
        self._misses.drop(index)
        if leaves and self._gate.holding.enabled:
            self._leave(pair)
        for error in self._start_pair(pair, without=ring).values():
            self._on_error(error)
        return base

    def note_faults(self, pair: QueuePair) -> None:
        """Record the vrings that broke; a vring stays broken until it is stopped."""
        for kind, fault in pair.take_faults():
            self._on_fault(2 * pair.index + (kind == "tx"), fault)

    def open_early(self) -> None:
        """Let frames into the tap for a guest about to run: the network may know of it already.

        SEND_RARP comes before the rings are set up; a tap queue keeps `txqueuelen` frames. A guest
        that ran here before and is stopped is not about to run.
        """
        if not self.has_run and self._gate.open_early():
            self.update_tap()

    def close_early(self) -> None:
        """Wait for no ring that is late: its frames are another pair's, or nobody's."""
        self._gate.early = False
        for pair in self.pairs:
            if pair.index in self._gate.awaited:
                self._hand_over(pair)
        self.update_tap()

    def forget(self) -> None:
        """Stop all rings for good: the front-end has gone."""
        for pair in self.pairs:
            self._stop_pair(pair)
            pair.forget()
            for ring in pair.rings:
                ring.stop()
        self._pending.clear()
        self._misses.clear()
        self.has_run = False

    def update_tap(self) -> None:
        """Set the tap by the rings that receive, and by what is held or early."""
        self._gate.update([self._receives(pair) for pair in self.pairs])

    def _is_there(self, index: int) -> bool:
        """Whether the tap queue of a vring's pair has come."""
        return index // 2 < len(self.pairs)

    def _ring(self, index: int) -> Ring:
        return self.pairs[index // 2].rings[index % 2]

    def _hand_in(self, pair: QueuePair, ring: Ring, position: int) -> int:
        """Leave nothing in flight in a stopped vring with an inflight region; return its place."""
        if self._resources.inflight is None:
            return position
        try:
            vring = self._resources.vring(ring.index, position)
        except (PeerError, MissingError):
            return position  # the vring's memory has gone
        if vring is None or vring.inflight is None:
            return position
        config = self._resources.pair(None, None)
        return pair.hand_over(ring, vring, config, keep=self._resources.suspends)

    def _leave(self, pair: QueuePair) -> None:
        """Keep the frames of this pair's queue, in order: the guest migrates, ring by ring.

        While another pair receives, they wait in the tap. With the last pair the hold begins.
        """
        self._gate.await_ring(pair)
        if self.running:
            return
        self._gate.hold(pair)
        for left in [one for one in self.pairs if one.index in self._gate.awaited]:
            with self.stopped(left):  # its transmit ring may still run
                self._gate.hold(left)

    def _hand_over(self, pair: QueuePair) -> None:
        """Move the frames of this pair's queue to another pair that receives, in order.

        A detached queue loses its frames. Queue 0 stays attached, and is left as it is.
        """
        self._gate.awaited.discard(pair.index)
        other = next((p for p in self.pairs if self._receives(p)), None)
        if other is not None and pair.index > 0:
            with self.stopped(other):
                frames = self._gate.holding.drain(pair.index, pair.take_waiting())
                self.update_tap()
                other.give(frames)

    def _pause(self, pair: QueuePair, *, quietly: bool = False) -> None:
        """Stop a pair until `start_pending`."""
        self._stop_pair(pair, quietly=quietly)
        self._pending.add(pair.index)

    def _stop_pair(self, pair: QueuePair, *, quietly: bool = False) -> None:
        """Stop a pair; `quietly`: only for a translation, which may happen with each frame."""
        pair.stop(quietly=quietly)
        # Later the faults would be taken for those of the next session, or the next start.
        self.note_faults(pair)

    def _start_pair(self, pair: QueuePair, without: Ring | None = None) -> dict[int, PeerError]:
        """Start the vrings of `pair` that can run; return the errors of the others, by index."""
        errors: dict[int, PeerError] = {}
        self._pending.discard(pair.index)
        every = [ring for other in self.pairs for ring in other.rings]
        if all(ring.position is None for ring in every):
            for ring in every:
                ring.began = None
        rx, tx = (None if ring is without else self._usable(ring, errors) for ring in pair.rings)
        if rx is not None and rx.enabled:
            self._gate.on_ring_start(pair)
        if rx is not None or tx is not None:
            self.has_run = True
            self._prepare(pair, self._resources.pair(rx, tx))
        self.update_tap()  # before the loop reads: it takes a detached queue for a broken one
        if rx is not None or tx is not None:
            # Before the loop runs: frames that the guest has sent by then are from before.
            begun = begin([ring for ring in pair.rings if ring.phase is RingPhase.RUNNING], every)
            if begun is not None:
                self._on_start(begun.base, further=begun.further)
            pair.start()
        return errors

    def _usable(self, ring: Ring, errors: dict[int, PeerError]) -> VringConfig | None:
        """The configuration of a vring that can run now; its error goes into `errors`."""
        if ring.phase is RingPhase.BROKEN:
            return None
        try:
            vring = self._resources.vring(ring.index, ring.position)
        except MissingError as missing:
            # For the tap, the vring runs: the tap keeps the frames that come meanwhile.
            self._misses.missed(ring.index, missing.iova, missing.access)
            ring.wait()
        except PeerError as error:
            # Front-ends replace memory region by region: the ring's position stays known.
            ring.reject()
            errors[ring.index] = _bare(error)
        else:
            if vring is not None and ring.position is None:
                ring.kicks_before = self._counted(ring)
            return vring
        return None

    def _prepare(self, pair: QueuePair, config: PairConfig) -> None:
        pair.prepare(config)
        unkept = [ring for ring in pair.rings if ring.journal_kept is False]
        if unkept and self.journal_error is None:
            detail = f"vring {unkept[0].index}: no room in the run directory"
            self.journal_error = PeerError(PeerErrorName.JOURNAL_NOT_KEPT, detail)

    def _counted(self, ring: Ring) -> int:
        return self.pairs[ring.index // 2].counters[f"{ring.kind}_kicks"]

    def _matters(self, ring: Ring) -> bool:
        """Whether a vring runs or can run now. One that is only being set up disturbs nobody."""
        session = self._resources.session
        ready = session is not None and session.vrings[ring.index].ready()
        return ring.position is not None or ready

    def _receives(self, pair: QueuePair) -> bool:
        return pair.rx.usable and self._is_enabled(pair)

    def _is_enabled(self, pair: QueuePair) -> bool:
        session = self._resources.session
        return session is not None and session.vrings[pair.rx.index].enabled


def _bare(error: PeerError) -> PeerError:
    """The error without its traceback, whose frames would keep guest memory mapped."""
    return error.with_traceback(None)
