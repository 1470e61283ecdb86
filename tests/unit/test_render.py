# SPDX-License-Identifier: Apache-2.0
"""Tables for people: aligned whatever is in them, and nothing in them moves a terminal's cursor."""

from ovs_vhost_plugin import render
from ovs_vhost_plugin.daemon.guests import moves


def test_columns_are_aligned_and_numbers_to_the_right() -> None:
    rows = [("vhu0", 7, "/run/a", None), ("v", 1500, "", "x")]
    assert render._table(("port", "mtu", "socket", "error"), rows).splitlines() == [
        "port   mtu  socket  error",
        "vhu0     7  /run/a  -",
        "v     1500  -       x",
    ]


def test_a_wide_character_takes_two_columns() -> None:
    rows = [("漢", "x"), ("abc", "y")]
    assert render._table(("a", "b"), rows).splitlines() == ["a    b", "漢   x", "abc  y"]


def test_what_a_terminal_would_obey_is_escaped_and_nothing_else() -> None:
    rows = [("\x1b[2J\n", r"C:\x")]
    assert render._table(("a", "b"), rows).splitlines()[1] == r"\x1b[2J\n  C:\x"


def test_no_rows() -> None:
    assert render._table(("a", "b"), []) == "a  b\n"


MOVE = {
    "port": "vhu0",
    "way": "leaves",
    "end": "left",
    "trigger": "",
    "timeline": [
        {"at": 98.5, "ms": -500.0, "event": "memory-is-copied"},
        {"at": 99.0, "ms": 0.0, "event": "rings-stopped"},
        {"at": 99.004, "ms": 4.0, "event": "found-elsewhere"},
    ],
    "downtime_ms": None,
    "outage_ms": 4.0,
    "lost": 2,
    "held": {"held": 9, "dropped_expired": 2},
    "places": {"525400000001.0": 3},
    "announced": {},
}


def test_a_migration_is_a_timeline() -> None:
    came = {**MOVE, "port": "vhu1\x1b[2J", "way": "comes", "end": "came", "trigger": "send-rarp"}
    came |= {"lost": None, "held": {}, "outage_ms": None, "places": {}}
    came["announced"] = {"525400000001.0": "learned", "525400000002.0": "refused"}
    came["timeline"] = [
        {"at": 90.0, "ms": -1.5, "event": "announcement-asked-for"},
        {"at": 90.001, "ms": -0.5, "event": "announced"},
        {"at": 90.0015, "ms": 0.0, "event": "rings-run"},
    ]
    assert render.migrations({"now": 100.0, "migrations": [MOVE, came]}).splitlines() == [
        "vhu0: its guest left, 1.5 s ago",
        "  -500.0 ms  its memory is copied",
        "    +0.0 ms  its rings stopped",
        "    +4.0 ms  found elsewhere on port 3",
        "  outage 4.0 ms, 2 dropped expired, 9 held, 2 lost",
        "",
        r"vhu1\x1b[2J: its guest came, 10.0 s ago",
        "  -1.5 ms  to be announced (send-rarp)",
        "  -0.5 ms  announced: 1 learned, 1 refused",
        "  +0.0 ms  its rings run",
    ]


def test_no_migration_is_said_in_a_line() -> None:
    assert render.migrations({"now": 1.0, "migrations": []}).startswith("no guest has migrated")


def test_each_step_and_end_of_a_migration_has_its_words() -> None:
    assert render.STEPS.keys() == {step.value for step in moves.Step}
    of_leaving, of_coming = (
        {end for way, end in render.ENDS if way == wanted.value} for wanted in moves.Way
    )
    assert of_leaving | of_coming == {end.value for end in moves.MoveEnd}
    assert of_leaving & of_coming == {"under-way"}


def test_long_counts_stay_within_80_columns() -> None:
    counts = {f"dropped_reason{n}": 10**6 for n in range(20)}
    text = render.migrations({"now": 100.0, "migrations": [{**MOVE, "held": counts}]})
    assert max(map(len, text.splitlines())) <= 80
