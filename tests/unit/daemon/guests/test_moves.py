# SPDX-License-Identifier: Apache-2.0
"""What a host tells of a guest's move, from its worker's reports and the daemon's own steps."""

from typing import Any

import pytest

from ovs_vhost_plugin.announce.result import Outcome, Result
from ovs_vhost_plugin.common.history import MOST
from ovs_vhost_plugin.daemon.events import Ended, Heard
from ovs_vhost_plugin.daemon.guests import moves
from ovs_vhost_plugin.daemon.guests.moves import MOST_STATIONS, Moves
from ovs_vhost_plugin.forward.hold import Record
from ovs_vhost_plugin.ipc.reports import FirstReceived, HoldState, PortState, Started

LOG_ALL = f"0x{1 << 26:x}"
MAC = bytes.fromhex("525400000001")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the log."""
    lines: list[str] = []
    monkeypatch.setattr(moves.vlog, "info", lines.append)
    return lines


class Host:
    """The moves of one host, on a clock that goes on by a second with each report."""

    def __init__(self) -> None:
        self.moves = Moves()
        self.now = 100.0

    def hear(self, *reports: Any, name: str = "vhu0") -> None:
        self.now += 1
        self.moves.take([Heard(name, report) for report in reports], self.now)

    def state(self, status: str, *, migrates: bool = False) -> None:
        self.hear(PortState(status, features=LOG_ALL if migrates else "0x0"))

    def announced(self, trigger: str = "send-rarp", mac: bytes = MAC, **times: float) -> bool:
        outcome = Outcome.LEARNED if times else Outcome.NOT_LEARNED
        result = Result(
            port="vhu0",
            mac=mac,
            vlan=0,
            trigger=trigger,
            outcome=outcome,
            reason="",
            requests=1,
            attempts=1,
            frames=1,
            confirmed_by="",
            location=None,
            received_at=0.0,
            sent_at=times.get("sent_at"),
            learned_at=times.get("learned_at"),
        )
        return self.moves.announced(result)

    def leave(self) -> None:
        """A guest that runs begins to migrate; its rings stop half a second after that."""
        self.state("running")
        self.state("running", migrates=True)
        stopped = self.now + 0.5
        self.state("connected", migrates=True)
        self.hear(HoldState(1, True, (), {}, since=stopped))

    def held(self, **counts: int) -> None:
        self.now += 1
        record = Record("vhu0", 0.0, self.now, counts, {"525400000001.0": 3}, {"foreign": 1})
        self.moves.held(record)

    @property
    def told(self) -> dict[str, Any]:
        """The one move."""
        (move,) = self.moves.log()
        return move

    @property
    def timeline(self) -> list[tuple[float, str]]:
        return [(round(step["ms"], 3), step["event"]) for step in self.told["timeline"]]


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_guest_that_leaves(host: Host) -> None:
    host.leave()
    stopped = host.now - 1.5
    assert host.told["end"] == "under-way" and host.told["lost"] is None
    host.moves.found("vhu0", {"525400000001.0": 3}, stopped + 0.004)
    host.moves.forwarded("vhu0", stopped + 0.005)
    host.moves.forwarded("vhu0", stopped + 0.105)
    host.state("connecting")
    host.held(held=9, forwarded=6, dropped_group=2, dropped_expired=1)
    assert host.timeline == [
        (-500, "memory-is-copied"),
        (0, "rings-stopped"),
        (4, "found-elsewhere"),
        (5, "first-frame-forwarded"),
        (2500, "front-end-gone"),
        (3500, "hold-over"),
    ]
    told = host.told
    assert (told["way"], told["end"], told["port"]) == ("leaves", "left", "vhu0")
    assert told["outage_ms"] == pytest.approx(4) and told["downtime_ms"] is None
    assert told["lost"] == 2  # what was refused or expired; every port has what goes to a group
    assert told["places"] == {"525400000001.0": 3}
    assert told["held"]["refused_foreign"] == 1 and told["held"]["forwarded"] == 6


def test_a_guest_that_stays_after_all(host: Host) -> None:
    host.leave()
    stopped = host.now - 1.5
    host.hear(Started(7, at=stopped + 0.25), FirstReceived(stopped + 0.3))
    host.state("running")
    assert host.told["end"] == "stayed"
    assert host.told["downtime_ms"] == host.told["outage_ms"] == pytest.approx(250)
    assert host.timeline[-2:] == [(250, "rings-run-again"), (300, "first-frame-received")]


def test_a_migration_that_is_given_up_before_the_rings_stop(host: Host) -> None:
    host.state("running")
    host.state("running", migrates=True)
    host.state("running")
    assert host.told["end"] == "stayed" and host.told["outage_ms"] is None
    host.state("running", migrates=True)
    assert [move["end"] for move in host.moves.log()] == ["stayed", "under-way"]


def test_without_a_hold_the_status_tells_that_the_rings_stopped(host: Host) -> None:
    host.state("running")
    host.state("running", migrates=True)
    host.state("connected", migrates=True)
    host.state("connecting")
    steps = [step for _, step in host.timeline]
    assert steps == ["memory-is-copied", "rings-stopped", "front-end-gone"]
    assert host.told["end"] == "left"


def test_a_guest_that_leaves_at_once_was_logged_before_its_rings_stopped(host: Host) -> None:
    """All is heard in one turn, in which the worker's loop did not come round."""
    host.state("running")
    stopped = host.now + 0.5
    host.hear(
        PortState("running", features=LOG_ALL),
        HoldState(1, True, (), {}, since=stopped),
        PortState("listening", features="0x0"),
    )
    assert host.timeline == [
        (0, "memory-is-copied"),
        (0, "rings-stopped"),
        (500, "front-end-gone"),
    ]
    assert host.told["end"] == "left"


