# SPDX-License-Identifier: Apache-2.0
"""Hands a device over to a back-end: features, memory, and each vring at its base."""

from __future__ import annotations

from collections.abc import Sequence

from ovs_vhost_plugin.guest.driver.memory import GuestMemory
from ovs_vhost_plugin.guest.frontend.frontend import FrontEnd, NotOfferedError, VringSetup


def start_device(
    frontend: FrontEnd,
    features: int,
    memory: GuestMemory,
    vrings: Sequence[VringSetup],
    bases: Sequence[int],
    mtu: int | None,
) -> None:
    """Start all vrings on an initialised session; kicks are the caller's.

    Raises NotOfferedError if the back-end lacks one of `features`, or has fewer queue pairs.
    """
    if 2 * frontend.queue_pairs_offered < len(vrings):
        raise NotOfferedError(f"{frontend.queue_pairs_offered} queue pairs")
    frontend.set_features(features)
    frontend.give_memory(memory)
    if mtu is not None:
        frontend.set_mtu(mtu)
    # Enabled first, as QEMU does: a disabled ring that runs discards the frames it transmits.
    for vring in vrings:
        frontend.enable_vring(vring.index, True)
    for vring, base in zip(vrings, bases, strict=True):
        frontend.start_vring(vring, base)
