# SPDX-License-Identifier: Apache-2.0
"""What `ovs-vhost watch` prints of rows that differ, and when; the database is a stand-in."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from ovs_vhost_plugin import watch
from ovs_vhost_plugin.watch import PATIENCE, RowChange, WatchError, changes, follow

AT = datetime(2026, 11, 30, 8, 15, 0, 123456, tzinfo=UTC)
WAITS = {"vhost-user-status": "connecting"}
RUNS = {"vhost-user-status": "running", "vhost-user-announced": "52:54:00:00:00:01 learned"}
WRONG = {"vhost-user-status": "error", "vhost-user-error": "path-missing: set it"}


class Follower:
    """Rows that come one after the other; None: nothing comes."""

    def __init__(self, *rows: watch.Rows | None, has_read: bool = True) -> None:
        self.coming = list(rows)
        self.has_read = has_read
        self.now = 0.0
        self.waits: list[float | None] = []
        self._rows: watch.Rows = {}

    def run(self) -> bool:
        if not self.coming:
            return False
        rows = self.coming.pop(0)
        self._rows = self._rows if rows is None else rows
        return rows is not None

    def rows(self) -> watch.Rows:
        return self._rows

    def wait(self, seconds: float | None) -> None:
        if seconds is None and not self.coming:
            raise KeyboardInterrupt
        self.waits.append(seconds)
        self.now += seconds or 0.0


def seen(follower: Follower, *ports: str) -> Iterator[RowChange]:
    changes = follow(follower, ports, lambda: follower.now)  # type: ignore[arg-type]
    try:
        yield from changes
    except KeyboardInterrupt:
        return


def test_changes_are_told_port_by_port() -> None:
    assert list(changes({"b": WAITS, "a": RUNS}, {"b": RUNS, "c": WRONG})) == [
        RowChange("a", "status", "running", ""),
        RowChange("a", "announced", "52:54:00:00:00:01 learned", ""),
        RowChange("b", "status", "connecting", "running"),
        RowChange("b", "announced", "", "52:54:00:00:00:01 learned"),
        RowChange("c", "status", "", "error"),
        RowChange("c", "error", "", "path-missing: set it"),
    ]
    assert list(changes({"a": RUNS}, {"a": RUNS})) == []


def test_it_begins_with_what_there_is_and_goes_on() -> None:
    follower = Follower({"a": WAITS, "b": WAITS}, None, {"a": RUNS, "b": WAITS})
    assert [(one.port, one.kind, one.was) for one in seen(follower)] == [
        ("a", "status", ""),
        ("b", "status", ""),
        ("a", "status", "connecting"),
        ("a", "announced", ""),
    ]


def test_only_the_ports_that_were_asked_for() -> None:
    follower = Follower({"a": WAITS, "b": WAITS}, {"b": RUNS})
    assert {one.port for one in seen(follower, "b")} == {"b"}


def test_a_database_that_never_answers_is_an_error_and_a_late_one_is_not() -> None:
    follower = Follower(has_read=False)
    with pytest.raises(WatchError, match="does ovsdb-server run"):
        list(seen(follower))
    assert follower.waits == [PATIENCE]


def test_lines_for_people() -> None:
    lines = [
        change.as_text(AT)
        for change in (
            RowChange("vhu0", "status", "", "connecting"),
            RowChange("vhu0", "error", "x: y", ""),
            RowChange("v\x1b", "error", "", "socket-refused: \n"),
        )
    ]
    assert lines == [
        "2026-11-30T08:15:00.123Z  vhu0             status     - -> connecting",
        "2026-11-30T08:15:00.123Z  vhu0             error      none any more",
        r"2026-11-30T08:15:00.123Z  v\x1b            error      socket-refused: \n",
    ]


def test_lines_for_programs() -> None:
    assert json.loads(RowChange("vhu0", "status", "a", "b").as_json(AT)) == {
        "time": "2026-11-30T08:15:00.123Z",
        "port": "vhu0",
        "event": "status",
        "was": "a",
        "now": "b",
    }


def test_ctrl_c_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    class Interrupted(Follower):
        def __init__(self, _database: str) -> None:
            super().__init__({"a": WAITS})

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr(watch, "Follower", Interrupted)
    assert watch.main(["--db", "unix:/x"]) == 0 and closed == [True]
