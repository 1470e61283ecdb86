# SPDX-License-Identifier: Apache-2.0
"""Requests for the whole device: features, memory, log, network.

Hostile inputs 14, 16, 17, 25 and 73.
"""

import os

import pytest

from ovs_vhost_plugin.vhost import effects, spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest, ProtocolFeature

R = FrontendRequest
OK = spec.U64.pack(0)
REFUSED = spec.U64.pack(1)
MAC = bytes.fromhex("525400123456")


def name_of(send, *args, **kwargs):
    with pytest.raises(PeerError) as caught:
        send(*args, **kwargs)
    return caught.value.name


# -- features --------------------------------------------------------------------------------


def test_set_features_is_kept_and_handed_on(bare):
    wanted = Feature.VERSION_1.mask | Feature.PROTOCOL_FEATURES.mask
    bare.execute = lambda effect: seen.append(bare.session.features)
    seen = []
    bare.u64(R.SET_FEATURES, wanted)
    assert bare.effects == [effects.SetFeatures(wanted)]
    assert seen == [wanted]  # the device finds them in the session already


def test_features_that_were_not_offered(bare):
    excess = Feature.RING_RESET.mask
    assert name_of(bare.u64, R.SET_FEATURES, excess) == PeerErrorName.FEATURES_NOT_OFFERED
    assert bare.session.features == 0


def test_protocol_features_that_were_not_offered(bare):
    excess = ProtocolFeature.XEN_MMAP.mask
    name = name_of(bare.u64, R.SET_PROTOCOL_FEATURES, excess)
    assert name == PeerErrorName.PROTOCOL_FEATURES_NOT_OFFERED
    assert bare.session.protocol_features == 0


def test_without_protocol_features_all_rings_are_enabled(bare):
    bare.u64(R.SET_FEATURES, Feature.VERSION_1.mask)
    assert all(vring.enabled and vring.enable_told for vring in bare.session.vrings)
    assert bare.effects[1:] == [effects.ReconfigureVring(i) for i in range(4)]


def test_with_protocol_features_rings_stay_disabled(peer):
    assert not any(vring.enabled for vring in peer.session.vrings)


def test_log_all_may_be_toggled_while_rings_run(peer):
    peer.set_up_vring()
    logging = peer.session.features | Feature.LOG_ALL.mask
    peer.u64(R.SET_FEATURES, logging)
    assert peer.effects == [effects.SetFeatures(logging)]
    peer.u64(R.SET_FEATURES, logging & ~Feature.LOG_ALL.mask)
    assert not peer.session.features & Feature.LOG_ALL.mask


def test_other_features_may_not_change_while_rings_run(peer):
    peer.set_up_vring()
    before = peer.session.features
    name = name_of(peer.u64, R.SET_FEATURES, before & ~Feature.MRG_RXBUF.mask)
    assert name == PeerErrorName.FEATURES_WHILE_STARTED
    assert peer.session.features == before


def test_the_same_features_again_while_rings_run(peer):
    # QEMU sends them once for each queue pair, when the pairs before it run already.
    peer.set_up_vring()
    peer.u64(R.SET_FEATURES, peer.session.features)


def test_features_the_device_cannot_follow_are_fatal(bare, peer):
    def refuse(effect):
        assert not isinstance(effect, effects.Refused)
        raise PeerError(PeerErrorName.VRING_OUTSIDE_MEMORY)

    peer.execute = refuse
    assert name_of(peer.u64, R.SET_FEATURES, 0, need_reply=True) == "vring-outside-memory"


def test_reset_owner_disables_the_rings_and_keeps_the_rest(peer):
    peer.set_up_vring(1)
    peer.state(R.SET_VRING_ENABLE, 1, 1)
    features = peer.session.features
    peer.send(R.RESET_OWNER)
    assert peer.effects == [effects.ReconfigureVring(1)]
    assert not peer.session.vrings[1].enabled
    assert peer.session.vrings[1].ready()
    assert peer.session.features == features


# -- memory and log ----------------------------------------------------------------------------


def table(*regions, count=None):
    header = spec.MEMORY_HEADER.pack(len(regions) if count is None else count, 0)
    return header + b"".join(spec.MEMORY_REGION.pack(*region) for region in regions)


def test_set_mem_table_hands_regions_and_fds_on(peer, memfd):
    fds = (memfd(1), memfd(1))
    peer.send(R.SET_MEM_TABLE, table((0, 10, 20, 30), (40, 50, 60, 70)), fds)
    regions = (effects.MemoryRegion(0, 10, 20, 30), effects.MemoryRegion(40, 50, 60, 70))
    assert peer.effects == [effects.SetMemoryTable(regions, fds)]


