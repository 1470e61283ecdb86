# SPDX-License-Identifier: Apache-2.0
"""Which ports the switch is asked to open anew, and when."""

from dataclasses import replace

import pytest
from support.daemon.ports import PORT

from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.daemon.ovsdb.switch_row import Switch
from ovs_vhost_plugin.daemon.taps.reopening import RETRY_AFTER, TapReopener
from ovs_vhost_plugin.tap import TapError, TapErrorName
from ovs_vhost_plugin.vswitchd.unixctl import Answer, NoAnswer, Question, Then

NOW = 50.0
OPEN = replace(PORT, ofport=3)


class FakeTaps:
    def __init__(self) -> None:
        self.open: set[str] = set()
        self.events: list[str] = []
        self.up: list[str] = []
        self.gone = False

    def is_open_in_switch(self, name: str) -> bool:
        return name in self.open

    def set_up(self, name: str) -> None:
        if self.gone:
            raise TapError(TapErrorName.FAILED, "x")
        self.up.append(name)

    def link_event(self, name: str) -> None:
        if self.gone:
            raise TapError(TapErrorName.FAILED, "x")
        self.events.append(name)


class FakeSwitchd:
    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.then: Then | None = None

    def ask(self, question: Question, then: Then, now: float) -> None:
        self.asked.append(question)
        self.then = then

    def answer(self, answer: Answer | NoAnswer) -> None:
        assert self.then is not None
        self.then(answer, NOW)


class World:
    def __init__(self, *names: str) -> None:
        self.taps = FakeTaps()
        self.unopened = dict.fromkeys(names, True)
        self.switchd = FakeSwitchd()
        self.reopener = TapReopener(self.taps, self.unopened, self.switchd, lambda: NOW)  # type: ignore[arg-type]

    def run(self, *ports: PortSpec, now: float = NOW) -> list[str]:
        """Run once; the ports that the switch is asked to close."""
        switch = Switch("/run/ovs", "", False, frozenset())
        before = len(self.switchd.asked)
        snapshot = Snapshot(switch, {port.name: port for port in ports})
        self.reopener.run(set() if now > NOW else {"vhu0"}, snapshot, now)
        return [question.params[1] for question in self.switchd.asked[before:]]


@pytest.mark.parametrize("made_here", [True, False])
def test_a_port_that_the_switch_hears_is_up_if_it_is_new(made_here: bool) -> None:
    world = World()
    world.unopened["vhu0"] = made_here
    world.taps.open.add("vhu0")
    assert world.run(OPEN) == [] and not world.unopened
    assert world.taps.up == (["vhu0"] if made_here else [])  # else somebody may want it down


def test_a_tap_that_goes_at_that_moment_is_no_trouble() -> None:
    world = World("vhu0")
    world.taps.open.add("vhu0")
    world.taps.gone = True
    assert world.run(OPEN) == [] and not world.unopened


@pytest.mark.parametrize("port", [PORT, None])
def test_a_port_that_the_switch_has_not_opened_is_waited_for(port: PortSpec | None) -> None:
    world = World("vhu0")
    assert world.run(*([port] if port else [])) == []
    assert world.unopened == {"vhu0": True}
    assert world.run(OPEN) == ["vhu0"]


def test_the_kernels_bridges_are_left_alone() -> None:
    world = World("vhu0")
    assert world.run(replace(OPEN, userspace=False)) == [] and not world.unopened


def test_a_deaf_port_is_closed_then_told_then_seen() -> None:
    world = World("vhu0")
    assert world.run(OPEN) == ["vhu0"]
    (question,) = world.switchd.asked
    assert question == Question("dpctl/del-if", ("netdev@ovs-netdev", "vhu0"))
    assert world.run(OPEN) == [] and not world.taps.events
    world.switchd.answer(Answer(""))
    assert world.run(OPEN) == [] and world.taps.events == ["vhu0"]
    world.taps.open.add("vhu0")
    assert world.run(OPEN, now=NOW + RETRY_AFTER) == [] and not world.unopened


@pytest.mark.parametrize("refused", [False, True])
def test_what_fails_is_tried_again(refused: bool) -> None:
    world = World("vhu0")
    world.run(OPEN)
    world.taps.gone = not refused
    world.switchd.answer(NoAnswer("x") if refused else Answer(""))
    assert world.run(OPEN) == [] and not world.taps.events
    assert world.reopener.get_timer() == NOW + RETRY_AFTER
    assert world.run(OPEN, now=NOW + RETRY_AFTER) == ["vhu0"]


def test_a_port_that_is_gone_is_forgotten() -> None:
    world = World("vhu0")
    world.run(OPEN)
    world.unopened.clear()
    world.run()
    world.unopened["vhu0"] = True
    assert world.run(OPEN) == ["vhu0"]


def test_a_port_that_the_switch_closed_by_itself_is_not_waited_for_awake() -> None:
    world = World("vhu0")
    world.run(OPEN)
    world.run(PORT, now=NOW + 2 * RETRY_AFTER)
    assert world.reopener.get_timer() is None
