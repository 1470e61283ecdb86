# SPDX-License-Identifier: Apache-2.0
"""Translations by IOVA against one dictionary entry for each byte."""

import os
from itertools import pairwise
from struct import Struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import InvalidateIotlb, MemoryRegion, UpdateIotlb
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.memory import iotlb
from ovs_vhost_plugin.vhost.memory.iotlb import Iotlb, MissingError, overlap
from ovs_vhost_plugin.vhost.memory.table import MemoryTable
from ovs_vhost_plugin.vhost.requests.iotlb import access_fail, iotlb_msg, miss
from ovs_vhost_plugin.vhost.spec import IotlbAccess, IotlbType

READ, WRITE = IotlbAccess.READ, IotlbAccess.WRITE
BOTH = READ | WRITE
PAGE = 4096
TOP = 1 << 64

IOVA = st.integers(0, 60) | st.integers(TOP - 40, TOP - 1)
STEP = st.tuples(
    st.sampled_from(["update", "update", "invalidate"]),
    IOVA,
    st.integers(1, 30),
    st.sampled_from([0, 0, 100, 1000]),
    st.sampled_from([0, 1, 2, 3]),
)


def new_memory():
    """Two regions that are neighbours for the front-end, and for nobody else."""
    regions = [MemoryRegion(0x100000, 4 * PAGE, 0x7000, 0), MemoryRegion(0, PAGE, 0xB000, 0)]
    fds = [os.memfd_create("memory") for _ in regions]
    for fd in fds:
        os.ftruncate(fd, 4 * PAGE)
    return MemoryTable(regions, fds)


class Bytewise:
    """What each byte is translated to: user address, access."""

    def __init__(self):
        self.bytes = {}

    def update(self, iova, size, user, access):
        span = range(iova, iova + size)
        same = all(i in self.bytes and self.bytes[i][0] == user + i - iova for i in span)
        one = same and len({self.bytes[i][2] for i in span}) == 1
        whole = one and sum(e[2] == self.bytes[iova][2] for e in self.bytes.values()) == size
        if whole:
            access |= self.bytes[iova][1]
        self.invalidate(iova, size)
        if access:
            mark = object()
            self.bytes |= {i: (user + i - iova, access, mark) for i in span}

    def invalidate(self, iova, size):
        left = [i for i in range(iova, iova + size) if i in self.bytes]
        # what is left on either side of a cut is a translation of its own
        if left:
            for side in (range(iova), range(iova + size, TOP)):
                marks = {}
                for i in list(self.bytes):
                    if i in side:
                        user, access, mark = self.bytes[i]
                        self.bytes[i] = (user, access, marks.setdefault(mark, object()))
        for i in left:
            del self.bytes[i]


@settings(max_examples=120, deadline=None)
@given(
    steps=st.lists(STEP, max_size=12),
    asked=st.lists(st.tuples(IOVA, st.integers(1, 40)), max_size=6),
)
def test_translates_like_the_reference(steps, asked):
    table, reference = Iotlb(), Bytewise()
    for what, iova, size, user, access in steps:
        size = min(size, TOP - iova)
        arguments = (iova, size, user + iova % 100, access) if what == "update" else (iova, size)
        getattr(table, what)(*arguments)
        getattr(reference, what)(*arguments)
    for iova, length in asked:
        length = min(length, TOP - iova)
        for access in (READ, WRITE):
            expected = [reference.bytes.get(i, (0, 0)) for i in range(iova, iova + length)]
            missing = next((i for i, e in enumerate(expected) if not e[1] & access), None)
            if missing is not None:
                with pytest.raises(MissingError) as caught:
                    table.lookup(iova, length, access)
                assert (caught.value.iova, caught.value.access) == (iova + missing, access)
                continue
            pieces = table.lookup(iova, length, access)
            assert [u + i for u, n in pieces for i in range(n)] == [e[0] for e in expected]
            joins = pairwise(pieces)
            assert all(sum(before) != after[0] for before, after in joins)


