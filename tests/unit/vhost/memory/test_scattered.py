# SPDX-License-Identifier: Apache-2.0
"""Pages from anywhere as one array, and rings behind an IOMMU that lie in such pages."""

import errno
import gc
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from ovs_vhost_plugin.vhost.effects import MemoryRegion
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.memory.iotlb import Iotlb, MissingError
from ovs_vhost_plugin.vhost.memory.scattered import join, translated_view
from ovs_vhost_plugin.vhost.memory.table import MemoryTable
from ovs_vhost_plugin.vhost.spec import IotlbAccess

READ, WRITE = IotlbAccess.READ, IotlbAccess.WRITE
PAGE, USER = 4096, 0x7000_0000


@pytest.fixture
def memory():
    fd = os.memfd_create("scattered")
    os.ftruncate(fd, 16 * PAGE)
    table = MemoryTable([MemoryRegion(0, 16 * PAGE, USER, 0)], [fd])
    yield table
    table.close()


def mappings():
    return Path("/proc/self/maps").read_text().count("memfd:scattered")


def test_what_is_written_into_the_row_is_in_the_pieces_and_the_other_way_round(memory):
    places = [(5 * PAGE + 100, PAGE - 100), (2 * PAGE, 2 * PAGE), (9 * PAGE, 50)]
    pieces = [memory.view(USER + at, length, 1) for at, length in places]
    before = mappings()
    joined = join(pieces)
    for number, piece in enumerate(pieces):
        piece[:] = number + 1
    assert joined.tolist() == [n + 1 for n, (_, length) in enumerate(places) for _ in range(length)]
    joined[:] = np.arange(len(joined)) % 251
    assert np.concatenate(pieces).tolist() == joined.tolist()
    del joined
    gc.collect()
    assert mappings() == before


def test_pieces_that_do_not_meet_at_pages_cannot_be_joined(memory):
    with pytest.raises(OSError, match="page"):
        join([memory.view(USER, PAGE - 8, 1), memory.view(USER + 2 * PAGE, PAGE, 1)])
    with pytest.raises(OSError, match="page"):
        join([memory.view(USER, PAGE, 1), memory.view(USER + 2 * PAGE + 8, PAGE, 1)])


def test_pages_that_are_nobody_elses_cannot_be_mapped_again():
    room = mmap.mmap(-1, 2 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    private = np.frombuffer(room, np.uint8)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
        join([private[:PAGE], private[PAGE:]])
    assert caught.value.errno == errno.EINVAL


def test_a_ring_of_neighbours_is_a_view_and_one_of_strangers_a_row(memory):
    table = Iotlb()
    for page, at in ((0x10, 3), (0x11, 4), (0x12, 9)):
        table.update(page * PAGE, PAGE, USER + at * PAGE, READ)
    before = mappings()
    neighbours = translated_view(memory, table, 0x10 * PAGE + 64, PAGE, 16, READ)
    assert mappings() == before
    strangers = translated_view(memory, table, 0x11 * PAGE + 64, PAGE, 16, READ)
    neighbours[-64:] = 7
    strangers[-64:] = 9
    assert memory.view(USER + 4 * PAGE, 64, 1).tolist() == [7] * 64
    assert memory.view(USER + 9 * PAGE, 64, 1).tolist() == [9] * 64


def test_what_is_missing_is_said_and_what_cannot_be_is_refused(memory):
    table = Iotlb()
    table.update(0x10 * PAGE, PAGE, USER, READ)
    with pytest.raises(MissingError) as missing:
        translated_view(memory, table, 0x10 * PAGE, 2 * PAGE, 16, READ)
    assert (missing.value.iova, missing.value.access) == (0x11 * PAGE, READ)
    table.update(0x11 * PAGE, PAGE, USER + 2 * PAGE + 16, READ)
    not_pages = "in 2 pieces: pieces that do not begin with a page"
    for iova, length, text in (
        (0x10 * PAGE, 2 * PAGE, f"vring-crosses-region: 8192 bytes at 0x10000 {not_pages}"),
        (0x10 * PAGE + 8, 16, "vring-misaligned: 16 bytes at 0x70000008, not on 16"),
        ((1 << 64) - 16, 32, "vring-address-wraps: 32 bytes at 0xfffffffffffffff0"),
    ):
        with pytest.raises(PeerError) as caught:
            translated_view(memory, table, iova, length, 16, READ)
        assert str(caught.value) == text


def test_a_ring_of_strangers_is_aligned_as_one_of_neighbours(memory):
    table = Iotlb()
    table.update(0x10 * PAGE, PAGE, USER, READ)
    table.update(0x11 * PAGE, PAGE, USER + 2 * PAGE, READ)
    with pytest.raises(PeerError, match=r"^vring-misaligned: 4096 bytes at 0x10008$"):
        translated_view(memory, table, 0x10 * PAGE + 8, PAGE, 16, READ)
    assert len(translated_view(memory, table, 0x10 * PAGE + 1, PAGE, 1, READ)) == PAGE


def test_a_ring_may_end_where_addresses_end(memory):
    table, last = Iotlb(), (1 << 64) - PAGE
    table.update(last, PAGE, USER, READ)
    assert len(translated_view(memory, table, last, PAGE, 16, READ)) == PAGE
