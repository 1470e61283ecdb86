# SPDX-License-Identifier: Apache-2.0
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.vswitchd.link import LinkLost
from ovs_vhost_plugin.vswitchd.unixctl import (
    ANSWER_TIMEOUT,
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


@pytest.fixture
def reader(rundir):
    reader = Switchd(rundir)
    yield reader
    reader.close()


def fdb(bridge: str) -> Question:
    return Question("fdb/show", (bridge,))


def question(peer) -> dict:
    return json.loads(peer.receive())


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
    reader = Switchd(str(tmp_path))
    reader.ask(fdb("br0"), 0.0)
    reader.run(0.0)
    (outcome,) = reader.run(ANSWER_TIMEOUT)
    assert outcome.reason.startswith("invalid literal")


def test_questions_are_put_one_by_one_and_answered_in_order(reader, peer):
    reader.ask(fdb("br0"), 0.0)
    reader.ask(fdb("br1"), 0.0)
    assert reader.run(0.0) == []
    peer.accept()
    first = question(peer)
    assert (first["method"], first["params"]) == ("fdb/show", ["br0"])
    peer.send(answer(first["id"], "one"))
    assert reader.run(0.0) == [Answer(fdb("br0"), "one")]
    second = question(peer)
    assert second["params"] == ["br1"]
    peer.send(answer(second["id"], "two"))
    assert reader.run(0.0) == [Answer(fdb("br1"), "two")]


def test_a_long_answer_may_come_in_pieces_even_where_a_piece_ends_in_a_brace(reader, peer):
    reader.ask(fdb("br0"), 0.0)
    reader.run(0.0)
    peer.accept()
    text = "{}" * 50_000
    data = answer(question(peer)["id"], text)
    middle = data.index(b"}") + 1
    peer.send(data[:middle])
    assert reader.run(0.0) == []
    peer.send(data[middle:])
    assert reader.run(0.0) == [Answer(fdb("br0"), text)]


def test_an_error_of_vswitchd_is_passed_on(reader, peer):
    reader.ask(fdb("br9"), 0.0)
    reader.run(0.0)
    peer.accept()
    reply = {"id": question(peer)["id"], "result": None, "error": "no such bridge\n"}
    peer.send(json.dumps(reply).encode())
    assert reader.run(0.0) == [NoAnswer(fdb("br9"), "no such bridge")]


def test_without_vswitchd_the_question_times_out_with_the_reason(tmp_path, notes):
    reader = Switchd(str(tmp_path))
    reader.ask(fdb("br0"), 0.0)
    assert reader.run(0.0) == []
    reader.wait(notes)
    assert notes.times[-1] == ANSWER_TIMEOUT * 1e3
    assert reader.run(ANSWER_TIMEOUT) == [NoAnswer(fdb("br0"), "No such file or directory")]


def test_an_answer_that_is_there_counts_however_late_it_is_read(reader, peer):
    reader.ask(fdb("br0"), 0.0)
    reader.run(0.0)
    peer.accept()
    peer.send(answer(question(peer)["id"], "one"))
    assert reader.run(2 * ANSWER_TIMEOUT) == [Answer(fdb("br0"), "one")]


def test_a_silent_vswitchd_times_out_and_its_late_answer_is_not_taken_for_another(reader, peer):
    reader.ask(fdb("br0"), 0.0)
    reader.run(0.0)
    peer.accept()
    late = question(peer)["id"]
    assert reader.run(ANSWER_TIMEOUT) == [NoAnswer(fdb("br0"), "no answer")]
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        peer.send(answer(late, "late"))
    reader.ask(fdb("br0"), 10.0)
    reader.run(10.0)
    peer.accept()
    peer.send(answer(question(peer)["id"], "new"))
    assert reader.run(10.0) == [Answer(fdb("br0"), "new")]


@pytest.mark.parametrize(
    "reply", [b"[]", b'{"id": 99, "result": "x"}'], ids=["no object", "another's answer"]
)
def test_what_is_no_answer_ends_the_connection(reader, peer, reply):
    reader.ask(fdb("br0"), 0.0)
    reader.run(0.0)
    peer.accept()
    question(peer)
    peer.send(reply + b"}" * (reply == b"[]"))
    (outcome,) = reader.run(0.0) or reader.run(ANSWER_TIMEOUT)
    assert isinstance(outcome, NoAnswer)


def test_an_endless_answer_is_cut_off(reader, peer):
    reader.ask(fdb("br0"), 0.0)
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
    assert outcome == [NoAnswer(fdb("br0"), "answer too long")]


def test_a_vswitchd_that_restarted_while_idle_costs_no_question(reader, peer, tmp_path, notes):
    reader.ask(fdb("br0"), 0.0)
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
    reader.ask(fdb("br0"), 0.0)
    reader.run(0.0)
    peer.accept()
    peer.send(answer(question(peer)["id"], "new"))
    assert reader.run(0.0) == [Answer(fdb("br0"), "new")]


def test_a_full_table_is_taken_in_without_holding_the_daemon_up():
    line = "    2     0  52:54:00:12:34:56    0\n"
    data = answer(1, line * 2048)

    def taken() -> float:
        start = time.process_time()
        assert parse_answer(data, 1, fdb("br0")) == Answer(fdb("br0"), line * 2048)
        return time.process_time() - start

    # The quickest of some: what else happens to this process meanwhile only adds to it.
    assert min(taken() for _ in range(10)) < 0.02


@given(st.binary() | st.text().map(str.encode) | st.just(b"[" * 100_000 + b"}"))
def test_any_answer_is_taken_or_ends_the_connection(data):
    try:
        outcome = parse_answer(data, 1, fdb("br0"))
    except LinkLost:
        return
    assert outcome is None or isinstance(outcome, Answer | NoAnswer)
