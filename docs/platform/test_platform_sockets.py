# SPDX-License-Identifier: Apache-2.0
"""Linux: unix sockets, who is behind them, and the descriptors that come through them."""

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

import pytest

from docs.platform.kit import NOBODY, become, child

SIOCUNIXFILE = 0x89E0
SO_PASSRIGHTS = 83
SCM_MAX_FD = 253


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A directory that everybody may enter and write, and the current one."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        with contextlib.suppress(PermissionError):
            if parent != Path("/tmp"):
                parent.chmod(parent.stat().st_mode | 0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listener(path="socket"):
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    made.listen()
    return made


def connected(path="socket"):
    made = socket.socket(socket.AF_UNIX)
    made.connect(path)
    return made


def peer_of(sock):
    """Who is behind a connected socket: pid, uid, gid."""
    return struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))


def as_user(uid, deed):
    """Be this user as far as checks go, for the length of a call."""
    os.seteuid(uid)
    try:
        return deed()
    finally:
        os.seteuid(0)


# -- who is behind a socket -----------------------------------------------------------------------


def test_a_client_sees_who_called_listen_and_not_who_bound_or_accepts(directory):
    """QEMU under libvirt binds as root, drops to its user, and listens then."""
    made = socket.socket(socket.AF_UNIX)
    made.bind("socket")
    assert child(lambda: (become(NOBODY), made.listen())) == 0
    client = connected()
    assert peer_of(client)[1:] == (NOBODY, NOBODY)
    client.close()
    made.close()


def test_a_server_sees_as_whom_a_client_connected(directory):
    """By the effective user: so root can connect with no more power than a socket's owner has."""
    server = listener()
    Path("socket").chmod(0o777)
    client = as_user(NOBODY, connected)
    accepted, _ = server.accept()
    assert peer_of(accepted)[1] == NOBODY
    for one in (client, accepted, server):
        one.close()


def test_who_may_not_write_a_socket_may_not_connect(directory):
    server = listener()
    Path("socket").chmod(0o700)
    with pytest.raises(PermissionError):
        as_user(NOBODY, connected)
    server.close()


def test_a_socket_without_a_listener_refuses_and_one_with_a_full_queue_does_not_wait(directory):
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    with pytest.raises(ConnectionRefusedError):
        connected()
    server.listen(0)
    first, second = connected(), socket.socket(socket.AF_UNIX)
    second.setblocking(False)
    with pytest.raises(BlockingIOError):
        second.connect("socket")
    for one in (first, second, server):
        one.close()


# -- names ----------------------------------------------------------------------------------------


def test_a_socket_is_reached_by_a_descriptor_however_long_its_path_is(directory):
    deep = directory / ("d" * 200)
    deep.mkdir()
    held = os.open(deep, os.O_PATH)
    server = listener(f"/proc/self/fd/{held}/socket")
    file = os.open("socket", os.O_PATH, dir_fd=held)
    with pytest.raises(OSError, match="too long"):
        connected(f"{deep}/socket")
    client = connected(f"/proc/self/fd/{file}")
    for one in (client, server):
        one.close()
    os.close(held)
    os.close(file)


def test_a_descriptor_names_the_very_socket_whatever_took_its_name(directory):
    server = listener()
    file = os.open("socket", os.O_PATH | os.O_NOFOLLOW)
    Path("socket").unlink()
    other = listener()
    client = connected(f"/proc/self/fd/{file}")
    server.setblocking(False)
    accepted, _ = server.accept()
    for one in (client, accepted, server, other):
        one.close()
    os.close(file)


def test_a_socket_tells_the_inode_that_it_is_bound_to(directory):
    server = listener()
    file = fcntl.ioctl(server, SIOCUNIXFILE)
    Path("socket").rename("elsewhere")
    Path(f"/proc/self/fd/{file}").chmod(0o640)
    os.chown(f"/proc/self/fd/{file}", NOBODY, -1)
    status = Path("elsewhere").stat()
    assert (status.st_ino, status.st_uid) == (os.fstat(file).st_ino, NOBODY)
    assert status.st_mode & 0o777 == 0o640
    os.close(file)
    server.close()