def test_a_front_end_that_has_sent_memory_or_asked_for_pairs_is_known_to_have(peer, memfd):
    assert not peer.session.set_up and not peer.session.counted_pairs
    assert peer.send(R.GET_QUEUE_NUM).payload == spec.U64.pack(2)
    assert peer.session.counted_pairs
    peer.send(R.SET_MEM_TABLE, table((0, 10, 20, 30)), (memfd(1),))
    assert peer.session.set_up


def test_set_mem_table_while_rings_run(peer, memfd):
    peer.set_up_vring()
    peer.send(R.SET_MEM_TABLE, table((0, 10, 20, 30)), (memfd(1),))
    assert len(peer.effects) == 1
    assert peer.session.vrings[0].ready()


def test_zero_regions(peer):
    assert name_of(peer.send, R.SET_MEM_TABLE, table()) == PeerErrorName.REGIONS_NONE


@pytest.mark.parametrize("count", [9, 2**32 - 1])
def test_more_regions_than_the_maximum(peer, count):
    payload = table((0, 1, 0, 0), count=count)
    assert name_of(peer.send, R.SET_MEM_TABLE, payload) == PeerErrorName.REGIONS_TOO_MANY


@pytest.mark.parametrize("payload", [b"", b"1234567", table((0, 1, 0, 0))[:-1]])
def test_memory_table_cut_short(peer, payload):
    assert name_of(peer.send, R.SET_MEM_TABLE, payload) == PeerErrorName.PAYLOAD_SIZE


def test_memory_table_with_room_to_spare(peer, memfd):
    """As User Mode Linux sends it: room for two regions, and one of them."""
    payload = table((0, 4096, 0, 0)) + bytes(spec.MEMORY_REGION.size)
    assert peer.send(R.SET_MEM_TABLE, payload, (memfd(4096),)) is None
    (effect,) = peer.effects
    assert [region.size for region in effect.regions] == [4096]


def test_memory_table_longer_than_any(peer):
    payload = table((0, 1, 0, 0)) + bytes(spec.MAX_REGIONS * spec.MEMORY_REGION.size)
    assert name_of(peer.send, R.SET_MEM_TABLE, payload) == PeerErrorName.PAYLOAD_SIZE


@pytest.mark.parametrize("spare", [0, 1])
def test_as_many_regions_as_a_table_may_have(peer, memfd, spare):
    """In a payload of the largest size, also where the table does not use all of it."""
    count = spec.MAX_REGIONS - spare
    regions = [(10 * n, 1, 10 * n, 0) for n in range(count)]
    payload = table(*regions) + bytes(spare * spec.MEMORY_REGION.size)
    peer.send(R.SET_MEM_TABLE, payload, tuple(memfd(8) for _ in range(count)))
    (effect,) = peer.effects
    assert len(effect.regions) == len(effect.fds) == count


@pytest.mark.parametrize("fds", [0, 1, 3])
def test_regions_and_fds_differ(peer, memfd, fds):
    payload = table((0, 1, 0, 0), (10, 1, 10, 0))
    name = name_of(peer.send, R.SET_MEM_TABLE, payload, tuple(memfd(8) for _ in range(fds)))
    assert name == PeerErrorName.REGIONS_FDS_DIFFER


def test_more_fds_than_regions_can_have(peer):
    fds = tuple(os.eventfd(0) for _ in range(9))
    name = name_of(peer.send, R.SET_MEM_TABLE, table((0, 1, 0, 0)), fds)
    assert name == PeerErrorName.FDS_UNEXPECTED


def single(guest=0, size=4096, user=0, offset=0):
    return spec.SINGLE_REGION.pack(0, guest, size, user, offset)


def test_there_may_be_hundreds_of_memory_slots(peer):
    assert peer.send(R.GET_MAX_MEM_SLOTS).payload == spec.U64.pack(509)


def test_a_region_is_added_with_its_fd_also_while_rings_run(peer, memfd):
    peer.set_up_vring()
    fd = memfd(4096)
    assert peer.send(R.ADD_MEM_REG, single(1, 2, 3, 4), (fd,), need_reply=True).payload == OK
    assert peer.effects == [effects.AddMemoryRegion(effects.MemoryRegion(1, 2, 3, 4), fd)]


def test_a_region_to_add_needs_its_file(peer):
    assert name_of(peer.send, R.ADD_MEM_REG, single()) == PeerErrorName.FDS_MISSING


@pytest.mark.parametrize("fds", [0, 1])
def test_a_region_goes_and_a_needless_fd_is_closed(peer, memfd, fds):
    passed = tuple(memfd(1) for _ in range(fds))
    assert peer.send(R.REM_MEM_REG, single(1, 2, 3, 4), passed, need_reply=True).payload == OK
    assert peer.effects == [effects.RemoveMemoryRegion(effects.MemoryRegion(1, 2, 3, 4))]


