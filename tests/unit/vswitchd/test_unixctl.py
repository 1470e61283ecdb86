# SPDX-License-Identifier: Apache-2.0
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.vswitchd.link import LinkLost
from ovs_vhost_plugin.vswitchd.unixctl import (
    ANSWER_TIMEOUT,
    AT_ONCE,
    MAX_ANSWER,
    Answer,
    NoAnswer,
    Question,
    Switchd,
    control_socket,
    parse_answer,
)


@pytest.fixture
def rundir(tmp_path, peer):
    """Make the peer the ovs-vswitchd of process 4711."""
    (tmp_path / "ovs-vswitchd.pid").write_text("4711\n")
    (tmp_path / "ovs-vswitchd.4711.ctl").symlink_to(peer.path)
    return str(tmp_path)


class Reader:
    """A client, and the answers that it has passed on, each with the bridge that was asked for."""

    def __init__(self, rundir: str) -> None:
        self.switchd = Switchd(rundir)
        self.answers: list[tuple[str, Answer | NoAnswer]] = []
        self.wait, self.close = self.switchd.wait, self.switchd.close

    def ask(self, bridge: str, now: float) -> None:
        def then(answer: Answer | NoAnswer, _now: float) -> None:
            self.answers.append((bridge, answer))

        self.switchd.ask(Question("fdb/show", (bridge,)), then, now)

    def run(self, now: float) -> list[tuple[str, Answer | NoAnswer]]:
        """The answers that have come."""
        came = self.switchd.run(now)
        assert came is bool(self.answers)
        answers, self.answers = self.answers, []
        return answers


@pytest.fixture
def reader(rundir):
    reader = Reader(rundir)
    yield reader
    reader.close()


def question(peer) -> dict:
    return json.loads(peer.receive())


def questions(peer) -> list[dict]:
    """The questions that have come together."""
    text, found = peer.receive().decode(), []
    while text:
        one, end = json.JSONDecoder().raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


def answer(id_: int, text: str) -> bytes:
    return json.dumps({"id": id_, "result": text, "error": None}).encode()


def test_the_control_socket_is_named_by_the_pidfile(rundir):
    assert control_socket(rundir) == f"{rundir}/ovs-vswitchd.4711.ctl"


def test_a_control_socket_without_a_number_is_found_too(tmp_path):
    (tmp_path / "ovs-vswitchd.pid").write_text("4711\n")
    (tmp_path / "ovs-vswitchd.ctl").touch()
    assert control_socket(str(tmp_path)) == f"{tmp_path}/ovs-vswitchd.ctl"


@pytest.mark.parametrize("text", ["", "not a number", "-"])
def test_a_pidfile_without_a_number_is_a_reason(tmp_path, text):
    (tmp_path / "ovs-vswitchd.pid").write_text(text)
    reader = Reader(str(tmp_path))
    reader.ask("br0", 0.0)
    reader.run(0.0)
    ((_, outcome),) = reader.run(ANSWER_TIMEOUT)
    assert outcome.reason.startswith("invalid literal")


def test_questions_are_put_together_and_answered_in_order(reader, peer):
    reader.ask("br0", 0.0)
    reader.ask("br1", 0.0)
    assert reader.run(0.0) == []
    peer.accept()
    first, second = questions(peer)
    assert (first["method"], first["params"]) == ("fdb/show", ["br0"])
    assert second["params"] == ["br1"]
    peer.send(answer(first["id"], "one"))
    assert reader.run(0.0) == [("br0", Answer("one"))]
    peer.send(answer(second["id"], "two"))
    assert reader.run(0.0) == [("br1", Answer("two"))]


