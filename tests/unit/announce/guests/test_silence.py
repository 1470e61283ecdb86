# SPDX-License-Identifier: Apache-2.0
"""Who was silent, by the worker's own count."""

import pytest

from ovs_vhost_plugin.announce.guests.silence import Silence


@pytest.fixture
def silence() -> Silence:
    return Silence()


def test_the_worker_is_asked_once_when_the_time_is_up(silence: Silence) -> None:
    silence.watch("vhu0", 5, due_at=2.0)
    assert silence.get_timer() == 2.0
    assert silence.handle_timer(1.9) == []
    ((name, request),) = silence.handle_timer(2.0)
    assert name == "vhu0" and request < 0
    assert silence.handle_timer(2.1) == [] and silence.get_timer() is None
    assert not silence.answered("vhu0", 99, 5), "another question"
    assert not silence.answered("vhu1", request, 5), "another's answer"
    assert silence.answered("vhu0", request, 5)
    assert not silence.answered("vhu0", request, 5), "told once"


@pytest.mark.parametrize(("sent", "silent"), [(5, True), (6, False), (0, False)])
def test_a_guest_that_sent_one_frame_has_spoken(silence: Silence, sent: int, silent: bool) -> None:
    silence.watch("vhu0", 5, due_at=0.0)
    ((_, request),) = silence.handle_timer(0.0)
    assert silence.answered("vhu0", request, sent) is silent


def test_each_question_has_its_own_id(silence: Silence) -> None:
    for name in ("vhu0", "vhu1"):
        silence.watch(name, 0, due_at=0.0)
    ids = dict(silence.handle_timer(0.0))
    assert len(set(ids.values())) == 2
    assert not silence.answered("vhu0", ids["vhu1"], 0)


def test_a_guest_that_stopped_or_has_no_worker_is_not_asked_for(silence: Silence) -> None:
    silence.watch("vhu0", 0, due_at=0.0)
    silence.cancel("vhu0")
    assert silence.handle_timer(1.0) == []
    silence.watch("vhu0", 0, due_at=2.0)
    ((_, request),) = silence.handle_timer(2.0)
    silence.cancel("vhu0")
    assert not silence.answered("vhu0", request, 0)
