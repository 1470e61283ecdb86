# SPDX-License-Identifier: Apache-2.0
"""Mapping guest memory: hostile inputs 13, 14, 16-23, 26, 32 and 33."""

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from ovs_vhost_plugin.vhost.effects import MemoryRegion
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.memory import mapping
from ovs_vhost_plugin.vhost.memory.table import REGION_DTYPE, MemoryTable

PAGE = mmap.PAGESIZE
TOP = 2**64
FREE = 0x1000_0000_0000  # where the kernel puts nothing that does not ask for it


def region(guest=0, size=PAGE, user=0x7000_0000, offset=0):
    return MemoryRegion(guest, size, user, offset)


def refusal(memfd, *regions, size=4 * PAGE, fds=None):
    fds = [memfd(size) for _ in regions] if fds is None else fds
    with pytest.raises(PeerError) as caught:
        MemoryTable(regions, fds)
    assert mapped_files() == 0
    return caught.value.name


def mapped_files():
    return Path("/proc/self/maps").read_text().count("memfd:guest")


# -- what is refused ---------------------------------------------------------------------------


def test_zero_regions(memfd):
    assert refusal(memfd) == PeerErrorName.REGIONS_NONE


def test_more_regions_than_the_maximum(memfd):
    regions = [region(guest=i * PAGE, user=i * PAGE) for i in range(9)]
    assert refusal(memfd, *regions) == PeerErrorName.REGIONS_TOO_MANY


def test_eight_regions_are_the_maximum(memfd):
    regions = [region(guest=i * PAGE, user=i * PAGE) for i in range(8)]
    table = MemoryTable(regions, [memfd(PAGE) for _ in regions])
    assert len(table.regions) == 8
    table.close()


@pytest.mark.parametrize("count", [0, 2])
def test_regions_and_fds_differ(memfd, count):
    name = refusal(memfd, region(), fds=[memfd(PAGE) for _ in range(count)])
    assert name == PeerErrorName.REGIONS_FDS_DIFFER


def test_size_zero(memfd):
    assert refusal(memfd, region(size=0)) == PeerErrorName.REGION_SIZE_ZERO


def test_guest_address_wraps(memfd):
    name = refusal(memfd, region(guest=TOP - PAGE + 1))
    assert name == PeerErrorName.REGION_GUEST_ADDRESS_WRAPS


def test_user_address_wraps(memfd):
    name = refusal(memfd, region(user=TOP - PAGE + 1))
    assert name == PeerErrorName.REGION_USER_ADDRESS_WRAPS


def test_offset_wraps(memfd):
    name = refusal(memfd, region(offset=TOP - PAGE + 1))
    assert name == PeerErrorName.REGION_OFFSET_WRAPS


def test_the_last_page_of_the_address_space_does_not_wrap(memfd):
    table = MemoryTable([region(guest=TOP - PAGE, user=TOP - PAGE)], [memfd(PAGE)])
    assert len(table.view(TOP - PAGE, PAGE, 1)) == PAGE
    assert table.guest_end == TOP
    table.close()


def test_overlap_in_guest_addresses(memfd):
    name = refusal(memfd, region(guest=PAGE - 1, user=0), region(guest=0, user=8 * PAGE))
    assert name == PeerErrorName.REGION_OVERLAP_GUEST


def test_overlap_in_user_addresses(memfd):
    name = refusal(memfd, region(guest=0, user=PAGE - 1), region(guest=8 * PAGE, user=0))
    assert name == PeerErrorName.REGION_OVERLAP_USER


def test_the_same_region_twice(memfd):
    assert refusal(memfd, region(), region()) == PeerErrorName.REGION_OVERLAP_GUEST


@pytest.mark.parametrize(("size", "offset"), [(PAGE + 1, 0), (PAGE, 1), (1, PAGE), (2**62, 0)])
def test_file_shorter_than_region(memfd, size, offset):
    name = refusal(memfd, region(size=size, offset=offset), size=PAGE)
    assert name == PeerErrorName.FILE_SHORTER_THAN_REGION


