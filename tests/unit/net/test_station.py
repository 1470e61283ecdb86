# SPDX-License-Identifier: Apache-2.0
"""Stations: their key as text, whom a frame is from and for, and which addresses a host has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.net.ethernet import C_TAG
from ovs_vhost_plugin.net.station import (
    MAX_IPS,
    Station,
    StationKey,
    is_host,
    is_unicast,
    merge,
    receiver_of,
    sender_of,
    without,
)

MAC = bytes.fromhex("525400000001")
OTHER = bytes.fromhex("525400000002")
GROUP = bytes.fromhex("01005e000001")


def test_a_key_is_written_with_its_mac_and_its_vlan() -> None:
    assert StationKey(MAC, 10).encode() == "525400000001.10"


@given(st.binary(min_size=6, max_size=6), st.integers(0, 4095))
def test_what_was_written_is_read(mac: bytes, vlan: int) -> None:
    assert StationKey.decode(StationKey(mac, vlan).encode()) == StationKey(mac, vlan)


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        b"525400000001.10",
        "",
        "525400000001",
        "525400000001.",
        "525400000001.4096",
        "525400000001.-1",
        "525400000001.1\n",
        "52540000001.10",
        "5254000000011.10",
        "52540000000G.10",
        "52540000000A.10",
        "525400000001.\u0663",
    ],
)
def test_any_other_text_is_no_key(text: object) -> None:
    with pytest.raises(ValueError, match="no key of a station"):
        StationKey.decode(text)


@pytest.mark.parametrize("tag", [0, 7])
def test_whom_a_frame_is_for_and_from(tag: int) -> None:
    frame = MAC + OTHER + (C_TAG + tag.to_bytes(2, "big") if tag else b"") + b"\x08\x00"
    assert receiver_of(frame) == (MAC, tag)
    assert sender_of(frame) == (OTHER, tag)
    assert receiver_of(GROUP + frame[6:]) is None


def test_half_a_header_is_for_nobody() -> None:
    assert receiver_of(MAC + OTHER + b"\x08") is None


@pytest.mark.parametrize(
    ("mac", "unicast"),
    [(MAC, True), (bytes(6), False), (GROUP, False), (MAC[:5], False), (MAC + b"\0", False)],
)
def test_which_macs_one_station_has(mac: bytes, unicast: bool) -> None:
    assert is_unicast(mac) is unicast


@pytest.mark.parametrize(
    ("ip", "host"),
    [
        ("c0000201", True),
        ("00000000", False),
        ("7f000001", False),
        ("e0000001", False),
        ("ffffffff", False),
        ("fe80" + 13 * "00" + "01", True),
        ("ff02" + 13 * "00" + "01", False),
        (15 * "00" + "01", False),
    ],
)
def test_which_addresses_one_host_has(ip: str, host: bool) -> None:
    address = bytes.fromhex(ip)
    assert is_host(address, len(address)) is host
    assert not is_host(address, len(address) - 1)


def test_stations_of_one_key_are_one_in_the_order_of_their_first_mention() -> None:
    ips = tuple(bytes([192, 0, 2, n]) for n in range(MAX_IPS + 1))
    merged = merge(
        [
            Station(MAC, 7, ips[:2]),
            Station(OTHER),
            Station(MAC, 7, ips[1:], router=True),
            Station(MAC, 7),
            Station(MAC, 8),
        ]
    )
    assert merged == (Station(MAC, 7, ips[:MAX_IPS], router=True), Station(OTHER), Station(MAC, 8))


def test_those_whose_keys_are_named_are_left_out() -> None:
    stations = (Station(MAC, 7), Station(MAC), Station(OTHER, 7))
    assert without(stations, {StationKey(MAC, 7)}) == stations[1:]
    assert without(stations, set()) == stations
