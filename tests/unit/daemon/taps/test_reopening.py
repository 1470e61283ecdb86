# SPDX-License-Identifier: Apache-2.0
"""Which ports the switch is asked to open anew, and when."""

from collections import deque
from dataclasses import replace
from typing import Any

import ovs.poller
import pytest
from support.daemon.ports import PORT

from ovs_vhost_plugin.daemon.ovsdb.database import Snapshot
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec, Switch
from ovs_vhost_plugin.daemon.taps.reopening import RETRY_AFTER, Reopening
from ovs_vhost_plugin.tap import TapError, TapErrorName
from ovs_vhost_plugin.vswitchd.unixctl import Answer, NoAnswer, Question

NOW = 50.0
OPEN = replace(PORT, ofport=3)


class FakeTaps:
    def __init__(self) -> None:
        self.open: set[str] = set()
        self.nudged: list[str] = []
        self.up: list[str] = []
        self.gone = False

    def heard(self, name: str) -> bool:
        return name in self.open

    def set_up(self, name: str) -> None:
        if self.gone:
            raise TapError(TapErrorName.FAILED, "x")
        self.up.append(name)

    def nudge(self, name: str) -> None:
        if self.gone:
            raise TapError(TapErrorName.FAILED, "x")
        self.nudged.append(name)


class FakeSwitchd:
    def __init__(self, rundir: str) -> None:
        self.rundir = rundir
        self.asked: list[Question] = []
        self.answers: deque[Answer | NoAnswer] = deque()
        self.closed = False

    def ask(self, question: Question, now: float) -> None:
        self.asked.append(question)

    def run(self, now: float) -> list[Answer | NoAnswer]:
        answers = list(self.answers)
        self.answers.clear()
        return answers

    def wait(self, poller: Any) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class World:
    def __init__(self, *names: str) -> None:
        self.taps = FakeTaps()
        self.unheard = dict.fromkeys(names, True)
        self.links: list[FakeSwitchd] = []
        self.reopening = Reopening(self.taps, self.unheard, self._connect, lambda: NOW)  # type: ignore[arg-type]

    def _connect(self, rundir: str) -> FakeSwitchd:
        self.links.append(FakeSwitchd(rundir))
        return self.links[-1]

    def run(self, *ports: PortSpec, now: float = NOW, rundir: str = "/run/ovs") -> list[str]:
        """Run once; the ports that the switch is asked to close."""
        switch = Switch(rundir, "", False, frozenset())
        before = len(self.links[-1].asked) if self.links else 0
        self.reopening.run(Snapshot(switch, {port.name: port for port in ports}), now)
        return [question.params[1] for question in self.links[-1].asked[before:]]


@pytest.mark.parametrize("made_here", [True, False])
def test_a_port_that_the_switch_hears_is_up_if_it_is_new(made_here: bool) -> None:
    world = World()
    world.unheard["vhu0"] = made_here
    world.taps.open.add("vhu0")
    assert world.run(OPEN) == [] and not world.unheard
    assert world.taps.up == (["vhu0"] if made_here else [])  # else somebody may want it down


def test_a_tap_that_goes_at_that_moment_is_no_trouble() -> None:
    world = World("vhu0")
    world.taps.open.add("vhu0")
    world.taps.gone = True
    assert world.run(OPEN) == [] and not world.unheard


@pytest.mark.parametrize("port", [PORT, None])
def test_a_port_that_the_switch_has_not_opened_is_waited_for(port: PortSpec | None) -> None:
    world = World("vhu0")
    assert world.run(*([port] if port else [])) == []
    assert world.unheard == {"vhu0": True}
    assert world.run(OPEN) == ["vhu0"]


def test_the_kernels_bridges_are_left_alone() -> None:
    world = World("vhu0")
    assert world.run(replace(OPEN, userspace=False)) == [] and not world.unheard


def test_a_deaf_port_is_closed_then_nudged_then_seen() -> None:
    world = World("vhu0")
    assert world.run(OPEN) == ["vhu0"]
    question = world.links[0].asked[0]
    assert question == Question("dpctl/del-if", ("netdev@ovs-netdev", "vhu0"))
    assert world.run(OPEN) == [] and not world.taps.nudged
    world.links[0].answers.append(Answer(question, ""))
    assert world.run(OPEN) == [] and world.taps.nudged == ["vhu0"]
    world.taps.open.add("vhu0")
    assert world.run(OPEN, now=NOW + RETRY_AFTER) == [] and not world.unheard


@pytest.mark.parametrize("refused", [False, True])
def test_what_fails_is_tried_again(refused: bool) -> None:
    world = World("vhu0")
    world.run(OPEN)
    question = world.links[0].asked[0]
    world.taps.gone = not refused
    world.links[0].answers.append(NoAnswer(question, "x") if refused else Answer(question, ""))
    assert world.run(OPEN) == [] and not world.taps.nudged
    poller = ovs.poller.Poller()
    world.reopening.wait(poller, NOW)
    assert poller.timeout == RETRY_AFTER * 1000
    assert world.run(OPEN, now=NOW + RETRY_AFTER) == ["vhu0"]


def test_a_port_that_is_gone_is_forgotten() -> None:
    world = World("vhu0")
    world.run(OPEN)
    world.unheard.clear()
    world.run()
    world.unheard["vhu0"] = True
    assert world.run(OPEN) == ["vhu0"]


def test_a_port_that_the_switch_closed_by_itself_is_not_waited_for_awake() -> None:
    world = World("vhu0")
    world.run(OPEN)
    world.run(PORT, now=NOW + 2 * RETRY_AFTER)
    poller = ovs.poller.Poller()
    world.reopening.wait(poller, NOW + 2 * RETRY_AFTER)
    assert poller.timeout == -1


def test_another_run_directory_is_another_switch() -> None:
    world = World("vhu0")
    world.run(PORT)
    world.run(PORT, rundir="/elsewhere")
    assert [link.rundir for link in world.links] == ["/run/ovs", "/elsewhere"]
    assert [link.closed for link in world.links] == [True, False]
    world.reopening.close()
    assert world.links[1].closed