def test_a_translation_for_another_access_allows_both():
    table = Iotlb()
    table.update(PAGE, PAGE, 0x7000, READ)
    with pytest.raises(MissingError):
        table.lookup(PAGE, 8, WRITE)
    table.update(PAGE, PAGE, 0x7000, WRITE)
    assert table.lookup(PAGE, 8, BOTH) == [(0x7000, 8)]
    table.update(PAGE, PAGE, 0x9000, READ)  # elsewhere: what was there is no more
    with pytest.raises(MissingError):
        table.lookup(PAGE, 8, WRITE)


def test_a_translation_told_again_allows_no_more_than_before():
    table = Iotlb()
    table.update(0, PAGE, 0x6000, READ)  # another before it
    for _ in range(3):
        table.update(PAGE, PAGE, 0x7000, READ)
        assert len(table) == 2
        with pytest.raises(MissingError) as caught:
            table.lookup(PAGE, 8, WRITE)
    assert str(caught.value) == f"0x1000, {WRITE!r}"
    table.update(PAGE, PAGE, 0x7000, WRITE)
    assert table.lookup(PAGE, 8, BOTH) == [(0x7000, 8)]


def test_a_translation_that_allows_nothing_is_none():
    table = Iotlb()
    table.update(PAGE, PAGE, 0x7000, READ)
    table.update(PAGE, PAGE, 0x9000, 0)
    assert len(table) == 0


def test_what_needs_both_asks_for_one_after_the_other():
    table = Iotlb()
    asked = []
    for _ in range(2):
        with pytest.raises(MissingError) as caught:
            table.lookup(PAGE, 8, BOTH)
        asked.append(caught.value.access)
        table.update(PAGE, PAGE, 0x7000, caught.value.access)
    assert asked == [READ, WRITE]
    assert table.lookup(PAGE, 8, BOTH)


def test_updates_without_end_cost_no_memory_and_the_latest_are_there(monkeypatch):
    monkeypatch.setattr(iotlb, "MAX_TRANSLATIONS", 16)
    table = Iotlb()
    for page in range(100):
        table.update(page * 3 * PAGE, 3 * PAGE, 0x7000, READ)
        table.invalidate(page * 3 * PAGE + PAGE, PAGE)  # leaves two of one
        assert len(table) <= 16
    assert table.replaced == 200 - 16
    assert table.lookup(99 * 3 * PAGE, PAGE, READ)
    with pytest.raises(MissingError):
        table.lookup(0, 1, READ)
    table.clear()
    assert len(table) == 0
    table.update(0, PAGE, 0x7000, READ)
    assert table.lookup(0, PAGE, READ) == [(0x7000, PAGE)]


def test_the_oldest_goes_wherever_it_is(monkeypatch):
    monkeypatch.setattr(iotlb, "MAX_TRANSLATIONS", 4)
    table = Iotlb()
    for page in (3, 4, 2, 1, 0):  # one more than there is room for
        table.update(page * PAGE, PAGE, 0x7000, READ)
    assert (len(table), table.replaced) == (4, 1)
    with pytest.raises(MissingError):
        table.lookup(3 * PAGE, 1, READ)
    for page in (4, 2, 1, 0):
        assert table.lookup(page * PAGE, 1, READ)


def test_the_table_names_places_in_this_process_and_in_the_guest():
    memory, table = new_memory(), Iotlb()
    table.update(0x50000, PAGE, 0x8000, READ)
    table.update(0x20000, 2 * PAGE, 0x9000, BOTH)
    rows = table.table(memory)
    hosts = {int(r["guest"]): int(r["host"]) for r in memory.regions}
    assert rows.tolist() == [
        (0x20000, 2 * PAGE, hosts[0x100000] + 2 * PAGE, 0x102000, BOTH),
        (0x50000, PAGE, hosts[0x100000] + PAGE, 0x101000, READ),
    ]


def test_a_translation_whose_memory_has_gone_is_left_out():
    memory, table = new_memory(), Iotlb()
    table.update(0x20000, PAGE, 0xB000, READ)
    table.update(0x30000, PAGE, 0x6000, READ)  # before all of it
    table.update(0x40000, PAGE, 0xC000, READ)  # behind all of it
    table.update(0x60000, 2 * PAGE, 0xA000, READ)  # in two regions: the device splits it
    assert table.table(memory)["guest"].tolist() == [0x20000]
    none = table.table(MemoryTable.empty())
    assert len(none) == 0 and none.dtype == iotlb.TRANSLATED


