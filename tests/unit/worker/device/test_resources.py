# SPDX-License-Identifier: Apache-2.0
"""What a queue pair is given for split and for packed rings."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_vhost_plugin.vhost import packed_base, spec
from ovs_vhost_plugin.vhost.effects import InflightDescription, MemoryRegion
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.vhost.memory.inflight import Inflight
from ovs_vhost_plugin.vhost.memory.table import MemoryTable
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.vhost.state import VringState
from ovs_vhost_plugin.worker.device.resources import RingResources
from ovs_vhost_plugin.worker.device.vringconfig import Start

USER, GUEST, SIZE = 0x7F0000000000, 0x40000, 1 << 16
PACKED = Feature.RING_PACKED.mask


@pytest.fixture
def resources() -> Iterator[RingResources]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE)
    made = RingResources(finish_offloads=False)
    made.session = Session(offer(1, None))
    made.memory = MemoryTable([MemoryRegion(GUEST, SIZE, USER, 0)], [fd])
    yield made
    made.replace_memory(None)


def ready(
    resources: RingResources, features: int, size: int, base: int, avail: int = 0x4000
) -> VringState:
    """Vring 0 as its front-end has set it up."""
    assert resources.session is not None
    for _ in resources.session.receive(set_features(features)):
        pass
    vring = resources.session.vrings[0]
    vring.size, vring.base, vring.addressed, vring.started = size, base, True, True
    vring.base_told = True
    vring.desc_user, vring.avail_user, vring.used_user = USER, USER + avail, USER + 0x8000
    return vring


def set_features(features: int) -> Message:
    return Message(spec.FrontendRequest.SET_FEATURES, spec.U64.pack(features))


def test_a_packed_ring_of_any_size_has_small_event_areas(resources: RingResources) -> None:
    ready(resources, PACKED, 100, 0x8005)
    vring = resources.vring(0, None)
    assert vring is not None
    assert (len(vring.desc), len(vring.avail), len(vring.used)) == (1600, 4, 4)
    assert vring.next_avail == 5
    assert vring.log_desc == GUEST
    assert resources.base(0, vring.next_avail) == 0x8005_8005
    assert resources.base(0, 105) == 0x0005_0005


def test_a_running_packed_ring_goes_on_where_it_was(resources: RingResources) -> None:
    ready(resources, PACKED, 100, 0x8005)
    vring = resources.vring(0, 150)
    assert vring is not None and vring.next_avail == 150


def test_a_packed_ring_of_which_no_base_was_said_begins_at_the_beginning(
    resources: RingResources,
) -> None:
    """0 would be its second round: the wrap counter begins at 1 (virtio 1.2, 2.8.1)."""
    ready(resources, PACKED, 100, 0)
    said = resources.vring(0, None)
    ready(resources, PACKED, 100, 0).base_told = False
    unsaid = resources.vring(0, None)
    assert said is not None and unsaid is not None
    assert (said.next_avail, unsaid.next_avail) == (100, 0)


def test_a_split_ring_answers_the_index_itself(resources: RingResources) -> None:
    ready(resources, 0, 128, 77)
    assert resources.memory is not None
    used = resources.memory.view(USER + 0x8000, 4, 4)
    used[2] = 77
    vring = resources.vring(0, None)
    assert vring is not None and vring.next_avail == 77
    assert resources.base(0, 65535) == 65535


@pytest.mark.parametrize(
    ("features", "size", "base", "name"),
    [
        (PACKED, 100, 0x8064, PeerErrorName.VRING_BASE_RANGE),
        (PACKED, 100, 0x8002_8001, PeerErrorName.VRING_BASE_RANGE),
        # Set while packed rings were negotiated, which they are no more.
        (0, 100, 0, PeerErrorName.VRING_SIZE_NOT_POWER_OF_TWO),
        (0, 128, 0x8000_8000, PeerErrorName.VRING_BASE_RANGE),
    ],
)
def test_sizes_and_bases_that_do_not_fit(
    resources: RingResources, features: int, size: int, base: int, name: str
) -> None:
    ready(resources, features, size, base)
    with pytest.raises(PeerError) as caught:
        resources.vring(0, None)
    assert caught.value.name == name


def test_event_areas_are_aligned(resources: RingResources) -> None:
    ready(resources, PACKED, 100, 0x8000, avail=0x4002)
    with pytest.raises(PeerError) as caught:
        resources.vring(0, None)
    assert caught.value.name == PeerErrorName.VRING_MISALIGNED


@pytest.mark.parametrize(
    ("features", "base", "moved"),
    [
        (0, 0, False),
        (0, 1, True),
        (PACKED, 0, False),  # not set yet
        *((PACKED, base, False) for base in packed_base.BEGINNINGS),
        (PACKED, 0x8001_8001, True),
    ],
)
def test_a_base_says_whether_the_guest_moved_in(
    resources: RingResources, features: int, base: int, moved: bool
) -> None:
    assert resources.moved_in(ready(resources, features, 128, base)) == moved


def identity(resources: RingResources, features: int = PACKED, **changes: int) -> bytes:
    vring = ready(resources, features, 64, 0x8000)
    for name, value in changes.items():
        setattr(vring, name, value)
    made = resources.vring(0, None)
    assert made is not None
    vring.started = False  # features may change
    return made.identity


def test_a_ring_is_known_again_by_where_it_is_and_what_it_is_like(resources: RingResources) -> None:
    known = identity(resources)
    assert identity(resources, PACKED | Feature.LOG_ALL.mask) == known
    others = [
        identity(resources, PACKED | Feature.IN_ORDER.mask),
        identity(resources, size=32),
        identity(resources, desc_user=USER + 0x2000),
        identity(resources, used_user=USER + 0x9000),
    ]
    assert known not in others and len(set(others)) == len(others)


def test_a_ring_is_known_again_in_the_same_file_only(resources: RingResources) -> None:
    files = [os.memfd_create(name) for name in ("same", "other")]
    tables = []
    for fd, user, offset in (
        (files[0], USER, 0),
        (files[0], USER + 0x10000, 0),  # a front-end that maps it elsewhere
        (files[0], USER, SIZE),
        (files[1], USER, 0),
    ):
        os.ftruncate(fd, 2 * SIZE)
        resources.replace_memory(
            MemoryTable([MemoryRegion(GUEST, SIZE, user, offset)], [os.dup(fd)])
        )
        moved = user - USER
        places = {"desc_user": USER, "avail_user": USER + 0x4000, "used_user": USER + 0x8000}
        tables.append(identity(resources, **{name: at + moved for name, at in places.items()}))
    assert tables[0] == tables[1]
    assert len(set(tables)) == 3
    for fd in files:
        os.close(fd)


def test_only_a_ring_that_starts_may_resume_elsewhere(resources: RingResources) -> None:
    ready(resources, PACKED, 100, 0x8005)
    fresh, running = resources.vring(0, None), resources.vring(0, 150)
    assert fresh is not None and running is not None
    assert (fresh.start, running.start) == (Start.FRONT_END, Start.HERE)


def open_fds() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_memory_for_what_is_in_flight_is_made_once_at_a_time(resources: RingResources) -> None:
    before = open_fds()
    sizes = {resources.make_inflight(2, size, packed=False)[1] for size in (64, 128, 256)}
    assert sizes == {2 * (64 + 16 * size) for size in (64, 128, 256)}
    assert len(open_fds() - before) == 1
    resources.forget_inflight()
    assert open_fds() == before


def test_memory_that_was_made_for_split_rings_is_too_small_for_packed_ones(
    resources: RingResources,
) -> None:
    """It was asked for before the features were negotiated."""
    ready(resources, PACKED, 128, 0x8000)
    for packed, error in ((False, PeerErrorName.INFLIGHT_TOO_SMALL), (True, None)):
        fd, size = resources.make_inflight(2, 128, packed=packed)
        resources.replace_inflight(Inflight(InflightDescription(size, 0, 2, 128), os.dup(fd)))
        if error is None:
            vring = resources.vring(0, None)
            assert vring is not None
            assert vring.inflight is not None
            assert len(vring.inflight) == 32 + 32 * 128
        else:
            with pytest.raises(PeerError) as caught:
                resources.vring(0, None)
            assert caught.value.name == error
    resources.forget_inflight()
