# SPDX-License-Identifier: Apache-2.0
"""A worker gets each queue of its own tap once, up to its pairs, whatever it asks for."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ovs_vhost_plugin.daemon.workers.further_queues import FurtherQueues
from ovs_vhost_plugin.ipc.commands import GiveQueue
from ovs_vhost_plugin.ipc.spec import WorkerSpec
from ovs_vhost_plugin.tap import TapError, TapErrorName

NOW = 100.0


class Taps:
    def __init__(self) -> None:
        self.opened: list[tuple[str, int]] = []
        self.broken = False

    def open_further(self, name: str) -> int:
        if self.broken:
            raise TapError(TapErrorName.FOREIGN, "x")
        fd = os.open(os.devnull, os.O_RDONLY)
        self.opened.append((name, fd))
        return fd


class Link:
    def __init__(self, queues: int = 4) -> None:
        self.name = "vhu0"
        self.spec: Any = WorkerSpec("vhu0", "client", "/x", queues)
        self.given: list[int] = []
        self.reads = True

    def send(self, command: GiveQueue, now: float, fds: tuple[int, ...]) -> bool:
        assert [os.fstat(fd).st_rdev for fd in fds] == [Path(os.devnull).stat().st_rdev]
        if self.reads:
            self.given.append(command.index)
        return self.reads


@pytest.fixture
def taps() -> Taps:
    return Taps()


@pytest.fixture
def further(taps: Taps) -> FurtherQueues:
    further = FurtherQueues(taps)
    further.hello("vhu0", 1)
    return further


def test_it_gets_the_queues_that_it_lacks_and_none_stays_open_here(
    taps: Taps, further: FurtherQueues
) -> None:
    link: Any = Link()
    further.answer(link, 3, NOW)
    assert link.given == [1, 2] and [name for name, _ in taps.opened] == ["vhu0"] * 2
    further.answer(link, 3, NOW)
    assert link.given == [1, 2]
    for _, fd in taps.opened:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_who_asks_without_end_gets_as_many_as_its_port_has_pairs(
    taps: Taps, further: FurtherQueues
) -> None:
    link: Any = Link()
    for _ in range(100):
        further.answer(link, 128, NOW)
    assert link.given == [1, 2, 3] and len(taps.opened) == 3


def test_a_worker_that_is_not_known_gets_none(taps: Taps, further: FurtherQueues) -> None:
    link: Any = Link()
    further.forget("vhu0")
    further.answer(link, 3, NOW)
    further.hello("vhu0", 1)
    link.spec = None
    further.answer(link, 3, NOW)
    assert not taps.opened


def test_an_adopted_worker_goes_on_behind_the_queues_that_it_has(
    taps: Taps, further: FurtherQueues
) -> None:
    link: Any = Link()
    further.hello("vhu0", 3)
    further.answer(link, 4, NOW)
    assert link.given == [3]


def test_what_could_not_be_opened_or_sent_is_given_when_it_is_asked_for_again(
    taps: Taps, further: FurtherQueues
) -> None:
    link: Any = Link()
    taps.broken = True
    further.answer(link, 2, NOW)
    taps.broken, link.reads = False, False
    further.answer(link, 2, NOW)
    assert link.given == []
    link.reads = True
    further.answer(link, 2, NOW)
    assert link.given == [1]


def test_a_worker_without_a_name_of_ours_is_no_error(further: FurtherQueues) -> None:
    other: Any = SimpleNamespace(name="vhu9", spec=WorkerSpec("vhu9", "client", "/x", 4))
    further.answer(other, 3, NOW)
