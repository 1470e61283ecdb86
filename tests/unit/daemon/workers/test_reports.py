# SPDX-License-Identifier: Apache-2.0
"""What a worker may say, and that nothing else gets through."""

from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.daemon.workers import reports
from ovs_vhost_plugin.daemon.workers.reports import ReportError
from ovs_vhost_plugin.ipc.channel import WorkerSpec
from ovs_vhost_plugin.net.station import Station, StationKey

NOW = 100.0
SPEC = WorkerSpec("vhu0", "client", "/run/vm.sock", 2, None, False, True)
STATE = {
    "status": "running",
    "socket": "/run/vm.sock",
    "features": "0x0000000140000000",
    "protocol_features": "0x7",
    "num_vrings": 2,
    "vring_sizes": [256, 256],
    "mtu": None,
    "error": "header-version",
    "error_detail": "version 3",
    "errors": 4,
}
STATION = {
    "mac": "52:54:00:00:00:01",
    "vlan": 7,
    "router": False,
    "ipv4": ["10.0.0.2"],
    "ipv6": ["fe80::1", "2001:db8::1"],
}
PAIRS = {"names": ["rx_packets", "tx_packets"], "values": [[1, 0], [2, 3]]}
EVENTS: dict[str, dict[str, Any]] = {
    "hello": {"event": "hello", "version": "0.1", "pid": 7, "spec": SPEC.to_json()},
    "state": {"event": "state", "state": STATE},
    "rarp": {"event": "rarp", "mac": "52:54:00:00:00:01", "at": 99.5},
    "started": {"event": "started", "base": 17, "sent": 5, "moved_in": True},
    "connect": {"event": "connect"},
    "userfaultfd": {"event": "userfaultfd"},
    "stats": {
        "event": "stats",
        "id": 3,
        "stats": {"queue_pairs": PAIRS, "x": 0.5, "addresses": [STATION]},
    },
    "addresses": {"event": "addresses", "addresses": [STATION]},
    "holding": {
        "event": "holding",
        "hold": 2,
        "active": True,
        "stations": ["525400000001.0", "525400000001.4095"],
        "counts": {"held": 3, "dropped_full": 1},
    },
    "held": {"event": "held", "id": 9, "frames": ["AAEC", ""], "left": 3},
}


def test_each_event_is_a_report() -> None:
    parsed = {name: reports.parse(event, NOW) for name, event in EVENTS.items()}
    assert parsed["hello"] == reports.Hello("0.1", SPEC)
    assert isinstance(state := parsed["state"], reports.State)
    assert state.vring_sizes == (256, 256) and state.error_text == "header-version: version 3"
    assert parsed["rarp"] == reports.Rarp(bytes.fromhex("525400000001"), 99.5)
    assert parsed["started"] == reports.Started(17, 5, moved_in=True)
    mac = bytes.fromhex("525400000001")
    assert parsed["holding"] == reports.Holding(
        2, True, (StationKey(mac, 0), StationKey(mac, 4095)), {"held": 3, "dropped_full": 1}
    )
    assert parsed["held"] == reports.Held(9, (b"\0\1\2", b""), True)
    assert parsed["connect"] == reports.Connect()
    assert parsed["userfaultfd"] == reports.AskUserfaultfd()
    counted = [{"rx_packets": 1, "tx_packets": 0}, {"rx_packets": 2, "tx_packets": 3}]
    assert parsed["stats"] == reports.Stats(3, EVENTS["stats"]["stats"] | {"queue_pairs": counted})
    ips = [IPv6Address(ip).packed for ip in ("fe80::1", "2001:db8::1")]
    station = Station(bytes.fromhex("525400000001"), 7, (bytes([10, 0, 0, 2]),), tuple(ips))
    assert parsed["addresses"] == reports.Addresses((station,))


