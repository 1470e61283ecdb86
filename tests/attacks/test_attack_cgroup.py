# SPDX-License-Identifier: Apache-2.0
"""Workers of a daemon to which a control group was delegated have one each; it ends with them."""

import os
from pathlib import Path

import pytest
from support.attacks.attack_hosts import EvilHost
from support.control.control_host import end_workers

from ovs_vhost_plugin.daemon.workers.cgroups import own_group
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system


def own():
    """This process's group in the unified hierarchy."""
    return own_group(
        Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
    )


@pytest.fixture
def group(require):
    """A group as systemd delegates one."""
    parent = own()
    require(parent is not None and os.access(parent, os.W_OK), "no unified control groups")
    made = parent / f"ovh-{os.getpid()}"
    made.mkdir()
    os.setxattr(made, "user.delegate", b"1")
    yield made
    for directory in [*made.iterdir(), made]:
        if directory.is_dir():
            directory.rmdir()


@pytest.fixture
def host(directory, group):
    # ip-netns(8) mounts a /sys of the namespace's, without the hierarchy.
    there = Path("/sys/fs/cgroup", group.relative_to(mount_of(group)))
    mount = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    enter = f'{mount} && echo 0 > {there}/cgroup.procs && exec "$@"'
    kind = type("GroupedHost", (EvilHost,), {"wrapper": ("/bin/sh", "-c", enter, "sh")})
    with kind("grouped", directory / "grouped") as made:
        yield made
        end_workers(made)


def mount_of(path):
    return next(parent for parent in path.parents if parent.is_mount())


def processes(directory):
    return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]


def test_a_worker_has_a_group_that_ends_with_it(host, group):
    with host.evil_port("evil0") as evil:
        (worker,) = group.glob("port-evil0-*")
        assert processes(worker) == [evil.pid]
        limit = worker / "pids.max"
        if limit.exists():  # the controller may be in another hierarchy
            assert 8 < int(limit.read_text()) < 256
        host.delete_port("evil0")
        wait_until(lambda: not worker.exists(), "the end of the group")
