# SPDX-License-Identifier: Apache-2.0
"""What a hostile front-end does to its worker stays there: its neighbour's packets go on.

And it costs the worker no more than the connection: no fds, no memory, no hang.
"""

import contextlib
import json
import os
import socket
from pathlib import Path

import pytest
from support.system.soft_ports import SECONDS, check_inward, check_outward, frame_of, settle

from ovs_vhost_plugin.guest.frontend.connection import BackEndClosedError, FrontEndConnection
from ovs_vhost_plugin.guest.frontend.frontend import FrontEnd
from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.message import Message, encode
from ovs_vhost_plugin.vhost.spec import FrontendRequest

pytestmark = pytest.mark.system

SOME = range(60, 1515, 100)
GET_FEATURES = encode(Message(FrontendRequest.GET_FEATURES))


@pytest.fixture
def neighbour(plug):
    """Another port with a guest; `check()` sends frames through it both ways."""
    port = plug()
    guest = port.guest(Config())
    pid = port.pid

    def check():
        check_outward(port, guest, SOME)
        check_inward(port, guest, SOME)
        assert (port.pid, port.errors()) == (pid, {})

    check()
    return check


def works(port):
    """A guest that behaves finds its port as if nothing had been."""
    guest = port.guest(Config())
    check_outward(port, guest, SOME)
    check_inward(port, guest, SOME)
    guest.close()


def hung_up(connection):
    try:
        connection.check()
    except BackEndClosedError:
        return True
    return False


def test_a_guest_that_cuts_its_memory_short_ends_its_own_worker_only(plug, neighbour):
    """SIGBUS cannot be caught in compiled code: that is why each port has a process."""
    port = plug()
    guest = port.guest(Config())
    check_outward(port, guest, SOME)
    pid = port.pid
    for fd in guest.memory.fds:
        os.ftruncate(fd, 0)
    for vring in guest.vrings:
        vring.kick.signal()
    port.inject(frame_of(100))
    wait_until(lambda: hung_up(guest.frontend.connection), "the worker's end")
    neighbour()
    guest.close()
    wait_until(lambda: another_worker(port, pid), "another worker")
    assert f"{port.name}: memory-file-truncated" in port.host.log.read_text()
    works(port)
    neighbour()


def another_worker(port, pid):
    """Whether a worker other than `pid` listens."""
    answer = json.loads(port.host.appctl("vhost/stats", "--format", "json"))["ports"]
    return answer.get(port.name, {}).get("status") == "listening" and port.pid != pid


@pytest.mark.parametrize("kind", ["pipe", "file", "blocking-eventfd"])
@pytest.mark.parametrize("request_name", ["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"])
def test_a_kick_or_call_fd_that_is_no_eventfd_is_refused_by_name(
    plug, neighbour, kind, request_name
):
    port = plug()
    guest = port.guest(Config())
    before = port.open_files()
    reader, writer = os.pipe()
    fds = {
        "pipe": reader if request_name == "SET_VRING_KICK" else writer,
        "file": os.memfd_create("no-eventfd"),
        # Full, so that a write would block for ever, and a read of an empty one too.
        "blocking-eventfd": os.eventfd(0),
    }
    try:
        if kind == "blocking-eventfd" and request_name != "SET_VRING_KICK":
            os.eventfd_write(fds[kind], 2**64 - 2)
        with contextlib.suppress(BackEndClosedError):
            guest.frontend.connection.tell(
                FrontendRequest[request_name], spec.U64.pack(1), [fds[kind]]
            )
            settle(guest)
        if kind == "blocking-eventfd":
            guest.send(frame_of(100, outward=True))
            port.inject(frame_of(100))
            settle(guest)
            guest.stop_rings()  # not held up by the fd
        else:
            wait_until(lambda: hung_up(guest.frontend.connection), "the end of the connection")
            assert port.errors() == {"vring-fd-not-eventfd": 1}
            port.wait_published("vring-fd-not-eventfd")
    finally:
        for fd in (reader, writer, fds["file"], fds["blocking-eventfd"]):
            os.close(fd)
    guest.close()
    wait_until(lambda: port.open_files() < before, "the fds of the connection closed")
    works(port)
    neighbour()


