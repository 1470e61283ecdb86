# SPDX-License-Identifier: Apache-2.0
from ovs_vhost_plugin.announce.guests.rounds import Rounds
from ovs_vhost_plugin.announce.policy import Policy


def times(rounds: Rounds, until: float = 100.0) -> list[tuple[float, str, str]]:
    """Run on a clock that jumps to where it is asked to."""
    found = []
    while (at := rounds.get_timer()) is not None and at < until:
        found += [(round(at, 6), port, trigger) for port, trigger in rounds.handle_timer(at)]
    return found


def test_the_rounds_after_the_first_come_when_qemus_do():
    rounds = Rounds()
    rounds.begin("vhu0", "moved-in", Policy(), 10.0)
    assert rounds.handle_timer(10.0) == []
    assert times(rounds) == [(at, "vhu0", "moved-in") for at in (10.05, 10.2, 10.45, 10.8)]
    assert rounds.get_timer() is None


def test_one_round_is_all():
    rounds = Rounds()
    rounds.begin("vhu0", "moved-in", Policy(rounds=1), 10.0)
    assert rounds.get_timer() is None


def test_a_late_turn_does_not_delay_the_rounds_after_it():
    rounds = Rounds()
    rounds.begin("vhu0", "moved-in", Policy(), 0.0)
    assert rounds.handle_timer(0.1) == [("vhu0", "moved-in")]
    assert round(rounds.get_timer(), 6) == 0.2


def test_a_new_series_takes_the_place_of_the_old_and_ports_have_their_own():
    rounds = Rounds()
    rounds.begin("vhu0", "moved-in", Policy(rounds=2), 0.0)
    rounds.begin("vhu1", "moved-in", Policy(rounds=2), 0.01)
    rounds.begin("vhu0", "port-moved", Policy(rounds=2), 0.02)
    assert times(rounds) == [(0.06, "vhu1", "moved-in"), (0.07, "vhu0", "port-moved")]


def test_a_cancelled_series_ends():
    rounds = Rounds()
    rounds.begin("vhu0", "moved-in", Policy(), 0.0)
    rounds.cancel("vhu0")
    rounds.cancel("vhu0")
    assert times(rounds) == []
