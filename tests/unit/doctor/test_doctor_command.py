# SPDX-License-Identifier: Apache-2.0
"""What the doctor prints and returns, of facts that the test gives; and that it only reads."""

import json
import os
import socket
from pathlib import Path

import pytest

from ovs_vhost_plugin import cli
from ovs_vhost_plugin.doctor import facts
from ovs_vhost_plugin.doctor.facts import Facts, SocketFact, socket_at

WRONG = Facts(kernel=(6, 1), switch="3.1.0", daemon=None)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Facts]:
    given = [WRONG]
    monkeypatch.setattr(facts, "gather", lambda _remote, _target: given[0])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return given


def test_text_and_exit_status(found: list[Facts], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out == (
        "daemon: it does not run\n  mend: systemctl start ovs-vhost\n"
    )


def test_meanings_fit_and_nothing_is_taken_for_markup(
    found: list[Facts], capsys: pytest.CaptureFixture[str]
) -> None:
    found[0] = Facts((6, 1), switch="3.1", errors={"[red]v": "front-end-gives-up: [b]x"})
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "[red]v: front-end-gives-up: [b]x\n" in out and "\x1b" not in out
    others = [line for line in out.splitlines() if not line.startswith("  mend: ")]
    assert len(others) > 2 and max(map(len, others)) <= 80


def test_json(found: list[Facts], capsys: pytest.CaptureFixture[str]) -> None:
    found[0] = Facts((6, 1), switch="3.1", unseen=("the daemon: it sleeps",))
    assert cli.main(["doctor", "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["findings"][0]["about"] == "daemon" and told["unseen"] == ["the daemon: it sleeps"]


def test_what_could_not_be_looked_at_is_an_exit_status_of_its_own(
    found: list[Facts], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ovs_vhost_plugin.doctor import checks

    monkeypatch.setattr(checks, "findings", lambda _: [])
    assert cli.main(["doctor"]) == 0 and capsys.readouterr().out == "nothing is wrong\n"
    found[0] = Facts((6, 1), unseen=("x: y",))
    assert cli.main(["doctor"]) == 2 and capsys.readouterr().out == "not looked at: x: y\n"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["doctor"]) == 2 and "run it as root" in capsys.readouterr().err


def test_what_is_at_a_path(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        assert socket_at(str(tmp_path / "s")) == SocketFact(True)
    (tmp_path / "f").touch()
    assert socket_at(str(tmp_path / "f")) == SocketFact(False, "is no socket")
    assert "No such file" in socket_at(str(tmp_path / "none")).why
    assert not socket_at("a\0b").there


def test_the_cache_is_looked_at_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "cache"
    monkeypatch.setenv("OVS_VHOST_CACHE_DIR", str(place))
    assert facts._cache() == "" and not place.exists()
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    assert facts._cache().startswith("cache-not-trusted: ")
    assert list(place.iterdir()) == []
