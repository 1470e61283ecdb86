# SPDX-License-Identifier: Apache-2.0
"""Which control group is ours, and what is made in it; a directory stands for the hierarchy."""

import os
from pathlib import Path

import pytest

from ovs_vhost_plugin.daemon.workers.cgroups import Cgroups, own_group

MOUNTS = """\
22 1 0:20 / /sys rw,relatime shared:7 - sysfs sysfs rw
30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""


def test_the_group_of_this_process() -> None:
    found = own_group("0::/system.slice/ovs-vhost.service\n", MOUNTS)
    assert found == Path("/sys/fs/cgroup/system.slice/ovs-vhost.service")
    assert own_group("0::/\n", MOUNTS) == Path("/sys/fs/cgroup")


def test_there_is_none_without_the_unified_hierarchy() -> None:
    assert own_group("4:memory:/x\n", MOUNTS) is None
    assert own_group("0::/\n", MOUNTS.splitlines()[0]) is None


def test_a_group_for_each_worker(tmp_path: Path) -> None:
    groups = Cgroups(tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+pids"
    made = tmp_path / "port-vhu-0-7"
    made.mkdir()
    (made / "cgroup.procs").touch()  # which the kernel makes
    fd = groups.open("vhu-0", 7, 10)
    assert fd is not None
    os.close(fd)
    assert (made / "pids.max").read_text() == "10"


def test_the_end_is_of_this_port_alone(tmp_path: Path) -> None:
    for name in ("port-vhu-7", "port-vhu-0-8"):
        (tmp_path / name).mkdir()
    groups = Cgroups(tmp_path)  # of a daemon that adopts them
    groups.end("vhu")
    assert (tmp_path / "port-vhu-7" / "cgroup.kill").read_text() == "1"
    assert not (tmp_path / "port-vhu-0-8" / "cgroup.kill").exists()


def test_nothing_is_made_where_nothing_was_delegated() -> None:
    groups = Cgroups(None)
    assert groups.open("vhu0", 7, 10) is None
    groups.end("vhu0")


def test_groups_are_listed_once_and_one_that_is_not_empty_is_ended_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Cgroups(tmp_path)
    monkeypatch.setattr(Path, "glob", lambda *_: pytest.fail("the groups are listed again"))
    made = tmp_path / "port-vhu-7"
    made.mkdir()
    (made / "cgroup.procs").touch()
    fd = groups.open("vhu", 7, 10)
    assert fd is not None
    os.close(fd)
    groups.end("vhu")
    (made / "cgroup.kill").unlink()
    groups.end("vhu")  # it is there, as its files are
    assert (made / "cgroup.kill").read_text() == "1"
    for path in made.iterdir():
        path.unlink()
    monkeypatch.setattr(Path, "write_text", lambda *_: None)
    groups.end("vhu")
    assert not made.exists()