def test_a_socket_is_bound_with_the_mode_that_the_umask_leaves(directory):
    """As ovs-vswitchd makes its own: no moment in which others could connect."""
    before = os.umask(0o007)
    server = listener()
    os.umask(before)
    assert Path("socket").stat().st_mode & 0o777 == 0o770
    server.close()


# -- descriptors ----------------------------------------------------------------------------------


def send_fds(sock, fds, data=b"x"):
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def test_a_message_carries_at_most_253_descriptors():
    ours, theirs = socket.socketpair()
    event = os.eventfd(0)
    with pytest.raises(OSError) as caught:
        send_fds(ours, [event] * (SCM_MAX_FD + 1))
    assert caught.value.errno == errno.EINVAL
    send_fds(ours, [event] * SCM_MAX_FD)
    _, fds, flags, _ = socket.recv_fds(theirs, 1, SCM_MAX_FD)
    assert len(fds) == SCM_MAX_FD and not flags & socket.MSG_CTRUNC
    for fd in (event, *fds):
        os.close(fd)
    ours.close()
    theirs.close()


def test_descriptors_for_which_there_is_no_room_are_closed_and_told_of():
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe2(os.O_NONBLOCK)
    send_fds(ours, [writer, writer])
    os.close(writer)
    _, controls, flags, _ = theirs.recvmsg(1, socket.CMSG_LEN(4))
    assert flags & socket.MSG_CTRUNC
    (kept,) = array.array("i", controls[0][2][:4])
    os.close(kept)
    assert os.read(reader, 1) == b""  # nobody has the other end
    os.close(reader)
    ours.close()
    theirs.close()


def test_descriptors_come_with_the_first_byte_of_their_message():
    """So bytes of two messages are never read together over them."""
    ours, theirs = socket.socketpair()
    event = os.eventfd(0)
    ours.send(b"before")
    send_fds(ours, [event], b"with")
    ours.send(b"after")
    first, fds, _, _ = socket.recv_fds(theirs, 100, 1)
    assert (first, fds) == (b"before", []) or (first, len(fds)) == (b"beforewith", 1)
    rest = b""
    while len(first + rest) < 15:
        data, more, _, _ = socket.recv_fds(theirs, 100, 1)
        rest, fds = rest + data, fds + more
    assert first + rest == b"beforewithafter" and len(fds) == 1
    for fd in (event, *fds):
        os.close(fd)
    ours.close()
    theirs.close()


def test_a_socket_that_is_shut_for_reading_before_it_connects_takes_nothing(directory):
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind("socket")
    server.listen()
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.shutdown(socket.SHUT_RD)
    client.connect("socket")
    accepted, _ = server.accept()
    with pytest.raises(BrokenPipeError):
        send_fds(accepted, [server.fileno()])
    client.send(b"still")
    assert accepted.recv(10) == b"still"
    for one in (client, accepted, server):
        one.close()


def test_a_socket_takes_no_descriptors_where_the_kernel_can_refuse_them():
    """SO_PASSRIGHTS, Linux 6.16; an older kernel says that it has no such option."""
    ours, theirs = socket.socketpair()
    try:
        theirs.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError as error:
        assert error.errno == errno.ENOPROTOOPT
    else:
        with pytest.raises(PermissionError):
            send_fds(ours, [ours.fileno()])
    ours.close()
    theirs.close()


def test_a_peer_that_clears_o_nonblock_does_not_make_msg_dontwait_wait():
    ours, theirs = socket.socketpair()
    ours.setblocking(True)
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(bytes(65536), socket.MSG_DONTWAIT)
    ours.close()
    theirs.close()


def test_a_seqpacket_socket_keeps_messages_apart_and_tells_of_one_that_is_cut():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.send(b"first")
    ours.send(b"second")
    assert theirs.recv(100) == b"first"
    data, _, flags, _ = theirs.recvmsg(3)
    assert data == b"sec" and flags & socket.MSG_TRUNC
    ours.close()
    assert theirs.recv(100) == b""  # the end, and no rest of what was cut
    theirs.close()
