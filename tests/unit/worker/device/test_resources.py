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
from ovs_vhost_plugin.worker.device.resources import Basis

USER, GUEST, SIZE = 0x7F0000000000, 0x40000, 1 << 16
PACKED = Feature.RING_PACKED.mask


@pytest.fixture
def basis() -> Iterator[Basis]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE)
    made = Basis(finish_offloads=False)
    made.session = Session(offer(1, None))
    made.memory = MemoryTable([MemoryRegion(GUEST, SIZE, USER, 0)], [fd])
    yield made
    made.replace_memory(None)


def ready(basis: Basis, features: int, size: int, base: int, avail: int = 0x4000) -> VringState:
    """Vring 0 as its front-end has set it up."""
    assert basis.session is not None
    for _ in basis.session.receive(set_features(features)):
        pass
    vring = basis.session.vrings[0]
    vring.size, vring.base, vring.addressed, vring.started = size, base, True, True
    vring.base_told = True
    vring.desc_user, vring.avail_user, vring.used_user = USER, USER + avail, USER + 0x8000
    return vring


def set_features(features: int) -> Message:
    return Message(spec.FrontendRequest.SET_FEATURES, spec.U64.pack(features))


def test_a_packed_ring_of_any_size_has_small_event_areas(basis: Basis) -> None:
    ready(basis, PACKED, 100, 0x8005)
    vring = basis.vring(0, None)
    assert vring is not None
    assert (len(vring.desc), len(vring.avail), len(vring.used)) == (1600, 4, 4)
    assert vring.next_avail == 5
    assert vring.log_desc == GUEST
    assert basis.base(0, vring.next_avail) == 0x8005_8005
    assert basis.base(0, 105) == 0x0005_0005


def test_a_running_packed_ring_goes_on_where_it_was(basis: Basis) -> None:
    ready(basis, PACKED, 100, 0x8005)
    vring = basis.vring(0, 150)
    assert vring is not None and vring.next_avail == 150


def test_a_packed_ring_of_which_no_base_was_said_begins_at_the_beginning(basis: Basis) -> None:
    """0 would be its second round: the wrap counter begins at 1 (virtio 1.2, 2.8.1)."""
    ready(basis, PACKED, 100, 0)
    said = basis.vring(0, None)
    ready(basis, PACKED, 100, 0).base_told = False
    unsaid = basis.vring(0, None)
    assert said is not None and unsaid is not None
    assert (said.next_avail, unsaid.next_avail) == (100, 0)


def test_a_split_ring_answers_the_index_itself(basis: Basis) -> None:
    ready(basis, 0, 128, 77)
    assert basis.memory is not None
    used = basis.memory.view(USER + 0x8000, 4, 4)
    used[2] = 77
    vring = basis.vring(0, None)
    assert vring is not None and vring.next_avail == 77
    assert basis.base(0, 65535) == 65535


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
    basis: Basis, features: int, size: int, base: int, name: str
) -> None:
    ready(basis, features, size, base)
    with pytest.raises(PeerError) as caught:
        basis.vring(0, None)
    assert caught.value.name == name


def test_event_areas_are_aligned(basis: Basis) -> None:
    ready(basis, PACKED, 100, 0x8000, avail=0x4002)
    with pytest.raises(PeerError) as caught:
        basis.vring(0, None)
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
    basis: Basis, features: int, base: int, moved: bool
) -> None:
    assert basis.moved_in(ready(basis, features, 128, base)) == moved


def identity(basis: Basis, features: int = PACKED, **changes: int) -> bytes:
    vring = ready(basis, features, 64, 0x8000)
    for name, value in changes.items():
        setattr(vring, name, value)
    made = basis.vring(0, None)
    assert made is not None
    vring.started = False  # features may change
    return made.identity


def test_a_ring_is_known_again_by_where_it_is_and_what_it_is_like(basis: Basis) -> None:
    known = identity(basis)
    assert identity(basis, PACKED | Feature.LOG_ALL.mask) == known
    others = [
        identity(basis, PACKED | Feature.IN_ORDER.mask),
        identity(basis, size=32),
        identity(basis, desc_user=USER + 0x2000),
        identity(basis, used_user=USER + 0x9000),
    ]
    assert known not in others and len(set(others)) == len(others)


def test_a_ring_is_known_again_in_the_same_file_only(basis: Basis) -> None:
    files = [os.memfd_create(name) for name in ("same", "other")]
    tables = []
    for fd, user, offset in (
        (files[0], USER, 0),
        (files[0], USER + 0x10000, 0),  # a front-end that maps it elsewhere
        (files[0], USER, SIZE),
        (files[1], USER, 0),
    ):
        os.ftruncate(fd, 2 * SIZE)
        basis.replace_memory(MemoryTable([MemoryRegion(GUEST, SIZE, user, offset)], [os.dup(fd)]))
        moved = user - USER
        places = {"desc_user": USER, "avail_user": USER + 0x4000, "used_user": USER + 0x8000}
        tables.append(identity(basis, **{name: at + moved for name, at in places.items()}))
    assert tables[0] == tables[1]
    assert len(set(tables)) == 3
    for fd in files:
        os.close(fd)


def test_only_a_ring_that_starts_may_resume_elsewhere(basis: Basis) -> None:
    ready(basis, PACKED, 100, 0x8005)
    fresh, running = basis.vring(0, None), basis.vring(0, 150)
    assert fresh is not None and running is not None
    assert (fresh.resumes, running.resumes) == (True, False)


def open_fds() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_memory_for_what_is_in_flight_is_made_once_at_a_time(basis: Basis) -> None:
    before = open_fds()
    sizes = {basis.make_inflight(2, size, packed=False)[1] for size in (64, 128, 256)}
    assert sizes == {2 * (64 + 16 * size) for size in (64, 128, 256)}
    assert len(open_fds() - before) == 1
    basis.forget_inflight()
    assert open_fds() == before


def test_memory_that_was_made_for_split_rings_is_too_small_for_packed_ones(basis: Basis) -> None:
    """It was asked for before the features were negotiated."""
    ready(basis, PACKED, 128, 0x8000)
    for packed, error in ((False, PeerErrorName.INFLIGHT_TOO_SMALL), (True, None)):
        fd, size = basis.make_inflight(2, 128, packed=packed)
        basis.replace_inflight(Inflight(InflightDescription(size, 0, 2, 128), os.dup(fd)))
        if error is None:
            vring = basis.vring(0, None)
            assert vring is not None
            assert vring.inflight is not None
            assert len(vring.inflight) == 32 + 32 * 128
        else:
            with pytest.raises(PeerError) as caught:
                basis.vring(0, None)
            assert caught.value.name == error
    basis.forget_inflight()
