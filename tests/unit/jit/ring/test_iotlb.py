# SPDX-License-Identifier: Apache-2.0
"""Rings behind an IOMMU: single pages are translated, a missing one makes the ring wait.

IOVAs are here the addresses that the reference driver knows, and guest physical addresses are
others, so that what is logged by the wrong one shows.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from support.jit.pair_rig import (
    ALL,
    EMPTY,
    PATIENCE,
    RX_BUFFERS,
    RX_RING,
    TX_BUFFERS,
    TX_RING,
    Rig,
    await_that,
    frame,
)
from support.jit.ring_reference import INDIRECT, WRITE, descriptor

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.ring.iotlb import READ
from ovs_vhost_plugin.jit.ring.iotlb import WRITE as TO_WRITE
from ovs_vhost_plugin.vhost.memory.iotlb import TRANSLATED
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.usefixtures("both_layouts")

PAGE = 4096
GUEST_PHYSICAL = 1 << 24
"""What is at an IOVA is there in guest memory, this much further on."""
IOMMU = ALL | Feature.ACCESS_PLATFORM.mask
RINGS = range(RX_RING, TX_RING + 0x10000, PAGE)


def pages(start: int, length: int) -> range:
    return range(start, start + length, PAGE)


def translations(rig: Rig, *ranges: Iterable[int], access: int = READ | TO_WRITE) -> np.ndarray:
    """The rings', and those of the pages of `ranges`, each of its own."""
    rows = []
    for page in sorted({*RINGS, *(p for pages_ in ranges for p in pages_)}):
        allowed = READ | TO_WRITE if page in RINGS else access
        rows.append((page, PAGE, rig.memory.host(page), page + GUEST_PHYSICAL, allowed))
    return np.array(rows, TRANSLATED)


def missed(rig: Rig) -> list[Any]:
    """What the worker is told, once it is."""
    assert select.select([rig.pair.fault_fd], [], [], PATIENCE)[0]
    assert rig.pair.take_faults() == []
    return misses(rig)


def misses(rig: Rig) -> list[Any]:
    """The rings that wait for a translation: kind, IOVA and access."""
    return [(ring.kind, *missing) for ring in rig.pair.rings if (missing := ring.miss())]


def go_on(rig: Rig, regions: np.ndarray) -> None:
    """Start again with other translations, where both rings stand."""
    rig.pair.stop()
    rx, tx = (rig.vring(ring.kind, next_avail=ring.position) for ring in rig.pair.rings)
    rig.start(rx=rx, tx=tx, regions=regions)


def test_buffers_cross_the_pages_that_are_translated_one_by_one() -> None:
    with Rig(features=IOMMU) as rig:
        rig.rx.chain(0, [(RX_BUFFERS + 100, 5 * PAGE)], write=True)
        rig.rx.offer(0)
        rig.start(regions=translations(rig, pages(RX_BUFFERS, 6 * PAGE), pages(TX_BUFFERS, 0x8000)))
        rig.transmit(EMPTY + frame(20000), pieces=[12, 5000, 9000, 6000])
        rig.kick("tx")
        assert rig.wire.recv(70000) == EMPTY + frame(20000)
        rig.wire.send(EMPTY + frame(18000))
        rig.called("rx")
        assert rig.rx.collect() == [(0, 18012)]
        assert rig.memory.read(RX_BUFFERS + 112, 18000) == frame(18000)
        assert misses(rig) == []


def test_a_frame_whose_middle_is_not_translated_waits_and_goes_once() -> None:
    with Rig(features=IOMMU) as rig:
        known = [*pages(TX_BUFFERS, PAGE), *pages(TX_BUFFERS + 2 * PAGE, 4 * PAGE)]
        rig.start(regions=translations(rig, known))
        rig.transmit(EMPTY + frame(100), start=8)
        rig.kick("tx")
        assert rig.wire.recv(70000) == EMPTY + frame(100)
        rig.called("tx")
        rig.transmit(EMPTY + frame(9000))
        rig.kick("tx")
        assert missed(rig) == [("tx", TX_BUFFERS + PAGE, READ)]
        assert [head for head, _ in rig.tx.collect()] == [8]
        go_on(rig, translations(rig, known, pages(TX_BUFFERS + PAGE, PAGE)))
        assert rig.wire.recv(70000) == EMPTY + frame(9000)
        await_that(lambda: rig.tx.collect(), "the chain comes back")
        rig.wire.setblocking(False)
        with pytest.raises(BlockingIOError):
            rig.wire.recv(70000)
        assert not [name for name in rig.pair.counters if name.startswith("fault")]


def test_a_ring_that_waits_sleeps_whatever_is_kicked_and_the_other_goes_on() -> None:
    with Rig(features=IOMMU) as rig:
        rig.offer_buffers(4, 2000)
        rig.start(regions=translations(rig, pages(RX_BUFFERS, 0x40000)))
        rig.transmit(EMPTY + frame(100))
        rig.kick("tx")
        assert missed(rig) == [("tx", TX_BUFFERS, READ)]
        asleep = rig.idle()
        for _ in range(20):
            rig.kick("tx")
        assert rig.idle() == asleep
        for seed in range(3):
            rig.wire.send(EMPTY + frame(500, seed))
        await_that(lambda: rig.pair.counters["rx_packets"] == 3)
        assert [f[12:] for f in rig.received()] == [frame(500, seed) for seed in range(3)]
        with pytest.raises(BlockingIOError):  # told once
            os.eventfd_read(rig.pair.fault_fd)


