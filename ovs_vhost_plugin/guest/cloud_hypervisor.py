# SPDX-License-Identifier: Apache-2.0
"""A guest whose front-end acts as Cloud Hypervisor's, which differs from QEMU's.

As read in its source (virtio-devices/src/vhost_user/vu_common_ctrl.rs, 2021 to 2026):

- SET_OWNER comes first, and SET_INFLIGHT_FD between SET_VRING_NUM and the addresses;
- requests ask for an acknowledgement, and rings are enabled last, after all were started;
- after it lost its back-end it acknowledges the protocol features it knew, without asking again;
- the base of each ring is its *avail* index, at the first start and after it lost its back-end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ovs_vhost_plugin.guest.frontend.connection import FrontEndConnection
from ovs_vhost_plugin.guest.frontend.frontend import FrontEnd
from ovs_vhost_plugin.guest.frontend.inflight import InflightKeeper
from ovs_vhost_plugin.guest.soft import USUAL, Config, SoftGuest
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.spec import FrontendRequest, ProtocolFeature

_PROTOCOL_FEATURES = (
    ProtocolFeature.MQ.mask
    | ProtocolFeature.LOG_SHMFD.mask
    | ProtocolFeature.REPLY_ACK.mask
    | ProtocolFeature.CONFIGURE_MEM_SLOTS.mask
)


class CloudHypervisor(SoftGuest):
    """A guest of Cloud Hypervisor's.

    `keeps_inflight`: it keeps the in-flight region (INFLIGHT_SHMFD) where that is offered.
    """

    def __init__(
        self,
        path: Path,
        config: Config = USUAL,
        *,
        server: bool = False,
        keeps_inflight: bool = True,
    ) -> None:
        super().__init__(path, config, server=server)
        kept = ProtocolFeature.INFLIGHT_SHMFD.mask if keeps_inflight else 0
        self._wanted = _PROTOCOL_FEATURES | kept
        self._known: int | None = None  # of the protocol's features, since the first connection
        self.inflight: InflightKeeper | None = None

    def start(self) -> None:
        """Connect, and start the rings at their avail indices."""
        if self.frontend is not None:
            self.frontend.close()
        self.frontend = self.connect()
        self.run_on(self.frontend, [vring.queue.avail_base for vring in self.vrings])

    def initialise(self, connection: FrontEndConnection) -> FrontEnd:
        """Own the device and negotiate the protocol features."""
        connection.tell(FrontendRequest.SET_OWNER)
        frontend = FrontEnd(connection)
        frontend.offered = frontend.ask_number(FrontendRequest.GET_FEATURES)
        if self._known is None:
            offered = frontend.ask_number(FrontendRequest.GET_PROTOCOL_FEATURES)
            self._known = offered & self._wanted
        frontend.protocol_features = self._known
        connection.tell(FrontendRequest.SET_PROTOCOL_FEATURES, spec.U64.pack(self._known))
        frontend.queue_pairs_offered = frontend.ask_number(FrontendRequest.GET_QUEUE_NUM)
        return frontend

    def run_on(self, frontend: FrontEnd, bases: Sequence[int]) -> None:
        """Send features, memory, sizes and in-flight region, then each vring; enable all last."""
        frontend.set_features(self.config.acknowledged)
        frontend.set_memory(self.memory)
        for vring in self.vrings:
            self._tell_state(frontend, FrontendRequest.SET_VRING_NUM, vring.index, vring.queue.size)
        if frontend.has(ProtocolFeature.INFLIGHT_SHMFD):
            if self.inflight is None:
                queues, size = len(self.vrings), self.config.size
                self.inflight = InflightKeeper(frontend.connection, queues, size)
            self.inflight.give(frontend.connection)
        for vring, base in zip(self.vrings, bases, strict=True):
            index = spec.U64.pack(vring.index)
            frontend.set_vring_address(vring)
            self._tell_state(frontend, FrontendRequest.SET_VRING_BASE, vring.index, base)
            for request, fd in (
                (FrontendRequest.SET_VRING_CALL, vring.call.fileno()),
                (FrontendRequest.SET_VRING_KICK, vring.kick.fileno()),
            ):
                frontend.connection.tell(request, index, [fd], ack=True)
        for vring in self.vrings:
            self._tell_state(frontend, FrontendRequest.SET_VRING_ENABLE, vring.index, 1)
        for pair in self.pairs:
            pair.rx.fill()
            pair.tx.queue.publish()
        for vring in self.vrings:
            frontend.kick(vring)

    def close(self) -> None:
        """Close the session, the memory and the in-flight region."""
        super().close()
        if self.inflight is not None:
            self.inflight.close()
            self.inflight = None

    @staticmethod
    def _tell_state(frontend: FrontEnd, request: FrontendRequest, index: int, value: int) -> None:
        frontend.connection.tell(request, spec.VRING_STATE.pack(index, value), ack=True)
