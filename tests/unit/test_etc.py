# SPDX-License-Identifier: Apache-2.0
"""What etc/ installs: names only what exists, and systemd finds little to expose."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkout import TOP

from ovs_vhost_plugin import cli
from ovs_vhost_plugin.common.dirs import PROGRAM
from ovs_vhost_plugin.daemon.workers.uids import MACHINE
from ovs_vhost_plugin.jit import cache

ETC = TOP / "etc"
UNIT = ETC / "systemd" / "system" / "ovs-vhost.service"
TMPFILES = ETC / "tmpfiles.d" / "ovs-vhost.conf"
COMPLETION = ETC / "bash_completion.d" / "ovs-vhost"
FILES = sorted(path for path in ETC.rglob("*") if path.is_file())
MOST_EXPOSURE = 29  # of 100: below 3 of 10, as it is shown

_LONG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_OTHERS = {
    "exit --cleanup": {"--cleanup"},
    "dh_installsystemd": {"--with", "--buildsystem", "--restart-after-upgrade"},
    "ovs-vsctl": {"--timeout", "--bare", "--no-headings", "--columns"},
}
"""Options of other programs in etc/, and of the daemon's commands."""


def known() -> set[str]:
    """All long options of the daemon and of the commands."""
    parsers = [command.parser() for command in cli.COMMANDS.values()]
    found = {w for parser in parsers for action in parser._actions for w in action.option_strings}
    return {word for word in found if word.startswith("--")}


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_options_named_in_etc_exist(path: Path) -> None:
    text = path.read_text()
    others = {word for name, words in _OTHERS.items() if name in text for word in words}
    assert set(_LONG.findall(text)) <= known() | others


def test_the_completion_knows_all_options_and_commands() -> None:
    text = COMPLETION.read_text()
    assert known() - set(_LONG.findall(text)) == set()
    first = re.search(r'"\$COMP_CWORD" -eq 1 \]; then\s+words="([^"]+)"', text)
    assert first is not None
    assert set(first[1].split()) == {*cli.COMMANDS, "--help", "--version"}
    for command in cli.COMMANDS:
        assert re.search(rf"^ +(?:[\w-]+\|)*{command}(?:\|[\w-]+)*\)$", text, re.MULTILINE)


def test_etc_names_the_directories_that_the_code_uses() -> None:
    unit = settings(UNIT)
    assert unit["RuntimeDirectory"] == MACHINE.name and unit["RuntimeDirectoryPreserve"] == "yes"
    assert unit["CacheDirectory"] == cache.SYSTEM.name and unit["CacheDirectoryMode"] == "0700"
    made = [line.split()[1:3] for line in TMPFILES.read_text().splitlines() if line[:1] == "d"]
    assert made == [[str(MACHINE), "0755"], [str(cache.SYSTEM), "0700"]]
    assert f"/etc/default/{PROGRAM}" in unit["EnvironmentFile"]


def test_workers_outlive_the_service() -> None:
    unit = settings(UNIT)
    assert unit["KillMode"] == "process" and unit["Delegate"] == "pids memory"


def test_each_capability_has_its_reason() -> None:
    text = UNIT.read_text()
    for capability in settings(UNIT)["CapabilityBoundingSet"].split():
        assert re.search(rf"^#   {capability} +[a-z]", text, re.MULTILINE), capability


@pytest.fixture
def run(require: Callable[[object, str], None]) -> Callable[..., str]:
    def run(program: str, *arguments: str) -> str:
        require(shutil.which(program), f"missing: systemd, for {program}")
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        return done.stdout + done.stderr

    return run


def test_systemd_finds_little_to_expose(run: Callable[..., str]) -> None:
    threshold = f"--threshold={MOST_EXPOSURE}"
    run("systemd-analyze", "security", "--offline=true", threshold, "--no-pager", str(UNIT))


def test_systemd_understands_the_unit(run: Callable[..., str], tmp_path: Path) -> None:
    # Without the line of the program, which need not be installed here.
    copy = tmp_path / UNIT.name
    copy.write_text(
        re.sub(r"^Exec(Start|Reload)=.*", r"Exec\1=/bin/true", UNIT.read_text(), flags=re.M)
    )
    assert UNIT.name not in run("systemd-analyze", "verify", "--man=no", str(copy))


def test_tmpfiles_makes_the_directories(run: Callable[..., str], tmp_path: Path) -> None:
    place = tmp_path / "etc" / "tmpfiles.d"
    place.mkdir(parents=True)
    # The commented examples are such that work.
    text = TMPFILES.read_text().replace("#d /run", "d /run")
    owners = r"\b(root root|root kvm|libvirt-qemu kvm)\b"
    (place / TMPFILES.name).write_text(re.sub(owners, "- -", text))
    run("systemd-tmpfiles", "--create", f"--root={tmp_path}", TMPFILES.name)
    modes = {
        str(path.relative_to(tmp_path)): oct(path.stat().st_mode & 0o7777)
        for path in tmp_path.rglob("*")
        if path.is_dir()
    }
    assert modes["run/ovs-vhost"] == "0o755"
    assert modes["var/cache/ovs-vhost"] == "0o700"
    assert modes["run/openvswitch/vhost"] == "0o2750"
    assert modes["run/vm"] == "0o750"


def test_the_libvirt_page_has_the_same_directories() -> None:
    page = (TOP / "docs" / "libvirt.md").read_text()
    examples = [line[1:] for line in TMPFILES.read_text().splitlines() if line.startswith("#d")]
    assert examples and [line for line in examples if line not in page] == []


def test_tests_named_in_the_security_page_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (TOP / "docs" / "security.md").read_text()))
    tests = "".join(path.read_text() for path in (TOP / "tests").rglob("test_*.py"))
    assert named and not [name for name in named if f"def {name}(" not in tests]


def settings(unit: Path) -> dict[str, str]:
    """The last setting of each name in a unit."""
    lines = (line.partition("=") for line in unit.read_text().splitlines() if line[:1].isalpha())
    return {name: value for name, _, value in lines}
