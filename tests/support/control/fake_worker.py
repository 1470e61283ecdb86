# SPDX-License-Identifier: Apache-2.0
"""A worker without a data path, for tests of the daemon: it speaks the control protocol.

The port's name says how it behaves: `mute*` never answers, `rude*` answers garbage, `flood*`
reports without end, `raise*` fails at once, `deaf*` does not quit. `puppet*` does what its
front-end tells it to, a JSON object a line, and passes on what the daemon says of holds.
"""

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovs_vhost_plugin.common import build
from ovs_vhost_plugin.ipc import commands, reports, vitals
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed
from ovs_vhost_plugin.ipc.codec import codec_of
from ovs_vhost_plugin.ipc.commands import (
    Configure,
    Connected,
    DaemonHello,
    ForgetStations,
    GetStats,
    GiveQueue,
    Inject,
    Quit,
    Release,
)
from ovs_vhost_plugin.ipc.reportpipe import ReportWriter
from ovs_vhost_plugin.ipc.reports import (
    AskConnection,
    AskQueues,
    PortState,
    Rarp,
    Report,
    Started,
    Stats,
    WorkerHello,
)
from ovs_vhost_plugin.ipc.spec import Inheritance, PortSettings, WorkerSpec
from ovs_vhost_plugin.worker.birth.tapio import TapIo

_TUNSETCARRIER = 0x400454E2
KNOWN_HERE = tuple(name for name in commands.KNOWN if name != "hand-over")
_VNET_HEADER = 10  # bytes, as a tap has it by default


def warm() -> None:
    pass


def choose_tap_io(_wish: str) -> TapIo:
    return TapIo(together=False, words="writev")


def read_beyond_a_file(*_: object) -> None:
    """As a worker whose front-end cuts its memory file short: SIGBUS."""
    fd = os.memfd_create("short")
    os.ftruncate(fd, 1 << 16)
    with mmap.mmap(fd, 1 << 16) as mapped:
        os.ftruncate(fd, 0)
        mapped.find(b"x")


def read_nowhere(*_: object) -> None:
    """As a worker with a fault of its own: SIGSEGV."""
    ctypes.string_at(8)


def run(spec: WorkerSpec, inheritance: Inheritance) -> int:
    if spec.name.startswith("raise"):
        raise RuntimeError("this worker was told to fail")
    os.close(inheritance.journal)
    # Faults of its own: of other signals a process that is the first of its PID namespace gets
    # only those that it has handlers for, and SIGKILL (pid_namespaces(7)).
    signal.signal(signal.SIGUSR1, read_beyond_a_file)
    signal.signal(signal.SIGUSR2, read_nowhere)
    return FakeWorker(spec, inheritance).serve()


def link_of(fd: int) -> str | None:
    """What an fd is of, None if there is none."""
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except FileNotFoundError:
        return None


