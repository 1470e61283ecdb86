# SPDX-License-Identifier: Apache-2.0
"""What a worker may say, and that nothing else gets through."""

from dataclasses import MISSING, Field, fields
from ipaddress import IPv6Address
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.ipc import reports
from ovs_vhost_plugin.ipc.codec import MessageError, UnknownKindError, codec_of
from ovs_vhost_plugin.ipc.commands import KNOWN_AT_FIRST, PROTOCOL
from ovs_vhost_plugin.ipc.spec import PortSettings, WorkerSpec
from ovs_vhost_plugin.net.station import Station, StationKey

SPEC = WorkerSpec("vhu0", "client", "/run/vm.sock", 2, PortSettings(hold=True))
SPEC_JSON = codec_of(WorkerSpec).encode(SPEC)
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
    "hello": {
        "event": "hello",
        "version": "0.1",
        "queues": 2,
        "protocol": PROTOCOL,
        "oldest": 2,
        "build": "0.1-00ff",
        "commands": ["quit", "stats"],
        "spec": SPEC_JSON,
    },
    "state": {"event": "state", **STATE},
    "rarp": {"event": "rarp", "mac": "52:54:00:00:00:01", "at": 99.5},
    "started": {"event": "started", "base": 17, "sent": 5, "moved_in": True, "further": False}
    | {"at": 98.5},
    "first-received": {"event": "first-received", "at": 99.25},
    "connect": {"event": "connect"},
    "queues": {"event": "queues", "queues": 4},
    "userfaultfd": {"event": "userfaultfd"},
    "stats": {
        "event": "stats",
        "id": 3,
        "stats": {"queue_pairs": PAIRS, "x": 0.5, "addresses": [STATION]},
    },
    "stations": {"event": "stations", "stations": [STATION]},
    "holding": {
        "event": "holding",
        "hold": 2,
        "active": True,
        "stations": ["525400000001.0", "525400000001.4095"],
        "counts": {"held": 3, "dropped_full": 1},
        "sighted": 0,
        "since": 97.0,
    },
    "handed-over": {"event": "handed-over", "id": 11, "outcome": "busy", "why": "half a message"},
    "held": {"event": "held", "id": 9, "frames": ["AAEC", ""], "left": True},
}


def optional(name: str, field: str) -> bool:
    """Whether a report may lack a field, as one of another release may."""
    kind = reports.kind_of({"event": name})
    return any(one.name == field and has_default(one) for one in fields(kind))


def has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def test_each_event_is_a_report() -> None:
    parsed = {name: reports.decode(event) for name, event in EVENTS.items()}
    assert parsed["hello"] == reports.WorkerHello(
        "0.1", SPEC, 2, PROTOCOL, 2, "0.1-00ff", ("quit", "stats")
    )
    assert isinstance(state := parsed["state"], reports.PortState)
    assert state.vring_sizes == (256, 256) and state.error_text == "header-version: version 3"
    assert parsed["rarp"] == reports.Rarp(bytes.fromhex("525400000001"), 99.5)
    assert parsed["started"] == reports.Started(17, 5, moved_in=True, at=98.5)
    assert parsed["first-received"] == reports.FirstReceived(99.25)
    mac = bytes.fromhex("525400000001")
    assert parsed["holding"] == reports.HoldState(
        2,
        True,
        (StationKey(mac, 0), StationKey(mac, 4095)),
        {"held": 3, "dropped_full": 1},
        0,
        97.0,
    )
    assert parsed["held"] == reports.HeldFrames(9, (b"\0\1\2", b""), True)
    assert parsed["handed-over"] == reports.HandedOver(11, "busy", "half a message")
    assert parsed["connect"] == reports.AskConnection()
    assert parsed["queues"] == reports.AskQueues(4)
    assert parsed["userfaultfd"] == reports.AskUserfaultfd()
    counted = [{"rx_packets": 1, "tx_packets": 0}, {"rx_packets": 2, "tx_packets": 3}]
    assert parsed["stats"] == reports.Stats(3, EVENTS["stats"]["stats"] | {"queue_pairs": counted})
    ips = [IPv6Address(ip).packed for ip in ("fe80::1", "2001:db8::1")]
    station = Station(bytes.fromhex("525400000001"), 7, (bytes([10, 0, 0, 2]),), tuple(ips))
    assert parsed["stations"] == reports.GuestStations((station,))


def test_a_time_is_a_number_that_a_float_holds() -> None:
    # JSON has numbers that no float holds: math.isfinite raised OverflowError
    for at in (1e18, 10**400):
        report = reports.decode({**EVENTS["rarp"], "at": at})
        assert isinstance(report, reports.Rarp) and report.at == 2.0**53


