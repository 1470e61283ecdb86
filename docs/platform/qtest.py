# SPDX-License-Identifier: Apache-2.0
"""A QEMU without a guest, whose virtio-net driver is the test; and the back-end that it talks to.

The machine's firmware stops its processor at once, and the test writes the NIC's registers by
qtest (QEMU, docs/devel/testing/qtest.rst), as a legacy driver does (virtio 1.2, 4.1.4.10). So each
step is made when it is wanted, and a test takes half a second.
"""

import array
import contextlib
import itertools
import os
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovs_vhost_plugin.lab.guests.qmp import Qmp
from ovs_vhost_plugin.lab.process import Process

PROGRAM = "qemu-system-x86_64"
MAC = "52:54:00:12:34:56"

# vhost-user, "Front-end message types"
GET_FEATURES, SET_FEATURES, SET_MEM_TABLE = 1, 2, 5
SET_LOG_BASE, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 6, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL = 12, 13
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SEND_RARP, NET_SET_MTU, GET_MAX_MEM_SLOTS, ADD_MEM_REG = 19, 20, 36, 37
NEED_REPLY, REPLY = 0x8, 0x5

# virtio 1.2, 5.1.3 and 6; vhost-user
MTU, GUEST_ANNOUNCE, CTRL_VQ, STATUS, MQ = 1 << 3, 1 << 21, 1 << 17, 1 << 16, 1 << 22
LOG_ALL, PROTOCOL_FEATURES = 1 << 26, 1 << 30
P_MQ, P_LOG, P_RARP, P_REPLY_ACK, P_MTU, P_MEM_SLOTS = 1, 2, 4, 8, 16, 1 << 15

FEATURES = GUEST_ANNOUNCE | CTRL_VQ | STATUS | MQ | LOG_ALL | PROTOCOL_FEATURES | MTU
PROTOCOL = P_MQ | P_LOG | P_RARP | P_REPLY_ACK | P_MTU

_HEADER = struct.Struct("=III")
_serial = itertools.count()


@dataclass(frozen=True)
class Said:
    """A message of QEMU's; `connection` counts from 0. Its fds are this object's."""

    connection: int
    request: int
    flags: int
    payload: bytes
    fds: tuple[int, ...]

    @property
    def u64(self) -> int:
        return int(struct.unpack_from("=Q", self.payload)[0])

    @property
    def index(self) -> int:
        """Of the vring that it is about."""
        return int(struct.unpack_from("=I", self.payload)[0]) & 0xFF

    @property
    def state(self) -> int:
        """The second number of struct vhost_vring_state."""
        return int(struct.unpack_from("=II", self.payload)[1])


class BackEnd:
    """Listens on a socket, answers what has to be answered, and keeps all that was said."""

    def __init__(
        self, path: Path, *, features: int = FEATURES, protocol: int = PROTOCOL, pairs: int = 4
    ) -> None:
        self.path = path
        self.said: list[Said] = []
        self.base = 0
        self._answers = {GET_FEATURES: features, GET_PROTOCOL_FEATURES: protocol}
        self._answers |= {GET_QUEUE_NUM: pairs, SET_LOG_BASE: 0, GET_MAX_MEM_SLOTS: 32}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(path))
        self._listener.listen()
        self._connected: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def of(self, *requests: int, connection: int | None = None) -> list[Said]:
        """The messages of these kinds, in order."""
        return [
            said
            for said in list(self.said)
            if said.request in requests and connection in (None, said.connection)
        ]

    def hang_up(self) -> None:
        """Close the connection, as a back-end that has died."""
        if self._connected is not None:
            with contextlib.suppress(OSError):  # it has hung up itself
                self._connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.hang_up()
        self._thread.join()
        self._listener.close()
        for said in self.said:
            for fd in said.fds:
                os.close(fd)

    def _serve(self) -> None:
        for number in itertools.count():
            try:
                self._connected, _ = self._listener.accept()
            except OSError:  # shut
                return
            with contextlib.suppress(EOFError, OSError), self._connected as sock:
                while True:
                    said = _receive(sock, number)
                    self.said.append(said)
                    self._answer(sock, said)

    def _answer(self, sock: socket.socket, said: Said) -> None:
        if said.request == GET_VRING_BASE:
            payload = struct.pack("=II", said.index, self.base)
        elif said.request in self._answers:
            payload = struct.pack("=Q", self._answers[said.request])
        elif said.flags & NEED_REPLY:
            payload = struct.pack("=Q", 0)
        else:
            return
        sock.sendall(_HEADER.pack(said.request, REPLY, len(payload)) + payload)


def _receive(sock: socket.socket, connection: int) -> Said:
    header, fds = b"", array.array("i")
    while len(header) < _HEADER.size:
        data, controls, *_ = sock.recvmsg(_HEADER.size - len(header), socket.CMSG_SPACE(8 * 4))
        if not data:
            raise EOFError
        header += data
        for _, _, content in controls:
            fds.frombytes(content)
    request, flags, size = _HEADER.unpack(header)
    payload = b""
    while len(payload) < size:
        payload += sock.recv(size - len(payload)) or b""
    return Said(connection, request, flags, payload, tuple(fds))


