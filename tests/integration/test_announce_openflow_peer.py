# SPDX-License-Identifier: Apache-2.0
"""Our OpenFlow against OVS's own: its decoder reads what we write, we read its errors."""

import shutil
import socket
import subprocess

import pytest
from support.control.announce_bridge import bridge, private_switch

from ovs_vhost_plugin.announce.frames.announcements import rarp
from ovs_vhost_plugin.openflow import wire
from ovs_vhost_plugin.openflow.session import Barrier, ErrorReply, OpenFlowSession
from ovs_vhost_plugin.openflow.wire import OpenFlowError, Output, Version

pytestmark = pytest.mark.integration

MAC = bytes.fromhex("525400123456")


@pytest.fixture(scope="module")
def switch(tmp_path_factory, require):
    with private_switch(tmp_path_factory.mktemp("ovs"), require) as switch:
        yield switch


class Wire:
    """A blocking connection to a bridge, for a OpenFlowSession or for bytes of the test's own."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)

    def events(self, session: OpenFlowSession, count: int) -> list:
        """Exchange until the session has told of `count` events."""
        events = []
        while len(events) < count:
            self.socket.sendall(session.data_to_send())
            data = self.socket.recv(65536)
            assert data, "the bridge hung up"
            events += session.feed(data)
        return events

    def messages(self, count: int) -> list[wire.OpenFlowMessage]:
        framer, messages = wire.Framer(), []
        while len(messages) < count:
            data = self.socket.recv(65536)
            assert data, "the bridge hung up"
            messages += framer.feed(data)
        return messages


@pytest.fixture
def connect():
    connections = []

    def connect(br) -> Wire:
        connections.append(Wire(br.location().mgmt_path))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.socket.close()


@pytest.fixture
def ofp_print(require):
    """How ovs-ofctl reads a message."""
    require(shutil.which("ovs-ofctl"), "needs ovs-ofctl (openvswitch-common)")

    def show(message: bytes) -> str:
        command = ["ovs-ofctl", "ofp-print", message.hex()]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return show


@pytest.mark.parametrize("version", list(Version))
@pytest.mark.parametrize("output", [Output.TABLE, Output.NORMAL])
def test_ovs_ofctl_reads_our_packet_out(ofp_print, version, output):
    message = wire.packet_out(version, 9, 7, output, rarp(MAC))
    shown = ofp_print(message)
    suffix = "" if version == 1 else f" (OF1.{version - 1})"
    assert shown.startswith(
        f"OFPT_PACKET_OUT{suffix} (xid=0x9): in_port=7 actions={output.name} data_len=60"
    )
    assert f"dl_src={MAC.hex(':')},dl_dst=ff:ff:ff:ff:ff:ff" in shown


@pytest.mark.parametrize("version", list(Version))
def test_ovs_ofctl_reads_our_hello_and_barrier(ofp_print, version):
    for message, words in (
        (wire.hello({version}, 1), "OFPT_HELLO"),
        (wire.encode(version, wire.barrier_type(version), 2), "OFPT_BARRIER_REQUEST"),
    ):
        shown = ofp_print(message)
        assert shown.startswith(words), shown


@pytest.mark.parametrize("version", list(Version))
def test_every_version_is_negotiated_and_has_a_barrier(switch, connect, version):
    with bridge(switch, protocols=f"OpenFlow1{version - 1}") as br:
        connection, session = connect(br), OpenFlowSession()
        connection.events(session, 1)
        assert session.version is version
        xid = session.barrier()
        assert connection.events(session, 1) == [Barrier(xid)]


def test_the_highest_version_wins_where_several_are_allowed(switch, connect):
    with bridge(switch, protocols="OpenFlow10,OpenFlow13") as br:
        session = OpenFlowSession()
        connect(br).events(session, 1)
        assert session.version is Version.OF13


def test_a_bridge_that_speaks_none_of_our_versions(switch, connect):
    with bridge(switch, protocols="OpenFlow13") as br:
        session = OpenFlowSession(frozenset({Version.OF10}))
        with pytest.raises(OpenFlowError) as error:
            connect(br).events(session, 1)
        assert error.value.name == "no-common-version"
        assert "4" in error.value.text


def test_the_bridges_own_word_for_a_wrong_version_is_read(switch, connect):
    with bridge(switch, protocols="OpenFlow13") as br:
        connection = connect(br)
        connection.socket.sendall(wire.hello({Version.OF10}, 1))
        hello, error = connection.messages(2)
        assert wire.hello_versions(hello) == {4}
        with pytest.raises(OpenFlowError, match="hello-failed: HELLO_FAILED/INCOMPATIBLE "):
            OpenFlowSession().feed(wire.encode(error.version, error.type, error.xid, error.body))


@pytest.mark.parametrize("version", list(Version))
def test_an_error_of_the_bridge_comes_before_the_barrier_with_its_name(switch, connect, version):
    with bridge(switch, protocols=f"OpenFlow1{version - 1}") as br:
        connection, session = connect(br), OpenFlowSession()
        connection.events(session, 1)
        session.packet_out(1, rarp(MAC))
        barrier = session.barrier()
        good = session.data_to_send()
        # the action's type is the only two bytes that are followed by its length and the port
        port = b"\xff\xf9" if version == 1 else b"\xff\xff\xff\xf9"
        length = b"\0\x08" if version == 1 else b"\0\x10"
        bad = good.replace(b"\0\0" + length + port, b"\0\x77" + length + port)
        assert bad != good
        connection.socket.sendall(bad)
        error, reply = connection.events(session, 2)
        assert isinstance(error, ErrorReply)
        assert (error.name, error.xid) == ("BAD_ACTION/BAD_TYPE", barrier - 1)
        assert reply == Barrier(barrier)
