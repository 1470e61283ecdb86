# SPDX-License-Identifier: Apache-2.0
"""The loop as a whole: frames both ways, sleep and wake, faults, stop."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pair_rig import EVENT_IDX, INDIRECT, MODERN, OFFLOADS, RX_BUFFERS, TX_BUFFERS, Rig, await_that

from ovs_vhost_plugin.jit.faults import Fault

EMPTY = bytes(12)
ALL = MODERN | EVENT_IDX | INDIRECT | OFFLOADS


def frame(length: int, seed: int = 1) -> bytes:
    """Bytes that differ from place to place and from frame to frame."""
    return bytes((seed * 31 + i * 7 + (i >> 8)) & 0xFF for i in range(length))


@pytest.mark.parametrize("pieces", [None, [12, 100], [1, 11, 60, 40], [5, 5, 5, 97], [20, 92]])
def test_a_frame_from_the_guest(pieces: list[int] | None) -> None:
    with Rig() as rig:
        rig.start()
        rig.transmit(EMPTY + frame(100), pieces)
        rig.kick("tx")
        assert rig.wire.recv(70000) == EMPTY + frame(100)
        rig.called("tx")
        assert rig.tx.collect() == [(0, 0)]
        counters = rig.pair.counters
        assert (counters["tx_packets"], counters["tx_bytes"]) == (1, 100)


@pytest.mark.parametrize("mergeable", [True, False])
def test_a_frame_to_the_guest(mergeable: bool) -> None:
    features = ALL if mergeable else ALL & ~(1 << 15)
    with Rig(features=features) as rig:
        rig.offer_buffers(4, 2000)
        rig.start()
        rig.wire.send(EMPTY + frame(1000))
        rig.called("rx")
        assert rig.received() == [EMPTY[:10] + b"\x01\x00" + frame(1000)]
        assert (rig.pair.counters["rx_packets"], rig.pair.counters["rx_bytes"]) == (1, 1000)


def test_a_legacy_header_has_ten_bytes() -> None:
    with Rig(features=0, header_size=10) as rig:
        rig.offer_buffers(1, 2000)
        rig.start()
        rig.wire.send(EMPTY[:10] + frame(100))
        rig.called("rx")
        assert rig.received() == [EMPTY[:10] + frame(100)]
        rig.transmit(EMPTY[:10] + frame(77))
        rig.kick("tx")
        assert rig.wire.recv(2000) == EMPTY[:10] + frame(77)


def test_flags_are_empty_for_a_guest_without_guest_csum() -> None:
    with Rig(features=MODERN) as rig:
        rig.offer_buffers(1, 2000)
        rig.start()
        rig.wire.send(b"\x02" + EMPTY[1:] + frame(100))
        rig.called("rx")
        assert rig.received() == [EMPTY[:10] + b"\x01\x00" + frame(100)]
