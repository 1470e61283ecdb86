# SPDX-License-Identifier: Apache-2.0
"""Tracking of a ring in its front-end's in-flight region, whichever layout the ring has."""

from __future__ import annotations

from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.worker.recovery import inflight_packed, inflight_split
from ovs_vhost_plugin.worker.recovery.tracking import Bytes, Tracking


def track(ring: layout.Vring, region: Bytes, memory: layout.Memory, net: layout.Net) -> Tracking:
    """Track `ring`, which is about to begin, in its part `region`.

    The ring then begins with the chains in flight. Raises DamagedError; ring and region are then
    unchanged.
    """
    if ring.state[0]["packed"]:
        return inflight_packed.track(ring, region, memory, net)
    return inflight_split.track(ring, region, memory, net)
