# SPDX-License-Identifier: Apache-2.0
"""A worker without a data path, for tests of the daemon: it speaks the control protocol.

The port's name says how it behaves: `mute*` never answers, `rude*` answers garbage, `flood*`
reports without end, `raise*` fails at once, `deaf*` does not quit. `puppet*` reports what its
front-end tells it to, a JSON object a line.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any

from ovs_vhost_plugin.control import Channel, ChannelClosed, WorkerSpec

_TUNGETIFF = 0x800454D2
_TUNSETCARRIER = 0x400454E2
_VNET_HEADER = 10  # bytes, as a tap has it by default


def warm() -> None:
    pass


def run(
    spec: WorkerSpec,
    control_listener: socket.socket,
    vhost_listener: socket.socket | None,
    tap_fds: list[int],
    journal_fd: int,
) -> int:
    if spec.name.startswith("raise"):
        raise RuntimeError("this worker was told to fail")
    if spec.uid:
        os.setgroups([])
        os.setresgid(spec.gid, spec.gid, spec.gid)
        os.setresuid(spec.uid, spec.uid, spec.uid)
    return FakeWorker(spec, control_listener, vhost_listener, tap_fds).serve()


class FakeWorker:
    def __init__(
        self,
        spec: WorkerSpec,
        control: socket.socket,
        vhost: socket.socket | None,
        taps: list[int],
    ) -> None:
        self.spec, self.control, self.vhost, self.taps = spec, control, vhost, taps
        self.channel: Channel | None = None
        self.front_end: socket.socket | None = None
        self.configured: dict[str, Any] = {}
        self.puppet = spec.name.startswith("puppet")
        self.counters: dict[str, int] = {}
        self.strings = b""

    def pull(self) -> None:
        """Report what the front-end tells, or count as it says."""
        assert self.front_end is not None
        self.strings += self.front_end.recv(65536)
        *lines, self.strings = self.strings.split(b"\n")
        for line in lines:
            report = json.loads(line)
            if "counters" in report:
                self.counters = report["counters"]
            else:
                self.tell(**report)

    def serve(self) -> int:
        while True:
            if self.spec.name.startswith("flood") and self.channel is not None:
                with contextlib.suppress(ChannelClosed):
                    self.tell("started", base=0)
            watched = [self.control, *([self.channel] if self.channel else [])]
            if self.vhost is not None:
                watched.append(self.vhost)
            if self.puppet and self.front_end is not None:
                watched.append(self.front_end)
            ready, _, _ = select.select(watched, [], [], self._timeout())
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

    def _timeout(self) -> float:
        return 0.001 if self.spec.name.startswith("flood") else 0.1

    def accept(self) -> None:
        sock, _ = self.control.accept()
        if self.spec.name.startswith("rude"):
            sock.send(b"[1, 2")
        self.channel = Channel(sock)
        self.tell("hello", version="fake", pid=1, spec=self.spec.to_json())
        self.tell_state()

    def listen(self) -> bool:
        assert self.channel is not None
        try:
            told = [self.obey(command, fds) for command, fds in self.channel.receive()]
        except ChannelClosed:
            self.channel = None
            return False
        return any(told)

    def obey(self, command: dict[str, Any], fds: list[int]) -> bool:
        match command:
            case {"op": "quit"}:
                return not self.spec.name.startswith("deaf")
            case {"op": "stats", "id": request}:
                self.tell("stats", id=request, stats=self.stats())
            case {"op": "configure", **what}:
                self.configured = what
                self.tell_state()
            case {"op": "inject", "frames": frames}:
                for frame in frames:
                    os.write(self.taps[0], bytes(_VNET_HEADER) + bytes.fromhex(frame))
            case {"op": "connected"}:
                self.front_end = socket.socket(fileno=fds[0])
                self.tell_state()
        return False

    def connect(self) -> None:
        """As an unprivileged worker has to: by the daemon."""
        self.tell("connect", path=self.spec.path)

    def tell(self, event: str, **what: Any) -> None:
        if self.channel is not None and not self.spec.name.startswith("mute"):
            self.channel.send({"event": event, **what})

    def tell_state(self) -> None:
        connected = self.front_end is not None
        waiting = "listening" if self.vhost else "connecting"
        if connected:
            fcntl.ioctl(self.taps[0], _TUNSETCARRIER, struct.pack("=i", 1))
            if not self.puppet:
                self.tell("rarp", mac="52:54:00:00:00:01", at=time.monotonic())
        state = {
            "status": "connected" if connected else waiting,
            "socket": self.spec.path,
            "features": "0x0000000140000000" if connected else "",
            "protocol_features": "0x7" if connected else "",
            "num_vrings": 2 if connected else 0,
            "vring_sizes": [256, 512] if connected else [],
            "mtu": self.spec.mtu,
            "error": "",
            "error_detail": "",
            "errors": 0,
        }
        self.tell("state", state=state)

    def stats(self) -> dict[str, Any]:
        names = [
            fcntl.ioctl(fd, _TUNGETIFF, bytes(40))[:16].rstrip(b"\0").decode() for fd in self.taps
        ]
        return {
            "status": "fake",
            "uid": os.getuid(),
            "taps": names,
            "fds": sorted(int(fd.name) for fd in Path("/proc/self/fd").iterdir()),
            "sigterm": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
            "session": os.getsid(0) == os.getpid(),
            "configured": self.configured,
            "queue_pairs": [{"rx_packets": 3}, {"rx_packets": 4, **self.counters}],
            "errors": {},
        }
