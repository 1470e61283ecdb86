# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost demo` as a user runs it, with both guests and both ways to announce."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab import namespace, packages

pytestmark = pytest.mark.system

MOVED = ["guest stopped", "guest runs", "first packet through"]
BY_RARP = ["SEND_RARP received", "packet-out sent", "RARP leaves the host"]
BY_GUEST = ["guest runs", "guest announces itself (ARP)", "ARP leaves the host"]


def demo(*options: str) -> dict:
    argv = [sys.executable, "-m", "ovs_vhost_plugin", "demo", "--format", "json", *options]
    running = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        output, words = running.communicate(timeout=300)
    finally:
        running.terminate()
        running.wait()
    assert running.returncode == 0, words
    mark = f"{namespace.PREFIX}-{running.pid}-*"
    assert [*Path("/run/netns").glob(mark), *Path("/tmp").glob(mark)] == []
    return json.loads(output)


@pytest.mark.parametrize("guest", ["qemu", "soft"])
@pytest.mark.parametrize(("announce", "steps"), [("rarp", BY_RARP), ("guest", BY_GUEST)])
def test_the_network_finds_the_guest_and_the_timeline_says_how(require, guest, announce, steps):
    words = packages.missing((*packages.SWITCH, *packages.GUEST))
    require(words is None, words)
    result = demo("--guest", guest, "--announce", announce)

    assert result["found"]
    assert result["packets"]["damaged"] == 0
    # Nothing is lost but what was sent while nobody could have received it.
    assert result["packets"]["lost"] <= result["outage_ms"] + 20

    at = {(row["event"], row["where"]): row["ms"] for row in result["timeline"]}
    first = {event: ms for (event, _), ms in reversed(at.items())}
    for order in (MOVED, steps):
        assert all(first[one] <= first[other] for one, other in pairwise(order)), first
    for place in ("br0 of host b", "physical switch"):
        # A watch sees it some milliseconds late, never early.
        assert at["guest's MAC learned", place] >= first[steps[1]]
    assert ("SEND_RARP received" in first) == (announce == "rarp")
