# SPDX-License-Identifier: Apache-2.0
"""A worker that writes anything at any pace: what the daemon hears of it stays within its budgets.

Budgets are counts and bytes for each second of a clock that the test sets: how long the daemon
takes over one report is bounded by the report's length.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.fuzz.fuzz_profile import examples
from support.fuzz.json_events import EVENTS, JSON

from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.daemon.workers.readiness import Readiness
from ovs_vhost_plugin.daemon.workers.report_rates import BYTES_AT_ONCE, BYTES_PER_SECOND
from ovs_vhost_plugin.ipc.channel import MAX_PACKET, Channel
from ovs_vhost_plugin.ipc.commands import GetStats
from ovs_vhost_plugin.ipc.reports import RATES, HeldFrames, Report, Stats, WorkerHello
from ovs_vhost_plugin.ipc.spec import PortSettings, WorkerSpec
from ovs_vhost_plugin.ipc.vitals import Vitals

BEGIN = 1000.0
SPEC = WorkerSpec("vhu0", "server", "/run/vm.sock", 1, PortSettings(hold=True))

LINES = st.sampled_from([json.dumps(event).encode() + b"\n" for event in EVENTS])
ANY_LINE = JSON.map(lambda value: json.dumps(value).encode() + b"\n")
LONG = st.integers(1, 3 * MAX_PACKET)  # bytes without an end of line
STEPS = st.lists(
    st.tuples(
        st.lists(LINES | ANY_LINE | LONG | st.binary(max_size=64), max_size=4),
        st.sampled_from([0.0, 0.0, 0.01, 0.5, 5.0]),
        st.booleans(),  # whether it is asked for its statistics before
    ),
    max_size=60,
)


class Hearing:
    """A link, and how much was heard over it."""

    def __init__(self, link: WorkerLink, worker: Channel) -> None:
        self.link, self.now = link, BEGIN
        ((_, (self.pipe, self.vitals, self.alarm)),) = worker.receive()
        os.set_blocking(self.pipe, False)
        self.worker = worker
        self.kinds: Counter[type[Report]] = Counter()
        self.asked = 0

    def write(self, data: bytes) -> None:
        """Write all of it, as fast as the daemon reads."""
        at = 0
        while at < len(data) and self.link.channel is not None:
            with contextlib.suppress(BlockingIOError):
                at += os.write(self.pipe, data[at:])
            self.hear()

    def hear(self) -> None:
        """Have the daemon's turn."""
        ended = self.link.channel is None
        heard = self.link.receive(self.now)
        assert not (ended and heard), "nothing is heard after the end"
        self.kinds.update(map(type, heard))

    def check(self) -> None:
        """Nothing was heard beyond its budget."""
        seconds = self.now - BEGIN
        for kind, (rate, burst) in RATES.items():
            assert self.kinds[kind] <= burst + rate * seconds + 1
        assert self.kinds[WorkerHello] <= 1
        assert self.kinds[Stats] + self.kinds[HeldFrames] <= self.asked
        kept = len(self.link._reports._part)
        assert kept <= MAX_PACKET, "of a report that is not whole no more is kept than of any"


@contextlib.contextmanager
def hearing() -> Iterator[Hearing]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = Channel(theirs, max_fds=3)
    record = Path("/nonexistent/record")
    ready: Readiness[WorkerLink] = Readiness()
    link = WorkerLink("vhu0", Channel(ours), SPEC, record, Vitals(), ready, BEGIN, child=True)
    found = Hearing(link, worker)
    try:
        yield found
    finally:
        link.close()
        ready.close()
        worker.close()
        os.close(found.pipe)
        os.close(found.vitals)
        os.close(found.alarm)


@examples(150)
@given(steps=STEPS)
def test_what_is_heard_stays_within_its_budgets(
    steps: list[tuple[list[bytes | int], float, bool]],
) -> None:
    with hearing() as found:
        for parts, pause, ask in steps:
            if ask and found.link.send(GetStats(1), found.now):
                found.asked += 1
                found.worker.receive()
            found.write(b"".join(b"x" * p if isinstance(p, int) else p for p in parts))
            found.now += pause
            found.check()
        assert found.link.fault(None).isprintable()


@examples(20)
@given(event=st.sampled_from(EVENTS), seconds=st.integers(1, 30))
def test_the_fastest_worker_is_heard_no_more_than_its_budget(
    event: dict[str, Any], seconds: int
) -> None:
    line = json.dumps(event).encode() + b"\n"
    with hearing() as found:
        for _ in range(seconds * 10):
            found.write(line * 20)
            found.now += 0.1
        found.check()
        heard = found.kinds.total()
        assert heard * len(line) <= BYTES_AT_ONCE + BYTES_PER_SECOND * seconds
