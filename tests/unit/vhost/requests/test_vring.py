# SPDX-License-Identifier: Apache-2.0
"""Setting up, starting, enabling and stopping rings: hostile inputs 27-32 and 34-36."""

import os

import pytest

from ovs_vhost_plugin.vhost import effects, spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import FrontendRequest

R = FrontendRequest
STATE_REQUESTS = (R.SET_VRING_NUM, R.SET_VRING_BASE, R.GET_VRING_BASE, R.SET_VRING_ENABLE)
FD_REQUESTS = (R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR)


def name_of(send, *args, **kwargs):
    with pytest.raises(PeerError) as caught:
        send(*args, **kwargs)
    return caught.value.name


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# -- index -------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", STATE_REQUESTS)
@pytest.mark.parametrize("index", [4, 255, 256, 65536, 2**32 - 1])
def test_index_out_of_range_or_truncating_to_a_valid_one(peer, request_, index):
    assert name_of(peer.state, request_, index, 1) == PeerErrorName.VRING_INDEX


@pytest.mark.parametrize("index", [4, 65536])
def test_index_of_addresses_out_of_range(peer, index):
    assert name_of(peer.addr, index) == PeerErrorName.VRING_INDEX


@pytest.mark.parametrize("request_", FD_REQUESTS)
def test_index_beside_an_fd_out_of_range(peer, request_):
    assert name_of(peer.u64, request_, 4, (os.eventfd(0),)) == PeerErrorName.VRING_INDEX


@pytest.mark.parametrize("request_", FD_REQUESTS)
@pytest.mark.parametrize("value", [0x200, 1 << 32, 1 << 63])
def test_bits_beyond_index_and_flag(peer, request_, value):
    name = name_of(peer.u64, request_, value, (os.eventfd(0),))
    assert name == PeerErrorName.VRING_RESERVED_BITS


def test_the_last_vring_of_the_largest_port():
    session = Session(offer(queue_pairs=128, mtu=None))
    list(session.receive(Message(R.SET_VRING_CALL, spec.U64.pack(255 | spec.VRING_NO_FD))))
    assert len(session.vrings) == 256


# -- size, base, addresses -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 256, 32768])
def test_sizes_of_a_split_ring(peer, size):
    peer.state(R.SET_VRING_NUM, 3, size)
    assert peer.session.vrings[3].size == size
    assert peer.effects == [effects.ReconfigureVring(3)]


@pytest.mark.parametrize(
    ("size", "name"),
    [
        (0, PeerErrorName.VRING_SIZE_ZERO),
        (3, PeerErrorName.VRING_SIZE_NOT_POWER_OF_TWO),
        (32767, PeerErrorName.VRING_SIZE_NOT_POWER_OF_TWO),
        (65536, PeerErrorName.VRING_SIZE_TOO_LARGE),
        (65536 + 256, PeerErrorName.VRING_SIZE_TOO_LARGE),
        (2**31, PeerErrorName.VRING_SIZE_TOO_LARGE),
    ],
)
def test_sizes_no_split_ring_has(peer, size, name):
    assert name_of(peer.state, R.SET_VRING_NUM, 0, size) == name
    assert peer.session.vrings[0].size == 0


@pytest.mark.parametrize("base", [0, 255, 256, 0xFFFF])
def test_bases_of_a_split_ring(peer, base):
    assert not peer.session.vrings[0].base_told
    peer.state(R.SET_VRING_BASE, 0, base)
    assert peer.session.vrings[0].base == base
    assert peer.session.vrings[0].base_told


@pytest.mark.parametrize("size", [1, 3, 32767, 32768])
@pytest.mark.parametrize("base", [0x8000, 0x80018001, 2**32 - 1])
def test_sizes_and_bases_of_a_packed_ring(peer, size, base):
    """What the base says depends on the size, so the device looks at it when the ring starts."""
    peer.send(R.SET_FEATURES, spec.U64.pack(spec.Feature.RING_PACKED.mask))
    peer.state(R.SET_VRING_NUM, 3, size)
    peer.state(R.SET_VRING_BASE, 3, base)
    vring = peer.session.vrings[3]
    assert (vring.size, vring.base) == (size, base)


@pytest.mark.parametrize("base", [0x10000, 0x80000000, 2**32 - 1])
def test_base_beyond_sixteen_bits(peer, base):
    assert name_of(peer.state, R.SET_VRING_BASE, 0, base) == PeerErrorName.VRING_BASE_RANGE


@pytest.mark.parametrize("request_", [R.SET_VRING_NUM, R.SET_VRING_BASE])
def test_size_and_base_of_a_running_ring(peer, request_):
    peer.set_up_vring()
    assert name_of(peer.state, request_, 0, 128) == PeerErrorName.VRING_STARTED


