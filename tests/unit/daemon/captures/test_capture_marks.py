# SPDX-License-Identifier: Apache-2.0
"""What the daemon sees of a port becomes marks, each once."""

from ovs_vhost_plugin.announce.result import Outcome, Result
from ovs_vhost_plugin.daemon.captures.marks import PortMarks
from ovs_vhost_plugin.daemon.events import Ended, HandoverEnded, Heard
from ovs_vhost_plugin.daemon.guests.moves import Moves
from ovs_vhost_plugin.forward.hold import Record
from ovs_vhost_plugin.ipc.captures import CaptureMark
from ovs_vhost_plugin.ipc.reports import HoldState, PortState, Rarp
from ovs_vhost_plugin.vhost.spec import Feature

MAC = bytes.fromhex("525400000001")
MIGRATES = PortState("running", features=hex(Feature.LOG_ALL.mask))
RESULT = Result(
    *("p0", MAC, 7, "send-rarp", Outcome.LEARNED, "", 1, 1, 4, "fdb", None),
    *(10.0, 10.001, 10.003),
)


def new_marks(moves=()):
    return PortMarks("p0", "running", moves)


def test_what_workers_say_and_how_they_end():
    events = [
        Heard("p0", PortState("running")),
        Heard("p1", PortState("listening")),
        Heard("p0", PortState("connected")),
        Heard("p0", Rarp(MAC, 3.0)),
        HandoverEnded("p0", "done", "", 0.0123),
        HandoverEnded("p0", "busy", "postcopy", 0.25),
        Ended("p0", "worker-sigkill: killed by a signal", 9.0),
        Heard("p0", PortState("listening")),
    ]
    assert list(new_marks().of_events(events, 5.0)) == [
        CaptureMark("status", "running -> connected", 5.0),
        CaptureMark("announcement", "SEND_RARP for 52:54:00:00:00:01", 3.0),
        CaptureMark("process", "handed over in 12 ms: done", 5.0),
        CaptureMark("process", "handed over in 250 ms: busy: postcopy", 5.0),
        CaptureMark("process", "worker-sigkill: killed by a signal", 5.0),
        CaptureMark("status", "starting -> listening", 5.0),
    ]


def test_each_step_of_a_migration_is_told_once_with_its_time():
    moves = Moves()
    moves.take([Heard("p0", PortState("running")), Heard("p1", MIGRATES)], 1.0)
    marks = new_marks(moves.history)
    moves.take([Heard("p0", MIGRATES)], 2.0)
    moves.take([Heard("p0", HoldState(1, True, (), {}, since=2.5))], 3.0)
    assert marks.of_moves(moves.history) == [
        CaptureMark("migration", "the guest leaves: memory-is-copied", 2.0),
        CaptureMark("migration", "the guest leaves: rings-stopped", 2.5),
    ]
    assert marks.of_moves(moves.history) == []
    moves.found("p0", {}, 4.0)
    held = {"held": 9, "forwarded": 8, "dropped_full": 1, "returned": 0}
    moves.held(Record("p0", 2.5, 6.0, held, {}, {}))
    found, over = marks.of_moves(moves.history)
    assert found == CaptureMark("migration", "the guest leaves: found-elsewhere", 4.0)
    assert over.at == 6.0 and over.text == (
        "the guest leaves: hold-over: dropped_full 1, forwarded 8, held 9"
    )


def test_steps_from_before_the_capture_are_not_told():
    moves = Moves()
    moves.take([Heard("p0", MIGRATES)], 1.0)
    marks = new_marks(moves.history)
    assert marks.of_moves(moves.history) == []


def test_an_announcement_was_sent_and_learned():
    sent, learned = new_marks().of_result(RESULT)
    assert (sent.kind, sent.at, learned.at) == ("announcement", 10.001, 10.003)
    assert sent.text == (
        "52:54:00:00:00:01 in VLAN 7 announced to the switch (send-rarp, 4 frames)"
    )
    assert learned.text == "52:54:00:00:00:01 vlan 7 learned 3.0ms send-rarp"
    assert list(PortMarks("p1", "", ()).of_result(RESULT)) == []
