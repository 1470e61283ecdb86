# SPDX-License-Identifier: Apache-2.0
"""GET_CONFIG and SET_CONFIG: the NIC's configuration space, read and written by a front-end."""

from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.vhost import effects, spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.features import Nic, offer
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest, ProtocolFeature

R = FrontendRequest
MAC = bytes.fromhex("525400000001")
OTHER = bytes.fromhex("525400000002")
# virtio 1.2, 5.1.4, written down once more: what the code has is compared with it
NET = Struct("<6sHHHIB")
WHOLE = offer(4, 1500, nic=Nic(MAC))
WRITABLE, MIGRATION = 0, 1


def ask(session, request, payload=b"", *, need_reply=False):
    """The reply, and the effects that were not refusals; a refusal is raised."""
    flags = spec.VERSION | (spec.NEED_REPLY if need_reply else 0)
    seen, handling = [], session.receive(Message(request, payload, flags))
    try:
        while True:
            seen.append(next(handling))
    except StopIteration as stop:
        reply = stop.value
    for effect in seen:
        if isinstance(effect, effects.Refused):
            raise effect.error
    return reply, seen


def get(session, offset=0, size=NET.size, flags=WRITABLE):
    reply, _ = ask(session, R.GET_CONFIG, spec.CONFIG.pack(offset, size, flags) + bytes(size))
    assert reply.payload[:12] == spec.CONFIG.pack(offset, size, flags)
    assert len(reply.payload) == 12 + size
    return reply.payload[12:]


def put(session, offset, data, flags):
    payload = spec.CONFIG.pack(offset, len(data), flags) + data
    return ask(session, R.SET_CONFIG, payload, need_reply=True)


def refused(call, *args):
    with pytest.raises(PeerError) as caught:
        call(*args)
    return caught.value.name


def connect(offered=WHOLE, features=None):
    session = Session(offered)
    ask(session, R.SET_PROTOCOL_FEATURES, spec.U64.pack(offered.protocol_features))
    if features is not None:
        ask(session, R.SET_FEATURES, spec.U64.pack(features))
    return session


@pytest.fixture
def session():
    return connect()


def test_what_the_space_says(session):
    mac, status, pairs, mtu, speed, duplex = NET.unpack(get(session))
    assert (mac, status, pairs, mtu) == (MAC, 1, 4, 1500)
    assert (speed, duplex) == (0xFFFFFFFF, 0xFF)
    assert get(session, 17, 7) == bytes(7)  # of RSS and HASH_REPORT, which are not offered


@pytest.mark.parametrize("mtu", [0, 68, 1500])
def test_a_migration_brings_any_mtu_that_the_port_carries_or_none(session, mtu):
    put(session, 0, NET.pack(MAC, 0, 4, mtu, 0, 0), MIGRATION)
    assert session.net_config.mtu == mtu


@pytest.mark.parametrize("offset, size", [(0, 1), (6, 2), (10, 2), (17, 7), (0, 256), (255, 1)])
def test_any_part_of_it_can_be_read(session, offset, size):
    whole = get(session, 0, 256)
    assert whole[24:] == bytes(232)  # of a later virtio: no field of it is known
    assert get(session, offset, size) == whole[offset : offset + size]


def test_a_guest_that_nobody_named_is_offered_no_mac():
    assert offer(1, None, nic=Nic()).features ^ WHOLE.features == (
        Feature.MAC.mask | Feature.MTU.mask
    )
    assert get(connect(offer(1, None, nic=Nic())), 0, 6) == bytes(6)


def test_the_link_is_down_while_the_port_is(session):
    assert session.follow_port(link_up=False, mtu=1500)
    assert get(session, 6, 2) == b"\0\0"
    assert not session.follow_port(link_up=False, mtu=1500)
    assert session.follow_port(link_up=True, mtu=1500)
    assert get(session, 6, 2) == b"\1\0"
    assert get(connect(offer(1, None, nic=Nic(link_up=False))), 6, 2) == b"\0\0"


def mtu_of(session):
    return int.from_bytes(get(session, 10, 2), "little")


def test_another_mtu_is_told_until_a_driver_has_it(session):
    assert session.follow_port(link_up=True, mtu=2000)
    assert mtu_of(session) == 2000
    _, seen = ask(session, R.SET_FEATURES, spec.U64.pack(Feature.MTU.mask))
    assert effects.ConfigChanged() not in seen
    # virtio 1.2, 5.1.4.1: "The device MUST NOT modify mtu once it has been set."
    assert not session.follow_port(link_up=True, mtu=1000)
    assert mtu_of(session) == 2000


@pytest.mark.parametrize("request_", [R.RESET_DEVICE, R.SET_FEATURES])
def test_the_next_driver_has_the_ports_mtu(session, request_):
    ask(session, R.SET_FEATURES, spec.U64.pack(Feature.MTU.mask))
    session.follow_port(link_up=True, mtu=1000)
    payload = b"" if request_ == R.RESET_DEVICE else spec.U64.pack(0)
    _, seen = ask(session, request_, payload)
    assert seen[-1] != seen[0] and effects.ConfigChanged() in seen
    assert mtu_of(session) == 1000
    _, seen = ask(session, request_, payload)
    assert effects.ConfigChanged() not in seen


def test_an_mtu_that_was_not_offered_is_not_told_later():
    session = connect(offer(1, None, nic=Nic(MAC)))
    assert not session.follow_port(link_up=True, mtu=9000)
    assert mtu_of(session) == 0


def test_a_legacy_guest_writes_its_mac():
    session = connect(features=0)
    reply, seen = put(session, 0, OTHER, WRITABLE)
    assert reply.payload == spec.U64.pack(0) and seen == []  # it knows what it wrote
    assert get(session, 0, 6) == OTHER
    put(session, 5, b"\x09", WRITABLE)  # as 8 single bytes come from an I/O port
    assert get(session, 0, 6) == OTHER[:5] + b"\x09"


