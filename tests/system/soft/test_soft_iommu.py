# SPDX-License-Identifier: Apache-2.0
"""Guests behind an IOMMU: every page elsewhere, translated when asked for, taken away again."""

import random

import pytest
from support.system.soft_ports import BURST, check_inward, check_outward, frame_of, receive, settle

from ovs_vhost_plugin.guest.driver.iommu import TranslatedMemory, tell_iotlb
from ovs_vhost_plugin.guest.frontend.connection import RequestRefusedError
from ovs_vhost_plugin.guest.frontend.dirtylog import DirtyBitmap
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature, IotlbAccess, IotlbType

pytestmark = pytest.mark.system

PAGE = 4096
IOMMU = FEATURES | Feature.ACCESS_PLATFORM.mask
PACKED = IOMMU | Feature.RING_PACKED.mask
SIZES = range(60, 1515, 97)
EVERYTHING = 1 << 48
BOTH = IotlbAccess.READ | IotlbAccess.WRITE


def behind_iommu(features=IOMMU, **settings):
    return Config(features=features, memory=TranslatedMemory.of_pages(1024), **settings)


def buffer_pages(guest):
    """IOVAs of pages that hold buffers, and no part of a ring."""
    rings = {
        page
        for vring in guest.vrings
        for start, size in (
            (vring.queue.desc_address, 16 * vring.queue.size),
            (vring.queue.avail_address, 6 + 2 * vring.queue.size),
            (vring.queue.used_address, 6 + 8 * vring.queue.size),
        )
        for page in range(start // PAGE, (start + size) // PAGE + 1)
    }
    return [page * PAGE for page in guest.memory.physical if page not in rings]


@pytest.mark.parametrize("features", [IOMMU, PACKED], ids=["split", "packed"])
def test_frames_in_chains_of_every_kind(port, features):
    """Rings of several pages that are apart, buffers and indirect tables that cross pages."""
    settings = {"size": 512, "indirect": True, "receive_pieces": [12, 700, 5000]}
    guest = port.guest(behind_iommu(features, **settings))
    check_outward(port, guest, SIZES)
    check_outward(port, guest, SIZES, pieces=[7, 5, 100, 333])
    check_inward(port, guest, SIZES)
    assert guest.iommu.missed
    assert port.stats()["iotlb_misses"] >= len(set(guest.iommu.missed))
    assert port.errors() == {}


@pytest.mark.parametrize("features", [IOMMU, PACKED], ids=["split", "packed"])
def test_pages_move_in_the_middle_of_traffic(port, features):
    """What is behind an IOVA changes after each burst: stale translations would show."""
    guest = port.guest(behind_iommu(features, size=64))
    pick = random.Random(7)
    pages = buffer_pages(guest)
    for _ in range(12):
        for iova in pick.sample(pages, 6):
            guest.iommu.move(guest.frontend, iova)
        check_inward(port, guest, range(1000, 1008))
        check_outward(port, guest, range(1100, 1108))
    assert port.errors() == {}


def test_everything_is_taken_away_while_frames_are_under_way(port):
    """Also the rings: they wait, the tap keeps its carrier and what comes meanwhile."""
    guest = port.guest(behind_iommu(size=64))
    for round_ in range(4):
        frames = [frame_of(500 + round_) for _ in range(BURST)]
        port.inject(*frames[:9])
        guest.iommu.invalidate(guest.frontend, 0, EVERYTHING)
        port.inject(*frames[9:])
        assert port.carrier
        assert receive(guest, BURST) == frames
        check_outward(port, guest, range(100, 110))
    assert port.errors() == {}


def test_a_miss_that_is_not_answered_holds_up_its_ring_alone_and_loses_nothing(port):
    guest = port.guest(behind_iommu(size=64))
    check_inward(port, guest, SIZES)
    guest.iommu.answered = IotlbAccess.WRITE
    frames = [frame_of(size, outward=True) for size in SIZES]
    with port.capture() as capture:
        for frame in frames:
            guest.pairs[0].tx.add(frame)
        guest.publish(guest.pairs[0].tx_vring)
        waiting = len(guest.iommu.missed)
        wait_until(lambda: guest.serve() or len(guest.iommu.missed) > waiting, "the miss")
        check_inward(port, guest, SIZES)
        assert guest.pairs[0].tx.reap() == 0
        guest.iommu.answered = BOTH
        late = [iova for iova, access in guest.iommu.missed if access == IotlbAccess.READ]
        guest.iommu.update(guest.frontend, late[-1])
        guest.drain()
        assert port.sent(capture, len(frames)) == frames
    assert port.errors() == {}


def test_a_translation_that_does_not_allow_enough_is_reported(port):
    guest = port.guest(behind_iommu(size=64))
    check_outward(port, guest, SIZES)
    guest.iommu.allowed = IotlbAccess.READ
    for iova in buffer_pages(guest):
        guest.iommu.invalidate(guest.frontend, iova, PAGE)
    wait_until(lambda: guest.serve() or guest.iommu.failed, "the report")
    check_outward(port, guest, SIZES)
    assert guest.iommu.failed[0][1] == IotlbAccess.WRITE
    assert set(port.errors()) == {"iotlb-access-denied"}
    guest.iommu.allowed = BOTH
    for iova, _ in guest.iommu.failed:
        guest.iommu.update(guest.frontend, iova)
    check_inward(port, guest, SIZES)


def test_hostile_messages_are_refused_by_name(port):
    guest = port.guest(behind_iommu(size=64))
    inside = guest.iommu.memory.place(guest.vrings[0].queue.desc_address)
    refused = {
        "iotlb-outside-memory": (0, PAGE, 0x1234_0000, BOTH, IotlbType.UPDATE),
        "iotlb-size-zero": (0, 0, inside, BOTH, IotlbType.UPDATE),
        "iotlb-address-wraps": ((1 << 64) - PAGE, 2 * PAGE, inside, BOTH, IotlbType.UPDATE),
        "iotlb-permissions": (0, PAGE, inside, 4, IotlbType.UPDATE),
        "iotlb-type": (0, PAGE, inside, BOTH, IotlbType.MISS),
    }
    for message in refused.values():
        with pytest.raises(RequestRefusedError):
            tell_iotlb(guest.frontend, *message)
    settle(guest)
    check_inward(port, guest, SIZES)
    assert port.errors() == dict.fromkeys(refused, 1)


@pytest.mark.parametrize("features", [IOMMU, PACKED], ids=["split", "packed"])
def test_what_is_written_is_logged_where_the_guest_has_it(port, features):
    """The log is by guest physical addresses, also of used rings in several pages."""
    guest = port.guest(behind_iommu(features, size=512))
    check_inward(port, guest, SIZES)
    log = DirtyBitmap(guest.memory)
    guest.frontend.start_logging(log, guest.vrings)
    settle(guest)
    log.harvest()  # what the start of logging itself touched
    before = guest.memory.snapshot()
    guest.memory.written.clear()
    check_inward(port, guest, SIZES)
    check_outward(port, guest, SIZES)
    guest.stop_rings()
    after = guest.memory.snapshot()
    changed = {page for page in after if after[page] != before[page]} - guest.memory.written
    logged = log.logged()
    log.close()
    assert changed and changed <= logged <= set(guest.memory.physical.values())
