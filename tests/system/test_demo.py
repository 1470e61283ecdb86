# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost demo` as a user runs it, with both guests and both ways to announce."""

import json
import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab.hosts import namespace
from ovs_vhost_plugin.lab.platform import packages

pytestmark = pytest.mark.system

ASKS = ["SEND_RARP received", "guest moved in"]
TELLS = ["packet-out sent", "guest announces itself (ARP)"]
"""What asks for an announcement, and what the network learns from, whichever is first: of a guest
whose addresses came along with the device state the daemon knows enough without being asked."""


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
@pytest.mark.parametrize("announce", ["rarp", "guest"])
def test_the_network_finds_the_guest_and_the_timeline_says_how(require, guest, announce):
    words = packages.missing((*packages.SWITCH, *packages.GUEST))
    require(words is None, words)
    result = demo("--guest", guest, "--announce", announce)

    assert result["found"]
    assert result["packets"]["damaged"] == 0
    # Nothing is lost but what was sent while nobody could have received it.
    packets = result["packets"]
    assert packets["lost"] <= result["outage_ms"] + packets["congested"] + 20

    at = {(row["event"], row["where"]): row["ms"] for row in result["timeline"]}
    first = {event: ms for (event, _), ms in reversed(at.items())}
    in_order("guest stopped", "guest runs", "first packet through", times=first)
    told = earliest(TELLS, times=first)
    if announce == "rarp":
        asked = earliest(ASKS, times=first)
        in_order(asked, "packet-out sent", "RARP leaves the host", times=first)
    else:
        in_order("guest runs", "guest announces itself (ARP)", times=first)
        in_order(told, "ARP leaves the host", times=first)
        assert "SEND_RARP received" not in first
    for place in ("br0 of host b", "physical switch"):
        # A watch sees it some milliseconds late, never early.
        assert at["guest's MAC learned", place] >= first[told], at


def in_order(*events: str, times: dict[str, float]) -> None:
    assert all(times[one] <= times[other] for one, other in pairwise(events)), times


def earliest(events: Iterable[str], times: dict[str, float]) -> str:
    return min((event for event in events if event in times), key=times.__getitem__)
