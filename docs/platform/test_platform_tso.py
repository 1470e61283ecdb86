# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch: unfinished checksums and large frames in a userspace bridge."""

import os

import pytest

from docs.platform.kit import (
    GUEST_MAC,
    IFF_VNET_HDR,
    PEER_MAC,
    TUN_F_CSUM,
    TUN_F_TSO4,
    TUNSETOFFLOAD,
    Tap,
    checksum_is_right,
    net_header,
    tcp,
    udp,
    up,
)
from ovs_vhost_plugin.lab.hosts.namespace import scratch_directory
from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch
from ovs_vhost_plugin.lab.process import wait_until

PARTIAL = net_header(checksum=(34, 6)) + udp(b"hello", partial=True)
LARGE = net_header(checksum=(34, 16), gso=(1, 54, 1000)) + tcp(3000)


@pytest.fixture(params=[False, True], ids=["plain", "tso"])
def crossing(request, namespace):
    """`crossing(sent)`: what comes out of one tap of what is written into the other; and which."""
    taps = []
    with PrivateSwitch(namespace, scratch_directory(), userspace_tso=request.param) as switch:
        switch.add_bridge("br0")
        for name in ("guest", "peer"):
            tap = Tap(name, IFF_VNET_HDR)
            # Before the switch opens it: some look at a tap's offloads once, in that moment.
            tap.set(TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
            up(namespace, name)
            switch.add_port("br0", name)
            wait_until(lambda name=name: switch.ofport(name), f"the number of {name}")
            taps.append(tap)

        def cross(sent):
            os.write(taps[0].fd, sent)
            frames = taps[1].frames()
            return [data for data in frames if data[10:22] == PEER_MAC + GUEST_MAC]

        yield cross, request.param
    for tap in taps:
        tap.close()


def test_only_with_userspace_tso_a_bridge_keeps_partial_checksums_partial(crossing):
    """Without, they are passed on as if they were whole; OVS 3.5 completes them with it."""
    cross, tso = crossing
    (data, *_) = wait_until(lambda: cross(PARTIAL), "a frame's way")
    assert bool(data[0] & 1 or checksum_is_right(data[10:])) is tso


def test_only_with_userspace_tso_a_bridge_passes_large_frames(crossing):
    cross, tso = crossing
    wait_until(lambda: cross(PARTIAL), "a frame's way")
    seen = []

    def passed():
        """Whether something that was written behind a large frame is there."""
        seen.extend(cross(LARGE))
        seen.extend(cross(PARTIAL))
        return len(seen) > 5

    wait_until(passed, "the frames' way")
    assert {len(data) for data in seen} == {len(PARTIAL), *([len(LARGE)] if tso else [])}
