# SPDX-License-Identifier: Apache-2.0
"""The device behind a session: executes its effects on memory, dirty log, rings and tap.

`resources.py` has the memory and log that rings use. `rings.py` starts and stops the rings.
`tap/gate.py` decides which frames are the guest's.
"""

from __future__ import annotations

import os
import selectors
from typing import Protocol, assert_never

from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.vhost import effects
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.memory.inflight import Inflight
from ovs_vhost_plugin.vhost.memory.log import DirtyLog
from ovs_vhost_plugin.vhost.memory.table import MemoryTable
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import BackendRequest, Feature, IotlbAccess, ProtocolFeature
from ovs_vhost_plugin.worker.backend import BackEndChannel
from ovs_vhost_plugin.worker.device.inband import InBand
from ovs_vhost_plugin.worker.device.misses import Misses
from ovs_vhost_plugin.worker.device.postcopy import Postcopy, Source
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.resources import RingResources
from ovs_vhost_plugin.worker.device.rings import Rings
from ovs_vhost_plugin.worker.device.sharing import Sharing
from ovs_vhost_plugin.worker.learned.devicestate import DeviceState
from ovs_vhost_plugin.worker.tap.gate import TapGate
from ovs_vhost_plugin.worker.tap.hold import Reason


class Observer(Protocol):
    """Receives the device's news."""

    def rarp(self, mac: bytes) -> None:
        """The front-end asks to announce `mac`."""

    def started(self, base: int, *, further: bool) -> None:
        """The guest's rings begin to run at the avail index `base` (`rings.OnStart`)."""

    def error(self, error: PeerError) -> None:
        """A peer's mistake that did not cost it the connection."""

    def lasting(self, error: PeerError | None) -> None:
        """The lasting fault of the moment; None: there is none."""

    def migrates(self) -> None:
        """The front-end has the device log what it writes (LOG_ALL): its guest migrates."""

    def pairs_wanted(self, pairs: int) -> None:
        """The front-end sets up more queue pairs than there are: so many (`Device.add_pair`)."""

    def busy(self) -> None:
        """The device is still at work on a message, and does not hang."""


