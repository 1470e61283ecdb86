# SPDX-License-Identifier: Apache-2.0
"""The next daemon tells of the moves that this one saw; a file that is not whole costs nothing."""

import errno
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ovs_vhost_plugin.common.history import MOST
from ovs_vhost_plugin.daemon.events import Heard
from ovs_vhost_plugin.daemon.guests import kept_moves
from ovs_vhost_plugin.daemon.guests.kept_moves import MOST_BYTES, PAUSE, KeptMoves
from ovs_vhost_plugin.daemon.guests.moves import MOST_STATIONS, GuestMove, Moves, Step, Way
from ovs_vhost_plugin.ipc.reports import PortState, Started

LOG_ALL = f"0x{1 << 26:x}"


class Poller:
    until = None

    def timer_wait_until(self, msec):
        self.until = msec


class Daemon:
    """The moves of one daemon, and their file."""

    def __init__(self, path):
        self.moves = Moves()
        self.kept = KeptMoves(self.moves, path, ThreadPoolExecutor(1))

    def state(self, status, now, *, migrates=False):
        state = PortState(status, features=LOG_ALL if migrates else "0x0")
        self.moves.take([Heard("vhu0", state)], now)

    def run(self, now, *, serving=True):
        self.kept.run(now, serving=serving)
        return self

    @property
    def wakes_at(self):
        poller = Poller()
        self.kept.wait(poller)
        return poller.until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "migrations"


@pytest.fixture
def lines(monkeypatch):
    lines = []
    for level in ("info", "warn"):
        monkeypatch.setattr(kept_moves.vlog, level, lines.append)
    return lines


def seen(path):
    """A daemon that saw a guest leave and another one come, and has ended."""
    daemon = Daemon(path).run(99.0)
    daemon.state("running", 100.0)
    daemon.state("running", 101.0, migrates=True)
    daemon.state("connected", 102.0, migrates=True)
    daemon.moves.found("vhu0", {"525400000001.0": 3}, 102.5)
    daemon.state("listening", 103.0)
    daemon.moves.arrived("vhu1", "send-rarp", 104.0)
    daemon.kept.close()
    return daemon.moves.log()


def test_the_next_daemon_tells_what_this_one_saw(path):
    told = seen(path)
    assert len(told) == 2 and told[0]["places"]
    assert Daemon(path).run(200.0).moves.log() == told
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["migrations"]


def test_a_change_is_written_in_its_time_and_nothing_when_there_is_none(path):
    daemon = Daemon(path).run(100.0)
    assert daemon.wakes_at is None
    daemon.moves.arrived("vhu0", "send-rarp", 100.0)
    daemon.run(100.0)
    assert daemon.wakes_at == (100.0 + PAUSE) * 1e3
    daemon.run(100.0 + PAUSE - 0.1)
    assert not path.exists()
    daemon.run(100.0 + PAUSE)
    daemon.kept._writing.result(60.0)
    written = path.stat().st_ino
    assert len(json.loads(path.read_text())["moves"]) == 1
    Daemon(path).run(200.0).kept.close()
    assert path.stat().st_ino == written


def test_a_daemon_that_does_not_serve_neither_reads_nor_writes(path):
    seen(path)
    before = path.read_bytes()
    other = Daemon(path).run(200.0, serving=False)
    other.moves.arrived("vhu0", "send-rarp", 200.0)
    other.run(300.0, serving=False)
    other.kept.close()
    assert len(other.moves.log()) == 1 and path.read_bytes() == before


def test_a_move_under_way_goes_on(path):
    daemon = Daemon(path).run(99.0)
    daemon.state("running", 100.0)
    daemon.state("running", 101.0, migrates=True)
    daemon.state("connected", 102.0, migrates=True)
    daemon.kept.close()

    following = Daemon(path).run(110.0)
    following.state("connected", 110.0, migrates=True)
    following.moves.take([Heard("vhu0", Started(7, at=110.5))], 110.5)

    (move,) = following.moves.log()
    assert (move["end"], move["downtime_ms"]) == ("stayed", 8500.0)