@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_no_more_questions_are_under_way_than_the_switch_takes_in_a_turn(reader, peer, piece):
    names = [f"br{number}" for number in range(3 * AT_ONCE)]
    for name in names:
        reader.ask(name, 0.0)
    reader.run(0.0)
    peer.accept()
    asked: list[str] = []
    while len(asked) < len(names):
        put = questions(peer)
        assert len(put) == AT_ONCE
        asked += [one["params"][0] for one in put]
        said = b"".join(answer(one["id"], "{\u00fc}" + one["params"][0]) for one in put)
        answered = []
        for start in range(0, len(said), piece):
            peer.send(said[start : start + piece])
            answered += reader.run(0.0)
        assert answered == [(name, Answer("{\u00fc}" + name)) for name in asked[-AT_ONCE:]]
    assert asked == names


def test_a_long_answer_may_come_in_pieces_even_where_a_piece_ends_in_a_brace(reader, peer):
    reader.ask("br0", 0.0)
    reader.run(0.0)
    peer.accept()
    text = "{}" * 50_000
    data = answer(question(peer)["id"], text)
    middle = data.index(b"}") + 1
    peer.send(data[:middle])
    assert reader.run(0.0) == []
    peer.send(data[middle:])
    assert reader.run(0.0) == [("br0", Answer(text))]


def test_an_error_of_vswitchd_is_passed_on(reader, peer):
    reader.ask("br9", 0.0)
    reader.run(0.0)
    peer.accept()
    reply = {"id": question(peer)["id"], "result": None, "error": "no such bridge\n"}
    peer.send(json.dumps(reply).encode())
    assert reader.run(0.0) == [("br9", NoAnswer("no such bridge"))]


def test_without_vswitchd_the_question_times_out_with_the_reason(tmp_path, notes):
    reader = Reader(str(tmp_path))
    reader.ask("br0", 0.0)
    assert reader.run(0.0) == []
    reader.wait(notes)
    assert notes.times[-1] == ANSWER_TIMEOUT * 1e3
    assert reader.run(ANSWER_TIMEOUT) == [("br0", NoAnswer("No such file or directory"))]


def test_an_answer_that_is_there_counts_however_late_it_is_read(reader, peer):
    reader.ask("br0", 0.0)
    reader.run(0.0)
    peer.accept()
    peer.send(answer(question(peer)["id"], "one"))
    assert reader.run(2 * ANSWER_TIMEOUT) == [("br0", Answer("one"))]


def test_a_silent_vswitchd_times_out_and_its_late_answer_is_not_taken_for_another(reader, peer):
    reader.ask("br0", 0.0)
    reader.run(0.0)
    peer.accept()
    late = question(peer)["id"]
    assert reader.run(ANSWER_TIMEOUT) == [("br0", NoAnswer("no answer"))]
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        peer.send(answer(late, "late"))
    reader.ask("br0", 10.0)
    reader.run(10.0)
    peer.accept()
    peer.send(answer(question(peer)["id"], "new"))
    assert reader.run(10.0) == [("br0", Answer("new"))]


@pytest.mark.parametrize(
    "reply", [b"[]", b'{"id": 99, "result": "x"}'], ids=["no object", "another's answer"]
)
def test_what_is_no_answer_ends_the_connection(reader, peer, reply):
    reader.ask("br0", 0.0)
    reader.run(0.0)
    peer.accept()
    question(peer)
    peer.send(reply + b"}" * (reply == b"[]"))
    ((_, outcome),) = reader.run(0.0) or reader.run(ANSWER_TIMEOUT)
    assert isinstance(outcome, NoAnswer)


