# SPDX-License-Identifier: Apache-2.0
"""Memory in which a front-end keeps what is in flight: hostile inputs 64 and 65."""

import fcntl
import mmap
import os
from pathlib import Path

import pytest

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import (
    InflightDescription,
    MakeInflight,
    Refused,
    SetInflight,
)
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.memory.inflight import MAX_BYTES, Inflight, make, stride
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest, ProtocolFeature

GET, SET = FrontendRequest.GET_INFLIGHT_FD, FrontendRequest.SET_INFLIGHT_FD
QUEUES, SIZE = 4, 256
STRIDE = 4160  # 16 + 16 * 256, in whole cache lines
ALL = QUEUES * STRIDE
PACKED_STRIDE = 8256  # 32 + 32 * 256, likewise
PACKED_ALL = QUEUES * PACKED_STRIDE


def description(size=ALL, offset=0, queues=QUEUES, queue_size=SIZE, padding=4):
    return spec.INFLIGHT.pack(size, offset, queues, queue_size) + bytes(padding)


def refused(peer, request, payload, fds=()):
    reply = peer.send(request, payload, fds, need_reply=True)
    (effect,) = peer.effects
    assert isinstance(effect, Refused)
    if request == GET:
        assert reply.payload == bytes(24)
        assert reply.fds == ()
    else:
        assert reply.payload != spec.U64.pack(0)
    return effect.error.name


def map_error(memfd, description, size=ALL):
    with pytest.raises(PeerError) as caught:
        Inflight(description, memfd(size))
    return str(caught.value)


@pytest.mark.parametrize("padding", [0, 4], ids=["as specified", "as QEMU pads it"])
def test_the_answer_describes_memory_for_all_queues(peer, padding):
    peer.execute = lambda effect: (7, ALL)
    reply = peer.send(GET, description(0, 0, padding=padding))
    assert peer.effects == [MakeInflight(QUEUES, SIZE, packed=False)]
    assert reply.payload == description(padding=padding)
    assert reply.fds == (7,)


def test_the_longest_queues_that_there_are(peer):
    peer.execute = lambda effect: (7, ALL)
    peer.send(GET, description(0, 0, queue_size=spec.MAX_VRING_SIZE))
    assert peer.effects == [MakeInflight(QUEUES, spec.MAX_VRING_SIZE, packed=False)]


def test_what_the_front_end_kept_is_passed_on(peer, memfd):
    fd = memfd(ALL)
    assert peer.send(SET, description(offset=64), (fd,), need_reply=True).payload == bytes(8)
    assert peer.effects == [SetInflight(InflightDescription(ALL, 64, QUEUES, SIZE), fd)]


@pytest.mark.parametrize("request_", [GET, SET])
@pytest.mark.parametrize("queues", [0, 5, 0xFFFF])
def test_queues_that_there_are_not(peer, memfd, request_, queues):
    fds = (memfd(ALL),) if request_ == SET else ()
    assert refused(peer, request_, description(queues=queues), fds) == "inflight-queues"


@pytest.mark.parametrize("request_", [GET, SET])
@pytest.mark.parametrize("size", [0, 32769])
def test_a_queue_size_that_no_ring_has(peer, memfd, request_, size):
    fds = (memfd(ALL),) if request_ == SET else ()
    assert refused(peer, request_, description(queue_size=size), fds) == "inflight-queue-size"


@pytest.mark.parametrize("length", [0, 19, 21, 25])
def test_a_description_of_another_length(peer, length):
    assert refused(peer, GET, bytes(length)) == "payload-size"


def test_without_the_protocol_feature(bare):
    bare.u64(FrontendRequest.SET_PROTOCOL_FEATURES, ProtocolFeature.REPLY_ACK.mask)
    assert refused(bare, GET, description()) == "protocol-feature-missing"


def test_with_packed_rings_it_is_for_them(peer):
    peer.u64(FrontendRequest.SET_FEATURES, peer.session.features | Feature.RING_PACKED.mask)
    peer.execute = lambda effect: (7, PACKED_ALL)
    assert peer.send(GET, description(0, 0)).payload == description(PACKED_ALL)
    assert peer.effects == [MakeInflight(QUEUES, SIZE, packed=True)]


def test_while_rings_are_started(peer, memfd):
    peer.set_up_vring()
    fds = (memfd(ALL),)
    assert refused(peer, SET, description(), fds) == "inflight-while-started"


def test_when_memory_comes_by_postcopy(peer, memfd):
    peer.execute = lambda effect: 3
    peer.send(FrontendRequest.POSTCOPY_ADVISE)
    peer.send(FrontendRequest.POSTCOPY_LISTEN)
    assert refused(peer, SET, description(), (memfd(ALL),)) == "inflight-with-postcopy"


def test_postcopy_when_the_front_end_keeps_it_already(peer, memfd):
    peer.send(SET, description(), (memfd(ALL),))
    peer.execute = lambda effect: 3
    peer.send(FrontendRequest.POSTCOPY_ADVISE)
    peer.send(FrontendRequest.POSTCOPY_LISTEN, need_reply=True)
    (effect,) = peer.effects
    assert effect.error.name == "inflight-with-postcopy"


