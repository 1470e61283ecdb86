# SPDX-License-Identifier: Apache-2.0
"""A front-end passes fds that hang whoever uses or closes them: its worker serves the next one."""

import contextlib
import os
import socket
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from support.control.stuck_files import hanging_file_elsewhere, lingering_socket
from support.system.soft_ports import check_inward, check_outward, settle

from ovs_vhost_plugin.guest.frontend.connection import BackEndClosedError, WrongReplyError
from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.message import Message, encode
from ovs_vhost_plugin.vhost.spec import FrontendRequest as R

pytestmark = pytest.mark.system

SOME = range(60, 1515, 300)
USER = 0x7F00_0000_0000
SIZE = 1 << 20
GET_FEATURES = encode(Message(R.GET_FEATURES))
U64 = spec.U64.pack(1)
REGION = 1 << 40, SIZE, USER, 0
REQUESTS = {
    R.SET_MEM_TABLE: (
        spec.MEMORY_HEADER.pack(1, 0) + spec.MEMORY_REGION.pack(*REGION),
        "region-file-kind",
    ),
    R.ADD_MEM_REG: (spec.SINGLE_REGION.pack(0, *REGION), "region-file-kind"),
    R.SET_LOG_BASE: (spec.LOG.pack(SIZE, 0), "log-file-kind"),
    R.SET_INFLIGHT_FD: (spec.INFLIGHT.pack(SIZE, 0, 1, 64), "inflight-file-kind"),
    R.SET_VRING_KICK: (U64, "vring-fd-not-eventfd"),
    R.SET_VRING_CALL: (U64, "vring-fd-not-eventfd"),
    R.SET_VRING_ERR: (U64, "vring-fd-not-eventfd"),
    R.SET_BACKEND_REQ_FD: (b"", "backend-fd-not-socket"),
    R.SET_DEVICE_STATE_FD: (spec.DEVICE_STATE.pack(0, 0), "device-state-not-a-pipe"),
    R.GET_FEATURES: (b"", "fds-unexpected"),
}
MEMORY = [R.SET_MEM_TABLE, R.ADD_MEM_REG, R.SET_LOG_BASE, R.SET_INFLIGHT_FD]


@pytest.fixture
def port(plug):
    """One that takes a device state as well."""
    return plug(settings=("external_ids:vhost-user-announce=state=on",))


def works(port):
    """A guest that behaves finds its port as if nothing had been."""
    guest = port.guest(Config())
    check_outward(port, guest, SOME)
    check_inward(port, guest, SOME)
    guest.close()


def check_refused(port, request, send):
    """What `send(data, connection)` sends is refused by name; its worker serves the next guest."""
    payload, name = REQUESTS[request]
    pid = port.pid
    guest = SoftGuest(port.path, Config())
    try:
        guest.frontend = guest.connect()
        send(encode(Message(request, payload)), guest.frontend.connection.fileno())
        with contextlib.suppress(BackEndClosedError, WrongReplyError):
            settle(guest)  # some requests have a reply of their own
        wait_until(lambda: port.errors() == {name: 1}, name)
    finally:
        guest.close()
    works(port)
    assert port.pid == pid


@contextlib.contextmanager
def linger_in(host):
    """A socket that lingers, in a host's namespace."""
    with contextlib.ExitStack() as stack:
        with host.namespace.entered():
            sock = stack.enter_context(lingering_socket())
        yield sock


def passing(fd):
    """Sends `fd`, and has it no more before all is sent: the last to close it is the other end."""

    def send(data, connection):
        with socket.socket(fileno=os.dup(connection)) as sock:
            socket.send_fds(sock, [data[:1]], [fd])
            os.close(fd)
            sock.sendall(data[1:])

    return send


@pytest.fixture(scope="module")
def stuck_file(require):
    require(Path("/dev/fuse").exists(), "no /dev/fuse")
    with hanging_file_elsewhere() as passer:
        yield passer


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_a_file_whose_server_does_not_answer(port, stuck_file, request_):
    check_refused(port, request_, stuck_file.send)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_a_socket_that_lingers(port, request_):
    """The worker has the last fd of it: closing that is what waits."""
    with linger_in(port.host) as sock:
        check_refused(port, request_, passing(sock.detach()))


def test_fds_that_hang_in_a_message_that_never_becomes_whole(port, stuck_file):
    pid = port.pid
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(port.path))
            stuck_file.send(b"x", sock.fileno(), 8)
    works(port)
    assert port.pid == pid


def test_ever_more_fds_that_hang_end_their_own_worker_by_name(plug):
    port, neighbour = plug(), plug()
    other = neighbour.guest(Config())
    pid = port.pid
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            sock = stack.enter_context(linger_in(port.host))
            with socket.socket(socket.AF_UNIX) as front_end, contextlib.suppress(OSError):
                front_end.connect(str(port.path))
                passing(sock.detach())(GET_FEATURES, front_end.fileno())
                front_end.recv(1)  # its end
        wait_until(lambda: port.published_error().startswith("fds-not-closed"), "fds-not-closed")
    port.host.wait_status(port.name, "listening")
    assert port.pid != pid
    works(port)
    check_inward(neighbour, other, SOME)


@pytest.mark.parametrize("request_", MEMORY, ids=lambda request: request.name)
@pytest.mark.parametrize("kind", ["disk", "directory", "socket", "device"])
def test_memory_that_is_none(port, request_, kind):
    with TemporaryFile(dir=Path(__file__).parent) as file, socket.socket(socket.AF_UNIX) as sock:
        file.truncate(SIZE)
        fd = {
            "disk": lambda: os.dup(file.fileno()),
            "directory": lambda: os.open("/", os.O_RDONLY),
            "socket": lambda: os.dup(sock.fileno()),
            "device": lambda: os.open("/dev/zero", os.O_RDWR),
        }[kind]()
        check_refused(port, request_, passing(fd))


def test_a_file_on_a_disk_where_the_row_allows_it(plug):
    """From the next connection on, as all that is offered."""
    port = plug(settings=("external_ids:vhost-user-memory-files=any",))
    guest = SoftGuest(port.path, Config())
    with TemporaryFile(dir=Path(__file__).parent) as file:
        file.truncate(SIZE)
        try:
            guest.frontend = guest.connect()
            payload, _ = REQUESTS[R.SET_MEM_TABLE]
            guest.frontend.connection.tell(R.SET_MEM_TABLE, payload, [file.fileno()], ack=True)
        finally:
            guest.close()
    assert port.errors() == {}
    works(port)
