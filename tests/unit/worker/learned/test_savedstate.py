# SPDX-License-Identifier: Apache-2.0
"""The format of a state that travels: what comes back, and hostile input 66, a wrong one."""

import zlib
from ipaddress import ip_address
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.jit.layout import ADDRESSES, STATIONS
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.worker.learned import savedstate
from ovs_vhost_plugin.worker.learned.savedstate import Saved, decode, encode
from ovs_vhost_plugin.worker.learned.stations import LearnedStation

NOW, THERE = 500_000, 9_000_000  # CLOCK_MONOTONIC of two hosts, in ms
NIC = bytes.fromhex("525400000001")
MAC = 0x525400000001


def mac(offset: int = 0) -> bytes:
    return (MAC + offset).to_bytes(6, "big")


def example() -> Saved:
    nested = LearnedStation(mac(1), 10, NOW - 2000, router=True)
    nested.addresses[ip_address("192.0.2.1")] = NOW - 3000
    nested.addresses[ip_address("2001:db8::1")] = NOW
    return Saved(NIC, [LearnedStation(mac(), 0, NOW - 1000), nested])


def state(*records: bytes, version: int = 1, oldest: int = 1, magic: bytes = b"OVHS") -> bytes:
    body = b"".join(records)
    return pack("<4sHHII", magic, version, oldest, len(body), zlib.crc32(body)) + body


def record(kind: int, data: bytes) -> bytes:
    return pack("<HH", kind, len(data)) + data


def station(
    mac: bytes = NIC, vlan: int = 0, count: int | None = None, addresses: tuple[str, ...] = ()
) -> bytes:
    packed = [(ip_address(a).packed, pack("<I", 0)) for a in addresses]
    tail = b"".join(
        (b"" if len(ip) == 16 else bytes(10) + b"\xff\xff") + ip + age for ip, age in packed
    )
    head = pack("<6sHBBI", mac, vlan, 0, len(addresses) if count is None else count, 0)
    return record(2, head + tail)


def name_of(data: bytes) -> str:
    with pytest.raises(PeerError) as caught:
        decode(data, THERE)
    return str(caught.value.name)


def test_what_is_saved_is_loaded_with_ages_on_the_other_hosts_clock() -> None:
    loaded = decode(encode(example(), NOW), THERE)
    assert loaded.nic == NIC
    first, nested = loaded.stations
    assert first == LearnedStation(mac(), 0, THERE - 1000)
    assert nested == LearnedStation(
        mac(1),
        10,
        THERE - 2000,
        router=True,
        addresses={ip_address("192.0.2.1"): THERE - 3000, ip_address("2001:db8::1"): THERE},
    )


def test_the_format_stays_as_it_is() -> None:
    # An older or newer release on the other host relies on it.
    assert decode(state(record(1, NIC), station(addresses=("192.0.2.1", "2001:db8::1"))), 0) == (
        Saved(
            NIC,
            [
                LearnedStation(
                    mac(),
                    0,
                    0,
                    addresses={ip_address("192.0.2.1"): 0, ip_address("2001:db8::1"): 0},
                )
            ],
        )
    )
    assert encode(Saved(NIC, [LearnedStation(mac(), 10, 0, router=True)]), 7) == state(
        record(1, NIC), record(2, pack("<6sHBBI", NIC, 10, 1, 0, 7))
    )


def test_nothing_known_is_a_state_too() -> None:
    assert decode(encode(Saved(None, []), NOW), THERE) == Saved(None, [])


def test_the_largest_state_is_read() -> None:
    ips = {ip_address(f"2001:db8::{n}"): NOW for n in range(ADDRESSES)}
    stations = [LearnedStation(mac(n), 0, NOW, addresses=dict(ips)) for n in range(STATIONS)]
    data = encode(Saved(NIC, stations), NOW)
    assert len(data) <= 12 * 1024
    assert len(decode(data, THERE).stations) == STATIONS


def test_a_newer_release_may_add_what_an_older_one_skips() -> None:
    assert decode(state(record(77, b"news"), station(), version=9), 0).stations


def test_a_state_that_needs_a_newer_release_is_refused() -> None:
    assert name_of(state(version=9, oldest=2)) == "device-state-version"


@pytest.mark.parametrize("size", [0, 1, 15, 16, 40])
def test_a_state_cut_short(size: int) -> None:
    assert name_of(encode(example(), NOW)[:size]) == "device-state-truncated"


@pytest.mark.parametrize(
    "data",
    [
        state(magic=b"QEVM"),
        state() + b"x",
        encode(example(), NOW)[:-1] + b"\x55",
        state(b"\1\0\6"),
        state(pack("<HH", 1, 7) + NIC),
        state(pack("<HH", 2, 0xFFFF)),
    ],
)
def test_a_state_that_is_not_ours_or_was_changed(data: bytes) -> None:
    assert name_of(data) == "device-state-damaged"


@pytest.mark.parametrize(
    "data",
    [
        record(1, b""),
        record(1, NIC + b"x"),
        record(1, bytes(6)),
        record(1, b"\1\0\x5e\0\0\1"),
        record(2, b""),
        station(mac=bytes(6)),
        station(mac=b"\xff" * 6),
        station(vlan=4095),
        station(count=1),
        station(addresses=("192.0.2.1",), count=0),
        station(addresses=tuple(f"192.0.2.{n}" for n in range(ADDRESSES + 1))),
        station(addresses=("224.0.0.1",)),
        station(addresses=("::",)),
        station(addresses=("255.255.255.255",)),
        b"".join(station(vlan=n) for n in range(STATIONS + 1)),
    ],
)
def test_stations_that_no_guest_is(data: bytes) -> None:
    assert name_of(state(data)) == "device-state-station"


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_read_or_refused_by_name(data: bytes, framed: bool) -> None:
    try:
        loaded = decode(state(data) if framed else data, THERE)
    except PeerError as error:
        assert error.name.startswith("device-state-")
    else:
        assert decode(encode(loaded, THERE), THERE) == loaded


def test_the_bound_has_room_for_the_largest() -> None:
    assert savedstate.MAX_SIZE >= 4 * 12 * 1024
