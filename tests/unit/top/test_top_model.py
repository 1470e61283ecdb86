# SPDX-License-Identifier: Apache-2.0
"""Rates from answers of the daemon, and which ports are asked for next."""

from collections.abc import Mapping
from typing import Any

import pytest

from ovs_vhost_plugin.daemon.control import overview
from ovs_vhost_plugin.top.model import AT_ONCE, LivePorts, PortRow


def answer(now: float, stats: Mapping[str, Any], *others: str, **events: Any) -> dict[str, Any]:
    """An answer of `vhost/top`: the counters of one queue pair, or of a list of pairs."""
    pairs = {name: one if isinstance(one, list) else [one] for name, one in stats.items()}
    return {
        "now": now,
        "standing": "active",
        "ports": {
            name: {"bridge": "br0", "status": "running", "error": ""} for name in (*stats, *others)
        },
        "stats": {name: {"queue_pairs": one} for name, one in pairs.items()},
        "migrations": [],
        "announcements": [],
        **events,
    }


def only(ports: LivePorts) -> PortRow:
    (row,) = ports.rows()
    return row


def test_the_daemon_takes_as_many_names_as_are_asked_for() -> None:
    assert AT_ONCE == overview.AT_ONCE


def test_rates_are_of_the_last_two_answers_and_all_queue_pairs() -> None:
    ports = LivePorts()
    ports.take(answer(10.0, {"a": [{"rx_packets": 100, "tx_bytes": 0}, {"rx_packets": 5}]}))
    assert only(ports).rate("rx_packets") is None
    ports.take(answer(10.5, {"a": [{"rx_packets": 104, "tx_bytes": 50}, {"rx_packets": 6}]}))
    row = only(ports)
    assert row.rate("rx_packets") == 10 and row.totals["rx_packets"] == 110
    assert row.rate("tx_bits") == row.rate("bits") == 800
    assert row.rate("packets") == 10 and row.rate("drops") == 0


def test_drops_are_all_drops_and_kicks_those_of_both_rings() -> None:
    before = {"rx_dropped_too_long": 1, "tx_dropped_faulty": 1, "rx_kicks": 0, "tx_kicks": 0}
    after = {"rx_dropped_too_long": 3, "tx_dropped_faulty": 5, "rx_kicks": 6, "tx_kicks": 2}
    ports = LivePorts()
    ports.take(answer(0.0, {"a": before}))
    ports.take(answer(2.0, {"a": after}))
    assert only(ports).rate("drops") == 3 and only(ports).rate("kicks") == 4


def test_another_process_of_the_port_has_no_rate_until_it_has_told_twice() -> None:
    ports = LivePorts()
    for now, count in ((0.0, 500), (1.0, 20), (2.0, 30)):
        ports.take(answer(now, {"a": {"rx_packets": count}}))
        if now == 1.0:
            assert only(ports).rate("rx_packets") is None
    assert only(ports).rate("rx_packets") == 10


def test_a_port_that_does_not_answer_has_no_rates_and_one_that_is_not_asked_keeps_them() -> None:
    ports = LivePorts()
    ports.take(answer(0.0, {"a": {"rx_packets": 0}, "b": {"rx_packets": 0}}))
    ports.take(answer(1.0, {"a": {"rx_packets": 7}, "b": {"rx_packets": 8}}))
    ports.take(answer(2.0, {}, "a", "b"), asked=["a"])
    assert {row.name: row.rate("rx_packets") for row in ports.rows()} == {"a": None, "b": 8}
    ports.take(answer(3.0, {"b": {"rx_packets": 12}}))
    assert [row.rate("rx_packets") for row in ports.rows()] == [2], "of the two seconds between"


def test_rings_are_summed_and_those_that_do_not_run_have_no_fill() -> None:
    pairs = [
        {"rx_ring_size": 256, "rx_ring_filled": 64, "tx_ring_size": 0, "tx_ring_filled": 0},
        {"rx_ring_size": 256, "rx_ring_filled": 256},
    ]
    ports = LivePorts()
    ports.take(answer(0.0, {"a": pairs}))
    row = only(ports)
    assert row.fill(0) == 62 and row.fill(1) is None
    assert "rx_ring_size" not in row.totals


@pytest.mark.parametrize(
    ("way", "end", "status"),
    [
        ("leaves", "under-way", "leaving"),
        ("comes", "under-way", "coming"),
        ("leaves", "left", "running"),
    ],
)
def test_a_guest_under_way_shows_in_the_status(way: str, end: str, status: str) -> None:
    move = {
        "port": "a",
        "way": way,
        "end": end,
        "timeline": [{"at": 8.0, "ms": 0.0, "event": "rings-stopped"}],
        "outage_ms": 4.25,
    }
    ports = LivePorts()
    ports.take(answer(10.0, {}, "a", migrations=[move]))
    assert only(ports).status == status
    (event,) = ports.events
    assert (event.ago, event.port) == (2.0, "a")
    assert event.text.endswith("its rings stopped, outage 4.2 ms")


def test_events_are_in_the_order_in_which_they_happened() -> None:
    told = {
        "port": "b",
        "mac": "52:54:00:00:00:01",
        "outcome": "learned",
        "trigger": "send-rarp",
        "received_at": 1.0,
        "sent_at": 1.1,
        "learned_at": 1.5,
        "milliseconds": 1.25,
    }
    failed = {**told, "port": "a", "learned_at": None, "sent_at": None, "milliseconds": None}
    ports = LivePorts()
    ports.take(answer(3.0, {}, "a", "b", announcements=[told, failed]))
    assert [(e.ago, e.port) for e in ports.events] == [(2.0, "a"), (1.5, "b")]
    assert ports.events[1].text == "52:54:00:00:00:01 learned in 1.2 ms (send-rarp)"


def test_only_the_ports_that_were_named() -> None:
    ports = LivePorts(["a", "c"])
    ports.take(answer(0.0, {"a": {}, "b": {}}))
    assert ports.names == ["a"]


def test_of_a_thousand_ports_the_shown_are_asked_always_and_each_other_in_turn() -> None:
    names = [f"p{n:03}" for n in range(1000)]
    ports = LivePorts()
    ports.take(answer(0.0, {}, *names))
    shown = ["p500", "p501", "gone"]
    asked: set[str] = set()
    for _ in range(17):  # 998 others, 62 at a time
        question = ports.next_question(shown)
        assert len(question) == len(set(question)) == AT_ONCE
        assert question[:2] == shown[:2]
        asked |= set(question)
    assert asked == set(names)
