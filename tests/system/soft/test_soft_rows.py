# SPDX-License-Identifier: Apache-2.0
"""Two guests on real bridges, whose rows are changed under them: their frames go on passing."""

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.system.soft_ports import ETHERTYPE

from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

MACS = [bytes([0x52, 0x54, 0, 0, 0, n]) for n in (1, 2)]
NAMES = ["vhu0", "vhu1"]
OTHER = "br1"


@pytest.fixture
def host(require):
    words = packages.missing(packages.SWITCH, root=False)
    require(words is None, words)
    with ExitStack() as stack:
        top = stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-"))
        host = stack.enter_context(Host("rows", Path(top, "h")))
        host.switch.add_bridge(OTHER)
        yield host


@pytest.fixture
def plugged(host):
    """`plugged(bridge, bridge, mtu)`: a guest on each, both in server mode."""
    with ExitStack() as stack:

        def plug(*bridges, settings=()):
            guests = []
            for name, mac, bridge in zip(NAMES, MACS, bridges, strict=True):
                path = host.add_server_port(name, *settings, bridge=bridge)
                host.wait_status(name, "listening")
                host.wait_ofport(name)
                guests.append(SoftGuest(path, Config(mac=mac)))
                stack.callback(guests[-1].close)
                guests[-1].start()
                host.wait_running(name)
            return guests

        yield plug


def passes(sender, receiver, size=1514):
    """A frame arrives as it was sent; a bridge that is just made up may lose the first ones."""
    frame = receiver.config.mac + sender.config.mac + ETHERTYPE + os.urandom(size - 14)

    def arrives():
        sender.send(frame)
        sender.drain()
        return [got for got in receiver.receive(0.2) if got[12:14] == ETHERTYPE] or None

    # Those of earlier rounds are the same frame: a damaged one is none of them.
    return set(wait_until(arrives, f"a frame of {size} bytes")) == {frame}


def both_ways(guests, size=1514):
    first, second = guests
    return passes(first, second, size) and passes(second, first, size)


def drained(guests):
    for guest in guests:
        while guest.receive(0.0):
            pass


def test_rows_change_and_frames_go_on(host, plugged):
    guests = plugged(BRIDGE, BRIDGE)
    assert both_ways(guests)
    vsctl = host.switch.vsctl

    # Another bridge, in one transaction.
    mode = "external_ids:vhost-user-mode=server"
    for name in NAMES:
        moved = ("add-port", OTHER, name, "--", "set", "Interface", name, mode)
        vsctl("del-port", name, "--", *moved)
    for name in NAMES:
        host.wait_running(name)
    drained(guests)
    macs = {mac.hex(":") for mac in MACS}
    wait_until(lambda: both_ways(guests) and macs <= host.switch.fdb(OTHER).keys(), "learned there")

    vsctl("emer-reset")
    drained(guests)
    assert both_ways(guests)

    # Another socket: whoever serves it is the guest.
    path = host.directory / "elsewhere.sock"
    vsctl(
        *("remove", "Interface", NAMES[0], "external_ids", "vhost-user-mode", "--"),
        *("set", "Interface", NAMES[0], f"options:vhost-server-path={path}"),
    )
    other = SoftGuest(path, Config(mac=MACS[0]), server=True)
    try:
        other.start()
        host.wait_running(NAMES[0])
        drained(guests[1:])
        assert both_ways([other, guests[1]])
    finally:
        other.close()


def test_jumbo_frames_pass_and_follow_the_mtu_live(host, plugged):
    guests = plugged(BRIDGE, BRIDGE, settings=("mtu_request=9000",))
    assert both_ways(guests, 9014)
    for mtu in (1500, 9000):
        for name in NAMES:
            host.switch.vsctl("set", "Interface", name, f"mtu_request={mtu}")
            host.switch.wait_until("Interface", name, f"mtu={mtu}")
        drained(guests)
        assert both_ways(guests, mtu + 14)
    assert all(host.status(name)["status"] == "running" for name in NAMES)


def test_two_nics_on_two_bridges_have_nothing_to_do_with_each_other(host, plugged):
    guests = plugged(BRIDGE, OTHER)
    for name, guest, bridge in zip(NAMES, guests, (BRIDGE, OTHER), strict=True):
        guest.send(b"\xff" * 6 + guest.config.mac + ETHERTYPE + os.urandom(46))
        guest.drain()
        host.appctl("vhost/announce", name, guest.config.mac.hex(":"))
        place = (str(host.wait_ofport(name)), 0)
        wait_until(
            lambda bridge=bridge, guest=guest, place=place: (
                host.switch.fdb(bridge).get(guest.config.mac.hex(":")) == place
            ),
            f"{bridge} learns",
        )
    for guest, bridge in zip(guests, (OTHER, BRIDGE), strict=True):
        assert guest.config.mac.hex(":") not in host.switch.fdb(bridge)
        assert not [got for got in guest.receive(0.0) if got[12:14] == ETHERTYPE]
