# SPDX-License-Identifier: Apache-2.0
"""Held frames follow their guest, by the word of a real switch.

The port's worker is a puppet: the test tells as its front-end what it is to report.
"""

import json
import os
import signal

import pytest
from support.control.puppet import LOG_ALL, MAC, PORT, Peer

from ovs_vhost_plugin.announce.frames.announcements import rarp
from ovs_vhost_plugin.ipc.commands import Release
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.integration

FRAME = (MAC + bytes.fromhex("5254000000fe") + b"\x08\x00").ljust(60, b"\1")


def holds(host) -> int:
    shown = json.loads(host.appctl("vhost/show", "--format", "json"))
    return shown["forward"].get("holds", 0)


def test_a_switch_that_answers_late_says_what_was_here_all_the_same(host, add) -> None:
    """No row names the guest: that it was here, the bridge says, asked as the migration begins."""

    def places():
        """The ports of the guest's address, and of others."""
        table = host.switch.fdb(BRIDGE)
        return table.pop(MAC.hex(":"), ("", 0))[0], {port for port, _ in table.values()}

    peer, front_end = Peer(host), add()
    front_end.transmit(rarp(MAC))
    here, there = str(host.wait_ofport(PORT)), str(host.switch.ofport(f"peer-{BRIDGE}"))
    wait_until(lambda: places()[0] == here, "the guest is learned here")
    switch = host.switch.vswitchd.pid
    os.kill(switch, signal.SIGSTOP)
    try:
        front_end.status("running", features=LOG_ALL)
        host.wait_status(PORT, "running")
        front_end.hold(MAC)
        wait_until(lambda: holds(host), "the hold")
    finally:
        os.kill(switch, signal.SIGCONT)
    # What the daemon has read, it has the bridge count, by an address that it makes up.
    wait_until(lambda: here in places()[1], "the daemon has read the table")
    peer.send(rarp(MAC))
    wait_until(lambda: places()[0] == there, "it is elsewhere")

    order = front_end.order()
    while order is not None and not isinstance(order, Release):
        order = front_end.order()
    assert order is not None and [station.mac for station in order.stations] == [MAC]
    front_end.hand_over(order, [FRAME], left=False)
    came = (FRAME[:6], FRAME[12:])
    wait_until(lambda: came in {(f[:6], f[12:]) for f in peer.received()}, "the held frame")