def test_a_base_in_flight_without_memory_for_it(peer):
    wanted = ProtocolFeature.GET_VRING_BASE_INFLIGHT.mask | ProtocolFeature.REPLY_ACK.mask
    peer.u64(FrontendRequest.SET_PROTOCOL_FEATURES, wanted, need_reply=True)
    (effect,) = peer.effects
    assert effect.error.name == "inflight-base-without-region"


@pytest.mark.parametrize(
    ("packed", "step", "all_"), [(False, STRIDE, ALL), (True, PACKED_STRIDE, PACKED_ALL)]
)
def test_the_memory_that_is_made_is_empty_and_stays_as_long_as_it_is(packed, step, all_):
    fd, size = make(QUEUES, SIZE, packed=packed)
    assert (stride(SIZE, packed=packed), size) == (step, all_)
    assert os.pread(fd, size + 1, 0) == bytes(size)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL
    os.close(fd)


@pytest.mark.parametrize(
    ("packed", "step", "length"),
    [(False, STRIDE, 16 + 16 * SIZE), (True, PACKED_STRIDE, 32 + 32 * SIZE)],
)
def test_each_queue_has_its_part(memfd, packed, step, length):
    size = QUEUES * step
    fd = memfd(size + 64)
    front_end = mmap.mmap(fd, size + 64)
    inflight = Inflight(InflightDescription(size, 64, QUEUES, SIZE), fd)
    for index in range(QUEUES):
        part = inflight.part(index, SIZE, packed=packed)
        assert len(part) == length
        part[:] = index + 1
        at = 64 + index * step
        assert set(front_end[at : at + len(part)]) == {index + 1}
    assert inflight.part(QUEUES, SIZE, packed=packed) is None
    assert len(inflight.part(0, SIZE // 2, packed=packed)) == length
    with pytest.raises(PeerError, match=f"^{PeerErrorName.INFLIGHT_QUEUE_SIZE}: vring 1 of 512"):
        inflight.part(1, 512, packed=packed)
    inflight.close()


@pytest.mark.parametrize(("size", "offset"), [(ALL, 2**64 - ALL + 8), (2**64 - 8, 16)])
def test_size_and_offset_wrap(memfd, size, offset):
    described = InflightDescription(size, offset, QUEUES, SIZE)
    text = f"inflight-offset-wraps: size {size:#x}, offset {offset:#x}"
    assert map_error(memfd, described) == text


def test_an_offset_between_words(memfd):
    described = InflightDescription(ALL, 4, QUEUES, SIZE)
    text = f"inflight-misaligned: size {ALL:#x}, offset 0x4"
    assert map_error(memfd, described, 2 * ALL) == text


def test_smaller_than_its_queues(memfd):
    described = InflightDescription(ALL - 1, 0, QUEUES, SIZE)
    text = f"inflight-too-small: size {ALL - 1:#x}, offset 0x0, {ALL:#x} needed"
    assert map_error(memfd, described) == text


def test_too_small_for_packed_rings(memfd):
    inflight = Inflight(InflightDescription(ALL, 0, QUEUES, SIZE), memfd(ALL))
    with pytest.raises(PeerError) as caught:
        inflight.part(0, SIZE, packed=True)
    assert str(caught.value) == f"inflight-too-small: {ALL:#x}, {PACKED_ALL:#x} needed"
    inflight.close()


@pytest.mark.parametrize("offset", [0, 64, 2**40, 2**64 - ALL])
def test_a_file_that_is_too_short(memfd, offset):
    described = InflightDescription(ALL, offset, QUEUES, SIZE)
    text = f"inflight-file-too-short: {offset:#x} + {ALL:#x} bytes of a file of {ALL - 1:#x}"
    assert map_error(memfd, described, ALL - 1) == text


def test_a_file_that_may_not_be_written(tmp_path):
    path = tmp_path / "region"
    path.write_bytes(bytes(ALL))
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(PeerError) as caught:
        Inflight(InflightDescription(ALL, 0, QUEUES, SIZE), fd)
    text = f"inflight-map-failed: size {ALL:#x}, offset 0x0: Permission denied"
    assert str(caught.value) == text


def test_what_a_worker_may_make_is_enough_for_the_largest(memfd):
    fd, size = make(256, spec.MAX_VRING_SIZE, packed=True)
    assert size == MAX_BYTES
    assert Path(f"/proc/self/fd/{fd}").readlink().name.startswith("memfd:ovs-vhost-inflight")
    os.close(fd)


def test_memory_that_cannot_be_made(monkeypatch):
    def fail(*_):
        raise OSError(24, "Too many open files")

    closed = []
    monkeypatch.setattr("ovs_vhost_plugin.vhost.memory.inflight.close_fds", closed.extend)
    monkeypatch.setattr(os, "memfd_create", fail)
    with pytest.raises(PeerError, match=f"^{PeerErrorName.INFLIGHT_NO_MEMORY}: Too many"):
        make(QUEUES, SIZE, packed=False)
    assert closed == []


def test_memory_that_cannot_be_sized_is_given_back(monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(PeerError, match=f"^{PeerErrorName.INFLIGHT_NO_MEMORY}: No space"):
        make(QUEUES, SIZE, packed=False)  # its fd is closed: the fixture looks
