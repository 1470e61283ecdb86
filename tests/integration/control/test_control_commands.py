# SPDX-License-Identifier: Apache-2.0
"""The daemon as people start, ask and end it: ovs-appctl, `ovs-vhost`, signals."""

import json
import os
import signal
import subprocess
import sys

import pytest
from support.checkout import TOP

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.integration


def ovs_vhost(host, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ovs-vhost ARGUMENTS` of this host."""
    return subprocess.run(
        [sys.executable, "-m", "ovs_vhost_plugin", *arguments],
        env={**os.environ, **host.switch.env, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def target(host) -> tuple[str, str]:
    return "--target", f"{host.directory}/ovs-vhost.{host.daemon.pid}.ctl"


def test_ovs_appctl_finds_what_every_daemon_of_the_family_has(host) -> None:
    commands = host.appctl("list-commands")

    for command in ("exit", "version", "vlog/set", "vlog/list", "vlog/reopen", "vhost/show"):
        assert f"  {command} " in commands
    assert host.appctl("version").strip() == f"ovs-vhost {__version__}"
    assert "vhost_ports" in host.appctl("vlog/list")


def test_show_tells_of_ports_and_wrong_rows(host) -> None:
    assert "ovs-vsctl add-port" in ovs_vhost(host, "show", *target(host)).stdout
    host.add_client_port("vhu0", None, "mtu_request=1400")
    host.add_server_port("vhu1", "external_ids:vhost-user-queues=0")
    host.wait_status("vhu0", "connecting")
    host.wait_status("vhu1", "error")

    def row() -> list[str]:
        lines = host.appctl("vhost/show").splitlines()
        return next(line.split() for line in lines if line.startswith("vhu0"))

    wait_until(lambda: row()[2] == "1", "the daemon knows the port's number")
    text = ovs_vhost(host, "show", *target(host)).stdout
    assert text == host.appctl("vhost/show")
    assert row()[:5] == ["vhu0", "br0", "1", "connecting", "client"] and row()[6] == "1400"
    assert "queues-invalid: set external_ids:vhost-user-queues to 1 to 128" in text
    as_json = json.loads(ovs_vhost(host, "show", "-f", "json", *target(host)).stdout)
    assert [port["name"] for port in as_json["ports"]] == ["vhu0"]
    assert list(as_json["wrong_rows"]) == ["vhu1"]


def test_stats_add_up_the_queue_pairs(host) -> None:
    host.add_client_port("vhu0")
    host.wait_status("vhu0", "connecting")

    text = ovs_vhost(host, "stats", "vhu0", *target(host)).stdout

    row = next(line.split() for line in text.splitlines() if "rx_packets" in line)
    assert row == ["rx_packets", "7", "3", "4"]


def test_announce_by_hand_is_learned_and_published(host) -> None:
    host.add_client_port("vhu0", None, "external_ids:attached-mac=52:54:00:00:00:07")
    ofport = host.wait_ofport("vhu0")
    host.wait_status("vhu0", "connecting")

    done = ovs_vhost(host, "announce", "vhu0", *target(host))

    assert done.returncode == 0
    assert done.stdout.startswith(f"vhu0: 52:54:00:00:00:07 learned on br0 port {ofport} in ")
    assert host.switch.fdb("br0")["52:54:00:00:00:07"] == (str(ofport), 0)
    announced = host.wait_status_of("vhu0", lambda status: "announced" in status)["announced"]
    assert announced.startswith("52:54:00:00:00:07 learned ")
    assert "nothing has been held" in ovs_vhost(host, "hold-log", *target(host)).stdout
    log = json.loads(ovs_vhost(host, "announce-log", "vhu0", "-f", "json", *target(host)).stdout)
    [entry] = log["announcements"]
    assert (entry["trigger"], entry["outcome"], entry["ofport"]) == ("manual", "learned", ofport)
    assert entry["received_at"] <= entry["sent_at"] <= entry["learned_at"] <= log["now"]
    assert (
        "nothing has been announced" in ovs_vhost(host, "announce-log", "x", *target(host)).stdout
    )
    # It stays published when a daemon that knows nothing of it follows.
    host.stop_daemon()
    host.start_daemon()
    host.add_client_port("vhu1")
    host.wait_status("vhu1", "connecting")
    assert host.status("vhu0")["announced"] == announced


def test_a_guest_that_comes_is_told_of(host) -> None:
    assert "no guest has migrated" in ovs_vhost(host, "migrations", *target(host)).stdout
    path = host.add_server_port("vhu1")
    host.wait_ofport("vhu1")
    host.wait_status("vhu1", "listening")
    connect = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); input()"
    with subprocess.Popen([sys.executable, "-c", connect], stdin=subprocess.PIPE) as front_end:
        host.wait_status_of("vhu1", lambda status: "announced" in status)
        answer = ovs_vhost(host, "migrations", "vhu1", "-f", "json", *target(host)).stdout
        front_end.communicate(b"\n")

    (move,) = json.loads(answer)["migrations"]
    assert (move["way"], move["trigger"], move["port"]) == ("comes", "send-rarp", "vhu1")
    steps = [step["event"] for step in move["timeline"]]
    assert [one for one in steps if one != "rings-run"] == [
        "announcement-asked-for",
        "announced",
        "learned",
    ]
    assert move["announced"] == {"525400000001.0": "learned"}
    assert "vhu1: its guest " in host.appctl("vhost/migrations", "vhu1")
    assert "no guest has migrated" in host.appctl("vhost/migrations", "vhu2")

    host.stop_daemon()
    host.start_daemon()

    def first() -> dict[str, object] | None:
        told = json.loads(host.appctl("vhost/migrations", "--format", "json"))["migrations"]
        return told[0] if told else None

    after = wait_until(first, "the moves that the daemon before has seen")
    assert after["timeline"][: len(steps)] == move["timeline"]


def test_send_rarp_is_announced(host) -> None:
    path = host.add_server_port("vhu1")
    ofport = host.wait_ofport("vhu1")
    host.wait_status("vhu1", "listening")
    connect = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); input()"
    with subprocess.Popen([sys.executable, "-c", connect], stdin=subprocess.PIPE) as front_end:
        announced = host.wait_status_of("vhu1", lambda status: "announced" in status)
        front_end.communicate(b"\n")

    assert announced["announced"].startswith("52:54:00:00:00:01 learned ")
    assert host.switch.fdb("br0")["52:54:00:00:00:01"] == (str(ofport), 0)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["stats", "nope"], "nope: no such vhost-user port"),
        (["announce", "vhu0"], "the MAC of vhu0's guest is not known yet"),
        (["announce", "vhu0", "52:54"], "'52:54' is no MAC address"),
    ],
)
def test_what_cannot_be_done_is_said(host, command: list[str], words: str) -> None:
    host.add_client_port("vhu0")
    host.wait_status("vhu0", "connecting")

    done = ovs_vhost(host, *command, *target(host))

    assert done.returncode == 1
    assert done.stderr.startswith(f"ovs-vhost: {words}")


def test_without_a_daemon_the_way_to_start_it_is_said(make_host) -> None:
    host = make_host(daemon=False)

    done = ovs_vhost(host, "show")

    assert done.returncode == 1
    assert done.stderr.startswith("ovs-vhost: the daemon is not running; start it with ")


def test_the_daemon_detaches_and_is_found_by_its_name(make_host) -> None:
    host = make_host(daemon=False)
    pidfile = host.directory / "ovs-vhost.pid"

    # Returns when nobody holds its output any more, neither daemon nor fork server.
    started = ovs_vhost(host, "daemon", "--detach", "--log-file", "-vconsole:off")

    pid = int(pidfile.read_text())
    try:
        assert started.returncode == 0
        shown = ovs_vhost(host, "show")
        assert f"pid {pid}" in shown.stdout
        again = ovs_vhost(host, "daemon", "--detach")
        assert again.returncode == 1
        assert f"already running as pid {pid}" in again.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not pidfile.exists(), "end of the daemon")
    assert "serving unix:" in host.log.read_text()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--sock-mode=rw", "'rw' is no octal mode"),
        ("--sock-owner=nobody-of-this-name", "no user 'nobody-of-this-name'"),
        ("--worker-user=0:no-such-group", "no group 'no-such-group'"),
        ("--db=unix:x", "the database is given twice"),
    ],
)
def test_wrong_options_are_named(make_host, option: str, words: str) -> None:
    host = make_host(daemon=False)

    done = ovs_vhost(host, "daemon", "unix:y", option)

    assert done.returncode == 2
    assert words in done.stderr


def test_the_log_can_be_lines_of_json(make_host) -> None:
    host = make_host(daemon_options=("--log-format=json",))
    host.add_client_port("vhu0", None, "external_ids:vhost-user-queues=0")
    host.wait_status("vhu0", "error")
    host.appctl("vlog/reopen")
    host.add_client_port("vhu1", None, "external_ids:vhost-user-queues=x")
    host.wait_status("vhu1", "error")

    lines = [json.loads(line) for line in host.log.read_text().splitlines()]

    for name in ("vhu0", "vhu1"):
        (line,) = [one for one in lines if one["message"].startswith(f"{name}: queues-invalid: ")]
        assert (line["level"], line["module"]) == ("warn", "vhost_loop")
    assert {line["pid"] for line in lines} == {host.daemon.pid}


def test_the_doctor_finds_what_is_wrong_and_is_content_once_it_is_mended(host) -> None:
    words = ("doctor", "--db", host.switch.db, "--format", "json", *target(host))
    host.add_client_port("vhu0", None, "external_ids:vhost-user-queues=0")
    host.add_client_port("vhu1")
    host.wait_status("vhu0", "error")
    host.wait_status("vhu1", "connecting")
    rows = host.switch.vsctl("list", "Interface")

    done = ovs_vhost(host, *words)

    assert done.returncode == 1, done.stderr
    found = {one["about"]: one for one in json.loads(done.stdout)["findings"]}
    assert found.keys() >= {"vhu0", "vhu1"}
    assert found["vhu0"]["what"].startswith("queues-invalid: ")
    assert "No such file" in found["vhu1"]["what"]
    assert host.switch.vsctl("list", "Interface") == rows
    mend = found["vhu0"]["mend"].split()
    assert mend[0] == "ovs-vsctl"
    host.switch.vsctl(*mend[1:])
    host.wait_status("vhu0", "connecting")
    again = json.loads(ovs_vhost(host, *words).stdout)["findings"]
    assert "queues-invalid" not in json.dumps(again)


def test_the_doctor_finds_a_daemon_and_a_switch_that_do_not_run(host) -> None:
    host.stop_daemon()
    host.switch.stop_vswitchd()
    words = ("doctor", "--db", host.switch.db)
    done = ovs_vhost(host, *words)
    assert done.returncode == 1
    assert "daemon: it does not run\n  mend: systemctl start ovs-vhost\n" in done.stdout
    assert "switch: ovs-vswitchd does not run\n" in done.stdout
    host.switch.start_vswitchd()
    host.start_daemon()
