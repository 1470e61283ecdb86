# SPDX-License-Identifier: Apache-2.0
"""The demo and the benchmarks leave nothing behind, whenever they are interrupted."""

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


def assert_leaves_nothing(program, number, ready) -> None:
    """Signal a program when it is ready: who makes namespaces, and all that are to end with it."""
    try:
        pid, started = ready()
        os.kill(program.pid, number)
        _, words = program.communicate(timeout=PATIENCE)
    finally:
        program.kill()
        program.wait()
    assert program.returncode == 130, words
    assert "interrupted" in words
    assert left_by(pid) == []
    assert [each for each in started if alive(each)] == []


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

    def ready():
        wait_until(lambda: progress(demo.pid) or demo.poll() is not None, "the demo's progress")
        return demo.pid, children_of(demo.pid)

    assert_leaves_nothing(demo, number, ready)


def benchmark_of(pid: int) -> int | None:
    """The benchmark that `ovs-vhost bench` with this pid runs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("part", ["scale", "tcp"])
def test_interrupted_benchmarks_leave_nothing(require, part, number):
    words = packages.missing((*packages.SWITCH, *packages.TEST))
    require(words is None, words)
    command = subprocess.Popen(
        [sys.executable, "-m", "ovs_vhost_plugin", "bench", "--quick", "--only", part],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def ready():
        pid = wait_until(lambda: benchmark_of(command.pid), "the benchmark")
        started = wait_until(
            lambda: len(found := children_of(pid)) >= 3 and found, "its switch and our daemon"
        )
        return pid, {pid, *started}

    assert_leaves_nothing(command, number, ready)