class Qemu:
    """A machine with one NIC, whose back-end listens at `path`."""

    IO = 0xC000
    RINGS, APART = 0x100000, 0x10000  # guest addresses of rings

    def __init__(
        self,
        directory: Path,
        path: Path,
        *,
        device: str = "",
        netdev: str = "",
        memory: str = "memory-backend-memfd,share=on",
        extra: Sequence[str] = (),
    ) -> None:
        number = next(_serial)
        self._qmp_path, qtest = directory / f"{number}.qmp", directory / f"{number}.qtest"
        self.migrate_path = directory / f"{number}.migrate"
        options = f"virtio-net-pci,netdev=net,id=nic,mac={MAC},vectors=0,romfile=,addr=4{device}"
        self.process = Process(
            [
                *(PROGRAM, "-nodefaults", "-no-user-config", "-display", "none"),
                *("-accel", "tcg", "-bios", os.fspath(_firmware(directory))),
                *("-qtest", f"unix:{qtest},server=on,wait=off", "-qtest-log", "none"),
                *("-qmp", f"unix:{self._qmp_path},server=on,wait=off"),
                *("-object", f"{memory},id=memory,size=16M", "-m", "16M"),
                *("-machine", "pc,memory-backend=memory"),
                *("-chardev", f"socket,id=nic,path={path},server=off,reconnect=1"),
                *("-netdev", f"vhost-user,id=net,chardev=nic{netdev}"),
                *("-device", options, *extra),
            ],
            directory / f"{number}.out",
        )
        self._qtest_path = qtest
        self._closing = contextlib.ExitStack()
        self._closing.callback(self.process.kill)

    def attend(self) -> None:
        """Return when it takes commands: its back-end has been found to do."""
        self.qmp = self.process.ready(lambda: _qmp(self._qmp_path), "QEMU's monitor")
        self._closing.callback(self.qmp.close)
        self._qtest = self._closing.enter_context(socket.socket(socket.AF_UNIX))
        self._qtest.settimeout(60)
        self._qtest.connect(os.fspath(self._qtest_path))
        self._lines = self._closing.enter_context(self._qtest.makefile("r"))

    def close(self) -> None:
        self._closing.close()

    def test(self, command: str) -> int:
        """A command of qtest's; the number that it answers."""
        self._qtest.sendall(f"{command}\n".encode())
        words = self._lines.readline().split()
        assert words[:1] == ["OK"], words
        return int(words[1], 0) if len(words) > 1 else 0

    # -- a legacy driver --------------------------------------------------------------------------

    def offered(self) -> int:
        """Find the NIC; its features that the driver is offered (of the lower 32)."""
        for register, value in ((0x10, self.IO), (0x04, 0x7)):  # BAR 0; I/O, memory, master
            self.test(f"outl 0xcf8 {0x80000000 | 4 << 11 | register:#x}")
            self.test(f"outl 0xcfc {value:#x}")
        return self._read(0)

    def start_driver(self, features: int = 0, queues: int = 2) -> None:
        """Negotiate, give the first rings their memory, and be ready."""
        self._status(0)
        self._status(0x3)  # ACKNOWLEDGE, DRIVER
        self._write("outl", 4, features & self.offered())
        for queue in range(queues):
            self._write("outw", 14, queue)
            self._write("outl", 8, (self.RINGS + queue * self.APART) >> 12)
        self._status(0x7)  # DRIVER_OK

    def reset_driver(self) -> None:
        self._status(0)

    def use(self, queue: int, index: int) -> None:
        """Have a ring's used index, and what its driver has offered, be this."""
        self._write("outw", 14, queue)
        size = self.test(f"inw {self.IO + 12:#x}")
        avail = self.RINGS + queue * self.APART + 16 * size
        used = -(-(avail + 6 + 2 * size) // 4096) * 4096
        for address in (avail, used):
            self.test(f"writew {address + 2:#x} {index:#x}")

    def announces(self) -> bool:
        """Whether the NIC asks its driver to announce itself (VIRTIO_NET_S_ANNOUNCE)."""
        return bool(self.test(f"inw {self.IO + 20 + 6:#x}") & 2)

    def _status(self, value: int) -> None:
        self._write("outb", 18, value)

    def _read(self, register: int) -> int:
        return self.test(f"inl {self.IO + register:#x}")

    def _write(self, how: str, register: int, value: int) -> None:
        self.test(f"{how} {self.IO + register:#x} {value:#x}")


def _firmware(directory: Path) -> Path:
    """A BIOS that does nothing: cli, hlt and a jump back to it, where a processor begins."""
    path = directory / "firmware"
    path.write_bytes(bytes(0xFFF0) + bytes.fromhex("faf4ebfd").ljust(16, b"\0"))
    return path


def _qmp(path: Path) -> Qmp | None:
    try:
        return Qmp(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
