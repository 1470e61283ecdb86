# SPDX-License-Identifier: Apache-2.0
"""Fds that keep whoever uses them waiting: a file whose server says nothing, a lingering socket.

The file is of a file system of our own: this answers the few requests (<linux/fuse.h>) that it
takes to mount it and to open the file, and no other. It is unmounted as soon as the file is open,
so that nothing but fds is left of it; when the server's is closed, whoever waits gets an error.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ovs_vhost_plugin.common import process

_libc = ctypes.CDLL(None, use_errno=True)

_MNT_DETACH = 2
_IN = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, extensions
_OUT = struct.Struct("<IiQ")  # length, error, unique
_LOOKUP, _OPEN, _INIT = 1, 14, 26
_NO_REPLY = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET
_ATTRIBUTES = struct.pack("<6Q10I", 2, 1 << 20, 0, 0, 0, 0, 0, 0, 0, 0o100666, 1, 0, 0, 0, 4096, 0)
_ANSWERS = {
    # 7.31; no read-ahead, no flags
    _INIT: struct.pack("<IIIIHHIIHHI7I", 7, 31, 0, 0, 8, 6, 4096, 1, 1, 0, 0, *[0] * 7),
    # node 2; the name is good for an hour, what is known of the file for no time at all
    _LOOKUP: struct.pack("<QQQQII", 2, 0, 3600, 0, 0, 0) + _ATTRIBUTES,
    _OPEN: struct.pack("<QII", 1, 0, 0),
}


def _serve(device: int) -> None:
    """Answer what it takes to open a file, and return when it is open."""
    opcode = None
    while opcode != _OPEN:
        request = os.read(device, 1 << 17)
        _, opcode, unique, *_ = _IN.unpack_from(request)
        if opcode in _NO_REPLY:
            continue
        answer = _ANSWERS.get(opcode, b"")
        error = 0 if opcode in _ANSWERS else -38  # ENOSYS
        os.write(device, _OUT.pack(_OUT.size + len(answer), error, unique) + answer)


def _mount(device: int, place: Path) -> None:
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if _libc.mount(b"hanging", os.fsencode(place), b"fuse", 0, options) != 0:
        raise OSError(ctypes.get_errno(), "mount(2) of a FUSE file system")


@contextmanager
def hanging_file() -> Iterator[int]:
    """An fd of a file whose file system has stopped answering, until this is over.

    Nobody who has it may start a process, or end: that closes it. See `hanging_file_elsewhere`.
    """
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    fd = -1
    try:
        with TemporaryDirectory(prefix="ovs-vhost-") as top:
            _mount(device, Path(top))
            server = threading.Thread(target=_serve, args=[device], daemon=True)
            server.start()
            try:
                fd = os.open(Path(top, "memory"), os.O_RDWR | os.O_CLOEXEC)
            finally:
                _libc.umount2(os.fsencode(top), _MNT_DETACH)
            server.join()
        yield fd
    finally:
        os.close(device)  # what waits is answered: ENOTCONN
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)


class Passer:
    """Has a hanging file in a process of its own, and passes it on."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def send(self, data: bytes, connection: int, count: int = 1) -> None:
        """Send bytes on the unix socket `connection`, and the file beside them, `count` times."""
        socket.send_fds(self._control, [bytes([count]) + data], [connection])
        assert self._control.recv(4) == b"done"


@contextmanager
def hanging_file_elsewhere() -> Iterator[Passer]:
    """A hanging file that this process can pass on without having it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        pid = os.fork()
        if pid == 0:
            try:
                process.close_fds_except({0, 1, 2, theirs.fileno()})
                with hanging_file() as fd:
                    _pass_on(theirs, fd)
            finally:
                os._exit(0)
        theirs.close()
        try:
            yield Passer(ours)
        finally:
            ours.close()
            os.waitpid(pid, 0)


def _pass_on(control: socket.socket, fd: int) -> None:
    """Until its other end is closed."""
    while True:
        request, fds, _, _ = socket.recv_fds(control, 1 << 16, 1)
        if not request:
            return
        with socket.socket(fileno=fds[0]) as connection:
            socket.send_fds(connection, [request[1:]], [fd] * request[0])
        control.send(b"done")


@contextmanager
def lingering_socket(seconds: int = 600) -> Iterator[socket.socket]:
    """A TCP socket whose closing waits `seconds` for its peer, until this is over.

    It has not sent all that it was given, and its peer reads nothing. Over the loopback interface
    of the namespace that the caller is in. Whoever detaches it has it, and its peer goes all the
    same; else it is closed here, without waiting.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    with peer:
        sock.setblocking(False)
        _linger(sock, seconds)
        with suppress(BlockingIOError):
            while True:
                sock.send(bytes(1 << 16))
        try:
            yield sock
        finally:
            if sock.fileno() >= 0:
                _linger(sock, 0)
                sock.close()


def _linger(sock: socket.socket, seconds: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
