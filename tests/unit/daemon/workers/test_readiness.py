# SPDX-License-Identifier: Apache-2.0
"""Fds of many owners: those that are ready are found, and no others are looked at."""

import os
import select
from collections.abc import Iterator

import pytest

from ovs_vhost_plugin.daemon.poller import LoopPoller
from ovs_vhost_plugin.daemon.workers.readiness import Readiness


@pytest.fixture
def ready() -> Iterator[Readiness[str]]:
    made: Readiness[str] = Readiness()
    yield made
    made.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    fds = os.pipe()
    yield fds
    for fd in fds:
        os.close(fd)


def test_an_owner_is_ready_until_its_fd_is_read(
    ready: Readiness[str], pipe: tuple[int, int]
) -> None:
    ready.watch(pipe[0], select.POLLIN, "a")
    assert ready.ready() == []
    os.write(pipe[1], b"x")
    assert ready.ready() == ["a"] == ready.ready()
    os.read(pipe[0], 1)
    assert ready.ready() == []


def test_an_owner_with_several_fds_is_told_once(
    ready: Readiness[str], pipe: tuple[int, int]
) -> None:
    os.write(pipe[1], b"x")
    ready.watch(pipe[0], select.POLLIN, "a")
    ready.watch(pipe[1], select.POLLOUT, "a")
    ready.wake("a")
    assert ready.ready() == ["a"]


def test_what_is_forgotten_is_not_told(ready: Readiness[str], pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x")
    ready.watch(pipe[0], select.POLLIN, "a")
    ready.forget(pipe[0])
    ready.forget(pipe[0])
    assert ready.ready() == []
    ready.watch(pipe[0], select.POLLIN, "b")
    assert ready.ready() == ["b"]


def test_the_loop_wakes_when_somebody_is_ready(
    ready: Readiness[str], pipe: tuple[int, int]
) -> None:
    poller = LoopPoller()
    ready.watch(pipe[0], select.POLLIN, "a")
    os.write(pipe[1], b"x")
    ready.wait(poller)
    poller.block()
    os.read(pipe[0], 1)
    ready.wake("b")
    ready.wait(poller)
    poller.block()
    assert ready.ready() == ["b"]


def test_a_turn_of_many_is_one_call_for_the_kernel(
    ready: Readiness[str], pipe: tuple[int, int]
) -> None:
    copies = [os.dup(pipe[0]) for _ in range(100)]
    for fd in copies:
        ready.watch(fd, select.POLLIN, str(fd))
    registered: list[object] = []

    class Notes:
        def fd_wait(self, fd: object, _events: int) -> None:
            registered.append(fd)

    ready.wait(Notes())
    assert len(registered) == 1
    for fd in copies:
        ready.forget(fd)
        os.close(fd)
