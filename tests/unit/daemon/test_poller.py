# SPDX-License-Identifier: Apache-2.0
"""The loop's poller: any fd, and every event that was asked for."""

import os
import select
import socket
from collections.abc import Iterator

import ovs.timeval
import pytest

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.daemon.poller import LoopPoller

FAR = 5000
"""Above what select(2) takes, 1,023."""


@pytest.fixture
def poller(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopPoller]:
    yield LoopPoller()


def test_an_fd_that_select_refuses_wakes_the_loop(poller: LoopPoller) -> None:
    process.raise_fd_limit()
    reader, writer = os.pipe()
    os.dup2(reader, FAR)
    os.write(writer, b"x")
    with pytest.raises(ValueError, match="out of range"):
        select.select([FAR], [], [], 0)
    poller.fd_wait(FAR, select.POLLIN)
    poller.block()  # for ever, if it does not see the byte
    for fd in (reader, writer, FAR):
        os.close(fd)


def test_a_socket_registered_to_read_and_to_write_wakes_for_either(poller: LoopPoller) -> None:
    ours, theirs = socket.socketpair()
    for first, second in ((select.POLLIN, select.POLLOUT), (select.POLLOUT, select.POLLIN)):
        poller.fd_wait(ours, first)
        poller.fd_wait(ours, second)
        poller.block()
    theirs.send(b"x")
    poller.fd_wait(ours, select.POLLIN)
    poller.block()
    ours.close()
    theirs.close()


def test_the_earliest_time_counts_and_only_once(
    poller: LoopPoller, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float | None] = []

    class Poll:
        def poll(self, timeout: float | None) -> None:
            slept.append(timeout)

    monkeypatch.setattr(select, "poll", Poll)
    now = ovs.timeval.msec()
    poller.timer_wait_until(now + 90_000)
    poller.timer_wait(60_000)
    poller.timer_wait_until(now + 70_000)
    poller.block()
    poller.block()
    poller.timer_wait(60_000)
    poller.immediate_wake()
    poller.block()
    poller.timer_wait(-1)
    poller.block()
    first, *rest = slept
    assert first is not None and 0 < first <= 60_000
    assert rest == [None, 0, 0]