def test_a_hold_of_a_worker_that_tells_no_time_began_when_it_was_told(host: Host) -> None:
    host.state("running", migrates=True)
    host.hear(HoldState(1, True, (), {}))
    assert host.told["timeline"][-1] == {"at": host.now, "ms": 0.0, "event": "rings-stopped"}


def test_a_guest_that_comes(host: Host) -> None:
    host.state("connected")
    host.moves.arrived("vhu0", "send-rarp", 101.5)
    assert host.told["end"] == "under-way"
    host.hear(Started(9, at=101.6))
    host.moves.arrived("vhu0", "moved-in", 101.7)
    host.announced(sent_at=101.502, learned_at=101.504)
    host.announced(mac=bytes.fromhex("525400000002"))
    host.announced(sent_at=109.0, learned_at=109.1)  # once more
    host.hear(FirstReceived(101.61))
    host.state("running")
    assert host.timeline == [
        (-100, "announcement-asked-for"),
        (-98, "announced"),
        (-96, "learned"),
        (0, "rings-run"),
        (10, "first-frame-received"),
    ]
    told = host.told
    assert (told["way"], told["end"], told["trigger"]) == ("comes", "came", "send-rarp")
    assert told["outage_ms"] == pytest.approx(10) and told["lost"] is None
    assert told["announced"] == {"525400000001.0": "learned", "525400000002.0": "not-learned"}


def test_a_guest_that_nobody_announced_is_told_of_once_its_rings_run(host: Host) -> None:
    host.hear(Started(9, at=101.0), FirstReceived(101.2))
    host.moves.arrived("vhu0", "moved-in", 101.3)
    assert host.timeline[0] == (0, "rings-run")
    assert host.told["end"] == "came" and host.told["outage_ms"] == pytest.approx(200)


def test_a_guest_that_does_not_come(host: Host) -> None:
    host.moves.arrived("vhu0", "send-rarp", 101.5)
    host.state("connecting")
    assert host.told["end"] == "did-not-come"
    host.hear(Started(0, at=200.0))  # another one
    assert "rings-run" not in [step for _, step in host.timeline]


