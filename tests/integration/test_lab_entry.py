# SPDX-License-Identifier: Apache-2.0
"""A command goes into a root as if it had been started there, and leaves nothing of it behind."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.platform.distro import Mount, entry
from ovs_vhost_plugin.lab.process import Process, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def root(require, tmp_path):
    """The smallest root there is: busybox, under the names that are used."""
    words = packages.missing((*packages.GUEST, *packages.RELEASES))
    require(words is None, words)
    made = tmp_path / "a root"
    for name in ("bin", "run"):
        (made / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", made / "bin")
    for name in ("sh", "umount", "cat", "touch", "mkdir", "sleep", "mount"):
        (made / "bin" / name).symlink_to("busybox")
    return made


@pytest.fixture
def mounts(tmp_path):
    """The machine's /proc, a directory to write to, and one to read."""
    for name in ("shared", "read"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return [
        Mount(Path("/proc"), Path("/proc")),
        Mount(tmp_path / "shared", Path("/seen/shared")),
        Mount(tmp_path / "read", Path("/seen/read"), writable=False),
    ]


def mounted():
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def test_a_command_sees_the_root_and_what_is_mounted_and_the_machine_does_not(root, mounts):
    script = (
        "cat shared/file && echo changed >shared/file; touch read/new; [ ! -e /usr ]; echo $?; "
        "mkdir /run/own; mount -t proc proc /run/own && exit 7"
    )
    line = entry(root, mounts, Path("/seen"), ["sh", "-c", script])
    before = mounted()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (7, ["shared0"]), done.stderr
    assert "Read-only file system" in done.stderr
    assert mounts[1].source.joinpath("file").read_text() == "changed\n"
    assert list((root / "run").iterdir()) == []
    assert mounted() == before


def test_a_signal_for_the_command_reaches_it_and_its_mounts_end_with_it(root, mounts, tmp_path):
    mark = tmp_path / "shared" / "started"
    script = "trap 'exit 5' TERM; touch shared/started; while :; do sleep 0.1; done"
    line = entry(root, mounts, Path("/seen"), ["sh", "-c", script])
    running = Process(line, tmp_path / "output")
    try:
        running.ready(mark.exists, "the command")
        os.kill(running.pid, signal.SIGTERM)
        assert running.wait(60) == 5
    finally:
        running.kill()
    wait_until(lambda: not any(str(root) in place for place in mounted()), "the end of its mounts")
    shutil.rmtree(root)


def test_a_command_that_is_not_there_fails_as_in_a_shell(root, mounts):
    line = entry(root, mounts, Path("/seen"), ["no-such-program"])
    assert subprocess.run(line, capture_output=True, check=False).returncode == 127
