# SPDX-License-Identifier: Apache-2.0
"""What a guest is known to use moves with it (DEVICE_STATE): between real workers on two hosts."""

import ipaddress
import json
import os
import struct

import pytest
from support.system.fabric_ports import server_ports
from support.system.soft_ports import settle

from ovs_vhost_plugin.guest.frontend.connection import RequestRefusedError
from ovs_vhost_plugin.guest.migrate import Migration
from ovs_vhost_plugin.guest.soft import FEATURES, Config, SoftGuest
from ovs_vhost_plugin.lab.hosts.fabric import UPLINK
from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.spec import (
    Feature,
    FrontendRequest,
    ProtocolFeature,
    TransferDirection,
    TransferPhase,
)

pytestmark = pytest.mark.system

PORT = "vhu0"
ON, OFF = (f"external_ids:vhost-user-announce=state={word}" for word in ("on", "off"))
STATE_KEY = "vhost-user-device-state"
NIC = bytes.fromhex("525400000001")
NESTED, VLAN, ADDRESS = bytes.fromhex("0242c0000205"), 10, "192.0.2.5"
TAG = struct.pack("!HH", 0x8100, VLAN)
CONFIG = Config(mac=NIC, features=FEATURES | Feature.GUEST_ANNOUNCE.mask)


@pytest.fixture
def paths(fabric):
    """The sockets of a port on each host, of whose guest nobody has told anything."""
    with server_ports(fabric, PORT, ON) as made:
        yield made


def claim() -> bytes:
    """The gratuitous ARP of an address that is nested in the guest, in a VLAN."""
    ip = ipaddress.ip_address(ADDRESS).packed
    body = bytes.fromhex("0001080006040001") + NESTED + ip + bytes(6) + ip
    return (b"\xff" * 6 + NESTED + TAG + b"\x08\x06" + body).ljust(64, b"\0")


def uses(host) -> set[tuple[str, int]]:
    text = host.appctl("vhost/stats", PORT, "--format", "json")
    found = json.loads(text)["ports"][PORT]["addresses"]
    return {(one["mac"], one["vlan"]) for one in found}


def test_the_destination_announces_at_once_what_only_the_source_has_seen(fabric, paths):
    guest = SoftGuest(paths[0], CONFIG)
    try:
        guest.start()
        settle(guest)
        guest.send(claim())
        guest.drain()
        wait_until(lambda: (NESTED.hex(":"), VLAN) in uses(fabric.a), "what the source learned")
        guest.frontend.send_rarp(NIC)  # it has moved in before, or QMP announce-self
        settle(guest)
        before = len(fabric.b.announcements())
        migration = Migration(guest, SoftGuest(paths[1], CONFIG).connect())
        with Capture(fabric.b.namespace, UPLINK) as uplink:
            migration.begin()
            migration.switch()
            migration.release_source()
            announced = wait_until(
                lambda: fabric.b.announcements()[before:], "an announcement on the other host"
            )
            wait_until(lambda: arps(uplink, NESTED, TAG), "the nested address, announced")
            sent = [frame.data for frame in uplink.frames() if frame.outgoing]
        # The guest is silent, has GUEST_ANNOUNCE, and no SEND_RARP was sent there.
        assert {one["trigger"] for one in announced} == {"moved-in"}
        assert {frame[6:12] for frame in sent if frame[6:12] in (NIC, NESTED)} == {NIC, NESTED}
        assert uses(fabric.b) == {(NIC.hex(":"), 0), (NESTED.hex(":"), VLAN)}
    finally:
        guest.close()


def arps(capture, mac, tag):
    """Gratuitous ARPs of ADDRESS that left through a cable."""
    ip = ipaddress.ip_address(ADDRESS).packed
    head = b"\xff" * 6 + mac + tag + b"\x08\x06"
    frames = [frame.data for frame in capture.frames() if frame.outgoing]
    return [frame for frame in frames if frame.startswith(head) and frame[32:36] == ip]


def test_a_pipe_that_nobody_serves_and_a_state_cut_short_cost_that_transfer_alone(fabric, paths):
    frontend = SoftGuest(paths[0], CONFIG).connect()
    try:
        assert frontend.has(ProtocolFeature.DEVICE_STATE)
        begin = FrontendRequest.SET_DEVICE_STATE_FD
        payload = spec.DEVICE_STATE.pack(TransferDirection.LOAD, TransferPhase.STOPPED)
        reading, writing = os.pipe()
        os.set_blocking(reading, True)
        frontend.connection.ask(begin, payload, [reading])
        # The worker answers: it does not wait for what will never come.
        assert frontend.connection.ask(FrontendRequest.GET_FEATURES)
        check = frontend.connection.ask(FrontendRequest.CHECK_DEVICE_STATE)
        assert spec.U64.unpack(check)[0] != 0
        for fd in (reading, writing):
            os.close(fd)
        state = frontend.save_state()
        with pytest.raises(RequestRefusedError):
            frontend.load_state(state[:-1])
        frontend.load_state(state)
        assert set(errors(fabric.a)) == {"device-state-unfinished", "device-state-truncated"}
    finally:
        frontend.close()


def errors(host) -> dict[str, int]:
    text = host.appctl("vhost/stats", PORT, "--format", "json")
    return json.loads(text)["ports"][PORT]["errors"]


@pytest.mark.parametrize(
    ("everywhere", "row", "offered"),
    [(None, (), False), ("true", (), True), ("true", (OFF,), False), (None, (ON,), True)],
    ids=["default", "all-ports", "not-this-one", "this-one"],
)
def test_it_is_offered_where_that_is_switched_on(fabric, everywhere, row, offered):
    column = ("Open_vSwitch", ".", "other_config")
    if everywhere:
        fabric.a.switch.vsctl("set", *column[:2], f"{column[2]}:{STATE_KEY}={everywhere}")
    path = fabric.a.add_server_port(PORT, *row)
    try:
        fabric.a.wait_status(PORT, "listening")
        frontend = SoftGuest(path, CONFIG).connect()
        assert frontend.has(ProtocolFeature.DEVICE_STATE) is offered
        frontend.close()
    finally:
        fabric.a.switch.vsctl("remove", *column, STATE_KEY)
        fabric.a.delete_port(PORT)
