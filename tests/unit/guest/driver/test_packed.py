# SPDX-License-Identifier: Apache-2.0
"""The packed ring's bytes, by their offsets in the specification (virtio 1.2, 2.8)."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_vhost_plugin.guest.driver.memory import GuestMemory
from ovs_vhost_plugin.guest.driver.packed import PackedQueue
from ovs_vhost_plugin.guest.driver.split import Buffer, DeviceBrokenError, RingFullError

AVAIL, USED, NEXT, WRITE, INDIRECT = 0x80, 0x8000, 1, 2, 4


def make(size: int = 8, **settings: object) -> PackedQueue:
    return PackedQueue(GuestMemory.of_size(1 << 20), size, **settings)  # type: ignore[arg-type]


def descriptor(queue: PackedQueue, slot: int) -> tuple[int, int, int, int]:
    """Address, length, id, flags."""
    address, length, buffer_id, flags = struct.unpack(
        "<QIHH", queue.memory.read(queue.desc_address + 16 * slot, 16)
    )
    return address, length, buffer_id, flags


def use(queue: PackedQueue, slot: int, buffer_id: int, written: int = 0, wrap: int = 1) -> None:
    """What a device does."""
    data = struct.pack("<IHH", written, buffer_id, (AVAIL | USED) * wrap)
    queue.memory.write(queue.desc_address + 16 * slot + 8, data)


def driver_event(queue: PackedQueue) -> tuple[int, int]:
    off, flags = struct.unpack("<HH", queue.memory.read(queue.avail_address, 4))
    return off, flags


def device_event(queue: PackedQueue, off: int, flags: int) -> None:
    queue.memory.write(queue.used_address, struct.pack("<HH", off, flags))


def test_a_chain_shows_with_its_first_flags() -> None:
    queue = make()
    buffer_id = queue.add([Buffer(0x1000, 10), Buffer(0x2000, 20)], [Buffer(0x3000, 30)])
    assert descriptor(queue, 0)[3] == 0, "not visible before publish"
    assert descriptor(queue, 1) == (0x2000, 20, buffer_id, AVAIL | NEXT)
    assert descriptor(queue, 2) == (0x3000, 30, buffer_id, AVAIL | WRITE)
    queue.publish()
    assert descriptor(queue, 0) == (0x1000, 10, buffer_id, AVAIL | NEXT)
    assert queue.free == 5


def test_the_wrap_counter_toggles_within_a_chain() -> None:
    queue = make(3, first_index=2)
    assert [descriptor(queue, slot)[3] for slot in range(3)] == [AVAIL | USED, AVAIL | USED, 0]
    queue.add([Buffer(0x1000, 1)] * 2, [])
    queue.publish()
    assert [descriptor(queue, slot)[3] for slot in range(3)] == [USED, AVAIL | USED, AVAIL | NEXT]


def test_an_indirect_chain_takes_one_descriptor() -> None:
    queue = make()
    buffer_id = queue.add([Buffer(0x1000, 10)], [Buffer(0x3000, 30)], indirect=True)
    queue.publish()
    table, length, same, flags = descriptor(queue, 0)
    assert (length, same, flags, queue.free) == (32, buffer_id, AVAIL | INDIRECT, 7)
    assert struct.unpack("<QIHH", queue.memory.read(table, 16)) == (0x1000, 10, 0, 0)
    assert struct.unpack("<QIHH", queue.memory.read(table + 16, 16)) == (0x3000, 30, 0, WRITE)


def test_used_chains_come_back_with_their_token_and_length_in_any_order() -> None:
    queue = make()
    first = queue.add([], [Buffer(0x1000, 100)] * 2, token="a")
    second = queue.add([], [Buffer(0x1000, 100)], token="b")
    queue.publish()
    use(queue, 0, second, 7)
    assert [(used.token, used.written) for used in queue.collect()] == [("b", 7)]
    assert queue.base == 0x8001_8001
    use(queue, 1, first, 200)
    assert queue.base == 0x8003_8003
    assert [(used.token, used.written) for used in queue.collect()] == [("a", 200)]
    assert (queue.outstanding, queue.free) == (0, 8)


def test_in_order_the_last_id_gives_back_all_before_it() -> None:
    queue = make(in_order=True)
    ids = [queue.add([Buffer(0x1000, 1)] * 2, [], token=name) for name in "abc"]
    queue.publish()
    use(queue, 0, ids[1])
    assert [used.token for used in queue.collect()] == ["a", "b"]
    assert queue.base == 0x8004_8004
    use(queue, 4, ids[2])
    assert [used.token for used in queue.collect()] == ["c"]


def test_no_more_chains_than_descriptors() -> None:
    queue = make(4)
    queue.add([Buffer(0, 1)] * 3, [])
    with pytest.raises(RingFullError):
        queue.add([Buffer(0, 1)] * 2, [])
    queue.add([Buffer(0, 1)] * 2, [], indirect=True)
    assert queue.free == 0
    with pytest.raises(ValueError, match="65 buffers"):
        make().add([Buffer(0, 1)] * 65, [], indirect=True)


@pytest.mark.parametrize(("buffer_id", "written"), [(5, 0), (0, 101)])
def test_impossible_used_descriptors(buffer_id: int, written: int) -> None:
    queue = make()
    assert queue.add([], [Buffer(0x1000, 100)]) == 0
    queue.publish()
    use(queue, 0, buffer_id, written)
    with pytest.raises(DeviceBrokenError):
        queue.collect()


def test_kicks_by_flag_and_by_descriptor() -> None:
    queue = make(event_index=False)
    assert not queue.publish(), "nothing new"
    for flags, wanted in ((0, True), (1, False)):
        device_event(queue, 0, flags)
        queue.add([Buffer(0, 1)], [])
        assert queue.publish() == wanted
    queue = make(4, first_index=3)
    kicked = []
    for event in (0x8003, 0x8003, 1, 1):  # the slot and the wrap counter it is awaited with
        device_event(queue, event, 2)
        queue.add([Buffer(0, 1)], [])
        kicked.append(queue.publish())
    assert kicked == [True, False, True, False]


def test_calls_by_flag_and_by_descriptor() -> None:
    queue = make(event_index=False)
    assert driver_event(queue)[1] == 1
    queue.want_calls(True)
    assert driver_event(queue)[1] == 0
    queue = make(8, first_index=13)
    buffer_id = queue.add([Buffer(0, 1)], [])
    queue.publish()
    assert not queue.want_calls(True)
    assert driver_event(queue) == (5, 2)
    use(queue, 5, buffer_id, wrap=0)
    assert queue.want_calls(True), "one came while asking"
    queue.want_calls(False)
    assert driver_event(queue)[1] == 1


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(0, 17), st.lists(st.integers(1, 3), max_size=20))
def test_many_rounds(size: int, first: int, lengths: list[int]) -> None:
    queue = make(size, first_index=first)
    position = first % (2 * size)
    for number, length in enumerate(min(length, size) for length in lengths):
        buffer_id = queue.add([Buffer(0x1000, 1)] * length, [], token=number)
        queue.publish()
        use(queue, position % size, buffer_id, wrap=position < size)
        assert [used.token for used in queue.collect()] == [number]
        position = (position + length) % (2 * size)
    half = position % size | (0x8000 if position < size else 0)
    assert queue.base == half | half << 16