class FakeWorker:
    def __init__(self, spec: WorkerSpec, inheritance: Inheritance) -> None:
        self.spec = spec
        self.control = socket.socket(fileno=inheritance.control)
        listener = inheritance.listener
        self.vhost = None if listener is None else socket.socket(fileno=listener)
        self.taps = [inheritance.tap]
        self.reports: ReportWriter | None = None
        self.channel: Channel | None = None
        self.front_end: socket.socket | None = None
        self.puppet = spec.name.startswith("puppet")
        self.counters: dict[str, int] = {}
        self.strings = b""

    def pull(self) -> None:
        """Report what the front-end tells, or count or transmit as it says."""
        assert self.front_end is not None
        said = self.front_end.recv(65536)
        if not said:
            self.puppet = False  # nobody plays any more
        self.strings += said
        *lines, self.strings = self.strings.split(b"\n")
        for line in lines:
            report = json.loads(line)
            if "counters" in report:
                self.counters = report["counters"]
            elif "transmit" in report:
                self.transmit([bytes.fromhex(frame) for frame in report["transmit"]])
            else:
                self.tell_raw(report)

    def serve(self) -> int:
        while True:
            if self.spec.name.startswith("flood") and self.reports is not None:
                with contextlib.suppress(ChannelClosed):
                    self.tell(Started(0))
            watched = [self.control, *([self.channel] if self.channel else [])]
            if self.vhost is not None:
                watched.append(self.vhost)
            if self.puppet and self.front_end is not None:
                watched.append(self.front_end)
            ready = self.ready(watched)
            if self.control in ready:
                self.accept()
            if self.vhost in ready and self.vhost is not None:
                self.front_end, _ = self.vhost.accept()
                self.tell_state()
            if self.puppet and self.front_end in ready:
                self.pull()
            if self.channel in ready and self.listen():
                return 0
            if not ready and self.spec.mode == "client" and self.front_end is None:
                self.connect()

    def ready(self, watched: list[Any]) -> list[Any]:
        poll = select.poll()
        for file in watched:
            poll.register(file, select.POLLIN)
        fds = {fd for fd, _ in poll.poll(1000 * self._timeout())}
        return [file for file in watched if file.fileno() in fds]

    def _timeout(self) -> float:
        return 0.001 if self.spec.name.startswith("flood") else 0.1

    def accept(self) -> None:
        sock, _ = self.control.accept()
        self.channel = Channel(sock, max_fds=3)

    def greet(self, reports: int, black_box: int, alarm: int) -> None:
        if self.spec.name.startswith("rude"):
            os.write(reports, b"[1, 2\n")
        vitals.adopt(black_box)
        os.close(black_box)
        os.close(alarm)
        self.reports = ReportWriter(reports)
        self.tell(
            WorkerHello(
                "fake", self.spec, len(self.taps), build=build.of_this_code(), commands=KNOWN_HERE
            )
        )
        self.tell_state()
        if 1 < self.spec.queues < 128:
            self.tell(AskQueues(128))  # more than its port has

    def listen(self) -> bool:
        assert self.channel is not None
        try:
            told = [self.obey(said, fds) for said, fds in self.channel.receive()]
        except ChannelClosed:
            self.channel = self.reports = None
            return False
        return any(told)

    def obey(self, said: dict[str, Any], fds: list[int]) -> bool:
        match commands.decode(said, fds):
            case DaemonHello():
                self.greet(*fds)
            case Quit():
                return not self.spec.name.startswith("deaf")
            case GetStats(request):
                self.tell(Stats(request, self.stats()))
            case Configure(settings):
                self.spec = replace(self.spec, settings=settings)
                self.tell_state()
            case GiveQueue(index):
                assert index == len(self.taps)
                self.taps += fds
            case Inject(frames):
                self.transmit(frames)
            case Release() | ForgetStations() if self.puppet and self.front_end is not None:
                self.front_end.sendall(json.dumps(said).encode() + b"\n")
            case Connected():
                self.front_end = socket.socket(fileno=fds[0])
                self.tell_state()
        return False

    def transmit(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            os.write(self.taps[0], bytes(_VNET_HEADER) + frame)

    def connect(self) -> None:
        """By the daemon, as a worker has no file system."""
        self.tell(AskConnection())

    def tell(self, report: Report) -> None:
        self.tell_raw(reports.encode(report))

    def tell_raw(self, said: dict[str, Any]) -> None:
        if self.reports is not None and not self.spec.name.startswith("mute"):
            self.reports.send(said)

    def tell_state(self) -> None:
        connected = self.front_end is not None
        waiting = "listening" if self.vhost else "connecting"
        if connected:
            fcntl.ioctl(self.taps[0], _TUNSETCARRIER, struct.pack("=i", 1))
            if not self.puppet:
                self.tell(Rarp(bytes.fromhex("525400000001"), time.monotonic()))
        state = PortState("connected" if connected else waiting, self.spec.path)
        if connected:
            state = replace(
                state,
                features="0x0000000140000000",
                protocol_features="0x7",
                num_vrings=2,
                vring_sizes=(256, 512),
            )
        self.tell(replace(state, mtu=self.spec.settings.mtu))

    def stats(self) -> dict[str, Any]:
        return {
            "status": "fake",
            "uid": os.getuid(),
            "taps": len(self.taps),
            "fds": {str(fd): link for fd in range(64) if (link := link_of(fd)) is not None},
            "environment": dict(os.environ),
            "sigterm": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
            "configured": codec_of(PortSettings).encode(self.spec.settings),
            "queue_pairs": [
                {"rx_packets": 3, "tx_packets": 0},
                {"rx_packets": 4, "tx_packets": self.counters.get("tx_packets", 0)},
            ],
            "errors": {},
        }