def test_a_range_is_split_where_regions_meet_and_refused_where_there_is_none():
    memory = new_memory()
    assert memory.split(0xA000, 2 * PAGE) == [(0xA000, PAGE), (0xB000, PAGE)]
    for user, size in ((0xB000, PAGE + 1), (0x6FFF, 2), (0x20000, 1), (TOP - 1, 1)):
        with pytest.raises(PeerError) as caught:
            memory.split(user, size)
        assert caught.value.name == PeerErrorName.IOTLB_OUTSIDE_MEMORY
    memory.close()


@given(
    rows=st.lists(st.tuples(IOVA, st.integers(1, 9)), max_size=5),
    iova=IOVA,
    size=st.integers(0, 20),
)
def test_overlap_is_as_it_is_said(rows, iova, size):
    rows = [(start, min(length, TOP - start)) for start, length in rows]
    size = min(size, TOP - iova)
    table = np.array([(start, length, 0, 0, 0) for start, length in rows], iotlb.TRANSLATED)
    wanted = {i for start, length in rows for i in range(start, start + length)}
    assert overlap(table, iova, size) == any(i in wanted for i in range(iova, iova + size))


def test_neighbours_do_not_overlap():
    table = np.array([(8, 4, 0, 0, 0)], iotlb.TRANSLATED)
    found = [overlap(table, iova, 2) for iova in range(5, 15)]
    assert found == [False, False, True, True, True, True, True, False, False, False]


def message(iova=0, size=PAGE, user=0, access=3, kind=IotlbType.UPDATE):
    return next(iotlb_msg(None, spec.IOTLB.pack(iova, size, user, access, kind), []))


def test_messages_become_what_the_device_does():
    assert message(1, 2, 3, 1) == UpdateIotlb(1, 2, 3, READ)
    assert message(1, 2, kind=IotlbType.INVALIDATE) == InvalidateIotlb(1, 2)
    # as QEMU 7.2 sends it: in the other fields is what was on its stack
    garbled = message(PAGE, TOP - PAGE, TOP - 1, 178, IotlbType.INVALIDATE)
    assert garbled == InvalidateIotlb(PAGE, TOP - PAGE)
    # all of the address space: 2**64 does not fit into the size
    assert message(0, 0, kind=IotlbType.INVALIDATE) == InvalidateIotlb(0, TOP)
    assert message(PAGE, 0, kind=IotlbType.INVALIDATE) == InvalidateIotlb(PAGE, TOP - PAGE)
    assert message(TOP - PAGE, PAGE) == UpdateIotlb(TOP - PAGE, PAGE, 0, BOTH)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"kind": IotlbType.MISS}, PeerErrorName.IOTLB_TYPE),
        ({"kind": IotlbType.ACCESS_FAIL}, PeerErrorName.IOTLB_TYPE),
        ({"kind": 0}, PeerErrorName.IOTLB_TYPE),
        ({"kind": 5}, PeerErrorName.IOTLB_TYPE),
        ({"access": 4}, PeerErrorName.IOTLB_PERMISSIONS),
        ({"size": 0}, PeerErrorName.IOTLB_SIZE_ZERO),
        ({"iova": TOP - 1, "size": 2}, PeerErrorName.IOTLB_ADDRESS_WRAPS),
        ({"user": TOP - 1, "size": 2}, PeerErrorName.IOTLB_ADDRESS_WRAPS),
        (
            {"iova": TOP - 1, "size": 2, "kind": IotlbType.INVALIDATE},
            PeerErrorName.IOTLB_ADDRESS_WRAPS,
        ),
    ],
)
def test_messages_that_cannot_be_right(fields, name):
    with pytest.raises(PeerError) as caught:
        message(**fields)
    assert caught.value.name == name


@pytest.mark.parametrize(("ask", "kind"), [(miss, 1), (access_fail, 4)])
def test_the_back_end_asks_for_one_byte_and_one_access(ask, kind):
    """vhost-user "An IOTLB message": iova, size, user address, permissions, type."""
    assert ask(0x1234, WRITE) == Struct("<QQQBB6x").pack(0x1234, 0, 0, 2, kind)