def test_a_region_that_is_not_there_is_refused_by_the_device_and_told(peer):
    def refuse(effect):
        if not isinstance(effect, effects.Refused):
            raise PeerError(PeerErrorName.REGION_UNKNOWN)

    peer.execute = refuse
    assert peer.send(R.REM_MEM_REG, single(), need_reply=True).payload == REFUSED


@pytest.mark.parametrize("need_reply", [False, True])
def test_set_log_base_is_always_answered(peer, memfd, need_reply):
    fd = memfd(1)
    payload = spec.LOG.pack(4096, 8)
    reply = peer.send(R.SET_LOG_BASE, payload, (fd,), need_reply=need_reply)
    assert reply == Message(R.SET_LOG_BASE, OK, 0x5)
    assert peer.effects == [effects.SetLog(4096, 8, fd)]


def test_set_log_base_without_log_shmfd(bare, memfd):
    name = name_of(bare.send, R.SET_LOG_BASE, spec.LOG.pack(4096, 0), (memfd(1),))
    assert name == PeerErrorName.PROTOCOL_FEATURE_MISSING


def test_a_log_that_cannot_be_mapped_ends_the_connection(peer, memfd):
    # QEMU does not look at what the answer says: it would migrate without a log.
    def refuse(effect):
        assert not isinstance(effect, effects.Refused)
        raise PeerError(PeerErrorName.LOG_FILE_TOO_SHORT)

    peer.execute = refuse
    name = name_of(peer.send, R.SET_LOG_BASE, spec.LOG.pack(4096, 0), (memfd(1),))
    assert name == PeerErrorName.LOG_FILE_TOO_SHORT


# -- network -----------------------------------------------------------------------------------


def test_send_rarp_takes_the_first_six_bytes_and_is_not_answered(peer):
    assert peer.send(R.SEND_RARP, MAC + b"\xaa\xbb") is None
    assert peer.effects == [effects.SendRarp(MAC)]


def test_send_rarp_is_answered_on_demand_only(peer):
    assert peer.send(R.SEND_RARP, MAC + bytes(2), need_reply=True).payload == OK


@pytest.mark.parametrize(
    ("mac", "name"),
    [
        (bytes(6), PeerErrorName.RARP_MAC_ZERO),
        (b"\xff" * 6, PeerErrorName.RARP_MAC_MULTICAST),
        (b"\x01\x00\x5e\x00\x00\x01", PeerErrorName.RARP_MAC_MULTICAST),
    ],
)
def test_send_rarp_with_a_mac_no_nic_has_is_counted_and_survived(peer, mac, name):
    assert peer.send(R.SEND_RARP, mac + bytes(2)) is None
    (refused,) = peer.effects
    assert refused.error.name == name
    assert peer.send(R.SEND_RARP, mac + bytes(2), need_reply=True).payload == REFUSED


@pytest.mark.parametrize("mtu", [68, 1499, 1500])
def test_mtu_the_port_carries(peer, mtu):
    assert peer.u64(R.NET_SET_MTU, mtu, need_reply=True).payload == OK
    assert peer.effects == [effects.SetMtu(mtu)]


def test_the_largest_mtu_of_a_port():
    session = Session(offer(queue_pairs=1, mtu=65535))
    (effect,) = session.receive(Message(R.NET_SET_MTU, spec.U64.pack(65535)))
    assert effect == effects.SetMtu(65535)


@pytest.mark.parametrize("mtu", [0, 67, 65536, 2**63])
def test_mtu_that_no_nic_has(peer, mtu):
    assert peer.u64(R.NET_SET_MTU, mtu, need_reply=True).payload == REFUSED
    assert peer.effects[0].error.name == PeerErrorName.MTU_RANGE


def test_mtu_beyond_the_ports(peer):
    assert peer.u64(R.NET_SET_MTU, 1501, need_reply=True).payload == REFUSED
    assert peer.effects[0].error.name == PeerErrorName.MTU_TOO_LARGE


def test_mtu_before_set_features(bare):
    # QEMU's order when it starts the device.
    bare.u64(R.SET_PROTOCOL_FEATURES, bare.session.offer.protocol_features)
    bare.u64(R.NET_SET_MTU, 1500)
    assert bare.effects == [effects.SetMtu(1500)]


def test_mtu_on_a_port_without_one():
    session = Session(offer(queue_pairs=1, mtu=None))
    with pytest.raises(PeerError) as caught:
        next(session.receive(Message(R.NET_SET_MTU, spec.U64.pack(1500))))
    assert caught.value.name == PeerErrorName.PROTOCOL_FEATURE_MISSING
