# SPDX-License-Identifier: Apache-2.0
"""The text that an operator reads of a refused request: its name, and the value that was seen."""

import os

import pytest

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.spec import ConfigFlag, FrontendRequest, IotlbType

R = FrontendRequest
MAC = bytes.fromhex("525400000001")
GROUP = bytes.fromhex("01005e000001")
TOP = 1 << 64


def text_of(peer, send):
    """What is told of the request that `send` makes, by an exception or by an effect."""
    try:
        send(peer)
    except PeerError as error:
        return str(error)
    return str(peer.effects[0].error)


def iotlb(iova=0x1000, size=0x1000, access=1, kind=IotlbType.UPDATE):
    return lambda peer: peer.send(R.IOTLB_MSG, spec.IOTLB.pack(iova, size, 0, access, kind))


def config(mac=MAC, pairs=2, mtu=1500):
    """A configuration space that a migration brings, less its status."""
    data = mac + bytes(2) + pairs.to_bytes(2, "little") + mtu.to_bytes(2, "little")
    payload = spec.CONFIG.pack(0, len(data), ConfigFlag.MIGRATION) + data
    return lambda peer: peer.send(R.SET_CONFIG, payload)


def device_state(direction, phase):
    def send(peer):
        reading, writing = os.pipe()
        os.close(reading)
        peer.send(R.SET_DEVICE_STATE_FD, spec.DEVICE_STATE.pack(direction, phase), (writing,))

    return send


def advise_twice(peer):
    peer.execute = lambda effect: 77
    peer.send(R.POSTCOPY_ADVISE)
    peer.send(R.POSTCOPY_ADVISE)


@pytest.mark.parametrize(
    ("send", "text"),
    [
        (
            lambda peer: peer.state(R.SET_VRING_BASE, 1, 1 << 16),
            "vring-base-range: vring 1: 0x10000",
        ),
        (lambda peer: peer.state(R.SET_VRING_ENABLE, 1, 2), "vring-enable-value: vring 1: 2"),
        (lambda peer: peer.state(R.VRING_KICK, 1, 5), "vring-reserved-bits: vring 1: 0x5"),
        (lambda peer: peer.u64(R.NET_SET_MTU, 67, need_reply=True), "mtu-range: 67"),
        (
            lambda peer: peer.u64(R.NET_SET_MTU, 1501, need_reply=True),
            "mtu-too-large: 1501, the port carries 1500",
        ),
        (
            lambda peer: peer.send(R.SEND_RARP, GROUP + bytes(2)),
            "rarp-mac-multicast: 01:00:5e:00:00:01",
        ),
        (lambda peer: peer.u64(R.SET_STATUS, 0x100), "status-value: 0x100"),
        (
            lambda peer: peer.send(R.GET_INFLIGHT_FD, bytes(3)),
            "payload-size: what is in flight: 3 bytes",
        ),
        (iotlb(TOP - 1, 2), "iotlb-address-wraps: 0x2 bytes at 0xffffffffffffffff"),
        (iotlb(size=0), "iotlb-size-zero: 0x0 bytes at 0x1000"),
        (iotlb(access=4), "iotlb-permissions: 0x4"),
        (iotlb(kind=5), "iotlb-type: 5"),
        (config(mac=GROUP), "config-value: MAC 01:00:5e:00:00:01"),
        (config(pairs=3), "config-value: 3 of 2 queue pairs"),
        (config(mtu=1501), "config-value: MTU 1501, the port carries 1500"),
        (device_state(2, 0), "device-state-direction: 2"),
        (device_state(0, 1), "device-state-phase: 1"),
        (
            advise_twice,
            "postcopy-several-pairs: "
            "this QEMU loses a guest with several queue pairs: use one, or precopy",
        ),
    ],
)
def test_a_refusal_says_what_was_seen(peer, send, text):
    assert text_of(peer, send) == text


def test_a_request_without_its_protocol_feature_says_which_it_needs(bare, memfd):
    log = spec.LOG.pack(4096, 0)
    for send, needed in (
        (lambda peer: peer.state(R.VRING_KICK, 0, 0), "VRING_KICK needs INBAND_NOTIFICATIONS"),
        (
            lambda peer: peer.send(R.SET_LOG_BASE, log, (memfd(4096),)),
            "SET_LOG_BASE needs LOG_SHMFD",
        ),
    ):
        assert text_of(bare, send) == f"protocol-feature-missing: {needed}"
