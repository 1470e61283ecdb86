# SPDX-License-Identifier: Apache-2.0
"""A port as its worker shows it: its state for the row, its statistics for `vhost/stats`."""

from __future__ import annotations

from typing import Any

from ovs_vhost_plugin.ipc.reports import PortState
from ovs_vhost_plugin.ipc.stations import StationCodec
from ovs_vhost_plugin.vhost.spec import ProtocolFeature
from ovs_vhost_plugin.worker.complaints import Complaints
from ovs_vhost_plugin.worker.device import statistics
from ovs_vhost_plugin.worker.device.device import Device
from ovs_vhost_plugin.worker.device.userfaultdevice import UserfaultDevice
from ovs_vhost_plugin.worker.frontend import FrontEndLink
from ovs_vhost_plugin.worker.learned.addresses import Addresses
from ovs_vhost_plugin.worker.tap.holding import Holding


class Overview:
    """Reads the parts of one port. `rarps` counts SEND_RARP."""

    def __init__(
        self,
        front_end: FrontEndLink,
        device: Device,
        addresses: Addresses,
        holding: Holding,
        userfaultfds: UserfaultDevice,
        complaints: Complaints,
    ) -> None:
        self.rarps = 0
        self._front_end = front_end
        self._device = device
        self._addresses = addresses
        self._holding = holding
        self._userfaultfds = userfaultfds
        self._complaints = complaints

    def state(self) -> PortState:
        """The present state of the port."""
        session = self._front_end.session
        sizes = () if session is None else tuple(v.size for v in session.vrings if v.size)
        error = self._complaints.last
        return PortState(
            status=self._front_end.status,
            socket=self._front_end.path,
            features="" if session is None else f"0x{session.features:016x}",
            protocol_features="" if session is None else f"0x{session.protocol_features:x}",
            num_vrings=len(sizes),
            vring_sizes=sizes,
            mtu=self._device.mtu,
            error="" if error is None else str(error.name),
            error_detail="" if error is None else error.detail,
            errors=self._complaints.counts.total(),
        )

    def stats(self) -> dict[str, Any]:
        """All counters, in the form described in `ipc/reports.py`."""
        pairs = self._device.pairs
        last = max((pair.index for pair in pairs if pair.used), default=0)
        return {
            "status": self._front_end.status,
            "connections": self._front_end.connections,
            "rarps": self.rarps,
            "postcopy": self._postcopy(),
            "hold": {"waiting": len(self._holding.buffer), **self._holding.buffer.counts},
            "errors": dict(self._complaints.counts),
            **self._device.iotlb_counts,
            "addresses": [StationCodec().encode(one) for one in self._addresses.current],
            **statistics.of_pairs([pair.counters | pair.fill for pair in pairs[: last + 1]]),
        }

    def _postcopy(self) -> str:
        """Whether postcopy is offered, or why not."""
        session = self._front_end.session
        if not self._userfaultfds.there:
            return f"not offered: {self._userfaultfds.why_not}"
        if session is None or session.offer.protocol_features & ProtocolFeature.PAGEFAULT.mask:
            return "offered"
        return "not offered: to this front-end, which came before; to the next one"
