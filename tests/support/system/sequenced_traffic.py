# SPDX-License-Identifier: Apache-2.0
"""Numbered frames both ways through a port, all the time that something else happens to it."""

import contextlib
import socket
import struct
import threading
import time
from collections import Counter

from support.system.soft_ports import ETHERTYPE, GUEST_MAC, OTHER_MAC

from ovs_vhost_plugin.lab.process import wait_until

_NUMBER = struct.Struct("!Q")
_SIZE = 100  # bytes of a frame
_TICK = 0.001  # seconds between two frames of one direction
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_ROOM = 1 << 22  # bytes of the capturing socket's buffer


class SequencedTraffic:
    """Sends until the end of the `with` block; then each frame has come exactly once, or it raises.

    `port` is a SoftPort and `guest` its guest, whom nobody else may use meanwhile.
    """

    def __init__(self, port, guest):
        self.sent = 0
        """Frames sent in each direction."""
        self._guest = guest
        self._wire = port.host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300)
        self._wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        self._wire.setblocking(False)
        self._wire.bind((port.name, 0))
        self._came = {"to the guest": Counter(), "from the guest": Counter()}
        self._stop = threading.Event()
        self._fault = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, *_):
        self._stop.set()
        self._thread.join()
        try:
            if self._fault is not None:
                raise self._fault
            if kind is None:
                self._check()
        finally:
            self._wire.close()

    def wait_for_more(self, count=100):
        """Return when so many more frames have come in each direction."""
        have = {way: came.total() for way, came in self._came.items()}
        wait_until(
            lambda: (
                self._fault
                or all(came.total() >= have[way] + count for way, came in self._came.items())
            ),
            f"{count} more frames each way",
        )

    def _run(self):
        try:
            while not self._stop.is_set():
                begun = time.monotonic()
                self._guest.send(_frame(self.sent, to=OTHER_MAC, source=GUEST_MAC))
                self._wire.send(_frame(self.sent, to=GUEST_MAC, source=OTHER_MAC))
                self.sent += 1
                self._read()
                self._stop.wait(max(0.0, _TICK - (time.monotonic() - begun)))
        except Exception as error:
            self._fault = error

    def _read(self):
        for frame in self._guest.receive(0):
            _count(frame, self._came["to the guest"])
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = self._wire.recvfrom(2048)
                if kind != socket.PACKET_OUTGOING:
                    _count(frame, self._came["from the guest"])

    def _check(self):
        def all_came():
            self._read()
            return all(len(came) == self.sent for came in self._came.values())

        with contextlib.suppress(Exception):  # the report below says more
            wait_until(all_came, "the last frames")
        for way, came in self._came.items():
            lost = [number for number in range(self.sent) if not came[number]]
            twice = [number for number, times in came.items() if times > 1]
            assert (lost, twice) == ([], []), f"of {self.sent} frames {way}"


def _frame(number, *, to, source):
    return (to + source + ETHERTYPE + _NUMBER.pack(number)).ljust(_SIZE, b"\0")


def _count(frame, came):
    if frame[12:14] == ETHERTYPE and len(frame) == _SIZE:
        came[_NUMBER.unpack_from(frame, 14)[0]] += 1
