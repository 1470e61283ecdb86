# SPDX-License-Identifier: Apache-2.0
"""The ring's bytes, by their offsets in the specification (virtio 1.2, 2.7)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.guest.driver.driver import NetHeader, cut
from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory, OutsideMemoryError, Region
from ovs_vhost_plugin.guest.driver.split import (
    Buffer,
    DeviceBrokenError,
    RingFullError,
    SplitQueue,
    need_event,
)


def make(size: int = 8, event_index: bool = True, first_index: int = 0) -> SplitQueue:
    return SplitQueue(GuestMemory.of_size(1 << 20), size, event_index, first_index)


def descriptor(queue: SplitQueue, table: int, index: int) -> tuple[int, ...]:
    return struct.unpack("<QIHH", queue.memory.read(table + 16 * index, 16))


def avail(queue: SplitQueue) -> tuple[int, ...]:
    """Flags, index, ring, used_event."""
    data = queue.memory.read(queue.avail_address, 6 + 2 * queue.size)
    return struct.unpack(f"<{3 + queue.size}H", data)


def use(queue: SplitQueue, *elements: tuple[int, int], index: int | None = None) -> None:
    """What a device does."""
    old = queue.used_index
    for position, element in enumerate(elements):
        slot = (old + position) % queue.size
        queue.memory.write(queue.used_address + 4 + 8 * slot, struct.pack("<II", *element))
    new = old + len(elements) if index is None else index
    queue.memory.write(queue.used_address + 2, struct.pack("<H", new & 0xFFFF))


def test_a_chain_in_the_table() -> None:
    queue = make()
    head = queue.add([Buffer(0x1000, 10), Buffer(0x2000, 20)], [Buffer(0x3000, 30)])
    first = descriptor(queue, queue.desc_address, head)
    second = descriptor(queue, queue.desc_address, first[3])
    third = descriptor(queue, queue.desc_address, second[3])
    assert first[:3] == (0x1000, 10, 1)
    assert second[:3] == (0x2000, 20, 1)
    assert third == (0x3000, 30, 2, 0)
    assert avail(queue)[1] == 0, "not visible before publish"
    queue.publish()
    assert avail(queue)[1:3] == (1, head)


def test_an_indirect_chain_takes_one_descriptor() -> None:
    queue = make()
    head = queue.add([Buffer(0x1000, 10)], [Buffer(0x3000, 30)], indirect=True)
    table, length, flags, _ = descriptor(queue, queue.desc_address, head)
    assert (length, flags, queue.free) == (32, 4, 7)
    assert descriptor(queue, table, 0) == (0x1000, 10, 1, 1)
    assert descriptor(queue, table, 1) == (0x3000, 30, 2, 0)


def test_used_chains_come_back_with_their_token_and_length() -> None:
    queue = make()
    heads = [queue.add([], [Buffer(0x1000, 100)], token=name) for name in "ab"]
    queue.publish()
    use(queue, (heads[1], 7), (heads[0], 100))
    assert [(used.token, used.written) for used in queue.collect()] == [("b", 7), ("a", 100)]
    assert (queue.collect(), queue.free, queue.outstanding) == ([], 8, 0)


def test_no_more_chains_than_descriptors() -> None:
    queue = make(4)
    queue.add([Buffer(0, 1)] * 3, [])
    with pytest.raises(RingFullError):
        queue.add([Buffer(0, 1)] * 2, [])
    queue.add([Buffer(0, 1)] * 2, [], indirect=True)
    assert queue.free == 0


def test_an_indirect_table_has_an_end() -> None:
    queue = make()
    with pytest.raises(ValueError, match="65 buffers"):
        queue.add([Buffer(0, 1)] * 65, [], indirect=True)
    assert queue.free == 8
    queue.add([Buffer(0, 1)] * 64, [], indirect=True)


@pytest.mark.parametrize("elements", [[(5, 0)], [(0, 101)], [(0, 0), (0, 0)]])
def test_impossible_used_elements(elements: list[tuple[int, int]]) -> None:
    queue = make()
    assert queue.add([], [Buffer(0x1000, 100)]) == 0
    queue.add([], [Buffer(0x1000, 100)])
    queue.publish()
    use(queue, *elements)
    with pytest.raises(DeviceBrokenError):
        queue.collect()


@pytest.mark.parametrize("index", [2, 65535])
def test_impossible_used_index(index: int) -> None:
    queue = make()
    queue.add([Buffer(0x1000, 100)], [])
    queue.publish()
    use(queue, index=index)
    with pytest.raises(DeviceBrokenError):
        queue.collect()


def test_kicks_by_flag() -> None:
    queue = make(event_index=False)
    queue.add([Buffer(0, 1)], [])
    assert queue.publish()
    assert not queue.publish(), "nothing new"
    queue.memory.write(queue.used_address, b"\1\0")
    queue.add([Buffer(0, 1)], [])
    assert not queue.publish()


def test_kicks_by_event_index() -> None:
    queue = make(first_index=65535)
    wanted = []
    for event in (65535, 65535, 1, 9):
        queue.memory.write(queue.used_address + 4 + 8 * 8, struct.pack("<H", event))
        queue.add([Buffer(0, 1)], [])
        wanted.append(queue.publish())
    assert wanted == [True, False, True, False]


def test_calls_by_flag_and_by_event_index() -> None:
    queue = make(event_index=False)
    queue.want_calls(False)
    assert avail(queue)[0] == 1
    queue.want_calls(True)
    assert avail(queue)[0] == 0
    queue = make(first_index=5)
    head = queue.add([Buffer(0, 1)], [])
    assert not queue.want_calls(True)
    assert avail(queue)[-1] == 5
    use(queue, (head, 0))
    assert queue.want_calls(True), "one came while asking"
    queue.want_calls(False)
    assert avail(queue)[-1] == 4
    assert avail(queue)[0] == 0


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 300))
def test_need_event_is_passing_it(event: int, old: int, count: int) -> None:
    passed = {(old + i) & 0xFFFF for i in range(count)}
    assert need_event(event, (old + count) & 0xFFFF, old) == (event in passed)


def test_a_moved_queue_goes_on_in_the_other_memory() -> None:
    queue = make()
    queue.add([Buffer(0x1000, 1)], [], token="a", indirect=True)
    queue.publish()
    other = queue.memory.elsewhere()
    for region in other.regions:
        content = queue.memory.read(region.guest_address, region.size)
        other.write(region.guest_address, content)
    queue.move_to(other)
    use(queue, (0, 0))
    assert [used.token for used in queue.collect()] == ["a"]
    for _ in range(3):
        queue.add([Buffer(0x1000, 1)], [], indirect=True)
    tables = {descriptor(queue, queue.desc_address, i)[0] for i in range(4)}
    assert len(tables) == 4
    assert not tables & {queue.desc_address, queue.used_address}


def test_driver_and_device_write_other_pages() -> None:
    queue = make(256)
    queue.memory.written.clear()
    for _ in range(300):
        head = queue.add([Buffer(0, 1)], [], indirect=True)
        queue.publish()
        queue.want_calls(True)
        queue._used[1] = (queue._used[1] + 1) & 0xFFFF
        queue._used_elements[2 * ((queue._used[1] - 1) % 256)] = head
        queue.collect()
    used = queue.used_address // PAGE_SIZE
    assert used not in queue.memory.written
    assert queue.desc_address // PAGE_SIZE in queue.memory.written


def test_memory_across_contiguous_regions_and_not_across_a_gap() -> None:
    memory = GuestMemory(
        [
            Region(0x1000, 0x1000, 1 << 40),
            Region(0x2000, 0x1000, 9 << 30),
            Region(0x4000, 0x1000, 5),
        ]
    )
    memory.write(0x1FF0, bytes(range(32)))
    assert memory.read(0x1FF0, 32) == bytes(range(32))
    assert bytes(memory.view(0x2000, 4)) == bytes([16, 17, 18, 19])
    assert memory.written == {1, 2}
    assert memory.user_address(0x2010) == (9 << 30) + 0x10
    for wrong in ((0x2FFF, 2), (0x3000, 1), (0xFFF, 2)):
        with pytest.raises(OutsideMemoryError):
            memory.read(*wrong)
    with pytest.raises(OutsideMemoryError):
        memory.view(0x1FFF, 2)
    assert memory.allocate(0xF00) == 0x1000
    assert memory.allocate(0x200, may_cross=True) == 0x1F00
    assert memory.allocate(0xF80) == 0x4000
    with pytest.raises(OutsideMemoryError):
        memory.allocate(0x1001)


@given(st.integers(0, 70000), st.lists(st.integers(1, 5000), min_size=1, max_size=5))
def test_cutting_adds_up(length: int, sizes: list[int]) -> None:
    pieces = list(cut(length, sizes))
    assert sum(pieces) == length
    assert all(pieces)
    assert pieces[:-1] == [*sizes, *[sizes[-1]] * len(pieces)][: max(0, len(pieces) - 1)]


def test_net_header_in_ten_and_twelve_bytes() -> None:
    header = NetHeader(1, 2, 3, 4, 5, 6, 7)
    assert NetHeader.unpack(header.pack(12)) == header
    assert header.pack(10) == header.pack(12)[:10]
    assert NetHeader.unpack(header.pack(10)).num_buffers == 0