def test_addresses_come_as_descriptor_used_avail(peer):
    peer.addr(1, desc=0x1000, used=0x3004, avail=0x2002, log=0x77, flags=1)
    vring = peer.session.vrings[1]
    assert (vring.desc_user, vring.avail_user, vring.used_user) == (0x1000, 0x2002, 0x3004)
    assert (vring.log_guest, vring.flags) == (0x77, spec.VringAddressFlag.LOG)


@pytest.mark.parametrize("wrong", [{"desc": 0x1008}, {"avail": 0x1001}, {"used": 0x1002}])
def test_misaligned(peer, wrong):
    assert name_of(peer.addr, **wrong) == PeerErrorName.VRING_MISALIGNED
    assert not peer.session.vrings[0].addressed


@pytest.mark.parametrize("flags", [2, 3, 1 << 31])
def test_unknown_address_flags(peer, flags):
    assert name_of(peer.addr, flags=flags) == PeerErrorName.VRING_FLAGS


def test_log_address_that_wraps(peer):
    longest = 6 + 8 * 32768  # virtio 1.2, 2.7: bytes of the largest used ring
    peer.addr(flags=1, log=2**64 - longest)
    assert name_of(peer.addr, flags=1, log=2**64 - longest + 1) == PeerErrorName.VRING_ADDRESS_WRAPS
    peer.addr(flags=0, log=2**64 - 8)  # without the flag nobody looks at it


def test_addresses_again_while_running_to_log(peer):
    peer.set_up_vring()
    peer.addr(flags=1, log=0x30000)
    assert peer.effects == [effects.ReconfigureVring(0)]
    assert peer.session.vrings[0].flags == spec.VringAddressFlag.LOG
    assert peer.session.vrings[0].ready()


# -- start, enable, stop -------------------------------------------------------------------------


def test_a_ring_starts_at_set_vring_kick(peer):
    peer.state(R.SET_VRING_ENABLE, 0, 0)
    peer.state(R.SET_VRING_NUM, 0, 256)
    peer.addr()
    assert not peer.session.vrings[0].ready()
    peer.u64(R.SET_VRING_KICK, 0, (os.eventfd(0),))
    assert peer.session.vrings[0].ready()
    assert not peer.session.vrings[0].enabled


@pytest.mark.parametrize("enabled", [0, 1])
def test_a_ring_that_is_started_waits_until_it_is_said_whether_it_is_enabled(peer, enabled):
    """Cloud Hypervisor says so last: what the guest has sent is not to be discarded until then."""
    peer.state(R.SET_VRING_NUM, 0, 256)
    peer.addr()
    peer.u64(R.SET_VRING_KICK, 0, (os.eventfd(0),))
    assert not peer.session.vrings[0].ready()
    peer.state(R.SET_VRING_ENABLE, 0, enabled)
    assert peer.effects == [effects.ReconfigureVring(0)]
    assert peer.session.vrings[0].ready()
    peer.state(R.GET_VRING_BASE, 0, 0)
    peer.u64(R.SET_VRING_KICK, 0, (os.eventfd(0),))
    assert peer.session.vrings[0].ready()


def test_kick_before_setup(peer):
    peer.state(R.SET_VRING_ENABLE, 0, 0)
    peer.u64(R.SET_VRING_KICK, 0, (os.eventfd(0),))
    assert not peer.session.vrings[0].ready()
    peer.state(R.SET_VRING_NUM, 0, 256)
    assert not peer.session.vrings[0].ready()
    peer.addr()
    assert peer.effects == [effects.ReconfigureVring(0)]
    assert peer.session.vrings[0].ready()


def test_kick_without_an_fd_means_polling(peer):
    peer.state(R.SET_VRING_ENABLE, 0, 0)
    peer.state(R.SET_VRING_NUM, 0, 256)
    peer.addr()
    peer.u64(R.SET_VRING_KICK, spec.VRING_NO_FD)
    assert peer.session.vrings[0].ready()
    assert peer.session.vrings[0].kick_fd == -1


@pytest.mark.parametrize("request_", FD_REQUESTS)
def test_fd_where_the_flag_says_none(peer, request_):
    name = name_of(peer.u64, request_, spec.VRING_NO_FD, (os.eventfd(0),))
    assert name == PeerErrorName.FDS_UNEXPECTED


def test_enable_before_set_features(bare):
    # QEMU restores the enabled state of its queues before it starts them.
    bare.state(R.SET_VRING_ENABLE, 0, 1)
    assert bare.session.vrings[0].enabled


def test_disable_leaves_the_ring_started(peer):
    peer.set_up_vring()
    peer.state(R.SET_VRING_ENABLE, 0, 1)
    peer.state(R.SET_VRING_ENABLE, 0, 0)
    assert peer.effects == [effects.ReconfigureVring(0)]
    assert peer.session.vrings[0].ready()
    assert not peer.session.vrings[0].enabled