class Device:
    """Memory, log and queue pairs of one port, which serve one session after the other."""

    def __init__(
        self,
        gate: TapGate,
        state: DeviceState,
        selector: selectors.BaseSelector,
        observer: Observer,
        settings: PortSettings,
        userfaultfds: Source | None = None,
    ) -> None:
        """Without `userfaultfds`, PAGEFAULT is not offered."""
        self.pairs = gate.pairs
        self.mtu: int | None = None
        self.channel = BackEndChannel(selector, observer.error)
        self._observer = observer
        self._state = state
        self._gate = gate
        self._inband = InBand(selector, self.channel)
        finish, udp = self._finishes(settings)
        self._resources = RingResources(finish_offloads=finish, finish_udp=udp)
        self._postcopy = Postcopy(userfaultfds, self.pairs, self._resources, alive=observer.busy)
        self._misses = Misses(self.channel.ask, observer.error)
        self._rings = Rings(
            self.pairs,
            self._resources,
            self._gate,
            self._misses,
            on_start=self._started,
            on_error=observer.error,
            on_fault=self._ring_broke,
        )
        self.sharing = Sharing(self._resources, self._rings)
        self._set_format()

    def attach(self, session: Session) -> None:
        """Serve `session`. The previous session is detached already."""
        self._resources.session = session
        self.sharing.begin()

    def detach(self) -> None:
        """Stop the rings and unmap the memory of a front-end that has gone."""
        self.sharing.end()
        self._postcopy.leave()
        self._rings.forget()
        self._postcopy.forget()
        self._gate.holding.front_end_gone()
        self._state.forget()
        self.channel.close()
        self._inband.forget()
        self.close_early()
        self._resources.replace_memory(None)
        self._resources.iotlb.clear()
        self._resources.replace_log(None)
        self._resources.forget_inflight()
        session, self._resources.session = self._resources.session, None
        if session is not None:
            session.close()
        self._set_format()

    @property
    def running(self) -> bool:
        """Whether the guest can receive."""
        return self._rings.running

    @property
    def iotlb_counts(self) -> dict[str, int]:
        """Translations asked for and translations replaced for lack of room, since the start."""
        replaced = self._resources.iotlb.replaced
        return {"iotlb_misses": self._misses.count, "iotlb_replaced": replaced}

    @property
    def header_size(self) -> int:
        """The size of a virtio-net header, bytes."""
        return self._resources.header_size

    def configure(self, settings: PortSettings) -> None:
        """Apply the port's settings, and tell the front-end of a changed link state or MTU."""
        finish = self._finishes(settings)
        if finish != (self._resources.finish_offloads, self._resources.finish_udp):
            with self._rings.stopped():
                self._resources.finish_offloads, self._resources.finish_udp = finish
        session = self._resources.session
        if session is not None and session.follow_port(link_up=settings.link_up, mtu=settings.mtu):
            self._tell_config_changed()
        self._gate.holding.configure(settings)
        if not settings.hold:
            self.end_hold(Reason.OFF)

    # -- another process -------------------------------------------------------------------------

    @property
    def resources(self) -> RingResources:
        """All that the rings use."""
        return self._resources

    @property
    def rings(self) -> Rings:
        """The rings of all pairs."""
        return self._rings

    def count_translations_from(self, misses: int, replaced: int) -> None:
        """Count on from what another process has counted (`iotlb_counts`)."""
        self._misses.count, self._resources.iotlb.replaced = misses, replaced

    def go_on(self) -> None:
        """Run again after `Rings.stand_still`; another process may have set the tap's format."""
        self._set_format()
        self._rings.restart_all()

    # -- time ------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """The time at which `handle_timer` has something to do; None: it has nothing."""
        parts = (self._gate.holding, self._gate, self.sharing)
        return min((at for part in parts if (at := part.get_timer()) is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """End a hold or an early opening that lasts too long, and check that the memory is shared.

        To be called after any change of the rings.
        """
        if self._gate.holding.expired(now):
            self.end_hold(Reason.EXPIRED)
        if self._gate.overdue(now):
            self.close_early()
        self.sharing.handle_timer(now)
        self._observer.lasting(self.sharing.error or self._rings.journal_error)

    def end_hold(self, reason: Reason) -> None:
        """End the hold, if frames are held."""
        if self._gate.holding.active:
            self._gate.holding.end(reason)
            self.update_tap()

    # -- the front-end ---------------------------------------------------------------------------

    def answer(self, message: Message) -> Message | None:
        """Pass `message` to the session and execute its effects; return the reply, if any.

        Without a reply, the rings that the message changed stand still until `start_pending`.
        Raises the PeerError that costs the front-end its connection.
        """
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
        if reply is not None:
            self.start_pending()  # what is acknowledged has taken effect
        return reply

    def start_pending(self) -> None:
        """Start the rings that messages have changed: no further message is waiting."""
        self._rings.start_pending()

    def add_pair(self, pair: QueuePair) -> None:
        """Serve one more queue pair, whose tap queue has come."""
        pair.on_stuck = self.pairs[0].on_stuck  # as the others may wait for their memory
        self._rings.add(pair)
        self.start_pending()

    def execute(self, effect: effects.Effect) -> object:
        """Execute `effect`; return the answer for the session. Raises PeerError."""
        match effect:
            case effects.SetFeatures(features):
                with self._rings.stopped():
                    self._set_format()
                if features & Feature.LOG_ALL.mask:
                    self._observer.migrates()
            case effects.SetMemoryTable(regions, fds):
                table = MemoryTable(regions, fds, in_place=self._resources.pages_missing)
                return self._set_memory(table).bases(regions)
            case effects.AddMemoryRegion(region, fd):
                table = self._memory.with_region(region, fd, in_place=self._resources.pages_missing)
                return self._set_memory(table).bases([region])
            case effects.RemoveMemoryRegion(region):
                self._set_memory(self._memory.without_region(region))
            case effects.SetLog(size, offset, fd):
                log = DirtyLog(size, offset, fd)
                if self._resources.memory is not None:
                    log.require(self._resources.memory.guest_end)
                with self._rings.stopped():
                    self._resources.replace_log(log)
            case effects.MakeInflight(queues, queue_size, packed):
                return self._resources.make_inflight(queues, queue_size, packed=packed)
            case effects.SetInflight(description, fd):
                self._resources.replace_inflight(Inflight(description, fd))
            case effects.ReconfigureVring(index):
                self._reconfigure(index)
            case effects.StopVring(index):
                return self._rings.stop_vring(index, self._session.vrings[index].base)
            case effects.KickVring(index):
                os.eventfd_write(self._session.vrings[index].kick_fd, 1)
            case effects.SendRarp(mac):
                self._rings.open_early()
                self._state.rarp(mac)
                self._observer.rarp(mac)
            case effects.SetMtu(mtu):
                self.mtu = mtu
            case effects.SaveState(fd):
                self._state.save(fd)
            case effects.LoadState(fd):
                self._state.load(fd)
            case effects.CheckState():
                if self._state.check():
                    self._rings.open_early()
            case effects.OpenBackendChannel(fd, acknowledged):
                self.channel.open(fd, acknowledged=acknowledged)
                self._inband.channel_opened()
                self._misses.ask_again()
            case effects.UpdateIotlb(iova, size, user_address, access):
                self._update_iotlb(iova, size, user_address, access)
            case effects.InvalidateIotlb(iova, size):
                self._rings.invalidate(iova, size)
            case effects.ConfigChanged():
                self._tell_config_changed()
            case effects.AdvisePostcopy():
                return self._postcopy.advise()
            case effects.ListenPostcopy():
                self._postcopy.listen()
            case effects.AcknowledgeBases():
                self._rings.restart_all()  # those that are ready run
            case effects.EndPostcopy():
                self._postcopy.end()
                self._rings.restart_all()  # from now on the rings' journals name them
            case effects.Refused(error):
                self._observer.error(error)
            case _:
                assert_never(effect)
        return None

    def collect_faults(self, pair: QueuePair) -> None:
        """Record the rings that broke and the rings that wait for a translation."""
        self._rings.note_faults(pair)
        self._rings.note_misses(pair)
        self.update_tap()

    def close_early(self) -> None:
        """Wait for no ring that is late (`Rings`)."""
        self._rings.close_early()

    def update_tap(self) -> None:
        """Set the tap's steering and carrier by the rings that receive or are held."""
        self._rings.update_tap()

    @property
    def _session(self) -> Session:
        assert self._resources.session is not None
        return self._resources.session

    @property
    def _memory(self) -> MemoryTable:
        return self._resources.memory or MemoryTable.empty()

    def _tell_config_changed(self) -> None:
        if self._session.negotiated(ProtocolFeature.CONFIG):
            self.channel.ask(BackendRequest.CONFIG_CHANGE_MSG)

    def _set_memory(self, table: MemoryTable) -> MemoryTable:
        if table is not self._resources.memory:
            self._postcopy.catch(table)
            with self._rings.stopped():
                self._resources.replace_memory(table)
        return table

    def _update_iotlb(self, iova: int, size: int, user: int, access: IotlbAccess) -> None:
        """Store a translation, split at the borders of memory regions."""
        at = iova
        for part, length in self._memory.split(user, size):
            self._resources.iotlb.update(at, length, part, access)
            at += length
        self._rings.updated(iova, size, access)

    def _finishes(self, settings: PortSettings) -> tuple[bool, bool]:
        """Whether frames are finished here, and whether large UDP frames are finished anyway."""
        return settings.finish_offloads, settings.finish_udp or not self._gate.takes_uso

    def _started(self, base: int, *, further: bool) -> None:
        if not further:
            self.sharing.begin()
        self._observer.started(base, further=further)

    def _ring_broke(self, index: int, fault: Fault) -> None:
        if self._resources.session is not None:
            self._resources.session.needs_reset = True
        self._observer.error(PeerError(fault.kebab, f"vring {index} stopped"))

    def _reconfigure(self, index: int) -> None:
        vring = self._session.vrings[index]
        if index % 2 == 0 and self._resources.moved_in(vring):
            self._rings.open_early()
        told = vring.size or vring.kick_told or vring.call_told
        if told and index // 2 >= len(self.pairs):
            self._observer.pairs_wanted(index // 2 + 1)
        self._rings.restart(index)
        self._inband.follow(vring)

    def _set_format(self) -> None:
        self._gate.set_format(self._resources.header_size, self._resources.features)