def test_announcements_for_other_reasons_are_no_part_of_a_move(host: Host) -> None:
    host.announced(sent_at=101.0, learned_at=101.0)
    host.moves.arrived("vhu0", "moved-in", 101.5)
    host.announced("manual", sent_at=102.0, learned_at=102.0)
    assert host.told["announced"] == {}


def test_the_end_of_a_worker_is_the_end_of_what_it_told(host: Host) -> None:
    host.leave()
    host.moves.take([Ended("vhu0", "", 1.0)], host.now)
    host.hear(Started(7, at=host.now))
    assert host.told["end"] == "left" and host.timeline[-1][1] == "front-end-gone"


def test_a_hold_is_of_the_last_guest_that_left(host: Host) -> None:
    host.leave()
    host.held(held=1)
    host.state("connecting")
    host.leave()
    host.moves.found("vhu0", {}, host.now)
    host.moves.found("vhu1", {}, host.now)
    first, second = host.moves.log()
    assert first["held"]["held"] == 1 and second["held"] == {}
    events = [{step["event"] for step in move["timeline"]} for move in (first, second)]
    assert ["found-elsewhere" in found for found in events] == [False, True]


def test_what_is_kept_is_bounded(host: Host) -> None:
    for _ in range(MOST):
        host.state("running", migrates=True)
        host.state("running")
    host.moves.arrived("vhu1", "send-rarp", host.now)
    assert len(host.moves.log()) == MOST
    assert {move["port"] for move in host.moves.log()} == {"vhu0", "vhu1"}
    host.leave()
    host.moves.found("vhu0", {str(n): n for n in range(2 * MOST_STATIONS)}, host.now)
    assert len(host.moves.log()[-1]["places"]) == MOST_STATIONS


def test_the_log_has_a_line_for_each_end_of_a_move(lines: list[str]) -> None:
    host = Host()
    host.leave()
    host.moves.found("vhu0", {"525400000001.0": 3}, 103.75)
    host.moves.forwarded("vhu0", 103.8)
    host.state("listening")
    host.held(held=7, forwarded=6, dropped_expired=1)

    assert lines == [
        "vhu0: migration: memory-is-copied",
        "vhu0: migration: left: found-elsewhere, outage 1250.0 ms",
        "vhu0: migration: hold-over: 7 frames held, 2 lost",
    ]


def test_the_log_says_that_a_guest_has_stayed(lines: list[str]) -> None:
    host = Host()
    host.leave()
    host.hear(Started(7, at=102.75))
    assert lines[1:] == ["vhu0: migration: stayed: rings-run-again, outage 250.0 ms"]


def test_the_log_says_that_a_guest_comes_and_has_come(lines: list[str]) -> None:
    host = Host()
    host.moves.arrived("vhu0", "send-rarp", 100.0)
    host.moves.arrived("vhu0", "moved-in", 100.0)
    host.hear(Started(7, at=100.5), FirstReceived(101.0))
    assert lines == [
        "vhu0: migration: announcement-asked-for: send-rarp",
        "vhu0: migration: came: rings-run",
    ]


def test_an_announcement_is_news_when_its_result_is_another_or_the_guests_arrival_is() -> None:
    host = Host()
    host.moves.arrived("vhu0", "send-rarp", 100.0)
    learned = {"sent_at": 100.1, "learned_at": 100.2}
    told = [host.announced(), host.announced(**learned), host.announced("moved-in", **learned)]
    assert told == [True, True, False]
    assert host.announced(mac=bytes.fromhex("525400000002"), **learned)
    assert host.announced("command", **learned) and host.announced("command", **learned)
    host.state("listening")
    host.moves.arrived("vhu0", "send-rarp", 110.0)
    assert host.announced(**learned)
