# SPDX-License-Identifier: Apache-2.0
"""The demo leaves nothing behind, whenever it is interrupted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab.hosts import namespace
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import PATIENCE, wait_until

pytestmark = pytest.mark.integration


def left_by(pid: int) -> list[Path]:
    mark = f"{namespace.PREFIX}-{pid}-*"
    return [*Path("/run/netns").glob(mark), *Path("/tmp").glob(mark)]


def children_of(pid: int) -> set[int]:
    """The processes in the namespaces that `pid` made: what the demo has started."""
    found = set()
    for place in Path("/run/netns").glob(f"{namespace.PREFIX}-{pid}-*"):
        argv = ["ip", "netns", "pids", place.name]
        listed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        found |= {int(each) for each in listed.split()}
    return found - {pid}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("number", "progress"),
    [
        (signal.SIGINT, lambda pid: left_by(pid)),
        (signal.SIGTERM, lambda pid: len(left_by(pid)) >= 4),
        (signal.SIGINT, lambda pid: len(children_of(pid)) >= 6),
    ],
    ids=["at the first namespace", "at the fourth", "when the switches run"],
)
def test_an_interrupted_demo_leaves_nothing(require, number, progress):
    words = packages.missing(packages.SWITCH)
    require(words is None, words)
    demo = subprocess.Popen(
        [sys.executable, "-m", "ovs_vhost_plugin", "demo", "--guest", "soft"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: progress(demo.pid) or demo.poll() is not None, "the demo's progress")
        started = children_of(demo.pid)
        os.kill(demo.pid, number)
        _, words = demo.communicate(timeout=PATIENCE)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 130, words
    assert "interrupted" in words
    assert left_by(demo.pid) == []
    assert [pid for pid in started if alive(pid)] == []
