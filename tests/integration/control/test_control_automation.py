# SPDX-License-Identifier: Apache-2.0
"""docs/automation.md and its examples, run on a switch: recipes, script, playbook, controller."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import TOP
from support.control.puppet import PORT, FrontEnd
from support.system.page import blocks

from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import Process, wait_until

pytestmark = pytest.mark.integration

EXAMPLES = TOP / "examples"
PORTS = {"vhu0": "52:54:00:12:34:56", "vhu1": "52:54:00:12:34:57"}


@pytest.fixture
def env(host) -> dict[str, str]:
    """An administrator's environment on the host; `ovs-vhost` is this one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, **host.switch.env, "PATH": path}


def run(env: dict[str, str], *words: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def names(host) -> set[str]:
    return set(host.switch.vsctl("list-ports", "br0").split())


def test_the_recipes_work_one_after_the_other(host, env) -> None:
    add, wait, find, change, remove = blocks("automation.md", "sh")
    directory = str(host.directory)
    for recipe in (add, add, wait):
        run(env, "sh", "-ec", recipe.replace("/run/vm", directory))
    assert names(host) == set(PORTS)
    found = json.loads(run(env, "sh", "-ec", find).stdout)
    assert {name for name, _ in found["data"]} <= set(PORTS)
    assert host.switch.vsctl("get", "Port", "vhu1", "tag") == "7"
    number = host.wait_ofport("vhu0")
    run(env, "sh", "-ec", change.replace("/run/vm", directory))
    host.wait_status_of("vhu0", lambda status: status.get("socket") == f"{directory}/other.sock")
    assert host.wait_ofport("vhu0") == number
    for _ in range(2):
        run(env, "sh", "-ec", remove)
    assert names(host) == set()


def test_the_script_makes_a_port_and_says_what_is_wrong(host, env) -> None:
    def words(port: str, *settings: str) -> list[str]:
        script = str(EXAMPLES / "ensure_port.sh")
        return [script, "br0", port, f"{host.directory}/{port}.sock", *settings]

    for _ in range(2):
        assert run(env, *words("vhu0")).stdout == "connecting\n"
    wrong = words("vhu1", "external_ids:vhost-user-queues=0")
    told = run({**env, "TIMEOUT": "1"}, *wrong, status=1)
    assert 'vhu1: "queues-invalid: ' in told.stderr
    assert run(env, *words("vhu1", "external_ids:vhost-user-queues=2")).stdout == "connecting\n"


@pytest.fixture
def playbook(require, host, env, tmp_path):
    """Runs the playbook on the host, by the connection `local`; its tasks' numbers by name."""
    words = packages.missing(packages.AUTOMATION)
    require(words is None, words)
    ports = [
        {"name": name, "socket": f"{host.directory}/{name}.sock", "mac": mac}
        for name, mac in PORTS.items()
    ]
    own = {"HOME": str(tmp_path), "ANSIBLE_LOCALHOST_WARNING": "0", "LC_ALL": "C.UTF-8"}
    own |= {"ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"}
    python = f"ansible_python_interpreter={sys.executable}"

    def played() -> dict[str, int]:
        command = ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", python, "-e"]
        command += [json.dumps({"vhost_ports": ports}), str(EXAMPLES / "ports.yml")]
        told = run({**env, **own}, *host.namespace.argv(*command)).stdout
        return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", told)}

    return played


def test_the_playbook_adds_ports_and_changes_nothing_when_it_runs_again(host, playbook) -> None:
    first = playbook()
    assert (first["changed"], first["failed"]) == (1, 0)
    assert names(host) == set(PORTS)
    for name, mac in PORTS.items():
        assert host.switch.interface(name, "external_ids:attached-mac") == mac
    again = playbook()
    assert (again["changed"], again["failed"], again["skipped"]) == (0, 0, 1)


def test_the_controller_marks_ports_with_guests(host, env, tmp_path) -> None:
    path = host.add_server_port(PORT)
    host.wait_status(PORT, "listening")
    words = [sys.executable, str(EXAMPLES / "controller.py")]
    program = Process(words, tmp_path / "output", env=env)
    try:
        host.switch.wait_until("Interface", PORT, "external_ids:iface-status=inactive")
        front_end = FrontEnd(host, PORT, path)
        front_end.status("running")
        host.switch.wait_until("Interface", PORT, "external_ids:iface-status=active")
        front_end.status("connected")
        host.switch.wait_until("Interface", PORT, "external_ids:iface-status=inactive")
        host.add_client_port("vhu1", None, "external_ids:vhost-user-queues=0")
        wait_until(lambda: "vhu1: queues-invalid: " in program.output.read_text(), "the error")
        front_end.close()
    finally:
        # The program of `watch` is its child: both are ended.
        os.killpg(program.pid, 15)
        program.wait(60)
