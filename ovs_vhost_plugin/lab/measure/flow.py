# SPDX-License-Identifier: Apache-2.0
"""A continuous flow of numbered UDP datagrams, each of which proves its own contents.

A datagram is one record: its number and a checksum of flow and number, repeated to the record's
size.  So the receiver can tell a whole record from a damaged or foreign one. Records are text of a
fixed size, so a guest can keep them by `nc >file` and hand the file out later.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import socket
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import TracebackType

from ovs_vhost_plugin.lab.guests.qemu import QemuGuest
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.measure.capture import Frame
from ovs_vhost_plugin.lab.measure.timeline import duplicates
from ovs_vhost_plugin.lab.process import LabError, wait_until

RECORD_SIZE = 64
_CATCH_UP = 0.004
"""Seconds of late records that go out at once."""


def record(flow: int, number: int, size: int = RECORD_SIZE) -> bytes:
    """The datagram `number` (below 10**8) of the flow `flow`, `size` bytes of text."""
    word = f"{number:08d} {_checksum(flow, number)} "
    return (word * (size // len(word) + 1))[: size - 1].encode() + b"\n"


def number_of(flow: int, data: bytes, size: int = RECORD_SIZE) -> int | None:
    """The number of a whole record of this flow, else None."""
    text = data[:8]
    if not text.isdigit() or data != record(flow, int(text), size):
        return None
    return int(text)


@dataclass
class FlowArrivals:
    """A receiver's data: the numbers of whole records, in order of arrival."""

    numbers: list[int] = field(default_factory=list)
    damaged: int = 0

    @classmethod
    def parse(cls, flow: int, data: bytes, size: int = RECORD_SIZE) -> FlowArrivals:
        """Read records that were written one after the other."""
        arrivals = cls()
        for start in range(0, len(data), size):
            number = number_of(flow, data[start : start + size], size)
            if number is None:
                arrivals.damaged += 1
            else:
                arrivals.numbers.append(number)
        return arrivals

    def lost(self, sent: int) -> list[int]:
        """The records of 0 … sent-1 that never came."""
        return sorted(set(range(sent)) - set(self.numbers))

    def duplicates(self) -> list[int]:
        """Records that came more than once."""
        return duplicates(self.numbers)


