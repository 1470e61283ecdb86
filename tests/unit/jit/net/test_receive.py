# SPDX-License-Identifier: Apache-2.0
"""Frames to the guest: merged buffers, frames that wait, frames too long."""

from __future__ import annotations

import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.jit.pair_rig import ALL, EMPTY, MRG_RXBUF, RX_BUFFERS, Rig, frame

pytestmark = pytest.mark.usefixtures("both_layouts")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lengths=st.lists(st.integers(14, 3000), min_size=1, max_size=6),
    buffers=st.lists(st.integers(1, 1500), min_size=1, max_size=64),
    first=st.sampled_from([0, 65530]),
)
def test_frames_fill_merged_buffers_of_any_length(
    lengths: list[int], buffers: list[int], first: int
) -> None:
    """Buffers come in bit by bit, some shorter than the header; every frame arrives whole."""
    with Rig(size=64, first=first) as rig:
        rig.start()
        sent = [frame(length, seed) for seed, length in enumerate(lengths)]
        for data in sent:
            rig.wire.send(EMPTY + data)
        buffers += [1500] * (64 - len(buffers))
        placed, received, free = {}, [], list(range(64))
        at = 0
        elements: list[tuple[int, int]] = []
        while len(received) < len(sent):
            if free:
                head = free.pop(0)
                placed[head] = RX_BUFFERS + 0x4000 * head
                length = buffers[at % len(buffers)]
                rig.rx.chain(head, [(placed[head], length)], write=True)
                rig.rx.offer(head)
                rig.kick("rx")
                at += 1
            elements += rig.rx.collect()
            while elements:
                data = b"".join(rig.memory.read(placed[h], n) for h, n in elements[:12])
                if len(data) < 12:
                    break
                count = int.from_bytes(data[10:12], "little")
                mine, elements = elements[:count], elements[count:]
                assert len(mine) == count
                received.append(b"".join(rig.memory.read(placed[h], n) for h, n in mine)[12:])
                free += [h for h, _ in mine]
        assert received == sent


def test_a_frame_waits_for_the_buffers_it_needs() -> None:
    with Rig() as rig:
        rig.offer_buffers(2, 1000)
        rig.start()
        rig.wire.send(EMPTY + frame(5000))
        rig.idle()
        assert rig.rx.collect() == []
        rig.offer_buffers(4, 1000, first=2)
        rig.kick("rx")
        rig.called("rx")
        assert rig.received() == [EMPTY[:10] + b"\x06\x00" + frame(5000)]


def test_a_waiting_frame_survives_stop_and_start() -> None:
    with Rig() as rig:
        rig.offer_buffers(2, 1000)
        rig.start()
        rig.wire.send(EMPTY + frame(5000))
        rig.idle()
        rig.pair.stop()
        assert rig.pair.rx.position == 0
        rig.memory.write(RX_BUFFERS, bytes(0x10000))
        rig.offer_buffers(4, 1000, first=2)
        rig.start()
        rig.called("rx")
        assert rig.received() == [EMPTY[:10] + b"\x06\x00" + frame(5000)]
        assert rig.pair.rx.state["next_avail"] == 6


def test_a_frame_that_no_number_of_buffers_holds_is_dropped() -> None:
    with Rig(size=4) as rig:
        rig.offer_buffers(4, 1000)
        rig.start()
        rig.wire.send(EMPTY + frame(5000))
        rig.wire.send(EMPTY + frame(500))
        rig.called("rx")
        assert [len(data) for data in rig.received()] == [512]
        assert rig.pair.counters["rx_dropped_too_long"] == 1


def test_a_frame_does_not_wait_for_ever() -> None:
    """The driver's buffers are too few for this frame and would do for the next ones."""
    with Rig(size=8) as rig:
        rig.offer_buffers(4, 1000)
        rig.start()
        rig.wire.send(EMPTY + frame(5000))
        rig.wire.send(EMPTY + frame(500))
        rig.called("rx")
        assert [len(data) for data in rig.received()] == [512]
        assert rig.pair.counters["rx_dropped_no_buffers"] == 1


def test_without_merging_a_frame_too_long_is_dropped_and_its_buffer_used_again() -> None:
    with Rig(features=ALL & ~MRG_RXBUF) as rig:
        rig.offer_buffers(2, 1000)
        rig.start()
        rig.wire.send(EMPTY + frame(1000))
        rig.wire.send(EMPTY + frame(988))
        rig.called("rx")
        assert rig.rx.collect() == [(0, 1000)]
        assert rig.memory.read(RX_BUFFERS + 12, 988) == frame(988)
        assert rig.pair.counters["rx_dropped_too_long"] == 1


def test_the_largest_frames_pass_both_ways() -> None:
    with Rig(size=64) as rig:
        for end in (rig.wire, rig.tap):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        rig.offer_buffers(64, 1500)
        rig.start()
        rig.wire.send(EMPTY + frame(65557))
        rig.called("rx")
        assert rig.received()[0][12:] == frame(65557)
        rig.transmit(EMPTY + frame(65557), [12, *[1500] * 43, 65557 - 43 * 1500])
        rig.kick("tx")
        assert rig.wire.recv(70000) == EMPTY + frame(65557)
