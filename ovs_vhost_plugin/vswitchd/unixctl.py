# SPDX-License-Identifier: Apache-2.0
"""The client of ovs-vswitchd's control socket: questions and answers, without blocking.

The control socket speaks JSON-RPC 1.0 with no framing but JSON's own. Several questions are under
way at once: when a hundred guests move in, each has one, and ovs-vswitchd answers in its main loop,
which may take ten milliseconds to come round. Answers come in order. Each is parsed by the standard
library: that takes 0.1 ms for the table of 2,048 addresses where the incremental parser of
`ovs.jsonrpc` (in Python) takes 100 ms, in which the daemon would stand still.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.vswitchd.link import Link, LinkLost, Poller

ANSWER_TIMEOUT = 1.0
MAX_ANSWER = 4 * 1024 * 1024  # about 100,000 addresses
AT_ONCE = 8
"""Most questions under way. ovs-vswitchd takes ten of a connection in a turn (lib/unixctl.c)."""
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Question:
    """A command of ovs-vswitchd's control socket, as `ovs-appctl` takes it."""

    method: str
    params: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The text that ovs-vswitchd printed."""

    text: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """It refused, or could not be asked."""

    reason: str


Then = Callable[[Answer | NoAnswer, float], None]
"""Takes the answer to a question, and the time."""


class Switchd:
    """The ovs-vswitchd of a run directory, asked by all who ask; answers come in order.

    There is one of these in a process, and one for answers that take long: `follow` says which run
    directory is meant, and whoever has a question says where its answer goes.
    """

    def __init__(self, rundir: str = "") -> None:
        self._rundir = rundir
        self._link = Link(lambda: control_socket(self._rundir))
        self._questions: deque[tuple[Question, Then]] = deque()
        self._deadline = 0.0  # of the first question
        self._asked = 0  # the first questions, which have gone out on this connection
        self._id = 0  # of the last of them
        self._received = b""

    @property
    def rundir(self) -> str:
        """The run directory of the ovs-vswitchd that is asked."""
        return self._rundir

    def follow(self, rundir: str, now: float) -> None:
        """Ask the ovs-vswitchd of `rundir` from now on; what another was asked is not answered."""
        if rundir != self._rundir:
            self._rundir = rundir
            self._lose("another run directory", now)

    def ask(self, question: Question, then: Then, now: float) -> None:
        """Queue a question. `run` calls `then` with its Answer or NoAnswer, in order."""
        if not self._questions:
            self._deadline = now + ANSWER_TIMEOUT
        self._questions.append((question, then))

    def run(self, now: float) -> bool:
        """Ask, receive, and pass answers on; whether there was one."""
        if not self._questions:
            self._notice_end()
        passed_on = False
        try:
            while self._questions:
                late = self._deadline <= now
                if not self._link.connected and (late or not self._link.connect(now)):
                    if late:
                        raise LinkLost(self._link.error)
                    break
                # An answer that is there counts, however late this comes to read it.
                answer = self._exchange()
                if answer is None and late:
                    raise LinkLost("no answer")
                if answer is None:
                    break
                self._link.worked()
                _, then = self._questions.popleft()
                self._asked -= 1
                self._deadline = now + ANSWER_TIMEOUT
                then(answer, now)
                passed_on = True
        except LinkLost as lost:
            passed_on |= self._lose(str(lost), now)
        return passed_on

    def wait(self, poller: Poller) -> None:
        """Register the events that `run` waits for."""
        if self._questions or self._link.connected:
            self._link.wait(poller)
        timer = self.get_timer()
        if timer is not None:
            poller.timer_wait_until(timer * 1e3)

    def get_timer(self) -> float | None:
        """When the answer to the first question is overdue; None without a question."""
        return self._deadline if self._questions else None

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _exchange(self) -> Answer | NoAnswer | None:
        """Bring the questions forward; the answer to the first, None until it is whole."""
        for question, _ in itertools.islice(self._questions, self._asked, AT_ONCE):
            self._asked += 1
            self._id += 1
            asked = {"id": self._id, "method": question.method, "params": question.params}
            self._link.send(json.dumps(asked).encode())
        self._link.send(b"")
        came = self._received
        while True:
            if b"}" in came and (length := first_message(self._received)):
                message, self._received = self._received[:length], self._received[length:]
                answer = parse_answer(message, self._id - self._asked + 1)
                if answer is None:
                    raise LinkLost("not an answer")
                return answer
            if not (came := self._link.receive()):
                return None
            self._received += came
            if len(self._received) > MAX_ANSWER:
                raise LinkLost("answer too long")

    def _notice_end(self) -> None:
        """Drop a connection that ended while idle, so that the next question meets a live one."""
        if self._link.connected:
            try:
                self._link.receive()
            except LinkLost:
                self._link.close()

    def _lose(self, reason: str, now: float) -> bool:
        """End the connection, and every question that waits; whether there was one."""
        self._link.lose(reason, now)
        self._asked, self._received = 0, b""
        lost, self._questions = self._questions, deque()
        for _, then in lost:
            then(NoAnswer(reason), now)
        return bool(lost)


def control_socket(rundir: str) -> str:
    """Return the path of the control socket of `rundir`'s ovs-vswitchd.

    It carries the process's number, which the pidfile tells, unless an ovs-vswitchd was started
    with --unixctl: then ovs-vswitchd.ctl is the name to hope for.

    Raises OSError without a pidfile, ValueError for one without a number.
    """
    pid = int(Path(rundir, "ovs-vswitchd.pid").read_text())
    numbered = Path(rundir, f"ovs-vswitchd.{pid}.ctl")
    return str(numbered if numbered.exists() else Path(rundir, "ovs-vswitchd.ctl"))


def first_message(data: bytes) -> int:
    """The length of the first JSON value in `data`, 0 while it is not whole."""
    text = data.decode("utf-8", "surrogateescape")  # a part of a character may be at the end
    try:
        _, end = _DECODER.raw_decode(text, len(text) - len(text.lstrip()))
    except (ValueError, RecursionError):
        return 0
    return len(text[:end].encode("utf-8", "surrogateescape"))


def parse_answer(data: bytes, id_: int) -> Answer | NoAnswer | None:
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
        return Answer(answer["result"])
    return NoAnswer(escaped(str(answer.get("error")).strip()))
