# SPDX-License-Identifier: Apache-2.0
"""Fds that hang whoever uses or closes them, on each request of a session: it is not held up."""

import os
import socket
import threading
from pathlib import Path

import pytest
from support.control.stuck_files import hanging_file, lingering_socket

from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import Refused
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import TABLE, Session
from ovs_vhost_plugin.vhost.spec import FrontendRequest as R
from ovs_vhost_plugin.vhost.transport import Connection

pytestmark = pytest.mark.integration


_U64 = spec.U64.pack(0)
REQUESTS = {
    R.SET_MEM_TABLE: spec.MEMORY_HEADER.pack(1, 0) + spec.MEMORY_REGION.pack(0, 4096, 0, 0),
    R.ADD_MEM_REG: spec.SINGLE_REGION.pack(0, 0, 4096, 0, 0),
    R.REM_MEM_REG: spec.SINGLE_REGION.pack(0, 0, 4096, 0, 0),
    R.SET_LOG_BASE: spec.LOG.pack(4096, 0),
    R.SET_INFLIGHT_FD: spec.INFLIGHT.pack(4096, 0, 1, 1),
    R.SET_VRING_KICK: _U64,
    R.SET_VRING_CALL: _U64,
    R.SET_VRING_ERR: _U64,
    R.SET_BACKEND_REQ_FD: b"",
    R.SET_DEVICE_STATE_FD: spec.DEVICE_STATE.pack(0, 0),
    R.GET_FEATURES: b"",  # takes none
}


@pytest.fixture
def stuck_file(require):
    """Duplicates are closed as slowly as the file itself: each close asks."""
    require(Path("/dev/fuse").exists(), "no /dev/fuse")
    with hanging_file() as fd:
        yield os.dup(fd)


@pytest.fixture
def stuck_socket():
    """Only the last fd of a socket is closed slowly: this is."""
    with Namespace("stuck") as place, place.entered(), lingering_socket() as sock:
        yield sock.detach()


def tell(request, fd):
    """Have a session handle `request`, to which `fd` goes; the name by which it was refused."""
    session = Session(offer(1, 1500))
    handling = session.receive(Message(request, REQUESTS[request], spec.VERSION, (fd,)))
    try:
        for effect in handling:
            if isinstance(effect, Refused):
                return effect.error.name
        return None
    except PeerError as error:
        return error.name
    finally:
        session.close()


@pytest.mark.parametrize("kind", ["file", "socket"])
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_a_session_is_not_held_up(request, request_, kind):
    """By a file whose server does not answer, or a socket that lingers, and it is refused."""
    fd = request.getfixturevalue(f"stuck_{kind}")
    names = []
    session = threading.Thread(target=lambda: names.append(tell(request_, fd)), daemon=True)
    session.start()
    wait_until(lambda: not session.is_alive(), "the session's answer")
    rule = TABLE[request_].takes
    if rule is not None:
        assert names == [rule.error]


@pytest.mark.parametrize("kind", ["file", "socket"])
def test_nor_is_a_connection_in_whose_queue_it_is(request, kind):
    """Closing the socket closes what nobody has taken from it."""
    fd = request.getfixturevalue(f"stuck_{kind}")
    ours, theirs = socket.socketpair()
    socket.send_fds(theirs, [b"x"], [fd])
    if kind == "socket":
        os.close(fd)  # the last one is in the queue
    closing = threading.Thread(target=Connection(ours).close, daemon=True)
    closing.start()
    wait_until(lambda: not closing.is_alive(), "the connection's end")
    theirs.close()
