# SPDX-License-Identifier: Apache-2.0
"""A front-end whose guest begins to migrate, and does not, without end, costs itself alone."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_vhost_plugin.common.logs.rates import BURST
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest

pytestmark = pytest.mark.system

TURNS = 20_000
VERSION = 1
GET_FEATURES = struct.pack("=3I", FrontendRequest.GET_FEATURES, VERSION, 0)


def set_features(features: int) -> bytes:
    """SET_FEATURES, of which no answer is asked (vhost-user, "Message format")."""
    return struct.pack("=3IQ", FrontendRequest.SET_FEATURES, VERSION, 8, features)


@pytest.fixture
def front_end(host: Host) -> Iterator[socket.socket]:
    """A bare front-end at port toggled0."""
    path: Path = host.add_server_port("toggled0")
    host.wait_status("toggled0", "listening")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60.0)
        sock.connect(str(path))
        yield sock
    host.delete_port("toggled0")


def test_log_all_that_comes_and_goes_costs_the_front_end_alone(
    host: Host, front_end: socket.socket
) -> None:
    pid = host.worker_pid("toggled0")
    once = b"".join(set_features(log) for log in (Feature.LOG_ALL.mask, 0))
    for _ in range(TURNS // 100):
        front_end.sendall(100 * once)
    front_end.sendall(GET_FEATURES)
    assert front_end.recv(20, socket.MSG_WAITALL)  # the worker has read them all
    # It tells the daemon of each, within its rate: beyond, the daemon would have ended it.
    assert "toggled0" in host.appctl("vhost/show")
    assert host.worker_pid("toggled0") == pid
    assert host.stats("toggled0")["errors"] == {}
    told = [line for line in host.log.read_text().splitlines() if "toggled0: migration" in line]
    assert 0 < len(told) <= 2 * BURST  # at once, and then one in ten seconds
