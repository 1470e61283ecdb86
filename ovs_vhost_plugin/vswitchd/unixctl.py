# SPDX-License-Identifier: Apache-2.0
"""Puts questions to ovs-vswitchd over its control socket, without blocking.

The control socket speaks JSON-RPC 1.0 with no framing but JSON's own. With one question at a time,
an answer is complete when what has come parses; the standard library's parser takes 0.1 ms for the
table of 2,048 addresses where the incremental one of `ovs.jsonrpc` (in Python) takes 100 ms, in
which the daemon would stand still.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.vswitchd.link import Link, LinkLost, Poller

ANSWER_TIMEOUT = 1.0
MAX_ANSWER = 4 * 1024 * 1024  # about 100,000 addresses


@dataclass(frozen=True, slots=True)
class Question:
    """A command of ovs-vswitchd's control socket, as `ovs-appctl` takes it.

    `token` is for whoever asks, to know the answer by.
    """

    method: str
    params: tuple[str, ...]
    token: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What ovs-vswitchd printed."""

    question: Question
    text: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """It refused, or could not be asked."""

    question: Question
    reason: str


@dataclass(frozen=True, slots=True)
class _Asked:
    question: Question
    deadline: float


class Switchd:
    """The ovs-vswitchd that runs in `rundir`, asked one thing after the other."""

    def __init__(self, rundir: str) -> None:
        self._link = Link(lambda: control_socket(rundir))
        self._questions: deque[_Asked] = deque()
        self._asked = False  # whether the first question has gone out on this connection
        self._id = 0
        self._received = b""

    def ask(self, question: Question, now: float) -> None:
        """Queue a question; `run` returns its Answer or NoAnswer, in order."""
        self._questions.append(_Asked(question, now + ANSWER_TIMEOUT))

    def run(self, now: float) -> list[Answer | NoAnswer]:
        """Ask and receive; return the answers."""
        answers: list[Answer | NoAnswer] = []
        if not self._questions:
            self._notice_end()
        try:
            while self._questions:
                late = self._questions[0].deadline <= now
                if not self._link.connected and (late or not self._link.connect(now)):
                    if late:
                        raise LinkLost(self._link.error)
                    return answers
                # An answer that is there counts, however late this comes to read it.
                answer = self._exchange(self._questions[0].question)
                if answer is None and late:
                    raise LinkLost("no answer")
                if answer is None:
                    return answers
                self._link.settle()
                self._questions.popleft()
                self._asked = False
                answers.append(answer)
        except LinkLost as lost:
            answers += self._lose(str(lost), now)
        return answers

    def wait(self, poller: Poller) -> None:
        """Register for what `run` has to be called for."""
        if self._questions or self._link.connected:
            self._link.wait(poller)
        if self._questions:
            poller.timer_wait_until(self._questions[0].deadline * 1e3)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _exchange(self, question: Question) -> Answer | NoAnswer | None:
        """Bring the question forward; None until its answer is whole."""
        if not self._asked:
            self._asked = True
            self._id += 1
            self._received = b""
            asked = {"id": self._id, "method": question.method, "params": question.params}
            self._link.send(json.dumps(asked).encode())
        else:
            self._link.send(b"")
        while data := self._link.receive():
            self._received += data
            if len(self._received) > MAX_ANSWER:
                raise LinkLost("answer too long")
        return parse_answer(self._received, self._id, question)

    def _notice_end(self) -> None:
        """Drop a connection that ended while idle, so that the next question meets a live one."""
        if self._link.connected:
            try:
                self._link.receive()
            except LinkLost:
                self._link.close()

    def _lose(self, reason: str, now: float) -> list[NoAnswer]:
        self._link.lose(reason, now)
        self._asked = False
        lost = [NoAnswer(asked.question, reason) for asked in self._questions]
        self._questions.clear()
        return lost


def control_socket(rundir: str) -> str:
    """Return the path of the control socket of `rundir`'s ovs-vswitchd.

    It carries the process's number, which the pidfile tells, unless an ovs-vswitchd was started
    with --unixctl: then ovs-vswitchd.ctl is the name to hope for.

    Raises OSError without a pidfile, ValueError for one without a number.
    """
    pid = int(Path(rundir, "ovs-vswitchd.pid").read_text())
    numbered = Path(rundir, f"ovs-vswitchd.{pid}.ctl")
    return str(numbered if numbered.exists() else Path(rundir, "ovs-vswitchd.ctl"))


def parse_answer(data: bytes, id_: int, question: Question) -> Answer | NoAnswer | None:
    """Return what a JSON-RPC answer says, None while it is incomplete."""
    if not data.rstrip().endswith(b"}"):
        return None
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return None  # a brace inside the text; the deadline ends what is no JSON at all
    if not isinstance(answer, dict) or answer.get("id") != id_:
        raise LinkLost("not the answer to the question")
    if isinstance(answer.get("result"), str):
        return Answer(question, answer["result"])
    return NoAnswer(question, escaped(str(answer.get("error")).strip()))