def test_moves_before_a_restart_of_the_machine_are_not_told(path, lines):
    seen(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))
    assert Daemon(path).run(200.0).moves.log() == [] and not lines


@pytest.mark.parametrize("cut", [0, 1, 20, 200, -1])
def test_a_file_cut_short_is_said_and_harmless(path, lines, cut):
    seen(path)
    path.write_bytes(path.read_bytes()[:cut])
    daemon = Daemon(path).run(200.0)
    assert daemon.moves.log() == []
    (line,) = lines
    assert line.startswith("migrations that an earlier daemon saw are not told: ")


@pytest.mark.parametrize(
    "change",
    [
        {"port": 1},
        {"port": "a\nb"},
        {"way": "up"},
        {"at": {}},
        {"at": {"slept": 1}},
        {"at": {"rings-run": "nan"}},
        {"at": [1]},
        {"counts": {"held": "x"}},
        {"places": None},
        {"announced": {"x": 1}},
    ],
    ids=str,
)
def test_what_no_daemon_writes_is_refused_whole(path, lines, change):
    seen(path)
    told = json.loads(path.read_text())
    told["moves"][1].update(change)
    path.write_text(json.dumps(told))
    assert Daemon(path).run(200.0).moves.log() == []
    assert len(lines) == 1


@pytest.mark.parametrize("made", ["directory", "link", "large", "list", "deep"])
def test_what_is_no_file_of_ours_is_refused(path, lines, made):
    match made:
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to("/dev/zero")
        case "large":
            path.write_bytes(b" " * (MOST_BYTES + 1))
        case "list":
            path.write_text("[]")
        case _:
            path.write_text("[" * 100_000)
    assert Daemon(path).run(200.0).moves.log() == []
    assert len(lines) == 1


def test_a_full_disk_is_said_once_and_harmless(path, lines, monkeypatch):
    daemon = Daemon(path).run(100.0)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def change(now):
        daemon.moves.arrived(f"vhu{now}", "send-rarp", now)
        daemon.run(now)
        daemon.run(now + PAUSE)
        if daemon.kept._writing is not None:
            daemon.kept._writing.exception(10.0)
        daemon.run(now + PAUSE)

    with monkeypatch.context() as patched:
        patched.setattr(kept_moves, "_replace", full)
        change(100.0)
        change(200.0)
    assert lines == [
        "migrations are not kept for the next daemon: [Errno 28] No space left on device"
    ]
    change(300.0)
    assert lines[1:] == ["migrations are kept for the next daemon again"]
    assert len(Daemon(path).run(400.0).moves.log()) == 3


def test_what_fails_on_the_way_leaves_the_file_as_it_was(path, monkeypatch):
    seen(path)
    before = path.read_bytes()

    def refused(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.rename", refused)
    with pytest.raises(OSError, match="Read-only"):
        kept_moves._replace(path, b"x", ".new")
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["migrations"]


def test_the_largest_history_fits():
    table = {f"{'5' * 12}.{number}": number for number in range(MOST_STATIONS)}
    times = dict.fromkeys(Step, 123456.123456789)
    named = dict.fromkeys(table, "not-learned-in-time")
    move = GuestMove("x" * 15, Way.LEAVES, times, "send-rarp", table, table, named)
    assert len(kept_moves.encode([move] * MOST, "b" * 36)) < MOST_BYTES


def test_a_slow_disk_is_waited_for_elsewhere(path):
    daemon = Daemon(path).run(100.0)
    release = threading.Event()
    daemon.kept._thread.submit(release.wait)
    for at in (100.0, 200.0, 300.0):
        daemon.moves.arrived(f"vhu{at}", "send-rarp", at)
        daemon.run(at)
        daemon.run(at + PAUSE)
    assert daemon.wakes_at == (300.0 + 2 * PAUSE) * 1e3
    assert not path.exists()
    daemon.kept.close()
    assert len(Daemon(path).run(400.0).moves.log()) == 3
    release.set()
