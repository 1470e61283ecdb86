# SPDX-License-Identifier: Apache-2.0
"""The parts of a worker that a handover reads on one side, and fills on the other."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from ovs_vhost_plugin.worker.complaints import Complaints
from ovs_vhost_plugin.worker.device.device import Device
from ovs_vhost_plugin.worker.frontend import FrontEndLink
from ovs_vhost_plugin.worker.learned.addresses import Addresses
from ovs_vhost_plugin.worker.learned.devicestate import DeviceState
from ovs_vhost_plugin.worker.outbox import Outbox
from ovs_vhost_plugin.worker.overview import Overview
from ovs_vhost_plugin.worker.tap.gate import TapGate
from ovs_vhost_plugin.worker.tap.holding import Holding
from ovs_vhost_plugin.worker.tap.queues import TapQueues


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one worker. `journal`: its file."""

    control: socket.socket
    listener: socket.socket | None
    journal: int
    taps: TapQueues
    gate: TapGate
    front_end: FrontEndLink
    device: Device
    addresses: Addresses
    state: DeviceState
    holding: Holding
    complaints: Complaints
    overview: Overview
    outbox: Outbox
