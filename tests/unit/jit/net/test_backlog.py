# SPDX-License-Identifier: Apache-2.0
"""Frames that come before the tap's: given back to the guest, and taken out again."""

from __future__ import annotations

import numpy as np
import pytest
from support.jit.pair_rig import ALL, EMPTY, MRG_RXBUF, Rig, await_that, frame

from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.usefixtures("both_layouts")


def received(rig: Rig, count: int) -> list[bytes]:
    got: list[bytes] = []
    await_that(lambda: got.extend(rig.received()) or len(got) >= count, f"{count} frames")
    return [data[rig.header_size :] for data in got]


@pytest.mark.parametrize(
    ("features", "header_size"),
    [(ALL, 12), (ALL & ~MRG_RXBUF, 12), (Feature.CSUM.mask, 10)],
)
def test_what_is_given_comes_first_and_in_order(features: int, header_size: int) -> None:
    with Rig(size=16, features=features, header_size=header_size) as rig:
        rig.offer_buffers(16, 2000)
        newer = [frame(80, seed) for seed in range(10, 13)]
        for data in newer:
            rig.wire.send(bytes(header_size) + data)
        held = [frame(60 + 300 * seed, seed) for seed in range(1, 6)]
        rig.pair.give(held)
        rig.start()
        assert received(rig, 8) == held + newer


def test_it_waits_for_buffers_and_the_tap_waits_behind_it() -> None:
    with Rig(size=16) as rig:
        rig.wire.send(EMPTY + frame(100, 9))
        held = [frame(1500, seed) for seed in range(4)]
        rig.pair.give(held)
        rig.offer_buffers(2, 2000)
        rig.start()
        assert received(rig, 2) == held[:2]
        rig.idle()
        rig.offer_buffers(3, 2000, first=2)
        rig.kick("rx")
        assert received(rig, 3) == [*held[2:], frame(100, 9)]
        assert rig.pair.counters["rx_packets"] == 5


def test_a_pair_that_stops_gives_back_what_it_has_not_delivered() -> None:
    with Rig(size=16) as rig:
        held = [frame(5000, 1), frame(60, 2), frame(61, 3)]
        rig.pair.give(held[:2])
        rig.pair.give(held[2:])
        rig.offer_buffers(1, 1000)
        rig.start()
        rig.idle()
        rig.pair.stop()
        assert rig.pair.take_waiting() == [bytes(12) + data for data in held]
        assert rig.pair.take_waiting() == []
        rig.offer_buffers(8, 2000, first=1)
        rig.wire.send(EMPTY + frame(70, 4))
        rig.start()
        assert received(rig, 1) == [frame(70, 4)]


def test_a_frame_that_was_read_and_waits_is_taken_with_its_header() -> None:
    with Rig(size=16) as rig:
        rig.offer_buffers(1, 1000)
        rig.start()
        asks = np.frombuffer(EMPTY, np.uint8).copy()
        asks[0] = 2  # DATA_VALID
        rig.wire.send(asks.tobytes() + frame(3000, 5))
        rig.idle()
        rig.pair.stop()
        assert rig.pair.take_waiting() == [asks.tobytes() + frame(3000, 5)]
