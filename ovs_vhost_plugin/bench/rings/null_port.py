# SPDX-License-Identifier: Apache-2.0
"""A port without a tap, for bench_rings: our session, device and rings, polling like DPDK's.

    python -m ovs_vhost_plugin.bench.rings.null_port SOCKET

It listens on SOCKET for one front-end. A line on its standard input, "idle", "send 64",
"receive 64" or "loopback 64", sets its work from then on (with own frames of so many bytes). It
answers with a line of counters as JSON, read when that work has begun. At the end of the input it
ends.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time

import numpy as np

from ovs_vhost_plugin.bench.rings.kernels import (
    BURST,
    DONE,
    FIRST,
    IDLE,
    IN_VAIN,
    LOOKS,
    LOOPBACK,
    RECEIVE,
    SEND,
    SPACING,
    WANTED,
    new_packets,
    serve,
)
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.worker.complaints import Complaints
from ovs_vhost_plugin.worker.device.device import Device, Observer
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.frontend import FrontEndLink
from ovs_vhost_plugin.worker.learned.addresses import Addresses
from ovs_vhost_plugin.worker.learned.devicestate import DeviceState
from ovs_vhost_plugin.worker.learned.movedon import Watch
from ovs_vhost_plugin.worker.outbox import Outbox
from ovs_vhost_plugin.worker.tap.gate import TapGate
from ovs_vhost_plugin.worker.tap.holding import Holding
from ovs_vhost_plugin.worker.tap.queues import TapQueues, TapState

MODES = {"idle": IDLE, "send": SEND, "receive": RECEIVE, "loopback": LOOPBACK}
_FRAME_BEGINS = bytes.fromhex("ffffffffffff5254000000010800")


class NullTaps(TapQueues):
    """A tap without queues, which always has its carrier."""

    def __init__(self) -> None:
        super().__init__([], TapState((), carrier=True, header_size=0, takes_uso=True))

    def set_format(self, header_size: int, features: int) -> None:
        """Nothing: no tap writes a header."""

    def set_carrier(self, up: bool) -> None:
        """Nothing: no switch is told."""


class LoudComplaints(Complaints):
    """Tells of whatever goes wrong; nothing may."""

    def note(self, error: PeerError) -> None:
        """Print the error at once."""
        print(error, file=sys.stderr, flush=True)


class NullObserver(Observer):
    """A device's listener that hears errors alone."""

    def __init__(self, complaints: Complaints) -> None:
        self._complaints = complaints

    def error(self, error: PeerError) -> None:
        """Tell of a peer's mistake."""
        self._complaints.note(error)

    def rarp(self, mac: bytes) -> None:
        """Nothing: nobody is told where the guest is."""

    def started(self, base: int, *, further: bool) -> None:
        """Nothing."""

    def lasting(self, error: PeerError | None) -> None:
        """Nothing: `error` has been told of it."""

    def migrates(self) -> None:
        """Nothing: nobody is told that the guest leaves."""

    def pairs_wanted(self, pairs: int) -> None:
        """Nothing: one pair is all that is offered."""

    def busy(self) -> None:
        """Nothing: nobody watches over this process."""


class NullPort:
    """The port and its loop."""

    def __init__(self, path: str) -> None:
        self._mode = np.zeros(4, np.int64)
        self._packets = new_packets()
        self._lengths = np.zeros(BURST, np.int64)
        self._pair = QueuePair(0, tap_fd=-1, loop=self._loop)
        complaints = LoudComplaints()
        self._selector = selectors.DefaultSelector()
        outbox = Outbox(self._selector, time.monotonic)
        addresses = Addresses([self._pair], -1, Watch(), outbox)
        state = DeviceState(addresses, self._selector, time.monotonic)
        taps, settings = NullTaps(), PortSettings(hold=False)
        holding = Holding(taps, self._selector, outbox, time.monotonic, settings)
        self._device = Device(
            TapGate([self._pair], taps, holding),
            state,
            self._selector,
            NullObserver(complaints),
            settings,
        )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()
        self._front_end = FrontEndLink(
            path,
            listener,
            self._device,
            self._selector,
            outbox=outbox,
            complaints=complaints,
            make_offer=lambda: offer(queue_pairs=1, mtu=None),
        )
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._command)
        self._open = True

    def serve(self) -> None:
        """Serve front-end and standard input until that ends."""
        self._front_end.handle_timer(time.monotonic())
        while self._open:
            for key, _ in self._selector.select():
                key.data(time.monotonic())
        self._front_end.close(time.monotonic())
        self._pair.close()

    def _loop(self, pair: layout.Pair) -> None:
        serve(pair, self._mode, self._packets, self._lengths)

    def _command(self, _now: float) -> None:
        words = sys.stdin.readline().split()
        if not words:
            self._open = False
            return
        if words[0] == "receive":
            self._fill(int(words[1]))
        self._mode[WANTED] = MODES[words[0]]
        while self._pair.running and self._mode[DONE] != self._mode[WANTED]:
            os.sched_yield()
        looks = {"looks": int(self._mode[LOOKS]), "in_vain": int(self._mode[IN_VAIN])}
        print(json.dumps(self._pair.counters | looks), flush=True)

    def _fill(self, length: int) -> None:
        """Make all packets frames of `length` bytes under a header that asks for nothing."""
        header = self._device.header_size
        begin = FIRST + header
        self._packets[:] = 0
        packets = self._packets.reshape(BURST, SPACING)
        packets[:, begin : begin + 14] = np.frombuffer(_FRAME_BEGINS, np.uint8)
        self._lengths[:] = header + length


if __name__ == "__main__":
    NullPort(sys.argv[1]).serve()
