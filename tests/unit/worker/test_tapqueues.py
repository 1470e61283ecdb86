# SPDX-License-Identifier: Apache-2.0
import pytest

from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.worker.tapqueues import offload_flags


@pytest.mark.parametrize(
    ("features", "flags"),
    [
        ((), 0),
        ((Feature.GUEST_CSUM,), 0x01),
        ((Feature.GUEST_CSUM, Feature.GUEST_TSO4), 0x03),
        ((Feature.GUEST_CSUM, Feature.GUEST_TSO4, Feature.GUEST_TSO6, Feature.GUEST_ECN), 0x0F),
        ((Feature.GUEST_CSUM, Feature.GUEST_USO4, Feature.GUEST_USO6), 0x61),
        # the kernel has one switch for the two
        ((Feature.GUEST_CSUM, Feature.GUEST_USO4), 0x01),
        ((Feature.GUEST_USO4, Feature.GUEST_USO6), 0),
        # segmentation without checksums is refused by the kernel: nothing is asked for
        ((Feature.GUEST_TSO4,), 0),
        # what the guest may send says nothing about what it accepts
        ((Feature.CSUM, Feature.HOST_TSO4), 0),
    ],
)
def test_what_the_guest_accepts_becomes_the_taps_offloads(
    features: tuple[Feature, ...], flags: int
) -> None:
    assert offload_flags(sum(1 << bit for bit in features)) == flags