@pytest.mark.parametrize(
    ("features", "offset", "data"),
    [
        (Feature.VERSION_1.mask, 0, OTHER),
        (Feature.VERSION_1.mask, 0, OTHER[:1]),
        (0, 6, b"\0\0"),
        (0, 5, b"\0\0"),
        (0, 10, b"\xdc\x05"),
        (0, 24, b"\0"),
    ],
    ids=["modern", "one byte", "status", "across", "mtu", "behind"],
)
def test_what_a_guest_may_not_write(features, offset, data):
    session = connect(features=features)
    assert refused(put, session, offset, data, WRITABLE) == PeerErrorName.CONFIG_READ_ONLY
    assert NET.unpack(get(session))[:4] == (MAC, 1, 4, 1500)


def test_a_migration_brings_the_guests_mac_and_mtu_and_not_the_link():
    session = connect(features=Feature.VERSION_1.mask)
    put(session, 0, NET.pack(OTHER, 0, 2, 1400, 10, 0), MIGRATION)
    assert NET.unpack(get(session)) == (OTHER, 1, 4, 1400, 0xFFFFFFFF, 0xFF)
    ask(session, R.SET_FEATURES, spec.U64.pack(Feature.MTU.mask))
    assert mtu_of(session) == 1400


@pytest.mark.parametrize(
    "values",
    [
        (b"\1" + MAC[1:], 0, 4, 1500),
        (MAC, 0, 5, 1500),
        (MAC, 0, 4, 1501),
        (MAC, 0, 4, 67),
        (MAC, 0, 4, 1),
    ],
    ids=["group", "queue pairs", "MTU", "small MTU", "tiny MTU"],
)
def test_a_migration_of_what_no_guest_here_can_be(session, values):
    data = NET.pack(*values, 0, 0)
    assert refused(put, session, 0, data, MIGRATION) == PeerErrorName.CONFIG_VALUE
    assert get(session, 0, 6) == MAC


@pytest.mark.parametrize("request_", [R.GET_CONFIG, R.SET_CONFIG])
@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"", PeerErrorName.PAYLOAD_SIZE),
        (bytes(11), PeerErrorName.PAYLOAD_SIZE),
        (spec.CONFIG.pack(0, 6, 0) + bytes(5), PeerErrorName.PAYLOAD_SIZE),
        (spec.CONFIG.pack(0, 6, 0) + bytes(7), PeerErrorName.PAYLOAD_SIZE),
        (spec.CONFIG.pack(0, 2**32 - 1, 0) + bytes(6), PeerErrorName.PAYLOAD_SIZE),
        (spec.CONFIG.pack(0, 0, 0), PeerErrorName.CONFIG_RANGE),
        (spec.CONFIG.pack(256, 1, 0) + bytes(1), PeerErrorName.CONFIG_RANGE),
        (spec.CONFIG.pack(0, 257, 0) + bytes(257), PeerErrorName.CONFIG_RANGE),
        (spec.CONFIG.pack(2**32 - 1, 1, 0) + bytes(1), PeerErrorName.CONFIG_RANGE),
        (spec.CONFIG.pack(0, 1, 2) + bytes(1), PeerErrorName.CONFIG_FLAGS),
        (spec.CONFIG.pack(0, 1, 2**32 - 1) + bytes(1), PeerErrorName.CONFIG_FLAGS),
    ],
)
def test_parts_of_the_space_that_there_are_not(session, request_, payload, name):
    with pytest.raises(PeerError) as caught:
        ask(session, request_, payload, need_reply=True)
    assert caught.value.name == name


def test_a_refusal_to_read_is_an_empty_answer(session):
    handling = session.receive(Message(R.GET_CONFIG, b""))
    assert isinstance(next(handling), effects.Refused)
    with pytest.raises(StopIteration) as stop:
        next(handling)
    assert stop.value.value == Message(R.GET_CONFIG, b"", spec.VERSION | spec.REPLY)


def test_a_front_end_that_did_not_negotiate_it():
    session = Session(WHOLE)
    assert refused(get, session) == PeerErrorName.PROTOCOL_FEATURE_MISSING
    other = Session(offer(1, None))
    assert refused(get, other) == PeerErrorName.PROTOCOL_FEATURE_MISSING


def test_it_is_offered_only_where_it_was_asked_for():
    assert not offer(1, None).protocol_features & ProtocolFeature.CONFIG.mask


@given(
    legacy=st.booleans(),
    offset=st.integers(0, 30) | st.integers(0, 2**32 - 1),
    size=st.integers(0, 30) | st.integers(0, 2**32 - 1),
    flags=st.integers(0, 2),
    data=st.binary(max_size=300),
    fits=st.booleans(),
)
def test_whatever_is_written_the_space_stays_one_of_this_port(
    legacy, offset, size, flags, data, fits
):
    session = connect(features=0 if legacy else Feature.VERSION_1.mask)
    size = len(data) if fits else size
    try:
        ask(session, R.SET_CONFIG, spec.CONFIG.pack(offset, size, flags) + data, need_reply=True)
    except PeerError as error:
        assert error.name in set(PeerErrorName)
        assert NET.unpack(get(session))[:4] == (MAC, 1, 4, 1500)
    mac, status, pairs, mtu, speed, duplex = NET.unpack(get(session))
    assert not mac[0] & 1 and (status, pairs) == (1, 4)
    assert mtu == 0 or 68 <= mtu <= 1500
    assert (speed, duplex) == (0xFFFFFFFF, 0xFF)
