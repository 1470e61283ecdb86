# SPDX-License-Identifier: Apache-2.0
"""What the doctor finds wrong of a machine, and what it says mends it."""

import shlex
from dataclasses import replace
from typing import Any

import pytest

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.doctor import checks
from ovs_vhost_plugin.doctor.checks import Finding, findings, notes
from ovs_vhost_plugin.doctor.facts import Facts, SocketFact
from ovs_vhost_plugin.doctor.names import entries

PORT: dict[str, Any] = {
    "name": "vhu0",
    "bridge": "br0",
    "mode": "client",
    "socket": "/run/vm.sock",
    "status": "running",
    "error": "",
    "finish_offloads": True,
    "host_stack": "",
    "worker": {"outdated": ""},
}
SHOWN: dict[str, Any] = {
    "version": __version__,
    "standing": "active",
    "sandbox": "complete",
    "metrics": "",
    "stuck": [],
    "leftovers": {},
    "wrong_rows": {},
    "ports": [PORT],
}
WELL = Facts(kernel=(6, 1), remote="unix:x", switch="3.1.0", daemon=SHOWN)


def of_daemon(**changes: Any) -> Facts:
    return replace(WELL, daemon={**SHOWN, **changes})


def of_port(**changes: Any) -> Facts:
    return of_daemon(ports=[{**PORT, **changes}])


def only(facts: Facts) -> Finding:
    (found,) = findings(facts)
    return found


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert findings(WELL) == [] and notes(WELL) == []


@pytest.mark.parametrize(
    ("facts", "about", "what", "mend"),
    [
        (replace(WELL, kernel=(5, 9)), "kernel", "Linux 5.9 is older than 5.10", "boot a later"),
        (replace(WELL, tun="No such file"), "kernel", "/dev/net/tun: No such", "modprobe tun"),
        (replace(WELL, cache="cache-not-trusted: x"), "cache", "cache-not-trusted: x", "chown -R"),
        (replace(WELL, database="no"), "database", "unix:x: no", "systemctl start openvswitch"),
        (replace(WELL, switch=""), "switch", "does not run", "systemctl start openvswitch"),
        (replace(WELL, switch="2.17.9"), "switch", "2.17.9 is older than 3.1", "apt install"),
        (replace(WELL, daemon=None), "daemon", "it does not run", "systemctl start ovs-vhost"),
        (of_daemon(version="0.0"), "daemon", "of release 0.0", "systemctl restart ovs-vhost"),
        (of_daemon(standing="another daemon"), "daemon", "another daemon", "ovs-appctl -t"),
        (of_daemon(standing="waiting for x"), "daemon", "waiting", "systemctl start openvswitch"),
        (of_daemon(sandbox="without y"), "daemon", "sandbox is without y", "docs/security.md"),
        (of_daemon(metrics="metrics-not-served: z"), "metrics", "metrics-not-served: z", "text"),
        (of_daemon(stuck=[{"name": "v", "pid": 7}]), "v", "pid 7", "cat /proc/7/stack"),
        (of_daemon(leftovers={"v": "tap-held: w"}), "v", "tap-held: w", "fuser"),
        (of_port(host_stack="host-stack-open: no"), "vhu0", "host-stack-open", "CONFIG_NF_TABLES"),
        (of_port(worker={"outdated": "older"}), "vhu0", "older", "ovs-vhost upgrade vhu0"),
        (of_port(status="listening"), "vhu0", "no VM has connected", "start the VM"),
        (of_port(status="connected"), "vhu0", "no driver", "modprobe virtio_net"),
        (of_port(status="starting"), "vhu0", "not ready", "ovs-vhost watch vhu0"),
    ],
)
def test_a_finding_says_what_and_how_to_mend_it(
    facts: Facts, about: str, what: str, mend: str
) -> None:
    found = only(facts)
    assert found.about == about and what in found.what and mend in found.mend


def test_an_error_has_its_meaning_and_where_one_command_mends_it_that() -> None:
    row = only(of_daemon(wrong_rows={"vhu1": "queues-invalid: set it"}))
    assert row.about == "vhu1" and "1 to 128" in row.means
    assert row.mend == "ovs-vsctl remove Interface vhu1 external_ids vhost-user-queues"
    port = only(of_port(status="connecting", error="socket-denied: x"))
    assert port.means == entries()["socket-denied"].means
    assert port.mend == entries()["socket-denied"].do
    assert only(of_port(error="unheard-of: x")).mend == "journalctl -u ovs-vhost"


def test_a_warning_of_a_row_is_told_once() -> None:
    wrong = {"vhu0": "offloads-unknown: x"}
    port = {**PORT, "error": "offloads-unknown: x"}
    assert only(of_daemon(wrong_rows=wrong, ports=[port])).about == "vhu0"


def test_a_port_that_connects_is_told_of_by_what_is_at_its_path() -> None:
    facts = of_port(status="connecting")
    there, gone = SocketFact(True), SocketFact(False, "No such file or directory")
    assert "ss -xlp" in only(replace(facts, sockets={"vhu0": there})).mend
    found = only(replace(facts, sockets={"vhu0": gone}))
    assert "/run/vm.sock: No such file" in found.what and "start the VM" in found.mend


def test_without_a_daemon_the_database_tells_of_ports() -> None:
    facts = replace(WELL, daemon=None, errors={"vhu0": "tap-foreign: x"})
    assert [one.about for one in findings(facts)] == ["daemon", "vhu0"]
    assert findings(facts)[1].mend == "ip link del vhu0"


def test_a_command_is_safe_to_copy_whatever_a_row_is_called() -> None:
    evil = "x; rm -rf /\n$(id)"
    found = only(of_daemon(wrong_rows={evil: "queues-invalid: x"}))
    assert shlex.split(found.mend)[3] == evil.replace("\n", r"\n") and "\n" not in found.about
    port = {**PORT, "socket": evil, "status": "connecting"}
    assert len(shlex.split(only(of_daemon(ports=[port])).mend)) == 4


def test_offloads_that_the_port_finishes_are_a_note_and_no_finding() -> None:
    facts = replace(WELL, userspace=frozenset({"vhu0"}))
    (note,) = notes(facts)
    assert "userspace-tso-enable=true" in note and "vhu0" in note and findings(facts) == []
    assert notes(replace(facts, takes_offloads=True)) == []
    assert notes(replace(facts, daemon=None)) == []


def test_commands_are_of_names_that_there_are() -> None:
    assert checks._COMMANDS.keys() <= entries().keys()
