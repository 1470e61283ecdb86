# SPDX-License-Identifier: Apache-2.0
"""What a port does not offer: names as the specifications have them, and what goes with them."""

import pytest

from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature
from ovs_vhost_plugin.vhost.withheld import NOTHING, Withheld, _full_names, parse


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("VIRTIO_NET_F_CTRL_VQ", Feature.CTRL_VQ),
        ("VIRTIO_NET_F_MQ", Feature.MQ),
        ("VIRTIO_NET_F_HOST_USO", Feature.HOST_USO),
        ("VIRTIO_F_ACCESS_PLATFORM", Feature.ACCESS_PLATFORM),
        ("VIRTIO_F_RING_PACKED", Feature.RING_PACKED),
        ("RING_PACKED", Feature.RING_PACKED),
        ("CTRL_VQ", Feature.CTRL_VQ),
        ("VIRTIO_F_EVENT_IDX", Feature.RING_EVENT_IDX),
        ("VIRTIO_RING_F_EVENT_IDX", Feature.RING_EVENT_IDX),
        ("EVENT_IDX", Feature.RING_EVENT_IDX),
        ("VHOST_F_LOG_ALL", Feature.LOG_ALL),
        ("LOG_ALL", Feature.LOG_ALL),
        ("VIRTIO_NET_F_RSS", Feature.RSS),  # is not offered anyway
    ],
)
def test_a_feature_by_its_name(name, feature):
    assert parse(name) == (Withheld(features=feature.mask), [])


def test_each_feature_has_its_specifications_prefix_and_name():
    named = _full_names()
    for name, feature in (
        ("VIRTIO_NET_F_CSUM", Feature.CSUM),
        ("VIRTIO_NET_F_CTRL_MAC_ADDR", Feature.CTRL_MAC_ADDR),
        ("VIRTIO_F_NOTIFY_ON_EMPTY", Feature.NOTIFY_ON_EMPTY),
        ("VIRTIO_RING_F_INDIRECT_DESC", Feature.RING_INDIRECT_DESC),
        ("VIRTIO_F_VERSION_1", Feature.VERSION_1),
        ("VIRTIO_F_RING_RESET", Feature.RING_RESET),
        ("VIRTIO_NET_F_GUEST_USO4", Feature.GUEST_USO4),
    ):
        assert named[name] == Withheld(features=feature.mask)
    for protocol in ProtocolFeature:
        name = f"VHOST_USER_PROTOCOL_F_{protocol.name}"
        assert named[name] == Withheld(protocol_features=protocol.mask)
    assert len(named) == len(Feature) + len(ProtocolFeature) + 2  # two have two names


@pytest.mark.parametrize("feature", ProtocolFeature)
def test_a_protocol_feature_by_its_name(feature):
    assert parse(f"VHOST_USER_PROTOCOL_F_{feature.name}") == (
        Withheld(protocol_features=feature.mask),
        [],
    )


def test_several_names_with_commas_and_spaces():
    text = "VIRTIO_NET_F_CSUM, RARP  VIRTIO_NET_F_MQ,"
    features = Feature.CSUM.mask | Feature.MQ.mask
    assert parse(text) == (Withheld(features, ProtocolFeature.RARP.mask), [])
    assert parse("") == (NOTHING, [])


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("virtio_net_f_mq", "feature-unknown: virtio_net_f_mq is no feature"),
        ("VIRTIO_NET_F_RING_PACKED", "feature-unknown: VIRTIO_NET_F_RING_PACKED is no feature"),
        ("22", "feature-unknown: 22 is no feature"),
        ("\x1b" * 100, "feature-unknown: " + "\\x1b" * 40 + " is no feature"),
        ("MQ", "feature-ambiguous: write VIRTIO_NET_F_MQ or VHOST_USER_PROTOCOL_F_MQ"),
        ("VHOST_USER_F_PROTOCOL_FEATURES", "feature-needed: leave out VHOST_USER_F_PROTOCOL_"),
        ("PROTOCOL_FEATURES", "feature-needed: leave out PROTOCOL_FEATURES"),
    ],
)
def test_a_name_that_is_wrong_is_told_and_the_others_count(word, error):
    found, wrong = parse(f"CSUM {word} RARP")
    assert found == Withheld(Feature.CSUM.mask, ProtocolFeature.RARP.mask)
    (one,) = wrong
    assert str(one).startswith(error)


def test_the_offer_lacks_what_is_withheld_and_nothing_else():
    withheld = Withheld(Feature.MRG_RXBUF.mask, ProtocolFeature.RARP.mask)
    whole, less = offer(1, 1500), offer(1, 1500, withheld=withheld)
    assert whole.features ^ less.features == Feature.MRG_RXBUF.mask
    assert whole.protocol_features ^ less.protocol_features == ProtocolFeature.RARP.mask


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        (
            "CTRL_VQ",
            {"CTRL_VQ", "CTRL_RX", "CTRL_VLAN", "CTRL_RX_EXTRA", "CTRL_MAC_ADDR"}
            | {"GUEST_ANNOUNCE", "MQ"},
        ),
        (
            "VIRTIO_NET_F_GUEST_CSUM",
            {"GUEST_CSUM", "GUEST_TSO4", "GUEST_TSO6", "GUEST_ECN", "GUEST_UFO"}
            | {"GUEST_USO4", "GUEST_USO6"},
        ),
        (
            "VIRTIO_NET_F_CSUM",
            {"CSUM", "HOST_TSO4", "HOST_TSO6", "HOST_ECN", "HOST_UFO", "HOST_USO"},
        ),
        ("HOST_TSO4", {"HOST_TSO4"}),
        ("HOST_TSO4 HOST_TSO6", {"HOST_TSO4", "HOST_TSO6", "HOST_ECN"}),
    ],
)
def test_what_needs_a_withheld_feature_is_not_offered_either(name, gone):
    less = offer(4, None, withheld=parse(name)[0])
    missing = offer(4, None).features & ~less.features
    assert {bit.name for bit in Feature if missing & bit.mask} == gone


def test_the_same_of_the_protocols():
    less = offer(1, None, withheld=parse("INFLIGHT_SHMFD BACKEND_REQ")[0])
    missing = offer(1, None).protocol_features & ~less.protocol_features
    assert {bit.name for bit in ProtocolFeature if missing & bit.mask} == {
        *("INFLIGHT_SHMFD", "GET_VRING_BASE_INFLIGHT"),
        *("BACKEND_REQ", "INBAND_NOTIFICATIONS"),
    }