def test_receive_buffers_before_the_one_that_is_missed_are_filled() -> None:
    with Rig(features=IOMMU) as rig:
        rig.offer_buffers(3, 2000)
        first, third = pages(RX_BUFFERS, PAGE), pages(RX_BUFFERS + 0x10000, PAGE)
        rig.start(regions=translations(rig, first, third))
        assert missed(rig) == [("rx", RX_BUFFERS + 0x8000, TO_WRITE)]
        rig.wire.send(EMPTY + frame(500))
        rig.wire.send(EMPTY + frame(600))
        rig.called("rx")
        assert [f[12:] for f in rig.received()] == [frame(500)]
        asleep = rig.idle()
        rig.kick("rx")
        assert rig.idle() == asleep
        go_on(rig, translations(rig, first, pages(RX_BUFFERS + 0x8000, PAGE), third))
        rig.called("rx")
        assert [f[12:] for f in await_that(rig.received)] == [frame(600)]


def test_a_frame_that_found_too_few_buffers_waits_for_their_translation() -> None:
    with Rig(features=IOMMU) as rig:
        rig.offer_buffers(2, 2000)
        rig.start(regions=translations(rig, pages(RX_BUFFERS, PAGE)))
        assert missed(rig) == [("rx", RX_BUFFERS + 0x8000, TO_WRITE)]
        rig.wire.send(EMPTY + frame(3000))
        rig.idle()
        assert rig.rx.collect() == []
        go_on(rig, translations(rig, pages(RX_BUFFERS, PAGE), pages(RX_BUFFERS + 0x8000, PAGE)))
        rig.called("rx")
        assert [f[12:] for f in rig.received()] == [frame(3000)]


@pytest.mark.parametrize(("kind", "access"), [("rx", READ), ("tx", TO_WRITE)])
def test_what_is_allowed_counts(kind: str, access: int) -> None:
    with Rig(features=IOMMU) as rig:
        rig.offer_buffers(1, 2000)
        regions = translations(rig, pages(RX_BUFFERS, PAGE), pages(TX_BUFFERS, PAGE), access=access)
        rig.start(regions=regions)
        rig.transmit(EMPTY + frame(100))
        rig.kick("tx")
        place, needed = {"rx": (RX_BUFFERS, TO_WRITE), "tx": (TX_BUFFERS, READ)}[kind]
        assert missed(rig) == [(kind, place, needed)]
        if kind == "rx":
            assert [head for head, _ in await_that(rig.tx.collect)] == [0]
        else:
            assert rig.tx.collect() == []


def test_an_indirect_table_is_read_also_where_buffers_are_written() -> None:
    with Rig(features=IOMMU) as rig:
        table = TX_BUFFERS + 0x8000
        packed = rig.features & Feature.RING_PACKED.mask
        rest = (0, WRITE) if packed else (WRITE, 0)  # id and flags, or flags and next
        rig.memory.write(table, descriptor(RX_BUFFERS, 2000, *rest))
        rig.rx.describe(0, table, 16, INDIRECT)
        rig.rx.offer(0)
        both = pages(table, PAGE), pages(RX_BUFFERS, PAGE)
        only_written = translations(rig, *both, access=TO_WRITE)
        rig.start(regions=only_written)
        assert missed(rig) == [("rx", table, READ)]
        go_on(rig, translations(rig, pages(table, PAGE), access=READ))
        assert missed(rig) == [("rx", RX_BUFFERS, TO_WRITE)]


def test_an_indirect_table_that_wraps_is_a_fault_and_not_asked_for() -> None:
    with Rig(features=IOMMU) as rig:
        rig.tx.describe(0, 2**64 - 16, 32, INDIRECT)
        rig.tx.offer(0)
        rig.start(regions=translations(rig))
        assert select.select([rig.pair.fault_fd], [], [], PATIENCE)[0]
        assert rig.pair.take_faults() == [("tx", Fault.ADDRESS_WRAPS)]
        assert misses(rig) == []


def test_what_is_written_is_logged_by_guest_physical_addresses() -> None:
    log_bytes = (GUEST_PHYSICAL + 0x300000) // PAGE // 8
    with Rig(features=IOMMU, log_bytes=log_bytes) as rig:
        rig.rx.chain(0, [(RX_BUFFERS + 100, 3 * PAGE)], write=True)
        rig.rx.offer(0)
        rig.start(regions=translations(rig, pages(RX_BUFFERS, 4 * PAGE)))
        rig.wire.send(EMPTY + frame(6000))
        rig.called("rx")
        rig.pair.stop()
        assert rig.log is not None
        logged = {int(p) * PAGE for p in np.flatnonzero(np.unpackbits(rig.log, bitorder="little"))}
        buffers = {page + GUEST_PHYSICAL for page in pages(RX_BUFFERS, 2 * PAGE)}
        rings = {
            GUEST_PHYSICAL + address // PAGE * PAGE
            for driver in (rig.rx, rig.tx)
            for address in (driver.used, driver.desc)
        }
        assert buffers < logged <= buffers | rings
        assert GUEST_PHYSICAL + rig.rx.used // PAGE * PAGE in logged
        assert "fault_log_too_small" not in rig.pair.counters
