# SPDX-License-Identifier: Apache-2.0
import errno
import fcntl
from typing import Any

import pytest

from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.worker.tap.queues import TapQueues, offload_flags

TUNSETOFFLOAD, USO = 0x400454D0, 0x60


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


@pytest.mark.parametrize("knows_uso", [True, False])
def test_a_kernel_before_uso_is_asked_for_none(
    monkeypatch: pytest.MonkeyPatch, knows_uso: bool
) -> None:
    flags = []

    def ioctl(_fd: int, request: int, argument: Any) -> None:
        if request == TUNSETOFFLOAD:
            if argument & USO and not knows_uso:
                raise OSError(errno.EINVAL, "as Linux before 6.2 says")
            flags.append(argument)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    taps = TapQueues([3])
    assert taps.takes_uso == knows_uso
    accepts = Feature.GUEST_CSUM.mask | Feature.GUEST_USO4.mask | Feature.GUEST_USO6.mask
    taps.set_format(12, accepts)
    assert flags[-1] == (0x61 if knows_uso else 0x01)