def test_every_report_is_tried_here_and_has_a_rate_unless_it_is_an_answer() -> None:
    kinds = set(get_args(reports.Report))
    assert {kind.WIRE_NAME for kind in kinds} == EVENTS.keys()
    assert reports.RATES.keys() | reports.ANSWERS.keys() | {reports.WorkerHello} == kinds


@pytest.mark.parametrize("name", EVENTS)
def test_what_is_read_is_written_again(name: str) -> None:
    report = reports.decode(EVENTS[name])
    assert reports.encode(report) == EVENTS[name]
    assert reports.decode(reports.encode(report)) == report


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"event": None},
        {"event": "configure"},
        {**EVENTS["hello"], "spec": None},
        {**EVENTS["state"], "features": "0x1 or more"},
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
        {**EVENTS["hello"], "spec": {**SPEC_JSON, "queues": "2"}},
        {**EVENTS["rarp"], "mac": "52:54:00:00:00"},
        {**EVENTS["rarp"], "mac": "52:54:00:00:00:01\n"},
        {**EVENTS["rarp"], "at": float("nan")},
        {**EVENTS["rarp"], "at": "now"},
        {**EVENTS["rarp"], "at": -1e308},
        {**EVENTS["started"], "at": "now"},
        {**EVENTS["first-received"], "at": float("nan")},
        {**EVENTS["holding"], "since": -1},
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
        {**EVENTS["stations"], "stations": [STATION] * 65},
        {**EVENTS["stations"], "stations": [[]]},
        {**EVENTS["stations"], "stations": {}},
        *(
            {"event": "stations", "stations": [{**STATION, key: value}]}
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
            {"event": "stations", "stations": [{k: v for k, v in STATION.items() if k != key}]}
            for key in STATION
        ),
        *(
            {**EVENTS["state"], key: value}
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
            {k: v for k, v in event.items() if k != key}
            for event in EVENTS.values()
            for key in event
            if not optional(event["event"], key)
        ),
        {**EVENTS["handed-over"], "outcome": "perhaps"},
        {**EVENTS["handed-over"], "why": 5},
        {**EVENTS["hello"], "protocol": "3"},
        {**EVENTS["hello"], "protocol": -1},
        {**EVENTS["hello"], "oldest": None},
        {**EVENTS["hello"], "build": 5},
        {**EVENTS["hello"], "commands": "quit"},
        {**EVENTS["hello"], "commands": [5]},
        {**EVENTS["hello"], "commands": ["quit"] * 129},
        {**EVENTS["state"], "vring_sizes": [1] * 257},
        {**EVENTS["holding"], "sighted": -1},
    ],
)
def test_what_is_no_report_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        reports.decode(event)


@pytest.mark.parametrize("name", EVENTS)
def test_a_field_of_a_later_release_is_not_looked_at(name: str) -> None:
    assert reports.decode({**EVENTS[name], "more": [1]}) == reports.decode(EVENTS[name])


@pytest.mark.parametrize(
    ("name", "field"), [(n, f) for n, event in EVENTS.items() for f in event if optional(n, f)]
)
def test_a_field_that_an_earlier_release_lacks_has_its_default(name: str, field: str) -> None:
    report = reports.decode({k: v for k, v in EVENTS[name].items() if k != field})
    (declared,) = (one for one in fields(report) if one.name == field)
    assert getattr(report, field) == declared.default


def test_the_hello_of_protocol_2() -> None:
    hello = {"event": "hello", "version": "0.1", "protocol": 2, "spec": SPEC_JSON}
    assert reports.decode(hello) == reports.WorkerHello("0.1", SPEC, 0, 2, 0, "", KNOWN_AT_FIRST)


def test_the_reports_of_protocol_3_that_have_no_times() -> None:
    started = {"event": "started", "base": 17, "sent": 5, "moved_in": True, "further": False}
    assert reports.decode(started) == reports.Started(17, 5, moved_in=True, further=False, at=0.0)
    holding = {k: v for k, v in EVENTS["holding"].items() if k != "since"}
    assert isinstance(held := reports.decode(holding), reports.HoldState) and held.since == 0.0


def test_a_report_of_a_later_release_is_told_from_a_wrong_one() -> None:
    with pytest.raises(UnknownKindError):
        reports.kind_of({"event": "configure"})
    for event in ({}, {"event": None}, {"event": ["hello"]}):
        with pytest.raises(MessageError) as caught:
            reports.kind_of(event)
        assert not isinstance(caught.value, UnknownKindError)


def test_texts_are_made_fit_to_print_and_short() -> None:
    escape = "\x1b]0;title\x07\n" + "x" * 10_000
    state = reports.decode({**EVENTS["state"], "error_detail": escape})
    assert isinstance(state, reports.PortState)
    assert state.error_detail.isprintable() and len(state.error_detail) <= 240
    stats = reports.decode({"event": "stats", "id": 1, "stats": {escape: [escape]}})
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
        report = reports.decode(event)
    except MessageError:
        return
    assert isinstance(report, reports.Report)
