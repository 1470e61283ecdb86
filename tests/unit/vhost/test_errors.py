# SPDX-License-Identifier: Apache-2.0
"""The text that an operator reads of a refused request: its name, and the value that was seen."""

import os

import pytest

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import (
    ConfigFlag,
    Feature,
    FrontendRequest,
    IotlbType,
    ProtocolFeature,
)

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


def config_request(request, offset, size, data=b"", flags=ConfigFlag.WRITABLE):
    return lambda peer: peer.send(request, spec.CONFIG.pack(offset, size, flags) + data)


def inflight(queues, queue_size):
    payload = spec.INFLIGHT.pack(0, 0, queues, queue_size)
    return lambda peer: peer.send(R.GET_INFLIGHT_FD, payload)


def memory_table(count, size, fds=0):
    """SET_MEM_TABLE of `count` regions in `size` bytes."""

    def send(peer):
        payload = spec.MEMORY_HEADER.pack(count, 0).ljust(size, b"\0")[:size]
        peer.send(R.SET_MEM_TABLE, payload, tuple(os.memfd_create("guest") for _ in range(fds)))

    return send


def while_running(send):
    """`send`, of a front-end whose ring 0 runs."""

    def set_up_and_send(peer):
        peer.set_up_vring()
        send(peer)

    return set_up_and_send


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
        (lambda peer: peer.state(R.SET_VRING_NUM, 1, 0), "vring-size-zero: vring 1"),
        (
            lambda peer: peer.state(R.SET_VRING_NUM, 1, 65536),
            "vring-size-too-large: vring 1: 65536",
        ),
        (
            lambda peer: peer.state(R.SET_VRING_NUM, 1, 3),
            "vring-size-not-power-of-two: vring 1: 3",
        ),
        (
            while_running(lambda peer: peer.state(R.SET_VRING_NUM, 0, 128)),
            "vring-started: vring 0",
        ),
        (lambda peer: peer.state(R.SET_VRING_NUM, 4, 256), "vring-index: 4 of 4"),
        (lambda peer: peer.addr(1, flags=2), "vring-flags: vring 1: 0x2"),
        (
            lambda peer: peer.addr(1, desc=0x1008),
            "vring-misaligned: vring 1: descriptor table at 0x1008",
        ),
        (
            lambda peer: peer.addr(1, avail=0x1001),
            "vring-misaligned: vring 1: avail ring at 0x1001",
        ),
        (
            lambda peer: peer.addr(1, used=0x1002),
            "vring-misaligned: vring 1: used ring at 0x1002",
        ),
        (
            lambda peer: peer.addr(1, flags=1, log=TOP - 8),
            "vring-address-wraps: vring 1: used ring logged at 0xfffffffffffffff8",
        ),
        (lambda peer: peer.u64(R.SET_VRING_CALL, 0x201), "vring-reserved-bits: 0x201"),
        (lambda peer: peer.u64(R.SET_VRING_CALL, 1), "fds-missing: vring 1"),
        (
            lambda peer: peer.u64(R.SET_VRING_CALL, 1 | spec.VRING_NO_FD, (os.eventfd(0),)),
            "fds-unexpected: vring 1: marked as none",
        ),
        (
            lambda peer: peer.u64(R.SET_FEATURES, Feature.RING_RESET.mask),
            "features-not-offered: 0x10000000000",
        ),
        (
            while_running(
                lambda peer: peer.u64(
                    R.SET_FEATURES, peer.session.features ^ Feature.MRG_RXBUF.mask
                )
            ),
            "features-while-started: 0x8000 changed",
        ),
        (
            lambda peer: peer.u64(R.SET_PROTOCOL_FEATURES, ProtocolFeature.XEN_MMAP.mask),
            "protocol-features-not-offered: 0x20000",
        ),
        (
            lambda peer: peer.u64(
                R.SET_PROTOCOL_FEATURES, ProtocolFeature.INBAND_NOTIFICATIONS.mask
            ),
            "inband-without-channel: 0x4000",
        ),
        (
            lambda peer: peer.u64(
                R.SET_PROTOCOL_FEATURES, ProtocolFeature.GET_VRING_BASE_INFLIGHT.mask
            ),
            f"inflight-base-without-region: {ProtocolFeature.GET_VRING_BASE_INFLIGHT.mask:#x}",
        ),
        (memory_table(1, 7), "payload-size: SET_MEM_TABLE: 7 bytes"),
        (memory_table(9, 8), "regions-too-many: 9"),
        (memory_table(2, 71), "payload-size: SET_MEM_TABLE: 71 bytes for 2 regions"),
        (memory_table(2, 72, fds=1), "regions-fds-differ: 2 regions, 1 fds"),
        (
            lambda peer: peer.send(R.ADD_MEM_REG, bytes(39), (os.memfd_create("guest"),)),
            "payload-size: ADD_MEM_REG: 39 bytes",
        ),
        (lambda peer: peer.send(R.ADD_MEM_REG, bytes(40)), "fds-missing: ADD_MEM_REG"),
        (inflight(5, 256), "inflight-queues: 5 of 4"),
        (inflight(4, 32769), "inflight-queue-size: 32769"),
        (config_request(R.SET_CONFIG, 6, 2, b"\0\0"), "config-read-only: 2 bytes at 6"),
        (lambda peer: peer.send(R.GET_CONFIG, bytes(11)), "payload-size: configuration: 11 bytes"),
        (config_request(R.GET_CONFIG, 0, 6), "payload-size: configuration: 12 bytes for 6"),
        (config_request(R.GET_CONFIG, 256, 1, b"\0"), "config-range: 1 bytes at 256"),
        (config_request(R.GET_CONFIG, 0, 1, b"\0", flags=2), "config-flags: 0x2"),
        (lambda peer: peer.send(999), "request-unknown: 999"),
        (
            lambda peer: peer.send(R.CREATE_CRYPTO_SESSION),
            "request-not-for-net: CREATE_CRYPTO_SESSION",
        ),
        (
            lambda peer: peer.send(R.SET_FEATURES, bytes(7)),
            "payload-size: request 2: 7, not 8 bytes",
        ),
        (
            lambda peer: peer.send(R.SET_BACKEND_REQ_FD),
            f"fds-missing: request {R.SET_BACKEND_REQ_FD}",
        ),
        (
            lambda peer: peer.send(R.SET_OWNER, b"", (os.eventfd(0),)),
            f"fds-unexpected: request {R.SET_OWNER}: 1",
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
        (inflight(4, 256), "what is in flight needs INFLIGHT_SHMFD"),
        (config_request(R.GET_CONFIG, 0, 1, b"\0"), "CONFIG was not acknowledged"),
    ):
        assert text_of(bare, send) == f"protocol-feature-missing: {needed}"


def test_a_request_of_what_the_port_does_not_offer_says_so():
    session = Session(offer(1, None))
    with pytest.raises(PeerError) as refused:
        next(session.receive(Message(R.NET_SET_MTU, bytes(8))))
    assert str(refused.value) == "protocol-feature-missing: NET_SET_MTU needs MTU"


def test_an_error_may_have_nothing_to_show():
    error = PeerError(PeerErrorName.REGIONS_NONE)
    assert (str(error), error.detail, error.fatal) == ("regions-none", "", False)


def test_a_session_knows_that_it_has_refused_something(peer):
    assert not peer.session.refused
    peer.u64(R.NET_SET_MTU, 67, need_reply=True)
    assert peer.session.refused
