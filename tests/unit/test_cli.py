# SPDX-License-Identifier: Apache-2.0
"""The command line and what is printed, without a daemon."""

import json
from pathlib import Path

import ovs.dirs
import pytest

from ovs_vhost_plugin import __version__, cli, render
from ovs_vhost_plugin.common import dirs


@pytest.fixture(autouse=True)
def _bindings_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNDIR", "LOGDIR"):
        monkeypatch.setattr(ovs.dirs, name, getattr(ovs.dirs, name))


SHOW = {
    "version": "1",
    "pid": 7,
    "database": "unix:x",
    "standing": "active",
    "sandbox": "complete",
    "metrics": "metrics-not-served: x",
    "stuck": [],
    "ports": [
        {
            "name": "vhu0",
            "bridge": "br0",
            "ofport": None,
            "mode": "client",
            "socket": "/run/[red]x",
            "status": "running",
            "error": "header-version: [bold]version 3",
            "queues": 4,
            "mtu": None,
            "finish_offloads": True,
            "host_stack": "host-stack-open: why",
            "vring_sizes": [256, 256],
            "announced": "",
            "worker": {"version": "0.0", "outdated": "an older release"},
        }
    ],
    "leftovers": {"vhu2": "tap-held: y"},
    "wrong_rows": {"vhu1": "mode-unknown: x"},
    "faults": {"mode-unknown": 1},
}


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_show_is_plain_text_and_takes_nothing_for_markup() -> None:
    text = render.show(SHOW)
    rows = lines(text)
    assert rows[2] == ["metrics:", "metrics-not-served:", "x"]
    assert rows[5][:8] == ["vhu0", "br0", "-", "running", "client", "1/4", "-", "finished"]
    assert "/run/[red]x" in rows[5]
    assert ["vhu0", "header-version:", "[bold]version", "3"] in rows
    assert ["vhu0", "host-stack-open:", "why"] in rows
    assert ["vhu1", "mode-unknown:", "x"] in rows
    assert ["vhu2", "tap-held:", "y"] in rows
    assert ["vhu0", "0.0", "an", "older", "release"] in rows
    assert text.isascii() and "\x1b" not in text


def test_show_without_ports_says_how_to_add_one() -> None:
    text = render.show({**SHOW, "ports": [], "leftovers": {}, "wrong_rows": {}, "faults": {}})
    assert "ovs-vsctl add-port" in text


def test_stats_of_one_and_of_several_pairs() -> None:
    pair = {"rx_packets": 2, "tx_packets": 0}
    data = {
        "ports": {
            "one": {"status": "running", "queue_pairs": [pair], "errors": {"header-version": 3}},
            "two": {"status": "running", "queue_pairs": [pair, pair], "errors": {}},
            "idle": {"status": "listening", "queue_pairs": [{"rx_packets": 0}], "errors": {}},
        },
        "missing": ["gone"],
    }
    rows = lines(render.stats(data))
    assert ["rx_packets", "2"] in rows and ["rx_packets", "4", "2", "2"] in rows
    assert ["tx_packets", "0"] not in rows
    assert ["header-version", "3"] in rows
    assert ["gone:", "its", "worker", "did", "not", "answer"] in rows
    assert ["no", "packets", "yet"] in rows
    assert json.loads(render.as_json(data)) == data


def test_stats_show_what_the_guest_uses_beside_its_counters() -> None:
    station = {"mac": "52:54:00:00:00:01", "vlan": 7, "router": False}
    station |= {"ipv4": ["10.0.0.2", "10.0.0.3"], "ipv6": []}
    port = {"status": "running", "queue_pairs": [{"rx_packets": 1}], "addresses": [station]}
    rows = lines(render.stats({"ports": {"one": port}, "missing": []}))
    assert ["52:54:00:00:00:01", "7", "10.0.0.2", "10.0.0.3", "-"] in rows


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (
            {"outcome": "learned", "milliseconds": 2.345, "reason": ""},
            "vhu0: 52:54:00:00:00:01 learned on br0 port 3 in 2.3 ms\n",
        ),
        (
            {"outcome": "not-learned", "milliseconds": None, "reason": "no ofport"},
            "vhu0: 52:54:00:00:00:01 not-learned: no ofport\n",
        ),
    ],
)
def test_an_announcement(outcome: dict[str, object], text: str) -> None:
    data = {"port": "vhu0", "mac": "52:54:00:00:00:01", "bridge": "br0", "ofport": 3, **outcome}
    assert render.announcement(data) == text


@pytest.mark.parametrize(
    ("outcome", "status"), [("learned", 0), ("active", 0), ("blocked", 1), ("not-learned", 1)]
)
def test_whether_an_announcement_worked_is_in_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, outcome: str, status: int
) -> None:
    data = {"port": "vhu0", "mac": "52:54:00:00:00:01", "bridge": "br0", "ofport": 3}
    data |= {"outcome": outcome, "milliseconds": None, "reason": ""}
    monkeypatch.setattr(cli, "ask", lambda *_: data)
    assert cli.main(["announce", "vhu0"]) == status


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"ovs-vhost {__version__}\n"


@pytest.mark.parametrize("argv", [[], ["fly"], ["show", "extra"], ["announce"]])
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 2
    assert "usage: ovs-vhost" in capsys.readouterr().err


def test_options_of_a_command_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(cli, "_main_of", lambda module, argv: seen.append((module, argv)) or 3)
    assert cli.main(["demo", "--guest", "soft", "-v"]) == 3
    assert cli.main(["daemon", "--detach", "unix:x"]) == 3
    assert seen == [
        ("ovs_vhost_plugin.demo", ["--guest", "soft", "-v"]),
        ("ovs_vhost_plugin.daemon", ["--detach", "unix:x"]),
    ]


def test_no_daemon_says_how_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OVS_RUNDIR", str(tmp_path))
    for argv in (["show"], ["show", "--target", str(tmp_path / "none.ctl")]):
        assert cli.main(argv) == 1
        assert "the daemon is not running; start it with" in capsys.readouterr().err


def test_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVS_RUNDIR", str(tmp_path))
    assert dirs.set_up() == tmp_path
    monkeypatch.delenv("OVS_RUNDIR")
    monkeypatch.setattr(ovs.dirs, "RUNDIR", str(tmp_path / "no-such"))
    assert dirs.set_up() == Path("/var/run/openvswitch")
    # A distribution's bindings know better.
    monkeypatch.setattr(ovs.dirs, "RUNDIR", str(tmp_path))
    assert dirs.set_up() == tmp_path