def test_a_front_end_that_never_reads_is_cut_off_by_name(port, neighbour):
    before = port.open_files()
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(SECONDS)
    with sock:
        sock.connect(str(port.path))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(1_000_000):
                sock.sendall(GET_FEATURES * 100)
    wait_until(lambda: port.errors() == {"replies-not-read": 1}, "the error by its name")
    port.wait_published("replies-not-read")
    wait_until(lambda: port.open_files() == before, "the fds closed")
    works(port)
    neighbour()


def test_half_a_message_holds_up_nobody(port, neighbour):
    """Not the worker either: it answers the daemon, and the next front-end when this one goes."""
    for length in (1, 11, 12, 15):
        sock = socket.socket(socket.AF_UNIX)
        with sock:
            sock.connect(str(port.path))
            set_features = encode(Message(FrontendRequest.SET_FEATURES, bytes(8)))
            fds = [os.memfd_create("half")]
            socket.send_fds(sock, [set_features[:length]], fds)
            os.close(fds.pop())
            wait_until(lambda: port.stats()["status"] == "connected", "the connection")
            neighbour()
        wait_until(lambda: port.stats()["status"] == "listening", "the end of the connection")
    assert port.errors() == {}
    works(port)


@pytest.mark.parametrize(
    ("count", "name"), [(1, "fds-unexpected"), (8, "fds-unexpected"), (200, "fds-too-many")]
)
def test_fds_that_nobody_asked_for_are_closed(port, count, name):
    before = port.open_files()
    for round_number in range(1, 6):
        sock = socket.socket(socket.AF_UNIX)
        with sock:
            sock.connect(str(port.path))
            fds = [os.memfd_create("flood") for _ in range(count)]
            socket.send_fds(sock, [GET_FEATURES], fds)
            for fd in fds:
                os.close(fd)
            sock.settimeout(SECONDS)
            assert sock.recv(100) == b"", "refused"
        wait_until(lambda n=round_number: port.errors() == {name: n}, name)
    wait_until(lambda: port.open_files() == before, "all fds closed")
    works(port)


def test_messages_repeated_without_end_leave_no_fds_and_no_mappings(port):
    """The leak of CVE-2019-14818: a new table, a new log, new eventfds over and over."""
    guest = port.guest(Config())
    mappings = len(open_maps(port.pid))
    before = port.open_files()
    for _ in range(100):
        guest.frontend.set_memory(guest.memory)
        for vring in guest.vrings:
            index = spec.U64.pack(vring.index)
            tell = guest.frontend.connection.tell
            tell(FrontendRequest.SET_VRING_CALL, index, [vring.call.fileno()])
            tell(FrontendRequest.SET_VRING_KICK, index, [vring.kick.fileno()])
    settle(guest)
    assert port.open_files() == before
    assert len(open_maps(port.pid)) <= mappings + 2
    check_outward(port, guest, SOME)
    check_inward(port, guest, SOME)


def open_maps(pid):
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in maps if "guest-memory" in line]


def test_connecting_and_closing_in_a_loop(port, neighbour):
    before = port.open_files()
    for _ in range(200):
        with contextlib.closing(FrontEndConnection.connect(port.path)) as connection:
            FrontEnd(connection).initialise()
    wait_until(lambda: port.stats()["status"] == "listening", "the last one's end")
    wait_until(lambda: port.open_files() == before, "all fds closed")
    neighbour()
    works(port)


def test_a_second_front_end_is_turned_away_by_name_and_the_first_goes_on(port):
    guest = port.guest(Config())
    with socket.socket(socket.AF_UNIX) as second:
        second.settimeout(SECONDS)
        second.connect(str(port.path))
        assert second.recv(1) == b""
    assert port.errors() == {"second-front-end": 1}
    check_outward(port, guest, SOME)
    check_inward(port, guest, SOME)