@pytest.mark.parametrize("value", [2, 256, 2**32 - 1])
def test_enable_with_neither_0_nor_1(peer, value):
    name = name_of(peer.state, R.SET_VRING_ENABLE, 0, value)
    assert name == PeerErrorName.VRING_ENABLE_VALUE


def test_get_vring_base_stops_and_answers_what_the_device_says(peer):
    peer.set_up_vring()
    peer.execute = lambda effect: 77
    reply = peer.state(R.GET_VRING_BASE, 0, 0)
    assert peer.effects == [effects.StopVring(0)]
    assert reply == Message(R.GET_VRING_BASE, spec.VRING_STATE.pack(0, 77), 0x5)
    assert not peer.session.vrings[0].started


def test_get_vring_base_of_a_ring_never_started(peer):
    peer.state(R.SET_VRING_BASE, 2, 9)
    assert peer.state(R.GET_VRING_BASE, 2, 0).payload == spec.VRING_STATE.pack(2, 9)


def test_get_vring_base_closes_the_kick_fd_after_the_stop(peer):
    peer.set_up_vring()
    kick_fd = peer.session.vrings[0].kick_fd
    still_open = []
    peer.execute = lambda effect: still_open.append(is_open(kick_fd))
    peer.state(R.GET_VRING_BASE, 0, 0)
    assert still_open == [True]
    assert not is_open(kick_fd)
    assert peer.session.vrings[0].kick_fd == -1


def test_a_stopped_ring_starts_again_where_it_is_told(peer):
    peer.set_up_vring()
    peer.state(R.GET_VRING_BASE, 0, 0)
    peer.state(R.SET_VRING_BASE, 0, 5)
    peer.u64(R.SET_VRING_KICK, 0, (os.eventfd(0),))
    assert peer.session.vrings[0].ready()
    assert peer.session.vrings[0].base == 5


# -- fds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", FD_REQUESTS)
def test_set_again_and_again_keeps_one_fd(peer, request_):
    fds = [os.eventfd(0) for _ in range(10)]
    for fd in fds:
        peer.u64(request_, 0, (fd,))
    assert [is_open(fd) for fd in fds] == [False] * 9 + [True]


def test_a_replaced_fd_is_open_until_the_device_has_let_go(peer):
    first, second = os.eventfd(0), os.eventfd(0)
    peer.u64(R.SET_VRING_CALL, 0, (first,))
    seen = []
    peer.execute = lambda effect: seen.append((is_open(first), peer.session.vrings[0].call_fd))
    peer.u64(R.SET_VRING_CALL, 0, (second,))
    assert seen == [(True, second)]
    assert not is_open(first)


def test_no_fd_replaces_an_fd(peer):
    fd = os.eventfd(0)
    peer.u64(R.SET_VRING_CALL, 0, (fd,))
    peer.u64(R.SET_VRING_CALL, spec.VRING_NO_FD)
    assert not is_open(fd)
    assert peer.session.vrings[0].call_fd == -1


def refuse_reconfigure(effect):
    if isinstance(effect, effects.ReconfigureVring):
        raise PeerError(PeerErrorName.VRING_OUTSIDE_MEMORY)


def test_a_change_the_device_refuses_is_undone(peer):
    old, new = os.eventfd(0), os.eventfd(0)
    peer.u64(R.SET_VRING_ERR, 0, (old,))
    peer.execute = refuse_reconfigure
    assert peer.u64(R.SET_VRING_ERR, 0, (new,), need_reply=True).payload == spec.U64.pack(1)
    assert peer.session.vrings[0].err_fd == old
    assert is_open(old)
    assert not is_open(new)


def test_a_refused_start_leaves_the_ring_stopped(peer):
    peer.state(R.SET_VRING_NUM, 0, 256)
    peer.addr()
    peer.execute = refuse_reconfigure
    name = name_of(peer.u64, R.SET_VRING_KICK, 0, (os.eventfd(0),))
    assert name == PeerErrorName.VRING_OUTSIDE_MEMORY
    assert not peer.session.vrings[0].started


def test_a_refused_change_of_a_running_ring_is_fatal(peer):
    peer.set_up_vring()
    peer.execute = refuse_reconfigure
    assert name_of(peer.addr, desc=0x50000, need_reply=True) == "vring-outside-memory"


def test_close_closes_every_fd(peer):
    fds = [os.eventfd(0) for _ in range(3)]
    for request, fd in zip(FD_REQUESTS, fds, strict=True):
        peer.u64(request, 1, (fd,))
    peer.session.close()
    assert not any(map(is_open, fds))
