# SPDX-License-Identifier: Apache-2.0
"""The script of `ovs-vhost try`, and its refusals in one line; nothing is run."""

import shlex
import subprocess
from pathlib import Path

import pytest

from ovs_vhost_plugin import trial
from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.image import Image
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.platform.packages import Program
from ovs_vhost_plugin.lab.trial import Trial

IMAGE = Image(Path("/cache/a kernel"), Path("/cache/initramfs"))


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing", lambda programs, root=True: None)
    monkeypatch.setattr(image, "build", lambda: IMAGE)


def made(directory: str = "/run/x") -> Trial:
    return Trial("ns", Path(directory), IMAGE, "ovs-vhost")


def test_the_dry_run_prints_a_script_that_a_shell_can_read(capsys) -> None:
    assert trial.main(["--dry-run"]) == 0
    text = capsys.readouterr().out
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    assert f"{trial.program()} daemon --detach" in text
    assert "mkdir -m 700 /run/ovs-vhost-try\n" in text and "rm -r /run/ovs-vhost-try\n" in text


def test_the_order_is_that_of_a_person() -> None:
    text = trial.script(made())
    words = ("ip netns add", "ovsdb-server", "ovs-vswitchd", "add-br", "add-port", "qemu-system")
    places = [text.index(word) for word in (*words, "exit --cleanup", "ip netns delete")]
    assert places == sorted(places)
    # A comment, so that a script does not wait for a person.
    assert "#   ovs-vsctl show\n" in text


def test_names_with_spaces_stay_one_word() -> None:
    (command,) = made().machine().commands
    words = shlex.split(command.replace("\\\n", ""))
    assert words[words.index("-kernel") + 1] == "/cache/a kernel"
    assert "lab.shell=1" in words[words.index("-append") + 1].split()


def test_all_programs_find_the_same_switch() -> None:
    names = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
    assert made("/run/y").environment == dict.fromkeys(names, "/run/y")
    assert made("/run/y").export.split() == ["export", *(f"{name}=/run/y" for name in names)]


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_what_is_missing_is_said_in_one_line(options, monkeypatch, capsys) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(packages, "GUEST", (Program("no-such-qemu", "qemu-package"),))
    monkeypatch.setattr(packages, "SWITCH", ())
    assert trial.main(options) == 1
    said = "missing: qemu-package; as root: apt-get install qemu-package"
    assert capsys.readouterr().err == f"ovs-vhost try: {said}\n"


def test_without_a_terminal_nothing_is_made(capsys) -> None:
    assert trial.main([]) == 1
    assert "this is no terminal" in capsys.readouterr().err
