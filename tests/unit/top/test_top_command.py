# SPDX-License-Identifier: Apache-2.0
"""What is asked and printed where there is no terminal; the daemon is a stand-in."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from unit.top.test_top_model import answer

from ovs_vhost_plugin.control import CommandError
from ovs_vhost_plugin.top import command
from ovs_vhost_plugin.top.model import AT_ONCE


class Daemon:
    """Ports whose counters grow by their number, a second at each question of the first of them."""

    def __init__(self, count: int) -> None:
        self.names = [f"p{n:03}" for n in range(count)]
        self.questions: list[list[str]] = []

    def ask(self, _target: str, asked: str, names: Sequence[str]) -> dict[str, Any]:
        assert asked == "vhost/top"
        self.questions.append(list(names))
        now = float(len(self.questions))
        told = {n: {"rx_packets": now * self.names.index(n)} for n in names or self.names[:AT_ONCE]}
        return answer(now, told, *(name for name in self.names if name not in told))


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    made = Daemon(100)
    monkeypatch.setattr(command, "ask", made.ask)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    return made


def test_all_ports_are_asked_some_at_a_time_and_the_busiest_is_first(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--count", "2", "--interval", "0.2", "--sort", "packets", "--format", "json"]
    assert command.main(words) == 0
    assert max(map(len, daemon.questions)) == AT_ONCE
    for line in capsys.readouterr().out.splitlines():
        ports = json.loads(line)["ports"]
        assert len(ports) == 100 and ports[0]["port"] == "p099"
        rates = [one["rx_packets_per_second"] for one in ports]
        assert rates == pytest.approx([*range(99, -1, -1)])


def test_only_some_ports_as_a_table(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--once", "--interval", "0.2", "p007", "p003"]) == 0
    heads, *rows = capsys.readouterr().out.splitlines()
    assert heads.split()[:2] == ["port", "status"]
    assert [row.split()[:3] for row in rows] == [["p003", "running", "3"], ["p007", "running", "7"]]
    assert {name for names in daemon.questions for name in names} == {"p003", "p007"}


@pytest.mark.parametrize(
    "words", [["--interval", "0"], ["--interval", "x"], ["--count", "0"], ["--sort", "size"]]
)
def test_wrong_options_are_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(words)
    assert words[0] in capsys.readouterr().err


def test_a_daemon_of_the_release_before_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise CommandError('"vhost/top" is not a valid command')

    monkeypatch.setattr(command, "ask", refuse)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    with pytest.raises(CommandError, match="systemctl restart ovs-vhost"):
        command.main(["--once"])
