# SPDX-License-Identifier: Apache-2.0
"""The offer: what must be in it, what must not, and what hangs on the MTU."""

from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest, ProtocolFeature


def names(mask, kind):
    return {bit.name for bit in kind if mask >> bit & 1}


def test_the_whole_offer_without_mtu():
    offered = offer(queue_pairs=4, mtu=None)
    assert names(offered.features, Feature) == {
        *("VERSION_1", "ANY_LAYOUT", "RING_INDIRECT_DESC", "RING_EVENT_IDX"),
        *("RING_PACKED", "IN_ORDER", "ACCESS_PLATFORM"),
        *("LOG_ALL", "PROTOCOL_FEATURES", "MRG_RXBUF", "MQ", "GUEST_ANNOUNCE"),
        *("CSUM", "HOST_TSO4", "HOST_TSO6", "HOST_ECN", "HOST_UFO", "HOST_USO"),
        *("GUEST_CSUM", "GUEST_TSO4", "GUEST_TSO6", "GUEST_ECN"),
        *("GUEST_UFO", "GUEST_USO4", "GUEST_USO6"),
        *("MAC", "STATUS", "CTRL_VQ", "CTRL_RX", "CTRL_RX_EXTRA", "CTRL_VLAN", "CTRL_MAC_ADDR"),
    }
    assert names(offered.protocol_features, ProtocolFeature) == {
        *("MQ", "LOG_SHMFD", "RARP", "REPLY_ACK", "DEVICE_STATE", "CONFIGURE_MEM_SLOTS"),
        *("INFLIGHT_SHMFD", "GET_VRING_BASE_INFLIGHT"),
        *("RESET_DEVICE", "STATUS", "BACKEND_REQ", "INBAND_NOTIFICATIONS", "PAGEFAULT"),
    }
    assert offered.queue_pairs == 4


def test_an_mtu_adds_the_feature_and_the_protocol_feature():
    without, with_mtu = offer(1, None), offer(1, 9000)
    assert with_mtu.features ^ without.features == Feature.MTU.mask
    assert with_mtu.protocol_features ^ without.protocol_features == ProtocolFeature.MTU.mask


def test_device_state_can_be_left_out():
    whole, without = offer(1, None), offer(1, None, device_state=False)
    assert whole.features == without.features
    assert whole.protocol_features ^ without.protocol_features == ProtocolFeature.DEVICE_STATE.mask


def test_postcopy_can_be_left_out():
    whole, without = offer(1, None), offer(1, None, postcopy=False)
    assert whole.features == without.features
    assert whole.protocol_features ^ without.protocol_features == ProtocolFeature.PAGEFAULT.mask


def test_memory_is_taken_from_memory_alone_unless_the_row_says_otherwise():
    assert not offer(1, None).any_memory
    assert offer(1, None, any_memory=True).any_memory


def test_numbers_of_the_specification():
    # A few that nothing else here would notice to be off by one.
    assert Feature.VERSION_1.mask == 1 << 32
    assert Feature.GUEST_ANNOUNCE.mask == 1 << 21
    assert Feature.LOG_ALL.mask == 1 << 26
    assert Feature.MTU.mask == 1 << 3
    assert ProtocolFeature.MTU.mask == 1 << 4
    assert ProtocolFeature.RARP.mask == 1 << 2
    assert FrontendRequest.SEND_RARP == 19
    assert FrontendRequest.CHECK_DEVICE_STATE == 43