def test_nothing_was_seen_in_the_future() -> None:
    report = reports.parse({**EVENTS["rarp"], "at": 1e18}, NOW)
    assert isinstance(report, reports.Rarp) and report.at == NOW
    # JSON has numbers that no float holds: math.isfinite raised OverflowError
    report = reports.parse({**EVENTS["rarp"], "at": 10**400}, NOW)
    assert isinstance(report, reports.Rarp) and report.at == NOW


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"event": None},
        {"event": "configure"},
        {**EVENTS["hello"], "spec": None},
        {**EVENTS["state"], "state": {**STATE, "features": "0x1 or more"}},
        {**EVENTS["holding"], "active": 1},
        {**EVENTS["holding"], "hold": -1},
        {**EVENTS["holding"], "stations": ["525400000001"]},
        {**EVENTS["holding"], "stations": ["525400000001.0"] * 65},
        {**EVENTS["holding"], "stations": "525400000001.0"},
        {**EVENTS["holding"], "counts": {"held": -1}},
        {**EVENTS["holding"], "counts": {str(n): 1 for n in range(33)}},
        {**EVENTS["held"], "id": "9"},
        {**EVENTS["held"], "frames": ["AAEC", 7]},
        {**EVENTS["held"], "frames": ["no base64"]},
        {**EVENTS["held"], "frames": [""] * 257},
        {**EVENTS["held"], "left": None},
        {**EVENTS["hello"], "spec": {**SPEC.to_json(), "queues": "2"}},
        {**EVENTS["rarp"], "mac": "52:54:00:00:00"},
        {**EVENTS["rarp"], "mac": "52:54:00:00:00:01\n"},
        {**EVENTS["rarp"], "at": float("nan")},
        {**EVENTS["rarp"], "at": "now"},
        {**EVENTS["rarp"], "at": -1e308},
        {**EVENTS["started"], "base": "0"},
        {**EVENTS["started"], "base": -1},
        {**EVENTS["started"], "base": 10**400},
        {**EVENTS["stats"], "stats": []},
        {**EVENTS["stats"], "stats": {"x": float("inf")}},
        {**EVENTS["stats"], "stats": {"a": {"b": {"c": {"d": {"e": 1}}}}}},
        {**EVENTS["stats"], "stats": {"queue_pairs": 5}},
        {**EVENTS["stats"], "stats": {"queue_pairs": {"names": [], "values": [5]}}},
        {**EVENTS["stats"], "stats": {"queue_pairs": {"names": [5], "values": []}}},
        {**EVENTS["stats"], "stats": {"queue_pairs": {"names": ["x"], "values": [[]]}}},
        {**EVENTS["stats"], "stats": {"queue_pairs": {"names": ["x"], "values": [["1"]]}}},
        {**EVENTS["stats"], "stats": {"queue_pairs": {"names": ["x"], "values": [[1]] * 129}}},
        {**EVENTS["stats"], "stats": {"queue_pairs": {"names": ["x"] * 65, "values": []}}},
        {**EVENTS["stats"], "stats": {"queue_pairs": PAIRS, "faults": 1}},
        {**EVENTS["stats"], "stats": {"errors": [5]}},
        {**EVENTS["stats"], "stats": {"hold": 5}},
        {**EVENTS["stats"], "stats": {"queue_pairs": PAIRS, "x": 10**4299}},
        {**EVENTS["stats"], "stats": {"addresses": [{}]}},
        {**EVENTS["stats"], "stats": {"addresses": {}}},
        {**EVENTS["addresses"], "addresses": [STATION] * 65},
        {**EVENTS["addresses"], "addresses": [[]]},
        {**EVENTS["addresses"], "addresses": {}},
        *(
            {"event": "addresses", "addresses": [{**STATION, key: value}]}
            for key, value in (
                ("mac", "52:54:00:00:00"),
                ("mac", "53:54:00:00:00:01"),
                ("mac", "00:00:00:00:00:00"),
                ("mac", 5),
                ("vlan", 4095),
                ("vlan", -1),
                ("vlan", True),
                ("vlan", "7"),
                ("router", 1),
                ("ipv4", "10.0.0.2"),
                ("ipv4", None),
                ("ipv4", [1]),
                ("ipv4", ["10.0.0.2\n"]),
                ("ipv4", ["fe80::1"]),
                ("ipv4", ["224.0.0.1"]),
                ("ipv4", ["10.0.0.2"] * 9),
                ("ipv6", ["10.0.0.2"]),
                ("ipv6", ["fe80::1%eth0"]),
                ("ipv6", ["ff02::1"]),
                ("ipv6", ["::"]),
            )
        ),
        *(
            {"event": "addresses", "addresses": [{k: v for k, v in STATION.items() if k != key}]}
            for key in STATION
        ),
        *(
            {"event": "state", "state": {**STATE, key: value}}
            for key, value in {
                "status": "root",
                "socket": 1,
                "features": None,
                "num_vrings": 257,
                "vring_sizes": [-1],
                "mtu": "1500",
                "error": [],
                "errors": True,
            }.items()
        ),
        *(
            {"event": "state", "state": {k: v for k, v in STATE.items() if k != key}}
            for key in STATE
        ),
    ],
)
def test_what_is_no_report_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(ReportError):
        reports.parse(event, NOW)


def test_texts_are_made_fit_to_print_and_short() -> None:
    escape = "\x1b]0;title\x07\n" + "x" * 10_000
    state = reports.parse({"event": "state", "state": {**STATE, "error_detail": escape}}, NOW)
    assert isinstance(state, reports.State)
    assert state.error_detail.isprintable() and len(state.error_detail) <= 240
    stats = reports.parse({"event": "stats", "id": 1, "stats": {escape: [escape]}}, NOW)
    assert isinstance(stats, reports.Stats)
    ((key, (value,)),) = stats.stats.items()
    assert key.isprintable() and value.isprintable() and len(key) <= 60


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


@given(st.sampled_from(sorted(EVENTS)), st.data())
def test_any_change_of_an_event_is_a_report_or_refused(name: str, data: st.DataObject) -> None:
    event = dict(EVENTS[name])
    key = data.draw(st.sampled_from(sorted(event)))
    if isinstance(event[key], dict):
        inner = data.draw(st.sampled_from(sorted(event[key])))
        event[key] = {**event[key], inner: data.draw(JSON)}
    elif isinstance(event[key], list) and isinstance(event[key][0], dict):
        inner = data.draw(st.sampled_from(sorted(event[key][0])))
        event[key] = [{**event[key][0], inner: data.draw(JSON)}]
    else:
        event[key] = data.draw(JSON)
    try:
        report = reports.parse(event, NOW)
    except ReportError:
        return
    assert isinstance(report, reports.Report)