class Flow:
    """Sends records from a namespace at a steady rate, and keeps the answers.

    Sending happens in a thread, on a schedule that does not drift. After a late wake-up the due
    records follow fast, but not all at once: a switch that reads them from a packet socket would
    lose those that do not fit.  `sent_at[n]` is the time at which record n was sent, `answers`
    holds (CLOCK_MONOTONIC seconds, number) of each whole record that came back.
    """

    def __init__(
        self,
        namespace: Namespace,
        destination: tuple[str, int],
        *,
        rate: int = 1000,
        size: int = RECORD_SIZE,
        flow: int = 1,
    ) -> None:
        self.flow = flow
        self.size = size
        self.sent_at: list[float] = []
        self.answers: list[tuple[float, int]] = []
        self.damaged_answers = 0
        self._destination = destination
        self._interval = 1.0 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="flow", daemon=True)
        self._failure: OSError | None = None
        self._socket = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def __enter__(self) -> Flow:
        self._socket.connect(self._destination)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._socket.close()

    @property
    def sent(self) -> int:
        """The number of records sent so far."""
        return len(self.sent_at)

    def times(self) -> dict[int, float]:
        """The time at which each record was sent."""
        return dict(enumerate(self.sent_at))

    def number(self, frame: Frame) -> int | None:
        """The number of the record in a captured frame, or None."""
        payload = frame.within.udp_payload(self._destination[1])
        return None if payload is None else number_of(self.flow, payload, self.size)

    def stop(self) -> None:
        """Send no more; answers are still taken by `collect`."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._failure:
            raise LabError(f"the flow to {self._destination}: {self._failure}")

    def collect(self, seconds: float = 0.0) -> None:
        """Take the answers that have come, or come within `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            self._socket.settimeout(max(1e-6, deadline - time.monotonic()))
            try:
                self._take(self._socket.recv(65536))
            except TimeoutError:
                return
            except ConnectionRefusedError:
                continue

    def _send(self) -> None:
        due = time.monotonic()
        most = max(2, round(_CATCH_UP / self._interval))
        try:
            while not self._stop.is_set():
                for _ in range(most):
                    if due > time.monotonic():
                        break
                    self._send_one()
                    due += self._interval
                while self._receive_ready():
                    pass
                left = due - time.monotonic()
                self._stop.wait(left if left > 0 else self._interval)
        except OSError as error:
            self._failure = error

    def _send_one(self) -> None:
        data = record(self.flow, self.sent, self.size)
        at = time.monotonic()
        try:
            self._socket.send(data)
        except ConnectionRefusedError:
            # An ICMP error is about an earlier datagram, and this one was not sent.
            with contextlib.suppress(ConnectionRefusedError):
                self._socket.send(data)
        self.sent_at.append(at)

    def _receive_ready(self) -> bool:
        try:
            self._take(self._socket.recv(65536, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False
        except ConnectionRefusedError:
            pass
        return True

    def _take(self, data: bytes) -> None:
        at = time.monotonic()
        arrivals = FlowArrivals.parse(self.flow, data, self.size)
        self.damaged_answers += arrivals.damaged
        self.answers += [(at, number) for number in arrivals.numbers]


class GuestReceiver:
    """A UDP receiver inside a QEMU guest; it moves with the guest when that migrates.

    It keeps the data; with `echo` it sends the data back instead, to its first sender.
    """

    def __init__(self, guest: QemuGuest, port: int, *, echo: bool = False) -> None:
        self._port = f":{port:04X} "  # as proc(5) shows it
        self._file = PurePosixPath(f"/tmp/flow-{port}")
        # netcat takes data of one sender only: another sender's flow needs another netcat.
        guest.run(f"[ ! -e {self._file} ] || {{ kill $(cat {self._file}.pid); rm {self._file}; }}")
        if echo:
            # One pipe, from netcat's output to its own input; `<>` opens it without a partner.
            guest.run(f"mkfifo {self._file}")
            netcat = f"nc.openbsd -u -l {port} <>{self._file} >&0 2>/dev/null"
            guest.run(f"{netcat} & echo $! >{self._file}.pid")
        else:
            guest.run(f"nc.openbsd -u -l {port} >{self._file} 2>&1 & echo $! >{self._file}.pid")
        guest.run(f"until grep -q '{self._port}' /proc/net/udp; do usleep 10000; done")

    def size(self, guest: QemuGuest) -> int:
        """The number of bytes that have arrived so far."""
        return int(guest.run(f"wc -c <{self._file}"))

    def unread(self, guest: QemuGuest) -> int:
        """Bytes, as the kernel of the guest counts them, that the receiver has yet to read."""
        lines = guest.run(f"grep '{self._port}' /proc/net/udp").splitlines()
        # proc(5), /proc/net/udp: the fifth column is tx_queue:rx_queue
        return sum(int(line.split()[4].partition(":")[2], 16) for line in lines)

    def all_of(self, flow: Flow, guest: QemuGuest) -> FlowArrivals:
        """The arrivals of a flow that has stopped, once its last record has come."""

        def ended() -> FlowArrivals | None:
            arrivals = FlowArrivals.parse(flow.flow, self.fetch(guest), flow.size)
            return arrivals if flow.sent - 1 in arrivals.numbers else None

        return wait_until(ended, "the flow's last record", poll=0.2)

    def fetch(self, guest: QemuGuest) -> bytes:
        """All that has arrived so far, over the console."""
        text = guest.run(f"gzip -c {self._file} | base64", seconds=60)
        return gzip.decompress(base64.b64decode(text))

    def send(self, guest: QemuGuest, address: str, port: int) -> None:
        """Begin to send all that has arrived so far over TCP."""
        guest.run(f"nc.openbsd -N {address} {port} <{self._file} >/dev/null 2>&1 &")


def _checksum(flow: int, number: int) -> str:
    return f"{zlib.crc32(f'{flow} {number}'.encode()):08x}"
