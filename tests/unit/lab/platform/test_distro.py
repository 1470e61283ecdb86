# SPDX-License-Identifier: Apache-2.0
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab.platform import borrowed, distro, mirrors, packages
from ovs_vhost_plugin.lab.platform.distro import DistroError, Mount


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a checkout in tmp_path, whose debootstrap knows two releases.

    What is run is noted; debootstrap makes a base, unless the list of failures has its name.
    """
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("trixie", "bookworm"):
        (scripts / name).touch()
    ran, fails = [], []

    def make(argv, log):
        ran.append(argv)
        target = Path(next(word for word in argv if word.endswith("root.partial")))
        (target / "etc/apt/apt.conf.d").mkdir(parents=True)
        log.write_text("E: words of debootstrap\n")
        if "interrupted" in fails:
            raise KeyboardInterrupt
        return "debootstrap" in fails

    def run(argv, **_):
        if argv[0] == "cp":
            shutil.copytree(*argv[-2:])
            return subprocess.CompletedProcess(argv, 0)
        ran.append(argv)
        return subprocess.CompletedProcess(argv, int("packages" in fails))

    monkeypatch.setattr(distro, "CHECKOUT", tmp_path)
    monkeypatch.setattr(distro, "_SCRIPTS", scripts)
    monkeypatch.setattr(distro, "_logged", make)
    monkeypatch.setattr(distro.subprocess, "run", run)
    monkeypatch.setattr(distro.os, "geteuid", lambda: 0)
    monkeypatch.setattr(packages, "install", lambda _: None)
    monkeypatch.setattr(borrowed, "copy_settings", lambda root: [])
    monkeypatch.setattr(
        mirrors,
        "configured",
        lambda: [mirrors.PackageSource("http://m.example", "stable", ("main",))],
    )
    return ran, fails


def test_a_root_is_made_once_and_then_serves(machine):
    ran, _ = machine
    there, _ = distro.prepare("trixie")
    assert there.complete
    assert [argv[-1] for argv in ran] == ["http://m.example", "install"]
    assert (there.root / "etc/apt/sources.list").read_text() == "deb http://m.example trixie main\n"
    distro.prepare("trixie")
    assert len(ran) == 2


@pytest.mark.parametrize(
    ("failure", "error"), [("debootstrap", DistroError), ("interrupted", KeyboardInterrupt)]
)
def test_a_root_that_debootstrap_did_not_finish_is_not_taken_for_whole(machine, failure, error):
    ran, fails = machine
    fails.append(failure)
    with pytest.raises(error):
        distro.prepare("trixie")
    there = distro.place("trixie")
    (there.partial / "left-over").touch()
    assert not there.root.exists() and not there.complete
    fails.clear()
    distro.prepare("trixie")
    assert there.complete and not (there.root / "left-over").exists()
    assert [argv[-1] for argv in ran] == ["http://m.example", "http://m.example", "install"]


def test_a_fresh_machine_is_a_copy_of_the_base_and_sees_nothing_of_the_checkout(machine, tmp_path):
    there, _ = distro.prepare("trixie")
    (there.root / "installed").touch()
    mounts = distro.fresh("trixie", tmp_path / "new")
    assert (tmp_path / "new/etc/apt/sources.list").exists()
    assert not (tmp_path / "new/installed").exists()
    assert [str(mount.at) for mount in mounts] == ["/proc", "/sys", "/dev", "/tmp"]
    (there.base / "left-over").touch()
    distro.fresh("bookworm", tmp_path / "other")
    assert distro.place("bookworm").base.is_dir() and not (tmp_path / "other/left-over").exists()


def test_a_root_that_lacks_packages_gets_them(machine, monkeypatch):
    ran, fails = machine
    fails.append("packages")
    with pytest.raises(DistroError, match="packages could not be installed"):
        distro.prepare("trixie")
    assert not distro.place("trixie").complete
    fails.clear()
    distro.prepare("trixie")
    assert [argv[-1] for argv in ran] == ["http://m.example", "install", "install"]
    monkeypatch.setattr(distro, "_package_list", lambda: "a longer list")
    distro.prepare("trixie")
    assert len(ran) == 4


def test_what_debootstrap_said_is_shown_with_what_to_do(machine):
    machine[1].append("debootstrap")
    with pytest.raises(DistroError, match=r"(?s)words of debootstrap.*MIRROR=URL"):
        distro.prepare("trixie")


def test_a_mirror_may_be_named(machine, monkeypatch):
    monkeypatch.setenv("MIRROR", "http://other.example")
    distro.prepare("bookworm")
    assert machine[0][0][-1] == "http://other.example"


@pytest.mark.parametrize("name", ["trixy", "../trixie", ""])
def test_a_release_that_there_is_not_is_an_error_by_name(machine, name):
    with pytest.raises(DistroError, match="debootstrap knows no such release; did you mean trixie"):
        distro.prepare(name)
    assert machine[0] == []


def test_without_root_it_says_so(machine, monkeypatch):
    monkeypatch.setattr(distro.os, "geteuid", lambda: 1000)
    with pytest.raises(DistroError, match="needs root"):
        distro.prepare("trixie")


def test_a_command_sees_its_own_caches_and_the_checkout_where_it_is(machine):
    there, mounts = distro.prepare("trixie")
    checkout = distro.CHECKOUT
    assert mounts[-2:] == [
        Mount(there.directory / "cache", checkout / ".cache"),
        Mount(there.directory / "venv", checkout / ".venv"),
    ]
    assert Mount(checkout, checkout) in mounts
    line = distro.entry(Path("/a root"), mounts, checkout, ["make", "a b"])
    assert line[-2:] == ["make", "a b"]
    assert "'/a root/proc'" in line[line.index("-c") + 1]


def test_git_finds_its_directory_in_a_worktree_too(machine):
    git = distro.CHECKOUT / "main/.git"
    own = git / "worktrees/this"
    own.mkdir(parents=True)
    (own / "commondir").write_text("../..\n")
    (distro.CHECKOUT / ".git").write_text(f"gitdir: {own}\n")
    _, mounts = distro.prepare("trixie")
    assert Mount(git, git) in mounts


def test_it_runs_without_the_packages_that_the_project_needs():
    # The Makefile calls it before anything is installed.
    argv = [sys.executable, "-S", "-m", distro.__name__]
    done = subprocess.run(argv, cwd=distro.CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.split()[0]) == (2, "usage:")