def test_an_endless_answer_is_cut_off(reader, peer):
    reader.ask("br0", 0.0)
    reader.run(0.0)
    peer.accept()
    question(peer)
    peer.connection.setblocking(False)
    outcome = []
    for _ in range(10 * MAX_ANSWER // 65536):
        try:
            peer.connection.send(b" " * 65536)
        except BlockingIOError:
            pass
        except OSError:
            break
        outcome += reader.run(0.0)
    assert outcome == [("br0", NoAnswer("answer too long"))]


def test_a_vswitchd_that_restarted_while_idle_costs_no_question(reader, peer, tmp_path, notes):
    reader.ask("br0", 0.0)
    reader.run(0.0)
    peer.accept()
    peer.send(answer(question(peer)["id"], "old"))
    reader.run(0.0)
    reader.wait(notes)
    assert len(notes.events) == 1, "the end of the idle connection has to be noticed"
    peer.close()
    assert reader.run(0.0) == []
    peer.listen()
    (tmp_path / "ovs-vswitchd.pid").write_text("4712\n")
    (tmp_path / "ovs-vswitchd.4712.ctl").symlink_to(peer.path)
    reader.ask("br0", 0.0)
    reader.run(0.0)
    peer.accept()
    peer.send(answer(question(peer)["id"], "new"))
    assert reader.run(0.0) == [("br0", Answer("new"))]


def test_a_full_table_is_taken_in_without_holding_the_daemon_up():
    line = "    2     0  52:54:00:12:34:56    0\n"
    data = answer(1, line * 2048)

    def taken() -> float:
        start = time.process_time()
        assert parse_answer(data, 1) == Answer(line * 2048)
        return time.process_time() - start

    # The quickest of some: what else happens to this process meanwhile only adds to it.
    assert min(taken() for _ in range(10)) < 0.02


@given(st.binary() | st.text().map(str.encode) | st.just(b"[" * 100_000 + b"}"))
def test_any_answer_is_taken_or_ends_the_connection(data):
    try:
        outcome = parse_answer(data, 1)
    except LinkLost:
        return
    assert outcome is None or isinstance(outcome, Answer | NoAnswer)


def test_a_question_behind_another_has_its_own_time(reader, peer):
    reader.ask("br0", 0.0)
    reader.ask("br1", 0.0)
    reader.run(0.0)
    peer.accept()
    first, second = questions(peer)
    peer.send(answer(first["id"], "one"))
    assert reader.run(0.9) == [("br0", Answer("one"))]
    assert reader.switchd.get_timer() == 0.9 + ANSWER_TIMEOUT
    peer.send(answer(second["id"], "two"))
    assert reader.run(ANSWER_TIMEOUT + 0.5) == [("br1", Answer("two"))]
    assert reader.switchd.get_timer() is None


def test_questions_that_were_put_end_with_their_connection(reader, peer):
    reader.ask("br0", 0.0)
    reader.ask("br1", 0.0)
    reader.run(0.0)
    peer.accept()
    first, second = questions(peer)
    peer.send(answer(second["id"], "two"))  # out of order: it is not what we speak with
    assert [name for name, said in reader.run(0.0) if isinstance(said, NoAnswer)] == ["br0", "br1"]
    reader.ask("br2", 10.0)
    reader.run(10.0)
    peer.accept()
    peer.send(answer(question(peer)["id"], "three"))
    assert reader.run(10.0) == [("br2", Answer("three"))]
    assert first["id"] < second["id"]


def test_who_is_answered_may_ask_again_at_once(reader, peer):
    def again(_answer, now):
        reader.ask("br1", now)

    reader.switchd.ask(Question("fdb/show", ("br0",)), again, 0.0)
    reader.switchd.run(0.0)
    peer.accept()
    peer.send(answer(question(peer)["id"], "one"))
    assert reader.switchd.run(0.0)
    assert question(peer)["params"] == ["br1"]


def test_another_run_directory_is_another_switch(reader, peer, tmp_path):
    reader.ask("br0", 0.0)
    reader.run(0.0)
    reader.switchd.follow(str(tmp_path), 0.0)  # the same
    reader.switchd.follow(str(tmp_path / "elsewhere"), 0.0)
    assert reader.answers == [("br0", NoAnswer("another run directory"))]
    reader.answers.clear()
    reader.ask("br0", 1.0)
    reader.run(1.0)
    assert reader.run(1.0 + ANSWER_TIMEOUT) == [("br0", NoAnswer("No such file or directory"))]
