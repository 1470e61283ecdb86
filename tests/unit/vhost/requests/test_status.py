# SPDX-License-Identifier: Apache-2.0
"""SET_STATUS, GET_STATUS and RESET_DEVICE."""

import os

import pytest

from ovs_vhost_plugin.vhost import effects, spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.spec import DeviceStatus, Feature, FrontendRequest, ProtocolFeature
from ovs_vhost_plugin.vhost.state import VringState

R = FrontendRequest
READY = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK


def status(peer):
    return spec.U64.unpack(peer.send(R.GET_STATUS).payload)[0]


def test_the_status_is_as_the_driver_set_it_and_begins_at_zero(peer):
    assert status(peer) == 0
    for value in (1, 3, 0xB, 0xF, 0x80, 0xBF, 0):
        assert peer.u64(R.SET_STATUS, value, need_reply=True).payload == spec.U64.pack(0)
        assert peer.effects == []  # rings have messages of their own
        assert status(peer) == value


def test_every_bit_of_the_byte_may_be_set(peer):
    assert peer.u64(R.SET_STATUS, 0xFF, need_reply=True).payload == spec.U64.pack(0)


@pytest.mark.parametrize("value", [0x100, 2**64 - 1])
def test_a_status_of_more_than_a_byte(peer, value):
    with pytest.raises(PeerError) as caught:
        peer.u64(R.SET_STATUS, value)
    assert caught.value.name == PeerErrorName.STATUS_VALUE


def test_features_that_were_refused_are_not_ok(peer):
    excess = peer.session.offer.features | Feature.RSS.mask
    peer.u64(R.SET_FEATURES, excess, need_reply=True)
    peer.u64(R.SET_STATUS, READY)
    assert status(peer) == READY & ~DeviceStatus.FEATURES_OK
    peer.u64(R.SET_FEATURES, peer.session.offer.features)
    assert status(peer) == READY


def test_the_driver_can_neither_set_nor_clear_needs_reset(peer):
    peer.u64(R.SET_STATUS, READY | DeviceStatus.DEVICE_NEEDS_RESET)
    assert status(peer) == READY
    peer.session.needs_reset = True
    peer.u64(R.SET_STATUS, READY)
    assert status(peer) == READY | DeviceStatus.DEVICE_NEEDS_RESET
    peer.u64(R.SET_STATUS, 0)
    assert status(peer) == 0


def test_a_reset_stops_what_runs_and_keeps_what_is_the_front_ends(peer):
    inband = ProtocolFeature.INBAND_NOTIFICATIONS.mask
    peer.u64(R.SET_PROTOCOL_FEATURES, peer.session.protocol_features & ~inband)
    peer.set_up_vring(0)
    peer.set_up_vring(3)
    peer.state(R.SET_VRING_ENABLE, 0, 1)
    call = os.eventfd(0)
    peer.u64(R.SET_VRING_CALL, 0, (call,))
    peer.u64(R.SET_STATUS, READY)
    protocol_features = peer.session.protocol_features
    seen = []

    def see(_effect):
        assert not any(vring.enabled for vring in peer.session.vrings)
        seen.append(peer.session.features)

    peer.execute = see
    negotiated = peer.session.features
    peer.send(R.RESET_DEVICE)
    assert peer.effects == [effects.StopVring(0), effects.StopVring(3), effects.SetFeatures(0)]
    # The rings stop as what they are: with the header that they began with.
    assert seen == [negotiated, negotiated, 0]
    assert peer.session.vrings[0] == VringState(0, call_fd=call, call_told=True)
    assert peer.session.vrings[3] == VringState(3)
    assert peer.session.protocol_features == protocol_features
    assert status(peer) == 0


def test_a_reset_before_anything_was_set_up(peer):
    peer.send(R.RESET_DEVICE)
    assert peer.effects == [effects.SetFeatures(0)]
    peer.u64(R.SET_FEATURES, Feature.VERSION_1.mask | Feature.PROTOCOL_FEATURES.mask)
    peer.set_up_vring()
    assert peer.session.vrings[0].ready()
