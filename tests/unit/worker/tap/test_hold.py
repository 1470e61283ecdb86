# SPDX-License-Identifier: Apache-2.0
"""What is held, for whom, in which order, and how much of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.net.station import StationKey, receiver_of
from ovs_vhost_plugin.worker.tap.hold import STATIONS, HoldBuffer, Reason

GUEST = bytes.fromhex("525400000001")
NESTED = bytes.fromhex("525400000002")
ALL = b"\xff" * 6
PEER = bytes.fromhex("020000000001")


def frame(number: int, to: bytes = GUEST, vlan: int | None = None, length: int = 60) -> bytes:
    tag = b"" if vlan is None else b"\x81\x00" + vlan.to_bytes(2, "big")
    return (to + PEER + tag + b"\x08\x00" + number.to_bytes(4, "big")).ljust(length, b".")


def test_whom_a_frame_is_for() -> None:
    mac = bytes.fromhex("525400000001")
    assert receiver_of(frame(1)) == StationKey(mac, 0)
    assert receiver_of(frame(1, vlan=10)) == StationKey(mac, 10)
    assert receiver_of(frame(1, vlan=0x600A)) == StationKey(mac, 10)  # priority is no VLAN
    assert receiver_of(frame(1, to=ALL)) is None
    assert receiver_of(frame(1)[:13]) is None


@given(
    st.lists(st.tuples(st.sampled_from([GUEST, NESTED, ALL]), st.integers(0, 2)), max_size=60),
    st.integers(1, 9),
)
def test_batches_give_a_stations_frames_once_and_in_order(
    gate: list[tuple[bytes, int]], most: int
) -> None:
    buffer = HoldBuffer()
    sent = [(frame(n, to), queue) for n, (to, queue) in enumerate(gate)]
    for data, queue in sent:
        buffer.put(data, queue)
    wanted = receiver_of(frame(0))
    assert wanted is not None
    got: list[bytes] = []
    while batch := buffer.take([wanted], most, 1 << 20):
        assert len(batch) <= most
        got += batch
    assert got == [data for data, _ in sent if data[:6] == GUEST]
    assert buffer.waiting([wanted]) == 0
    rest = [(data, queue) for data, queue in sent if data[:6] != GUEST]
    for queue in range(3):
        assert buffer.give_back(queue) == [data for data, q in rest if q == queue]
    assert len(buffer) == buffer.size == 0
    assert buffer.counts["held"] == buffer.counts["forwarded"] + buffer.counts["returned"]


@given(st.lists(st.integers(14, 400), max_size=60), st.integers(1, 10), st.integers(400, 1500))
def test_the_oldest_give_way_and_all_are_accounted_for(
    lengths: list[int], frames: int, size: int
) -> None:
    buffer = HoldBuffer(frames, size)
    sent = [frame(n, length=length) for n, length in enumerate(lengths)]
    for data in sent:
        buffer.put(data, 0)
        assert len(buffer) <= frames and buffer.size <= size
    dropped = buffer.counts["dropped_full"]
    kept = buffer.give_back(0)
    assert kept == sent[dropped:] and len(sent) == len(kept) + dropped
    assert sum(map(len, kept)) <= size


def test_what_fits_exactly_is_kept() -> None:
    for buffer in (HoldBuffer(3, 1 << 20), HoldBuffer(100, 180)):
        for n in range(3):
            buffer.put(frame(n), 0)
        assert (len(buffer), buffer.counts["dropped_full"]) == (3, 0)
        buffer.put(frame(3), 0)
        assert (len(buffer), buffer.counts["dropped_full"]) == (3, 1)


def test_a_guest_that_speaks_to_a_group_from_elsewhere_is_sighted() -> None:
    def spoken(by: bytes, to: bytes = ALL) -> bytes:
        return (to + by + b"\x08\x00").ljust(60, b".")

    buffer = HoldBuffer()
    assert buffer.sighted == 0
    buffer.put(frame(0), 0)
    assert buffer.sighted == 0, "to the guest, not of it"
    for _ in range(3):
        buffer.put(spoken(GUEST), 0)
    buffer.put(spoken(PEER), 0)
    buffer.put(spoken(GUEST, to=NESTED), 0)
    assert buffer.sighted == 3
    buffer.clear(Reason.EXPIRED)
    assert buffer.sighted == 0


def test_a_batch_has_a_frame_that_is_longer_than_a_batch() -> None:
    buffer = HoldBuffer()
    for n in range(3):
        buffer.put(frame(n, length=900), 0)
    assert [len(buffer.take(buffer.stations, 10, size)) for size in (100, 1800)] == [1, 2]


def test_what_is_left_at_the_end_is_counted_by_why_nobody_got_it() -> None:
    buffer = HoldBuffer()
    for n, to in enumerate([GUEST, ALL, GUEST, ALL, ALL]):
        buffer.put(frame(n, to), 0)
    buffer.clear(Reason.EXPIRED)
    assert buffer.counts == {"held": 5, "dropped_group": 3, "dropped_expired": 2}
    assert (len(buffer), buffer.size, buffer.stations) == (0, 0, [])


def test_a_flood_of_addresses_is_told_of_only_so_far() -> None:
    buffer = HoldBuffer()
    for n in range(3 * STATIONS):
        buffer.put(frame(n, to=b"\x52\x54\0\0" + n.to_bytes(2, "big")), 0)
    assert len(buffer.stations) == STATIONS and len(buffer) == 3 * STATIONS
