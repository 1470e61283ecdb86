# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest

from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.platform.packages import Program

HERE = Program("sh", "dash")
GONE = Program("no-such-program", "some-package")
GONE_TOO = Program("/no/such/program", "some-package")


def test_what_is_missing_is_said_in_one_line_with_how_to_get_it():
    words = packages.missing([HERE, GONE, GONE_TOO])
    assert words == "missing: some-package; as root: apt-get install some-package"


def test_without_root_it_says_so(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert (
        packages.missing([HERE]) == "missing: root, to make network namespaces and taps; try sudo"
    )
    assert packages.missing([HERE], root=False) is None


def test_nothing_is_missing_for_root_when_all_is_there(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert packages.missing([HERE]) is None


@pytest.fixture
def apt(monkeypatch, tmp_path):
    """apt-get and systemctl that only note how they were called, and what the policy then was."""
    policy = tmp_path / "policy-rc.d"
    calls = []

    def run(argv, **_):
        calls.append((argv, policy.read_text() if policy.exists() else None))

    monkeypatch.setattr(packages, "_POLICY", policy)
    monkeypatch.setattr("subprocess.run", run)
    return policy, calls


def test_no_service_starts_while_packages_install(apt):
    policy, calls = apt
    packages.install([GONE])
    assert [argv[-2:] for argv, _ in calls][-1] == ["--no-install-recommends", "some-package"]
    assert all("exit 101" in text for _, text in calls)
    assert not policy.exists()


def test_a_policy_that_was_there_stays(apt):
    policy, calls = apt
    policy.write_text("#!/bin/sh\nexit 0\n")
    packages.install([GONE])
    assert calls
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"


def test_a_policy_that_a_killed_run_left_is_cleared_away(apt):
    policy, _ = apt
    policy.write_text(packages._POLICY_TEXT)
    packages.install([GONE])
    assert not policy.exists()


def test_the_policy_is_cleared_away_when_apt_fails(apt, monkeypatch):
    policy, _ = apt

    def fail(argv, **_):
        raise subprocess.CalledProcessError(100, argv)

    monkeypatch.setattr("subprocess.run", fail)
    with pytest.raises(subprocess.CalledProcessError):
        packages.install([GONE])
    assert not policy.exists()


@pytest.mark.parametrize(
    ("package", "unit"),
    [
        ("openvswitch-switch", "openvswitch-switch"),
        ("openvswitch-switch", "ovs-vswitchd"),
        ("ovn-central", "ovn-central"),
        ("ovn-central", "ovn-northd"),
        ("ovn-host", "ovn-host"),
        ("ovn-host", "ovn-controller"),
        ("libvirt-daemon-system", "libvirtd.service"),
    ],
)
def test_a_new_service_is_not_started_by_the_next_boot(apt, monkeypatch, package, unit):
    _, calls = apt
    monkeypatch.setattr("shutil.which", lambda name, path=None: name if name != "new" else None)
    packages.install([Program("new", package), HERE])
    argv = calls[-1][0]
    assert argv[:2] == ["systemctl", "disable"] and unit in argv


def test_nothing_is_installed_when_nothing_is_missing(apt):
    packages.install([HERE])
    assert apt[1] == []


def test_it_runs_without_the_rest_of_the_package(tmp_path):
    # The Makefile calls it before anything is installed.
    argv = [sys.executable, "-I", "-S", packages.__file__, "nonsense"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: packages.py install | check\n")