def test_the_first_region_is_unmapped_when_the_second_fails(memfd):
    good, bad = region(), region(guest=TOP // 2, user=TOP // 2, size=8 * PAGE)
    assert refusal(memfd, good, bad) == PeerErrorName.FILE_SHORTER_THAN_REGION


def test_an_fd_without_memory(memfd):
    reading, writing = os.pipe()
    os.close(writing)
    name = refusal(memfd, region(), fds=[reading])
    assert name == PeerErrorName.FILE_SHORTER_THAN_REGION


def test_a_directory(memfd, tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    assert refusal(memfd, region(size=min(size, PAGE)), fds=[fd]) in {
        PeerErrorName.REGION_MAP_FAILED,
        PeerErrorName.FILE_SHORTER_THAN_REGION,  # tmpfs counts a directory's entries, not blocks
    }


def test_a_file_that_may_not_be_written(memfd, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    name = refusal(memfd, region(), fds=[os.open(path, os.O_RDONLY)])
    assert name == PeerErrorName.REGION_MAP_FAILED


def test_a_file_cut_between_the_check_and_the_mapping(memfd, monkeypatch):
    fd = memfd(4 * PAGE)
    seen_before = os.fstat(fd)
    os.ftruncate(fd, PAGE)
    monkeypatch.setattr(mapping.os, "fstat", lambda _fd: seen_before)
    name = refusal(memfd, region(size=4 * PAGE), fds=[fd])
    assert name == PeerErrorName.FILE_SHORTER_THAN_REGION


# -- what is mapped ----------------------------------------------------------------------------


def test_regions_are_sorted_by_guest_address(memfd):
    table = MemoryTable(
        [region(guest=8 * PAGE, user=0), region(guest=0, user=8 * PAGE)],
        [memfd(PAGE), memfd(PAGE)],
    )
    assert table.regions.dtype == REGION_DTYPE
    assert table.regions["guest"].tolist() == [0, 8 * PAGE]
    assert table.regions["size"].tolist() == [PAGE, PAGE]
    # the host address is that of the same bytes
    assert table.regions["host"].tolist() == [
        mapping.address(table.view(8 * PAGE, 1, 1)),
        mapping.address(table.view(0, 1, 1)),
    ]
    assert table.guest_end == 9 * PAGE
    table.close()


def test_memory_is_shared_with_the_front_end(memfd):
    fd = memfd(2 * PAGE)
    front_end = mmap.mmap(fd, 2 * PAGE)
    table = MemoryTable([region(size=2 * PAGE)], [fd])
    view = table.view(0x7000_0000 + PAGE, 4, 1)
    front_end[PAGE : PAGE + 4] = b"ping"
    assert view.tobytes() == b"ping"
    view[:] = np.frombuffer(b"pong", np.uint8)
    assert front_end[PAGE : PAGE + 4] == b"pong"
    table.close()


@pytest.mark.parametrize("offset", [1, PAGE - 16, PAGE, PAGE + 48, 3 * PAGE - 1])
def test_any_offset_of_the_file_can_be_mapped(memfd, offset):
    fd = memfd(4 * PAGE)
    os.pwrite(fd, b"here", offset)
    table = MemoryTable([region(size=PAGE, offset=offset)], [fd])
    assert table.view(0x7000_0000, 4, 1).tobytes() == b"here"
    assert len(table.view(0x7000_0000, PAGE, 1)) == PAGE
    table.close()


def test_a_region_up_to_the_odd_end_of_its_file(memfd):
    table = MemoryTable([region(size=PAGE + 5)], [memfd(PAGE + 5)])
    assert len(table.view(0x7000_0000, PAGE + 5, 1)) == PAGE + 5
    table.close()


def test_huge_pages_are_mapped_at_their_own_alignment(memfd, monkeypatch):
    # Not every machine has huge pages: what statvfs would tell, and what mmap is then given.
    huge, calls = 4 * PAGE, []
    fd = memfd(4 * huge)
    stat = os.statvfs_result((huge, huge, 0, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(mapping.os, "fstatvfs", lambda _fd: stat)
    real = mmap.mmap

    def record(fd, length, flags, offset):
        calls.append((length, offset))
        return real(fd, length, flags, offset=offset)

    monkeypatch.setattr(mapping.mmap, "mmap", record)
    MemoryTable([region(size=huge + PAGE, offset=huge + PAGE)], [fd]).close()
    assert calls == [(2 * huge, huge)]


# -- views ---------------------------------------------------------------------------------------


@pytest.fixture
def table(memfd):
    regions = [region(guest=0, user=0x10000), region(guest=PAGE, user=0x10000 + PAGE)]
    table = MemoryTable(regions, [memfd(PAGE), memfd(PAGE)])
    yield table
    table.close()


@pytest.mark.parametrize(
    ("address", "length", "align", "name"),
    [
        (0x10000 - 1, 1, 1, PeerErrorName.VRING_OUTSIDE_MEMORY),
        (0x10000 + 2 * PAGE, 1, 1, PeerErrorName.VRING_OUTSIDE_MEMORY),
        (0, 16, 1, PeerErrorName.VRING_OUTSIDE_MEMORY),
        (0x10000, PAGE + 1, 1, PeerErrorName.VRING_CROSSES_REGION),
        (0x10000 + 2 * PAGE - 1, 2, 1, PeerErrorName.VRING_CROSSES_REGION),
        (0x10000 + 8, 16, 16, PeerErrorName.VRING_MISALIGNED),
        (TOP - 1, 2, 1, PeerErrorName.VRING_ADDRESS_WRAPS),
    ],
)
def test_a_ring_that_does_not_lie_in_one_region(table, address, length, align, name):
    with pytest.raises(PeerError) as caught:
        table.view(address, length, align)
    assert caught.value.name == name


def test_alignment_counts_where_the_ring_is_mapped(memfd):
    # The front-end's address is a multiple of 16, but not the place in the file.
    table = MemoryTable([region(user=0x10000, offset=8)], [memfd(2 * PAGE)])
    with pytest.raises(PeerError) as caught:
        table.view(0x10000, 16, 16)
    assert caught.value.name == PeerErrorName.VRING_MISALIGNED
    table.close()


def test_a_user_address_has_a_guest_address(memfd):
    regions = [region(guest=9 * PAGE), region(guest=PAGE, size=2 * PAGE, user=PAGE)]
    made = MemoryTable(regions, [memfd(PAGE), memfd(2 * PAGE)])
    assert made.guest_address(0x7000_0000) == 9 * PAGE
    assert made.guest_address(3 * PAGE - 1) == 3 * PAGE - 1
    with pytest.raises(PeerError) as caught:
        made.guest_address(3 * PAGE)
    assert caught.value.name == PeerErrorName.VRING_OUTSIDE_MEMORY
    made.close()


def test_close_unmaps(memfd):
    table = MemoryTable([region()], [memfd(PAGE)])
    assert mapped_files() == 1
    table.close()
    assert mapped_files() == 0
    with pytest.raises(PeerError):
        table.view(0x7000_0000, 1, 1)


def test_a_view_keeps_its_memory_mapped(memfd):
    table = MemoryTable([region()], [memfd(PAGE)])
    view = table.view(0x7000_0000, 4, 1)
    table.close()
    view[:] = 7
    assert mapped_files() == 1
    del view
    assert mapped_files() == 0


# -- mapped where the front-end has it ---------------------------------------------------------


def test_regions_in_place_are_at_their_user_addresses(memfd):
    regions = [region(0, PAGE, FREE + 5, 2 * PAGE + 5), region(8 * PAGE, PAGE, FREE + 4 * PAGE)]
    fds = [memfd(4 * PAGE), memfd(PAGE)]
    os.pwrite(fds[0], b"here", 2 * PAGE + 5)
    table = MemoryTable(regions, fds, in_place=True)
    assert table.bases(regions) == (FREE + 5, FREE + 4 * PAGE)
    assert bytes(table.view(FREE + 5, 4, 1)) == b"here"
    more = region(16 * PAGE, PAGE, FREE + 6 * PAGE)
    assert table.with_region(more, memfd(PAGE), in_place=True).bases([more]) == (FREE + 6 * PAGE,)
    table.close()
    assert mapped_files() == 0


def test_a_view_keeps_memory_in_place_mapped(memfd):
    table = MemoryTable([region(user=FREE)], [memfd(PAGE)], in_place=True)
    view = table.view(FREE, 4, 1)
    table.close()
    view[:] = 7
    assert mapped_files() == 1
    del view
    assert mapped_files() == 0


@pytest.mark.parametrize("user", [0, 1, 3 * PAGE, TOP - PAGE, "taken"])
def test_a_place_that_is_not_to_be_had_is_another(memfd, user):
    """Nothing that is there already is lost, and no address of a front-end's is an error."""
    taken = np.frombuffer(mmap.mmap(-1, PAGE), np.uint8)
    before = mapping.address(taken)
    user = before if user == "taken" else user
    one = region(user=user)
    table = MemoryTable([one], [memfd(PAGE)], in_place=True)
    assert table.bases([one]) != (user,)
    table.view(user, 4, 1)[:] = 7
    assert not taken.any()
    table.close()


def test_memory_in_place_that_cannot_be_mapped(memfd):
    fd = os.open("/proc/self/exe", os.O_RDONLY)
    with pytest.raises(PeerError) as caught:
        MemoryTable([region(user=FREE)], [fd], in_place=True)
    assert caught.value.name == PeerErrorName.REGION_MAP_FAILED


# -- one region at a time (VHOST_USER_ADD_MEM_REG, VHOST_USER_REM_MEM_REG) -------------------------


def grown(memfd, count):
    """A table of `count` regions that came one by one, each in a file of its own."""
    table = MemoryTable.empty()
    for i in reversed(range(count)):
        bigger = table.with_region(region(guest=i * PAGE, user=2 * i * PAGE), memfd(PAGE))
        table.close()
        table = bigger
    return table


def test_hundreds_of_regions_are_sorted_and_one_more_than_the_maximum_is_refused(memfd):
    table = grown(memfd, 509)
    assert mapped_files() == 509
    assert list(table.regions["guest"]) == [i * PAGE for i in range(509)]
    with pytest.raises(PeerError) as caught:
        table.with_region(region(guest=600 * PAGE), memfd(PAGE))
    assert caught.value.name == PeerErrorName.REGIONS_TOO_MANY
    table.close()
    assert mapped_files() == 0


def test_a_region_that_goes_is_unmapped_and_the_others_stay(memfd):
    table = grown(memfd, 3)
    view = table.view(0, 4, 1)
    view[:] = 7
    smaller = table.without_region(region(guest=PAGE, user=2 * PAGE, offset=12345))
    table.close()
    assert mapped_files() == 2
    assert list(smaller.regions["guest"]) == [0, 2 * PAGE]
    assert list(smaller.view(0, 4, 1)) == [7] * 4
    with pytest.raises(PeerError):
        smaller.view(2 * PAGE, 1, 1)
    smaller.close()


def test_a_table_that_another_was_made_of_stays_whole(memfd):
    table = grown(memfd, 1)
    table.with_region(region(guest=PAGE), memfd(PAGE)).close()
    table.view(0, 1, 1)
    table.close()
    assert mapped_files() == 0


def test_a_region_that_comes_or_goes_twice_does_it_once(memfd):
    # QEMU 7.2 sends ADD_MEM_REG and REM_MEM_REG once for each queue pair.
    first = grown(memfd, 2)
    fd = memfd(PAGE)
    file = os.dup(fd)
    table = first.with_region(region(guest=PAGE, user=2 * PAGE), fd)
    first.close()
    assert mapped_files() == len(table.regions) == 2
    table.view(2 * PAGE, 1, 1)[:] = 9
    assert os.pread(file, 1, 0) == b"\x09"  # it is the file that came last
    os.close(file)
    fd = memfd(PAGE)
    again = table.with_region(region(guest=PAGE, user=2 * PAGE), os.dup(fd))
    table.close()
    table = again.with_region(region(guest=PAGE, user=2 * PAGE), fd)
    assert table is again  # the same file: no ring need stop for it
    gone = table.without_region(region(guest=PAGE, user=2 * PAGE))
    table.close()
    assert gone.without_region(region(guest=PAGE, user=2 * PAGE)) is gone
    assert mapped_files() == len(gone.regions) == 1
    back = gone.with_region(region(guest=PAGE, user=2 * PAGE), memfd(PAGE))
    gone.close()
    assert len(back.regions) == 2
    back.close()


@pytest.mark.parametrize(
    "unknown",
    [
        region(guest=3 * PAGE, user=0),
        region(guest=0, user=PAGE),
        region(guest=0, user=0, size=PAGE - 1),
    ],
)
def test_a_region_that_is_not_there_cannot_go(memfd, unknown):
    table = grown(memfd, 2)
    with pytest.raises(PeerError) as caught:
        table.without_region(unknown)
    assert caught.value.name == PeerErrorName.REGION_UNKNOWN
    table.close()


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (region(size=0), PeerErrorName.REGION_SIZE_ZERO),
        (region(guest=TOP - 1), PeerErrorName.REGION_GUEST_ADDRESS_WRAPS),
        (region(guest=0), PeerErrorName.REGION_OVERLAP_GUEST),
        (region(guest=7 * PAGE, user=1), PeerErrorName.REGION_OVERLAP_USER),
        (region(guest=7 * PAGE, size=2 * PAGE), PeerErrorName.FILE_SHORTER_THAN_REGION),
    ],
)
def test_a_region_that_cannot_be_right_is_not_added(memfd, more, name):
    table = grown(memfd, 2)
    with pytest.raises(PeerError) as caught:
        table.with_region(more, memfd(PAGE))
    assert caught.value.name == name
    assert mapped_files() == 2
    table.close()
