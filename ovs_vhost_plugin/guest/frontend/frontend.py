# SPDX-License-Identifier: Apache-2.0
"""The front-end of vhost-user: QEMU's requests to a back-end, in QEMU's order.

`initialise` is called when the two connect; the other methods when the guest's driver is ready,
when its machine migrates, and when it stops. Each method is one step, so that a test can leave out,
repeat or falsify any of them.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ovs_vhost_plugin.guest.driver.memory import GuestMemory, Region
from ovs_vhost_plugin.guest.driver.packed import Virtqueue
from ovs_vhost_plugin.guest.frontend.channel import RequestChannel
from ovs_vhost_plugin.guest.frontend.connection import (
    BackEndError,
    FrontEndConnection,
    ReplyTimeoutError,
    RequestRefusedError,
)
from ovs_vhost_plugin.guest.frontend.dirtylog import DirtyBitmap
from ovs_vhost_plugin.guest.frontend.eventfd import EventFd
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.spec import (
    Feature,
    FrontendRequest,
    ProtocolFeature,
    TransferDirection,
    TransferPhase,
)

PROTOCOL_FEATURES = (
    ProtocolFeature.MQ.mask
    | ProtocolFeature.LOG_SHMFD.mask
    | ProtocolFeature.RARP.mask
    | ProtocolFeature.REPLY_ACK.mask
    | ProtocolFeature.MTU.mask
    | ProtocolFeature.CONFIGURE_MEM_SLOTS.mask
    | ProtocolFeature.DEVICE_STATE.mask
    | ProtocolFeature.BACKEND_REQ.mask
    | ProtocolFeature.CONFIG.mask
    | ProtocolFeature.PAGEFAULT.mask
)
"""The protocol features that this front-end uses."""


class NotOfferedError(BackEndError):
    """The back-end does not offer a feature that the guest needs."""


@dataclass(frozen=True, slots=True)
class VringSetup:
    """A virtqueue with its index in the protocol and its two eventfds."""

    index: int
    queue: Virtqueue
    kick: EventFd = field(default_factory=EventFd)
    call: EventFd = field(default_factory=EventFd)

    def close(self) -> None:
        """Close the eventfds."""
        self.kick.close()
        self.call.close()


class FrontEnd:
    """One session with a back-end."""

    def __init__(self, connection: FrontEndConnection) -> None:
        self.connection = connection
        self.offered = 0
        self.features = 0
        self.protocol_features = 0
        self.queue_pairs_offered = 1
        self.memory_slots_offered = spec.MAX_REGIONS
        self.channel: RequestChannel | None = None
        self.bases: list[int] | None = None
        """The addresses at which the back-end has mapped the regions, in postcopy."""

    def initialise(self, protocol_features: int = PROTOCOL_FEATURES) -> None:
        """Get the back-end's features, negotiate the protocol features and own the device."""
        self.offered = self.ask_number(FrontendRequest.GET_FEATURES)
        if self.offered & Feature.PROTOCOL_FEATURES.mask:
            offered = self.ask_number(FrontendRequest.GET_PROTOCOL_FEATURES)
            self.protocol_features = offered & protocol_features
            payload = spec.U64.pack(self.protocol_features)
            self.connection.tell(FrontendRequest.SET_PROTOCOL_FEATURES, payload)
        if self.has(ProtocolFeature.MQ):
            self.queue_pairs_offered = self.ask_number(FrontendRequest.GET_QUEUE_NUM)
        if self.has(ProtocolFeature.CONFIGURE_MEM_SLOTS):
            self.memory_slots_offered = self.ask_number(FrontendRequest.GET_MAX_MEM_SLOTS)
        if self.has(ProtocolFeature.BACKEND_REQ):
            self.open_channel()
        self.connection.tell(FrontendRequest.SET_OWNER)

    def has(self, feature: ProtocolFeature) -> bool:
        """Whether both sides have a protocol feature."""
        return bool(self.protocol_features & feature.mask)

    @property
    def inband(self) -> RequestChannel | None:
        """The channel on which calls come as messages, or None."""
        return self.channel if self.has(ProtocolFeature.INBAND_NOTIFICATIONS) else None

    def open_channel(self) -> None:
        """Give the back-end a socket for requests of its own (VHOST_USER_SET_BACKEND_REQ_FD)."""
        if self.channel is not None:
            self.channel.close()
        self.channel = RequestChannel(self.connection.timeout)
        with self.channel.far_end() as fd:
            self._tell(FrontendRequest.SET_BACKEND_REQ_FD, b"", (fd,), ack=True)

    def get_config(self, offset: int, size: int) -> bytes:
        """A part of the NIC's configuration space by the back-end; empty: refused."""
        payload = spec.CONFIG.pack(offset, size, spec.ConfigFlag.WRITABLE) + bytes(size)
        answer = self.connection.ask(FrontendRequest.GET_CONFIG, payload)
        if answer and answer[: spec.CONFIG.size] != payload[: spec.CONFIG.size]:
            raise BackEndError(f"another part of the configuration space: {answer.hex()}")
        return answer[spec.CONFIG.size :]

    def set_features(self, features: int) -> None:
        """Send the features that the guest acknowledged (and LOG_ALL, the front-end's own).

        With bit 30, PROTOCOL_FEATURES, vrings begin disabled (vhost-user "Ring states").
        """
        self.features = features | self.offered & Feature.PROTOCOL_FEATURES.mask
        if missing := self.features & ~self.offered:
            raise NotOfferedError(f"features {missing:#x}")
        payload = spec.U64.pack(self.features)
        ack = bool(features & Feature.LOG_ALL.mask)
        self._tell(FrontendRequest.SET_FEATURES, payload, ack=ack)

    def give_memory(self, memory: GuestMemory) -> None:
        """Give a new back-end the guest's memory: region by region if it can, or all at once."""
        if len(memory.regions) > self.memory_slots_offered:
            raise NotOfferedError(f"{self.memory_slots_offered} memory slots")
        if not self.has(ProtocolFeature.CONFIGURE_MEM_SLOTS):
            self.set_memory(memory)
            return
        for region, fd in zip(memory.regions, memory.fds, strict=True):
            self.add_region(region, fd)
        if self.bases is not None:
            # From now on the back-end may touch it (VHOST_USER_SET_MEM_TABLE, "acknowledgement").
            self.connection.tell(FrontendRequest.ADD_MEM_REG, bytes(spec.U64.size))

    def set_memory(self, memory: GuestMemory) -> None:
        """Give the back-end all of the guest's memory anew (VHOST_USER_SET_MEM_TABLE)."""
        payload = spec.MEMORY_HEADER.pack(len(memory.regions), 0) + b"".join(
            spec.MEMORY_REGION.pack(r.guest_address, r.size, r.user_address, r.file_offset)
            for r in memory.regions
        )
        self._tell(FrontendRequest.SET_MEM_TABLE, payload, memory.fds, ack=True)

    def add_region(self, region: Region, fd: int) -> None:
        """Give the back-end one more region (VHOST_USER_ADD_MEM_REG).

        In postcopy the back-end answers the address at which it has mapped the region.
        """
        if self.bases is not None:
            size = spec.SINGLE_REGION.size
            request = FrontendRequest.ADD_MEM_REG
            answer = self.connection.ask(request, _single(region), [fd], size=size)
            self.bases.append(spec.SINGLE_REGION.unpack(answer)[3])
            return
        self._tell(FrontendRequest.ADD_MEM_REG, _single(region), (fd,), ack=True)

    def remove_region(self, region: Region) -> None:
        """Take a region from the back-end (VHOST_USER_REM_MEM_REG)."""
        self._tell(FrontendRequest.REM_MEM_REG, _single(region), ack=True)

    def set_mtu(self, mtu: int) -> None:
        """Send the MTU that the guest sees, where the back-end offers the MTU feature."""
        if self.has(ProtocolFeature.MTU):
            self._tell(FrontendRequest.NET_SET_MTU, spec.U64.pack(mtu), ack=True)

    def start_vring(self, vring: VringSetup, base: int) -> None:
        """Start a vring at `base`: its queue's, or `stop_vring`'s result ("Ring states")."""
        tell, index = self.connection.tell, vring.index
        tell(FrontendRequest.SET_VRING_NUM, spec.VRING_STATE.pack(index, vring.queue.size))
        tell(FrontendRequest.SET_VRING_BASE, spec.VRING_STATE.pack(index, base))
        self.set_vring_address(vring)
        if self.has(ProtocolFeature.INBAND_NOTIFICATIONS):
            return  # the first kick starts it
        tell(FrontendRequest.SET_VRING_CALL, spec.U64.pack(index), [vring.call.fileno()])
        tell(FrontendRequest.SET_VRING_KICK, spec.U64.pack(index), [vring.kick.fileno()])

    def kick(self, vring: VringSetup) -> None:
        """Kick the back-end, by a message where both sides have in-band notifications."""
        if self.has(ProtocolFeature.INBAND_NOTIFICATIONS):
            payload = spec.VRING_STATE.pack(vring.index, 0)
            self.connection.tell(FrontendRequest.VRING_KICK, payload, ack=True)
        else:
            vring.kick.signal()

    def set_vring_address(self, vring: VringSetup) -> None:
        """Send a vring's addresses, and whether its used ring is to be logged (LOG_ALL is on).

        The ring's addresses are the front-end's; the log address is the guest's. For a packed ring
        the log address is the device event area's, as QEMU has it.
        """
        queue = vring.queue
        log = bool(self.features & Feature.LOG_ALL.mask)
        payload = spec.VRING_ADDR.pack(
            vring.index,
            spec.VringAddressFlag.LOG if log else 0,
            queue.memory.user_address(queue.desc_address),
            queue.memory.user_address(queue.used_address),
            queue.memory.user_address(queue.avail_address),
            queue.used_address,
        )
        self._tell(FrontendRequest.SET_VRING_ADDR, payload, ack=log)

    def enable_vring(self, index: int, enabled: bool) -> None:
        """Enable or disable a vring, where that exists; a disabled vring stays started."""
        if self.features & Feature.PROTOCOL_FEATURES.mask:
            payload = spec.VRING_STATE.pack(index, enabled)
            self.connection.tell(FrontendRequest.SET_VRING_ENABLE, payload)

    def stop_vring(self, index: int) -> int:
        """Stop a vring, which is the front-end's after the reply; return the base to resume at."""
        request = FrontendRequest.GET_VRING_BASE
        payload = spec.VRING_STATE.pack(index, 0)
        reply = self.connection.ask(request, payload, size=spec.VRING_STATE.size)
        same, base = spec.VRING_STATE.unpack(reply)
        if same != index:
            raise BackEndError(f"stopped vring {same}, not {index}")
        return int(base)

    def start_logging(self, log: DirtyBitmap, vrings: Iterable[VringSetup]) -> None:
        """Make the back-end log everything it writes, while the vrings run on.

        The reply to SET_LOG_BASE always comes, but back-ends differ in its size.
        """
        payload = spec.LOG.pack(log.size, 0)
        self.connection.ask(FrontendRequest.SET_LOG_BASE, payload, [log.fd])
        self._set_logging(Feature.LOG_ALL.mask, vrings)

    def stop_logging(self, vrings: Iterable[VringSetup]) -> None:
        """Stop logging: the migration was given up."""
        self._set_logging(0, vrings)

    def send_rarp(self, mac: bytes) -> None:
        """Ask the back-end to announce the guest, where it offers RARP; there is no answer."""
        if self.has(ProtocolFeature.RARP):
            self.connection.tell(FrontendRequest.SEND_RARP, mac.ljust(8, b"\0"))

    def save_state(self) -> bytes:
        """The back-end's own state; its vrings are stopped (vhost-user "Migrating back-end state").

        Raises RequestRefusedError where the back-end reports a failure.
        """
        reading, writing = os.pipe()
        try:
            self._begin_transfer(TransferDirection.SAVE, writing)
            state = self._read_all(reading)
        finally:
            os.close(reading)
        self._check_state()
        return state

    def load_state(self, state: bytes) -> None:
        """Give the back-end the state that another one saved. Raises like `save_state`."""
        reading, writing = os.pipe()
        with open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123 (an fd, not a path)
            self._begin_transfer(TransferDirection.LOAD, reading)
            with suppress(BrokenPipeError):  # it has read enough; CHECK_DEVICE_STATE tells why
                pipe.write(state)
        self._check_state()

    def advise_postcopy(self) -> int:
        """Advise postcopy, in which memory may follow later; return the back-end's userfaultfd."""
        return self.connection.ask_fd(FrontendRequest.POSTCOPY_ADVISE)

    def listen_postcopy(self) -> None:
        """Tell the back-end that memory given from now on lacks pages."""
        self._tell(FrontendRequest.POSTCOPY_LISTEN, b"", ack=True)
        self.bases = []

    def end_postcopy(self) -> None:
        """Tell the back-end that all pages have come."""
        if answer := self.ask_number(FrontendRequest.POSTCOPY_END):
            raise RequestRefusedError(f"POSTCOPY_END: {answer}")
        self.bases = None

    def close(self) -> None:
        """Hang up without stopping anything."""
        self.connection.close()
        if self.channel is not None:
            self.channel.close()

    def _begin_transfer(self, direction: TransferDirection, fd: int) -> None:
        """Pass the back-end its end of a pipe."""
        payload = spec.DEVICE_STATE.pack(direction, TransferPhase.STOPPED)
        try:
            answer = self.ask_number(FrontendRequest.SET_DEVICE_STATE_FD, payload, [fd])
        finally:
            os.close(fd)
        if answer != spec.DEVICE_STATE_NO_FD:
            raise RequestRefusedError(f"SET_DEVICE_STATE_FD: {answer:#x}")

    def _check_state(self) -> None:
        answer = self.ask_number(FrontendRequest.CHECK_DEVICE_STATE)
        if answer:
            raise RequestRefusedError(f"CHECK_DEVICE_STATE: {answer}")

    def _read_all(self, fd: int) -> bytes:
        data = b""
        while select.select([fd], [], [], self.connection.timeout)[0]:
            some = os.read(fd, 1 << 16)
            if not some:
                return data
            data += some
        raise ReplyTimeoutError("the back-end does not end its state")

    def _set_logging(self, log_all: int, vrings: Iterable[VringSetup]) -> None:
        self.set_features(self.features & ~Feature.LOG_ALL.mask | log_all)
        for vring in vrings:
            self.set_vring_address(vring)

    def _tell(
        self,
        request: FrontendRequest,
        payload: bytes,
        fds: tuple[int, ...] = (),
        ack: bool = False,
    ) -> None:
        """Send a request; `ack`: ask for a REPLY_ACK, as QEMU does, where it is negotiated."""
        self.connection.tell(request, payload, fds, ack and self.has(ProtocolFeature.REPLY_ACK))

    def ask_number(
        self, request: FrontendRequest, payload: bytes = b"", fds: Sequence[int] = ()
    ) -> int:
        """Send a request whose answer is one number."""
        answer = self.connection.ask(request, payload, fds, size=spec.U64.size)
        number: int = spec.U64.unpack(answer)[0]
        return number


def _single(region: Region) -> bytes:
    return spec.SINGLE_REGION.pack(
        0, region.guest_address, region.size, region.user_address, region.file_offset
    )
