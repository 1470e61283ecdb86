# SPDX-License-Identifier: Apache-2.0
"""A TCP stream by iperf3, whose frames are numbered by their IPv4 identification.

The sender's kernel increments it for each segment that it sends, also for one sent again (RFC 6864
asks for less). So a frame that was lost on the way shows, though TCP repairs the loss.
"""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path

from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.measure.capture import Capture, Frame
from ovs_vhost_plugin.lab.process import LabError
from ovs_vhost_plugin.lab.setup import Setup

IPERF_PORT = 5201
_SNAP = 96
_WINDOW = "64K"
_LONGEST_SECONDS, _END_SECONDS = 120, 10.0


class TcpStream(Setup):
    """A stream from a namespace to a guest's iperf3 of `bits` a second; its output in `directory`.

    A frame's number is its connection and identification: iperf3 has a second connection, for
    control, whose frames count as well.
    """

    def __init__(
        self, namespace: Namespace, device: str, address: str, directory: Path, bits: int
    ) -> None:
        super().__init__()
        self._namespace = namespace
        self._capture = Capture(namespace, device, snap=_SNAP)
        self._command = [
            *("iperf3", "--client", address, "--port", str(IPERF_PORT), "--json"),
            # Paced by the kernel, and with a small window: Open vSwitch reads a cable by a socket
            # with room for some 90 frames, and loses the rest of a longer burst in any case.
            *("--fq-rate", str(bits), "--window", _WINDOW, "--length", "8K"),
            *("--time", str(_LONGEST_SECONDS)),
        ]
        self._ended = math.inf
        self._output = directory / "iperf3.json"

    def _set_up(self) -> None:
        self._closing.enter_context(self._capture)
        self._output.unlink(missing_ok=True)
        self._process = self._namespace.start(self._command, self._output)
        self._closing.callback(self._process.stop)

    @property
    def sent(self) -> int:
        """The number of segments sent so far."""
        return len(self.times())

    def times(self) -> dict[int, float]:
        """The time at which each segment was sent, up to `stop`."""
        times: dict[int, float] = {}
        for frame in self._capture.frames():
            number = self.number(frame) if frame.outgoing else None
            if (
                frame.at < self._ended
                and number is not None
                and times.setdefault(number, frame.at) != frame.at
            ):
                raise LabError("the stream is too long: its identifications came again")
        return times

    def stop(self) -> None:
        """End the stream."""
        self._ended = time.monotonic()
        self._process.signal(signal.SIGINT)
        self._process.wait(_END_SECONDS)

    def retransmitted(self) -> int:
        """The number of segments sent again, by iperf3's count."""
        result = json.loads(self._output.read_text())
        return int(result["end"]["sum_sent"]["retransmits"])

    @staticmethod
    def number(frame: Frame) -> int | None:
        """The number of a frame of the stream with payload, else None."""
        segment = frame.tcp_segment(IPERF_PORT)
        return None if segment is None else segment.source << 16 | segment.identification
