# SPDX-License-Identifier: Apache-2.0
"""Who was silent, by the worker's own count."""

from typing import Any

import pytest

from ovs_vhost_plugin.daemon.guests.silence import Silence
from ovs_vhost_plugin.ipc.commands import GetStats


class Workers:
    def __init__(self) -> None:
        self.told: list[tuple[str, GetStats]] = []
        self.there = True

    def tell(self, name: str, command: GetStats, now: float) -> bool:
        self.told.append((name, command))
        return self.there


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def silence(workers: Workers) -> Silence:
    return Silence(workers.tell)


def counts(*sent: int) -> dict[str, Any]:
    return {"queue_pairs": [{"tx_packets": count} for count in sent]}


def test_the_worker_is_asked_once_when_the_time_is_up(silence: Silence, workers: Workers) -> None:
    silence.watch("vhu0", 5, due_at=2.0)
    assert silence.wake_at() == 2.0
    silence.run(1.9)
    assert not workers.told
    for now in (2.0, 2.1):
        silence.run(now)
    ((name, command),) = workers.told
    assert name == "vhu0" and command.id < 0
    assert silence.wake_at() is None
    assert not silence.answered("vhu0", 99, counts(5)), "another question"
    assert not silence.answered("vhu1", command.id, counts(5)), "another's answer"
    assert silence.answered("vhu0", command.id, counts(2, 3))
    assert not silence.answered("vhu0", command.id, counts(2, 3)), "told once"


@pytest.mark.parametrize(
    ("stats", "silent"),
    [(counts(5), True), (counts(6), False), (counts(5, 1), False), ({}, False)],
)
def test_a_guest_that_sent_one_frame_has_spoken(
    silence: Silence, workers: Workers, stats: dict[str, Any], silent: bool
) -> None:
    silence.watch("vhu0", 5, due_at=0.0)
    silence.run(0.0)
    assert silence.answered("vhu0", workers.told[0][1].id, stats) is silent


def test_a_guest_that_stopped_is_not_asked_for(silence: Silence, workers: Workers) -> None:
    silence.watch("vhu0", 0, due_at=0.0)
    silence.cancel("vhu0")
    silence.run(1.0)
    assert not workers.told


def test_who_has_no_worker_any_more_is_forgotten(silence: Silence, workers: Workers) -> None:
    workers.there = False
    silence.watch("vhu0", 0, due_at=0.0)
    silence.run(0.0)
    assert not silence.answered("vhu0", workers.told[0][1].id, counts(0))
