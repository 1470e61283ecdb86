# SPDX-License-Identifier: Apache-2.0
"""Batches of frames to the ports of a bridge: packet-outs, and a barrier after each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovs_vhost_plugin.forward.onward import Parcel
from ovs_vhost_plugin.openflow.connection import ANSWER_TIMEOUT
from ovs_vhost_plugin.openflow.session import Barrier, ErrorReply, Negotiated, Session
from ovs_vhost_plugin.openflow.wire import OpenFlowError, Output
from ovs_vhost_plugin.vswitchd.link import Link, LinkLost, Poller


@dataclass(slots=True)
class Batch:
    """What became of a batch: of `sent` frames the switch has refused `refused`.

    lost  the connection ended before the switch had answered for all of them
    """

    sent: int
    refused: int = 0
    lost: str = ""


class ParcelService:
    """One batch at a time to the bridge whose management socket is `path`."""

    def __init__(self, path: str) -> None:
        self._link = Link(lambda: path)
        self._session = Session()
        self._batch: Batch | None = None
        self._barrier = 0
        self._deadline = 0.0

    @property
    def ready(self) -> bool:
        """Whether a batch can be sent now."""
        return self._link.connected and self._session.version is not None and self._batch is None

    def send(self, parcels: Sequence[Parcel], now: float) -> None:
        """Queue a batch for the next `run`; only when `ready`."""
        for frame, port in parcels:
            self._session.packet_to(port, frame)
        self._batch = Batch(len(parcels))
        self._barrier = self._session.barrier()
        self._deadline = now + ANSWER_TIMEOUT

    def teach(self, in_port: int, frame: bytes) -> None:
        """Have the bridge learn from a frame as if it had come in by `in_port`; when `ready`."""
        self._session.packet_out(in_port, frame, Output.NORMAL)

    def run(self, now: float) -> Batch | None:
        """Connect, send, receive; return the batch if it is done."""
        if self._link.connect(now):
            self._session = Session()
            self._deadline = now + ANSWER_TIMEOUT
        if not self._link.connected:
            return None
        try:
            self._link.send(self._session.data_to_send())
            while data := self._link.receive():
                for event in self._session.feed(data):
                    match event:
                        case Negotiated():
                            self._link.settle()
                        case ErrorReply() if self._batch is not None:
                            self._batch.refused += 1
                        case Barrier(xid) if xid == self._barrier:
                            done, self._batch = self._batch, None
                            return done
                self._link.send(self._session.data_to_send())
            # After a look at what is there: who comes late himself is not to blame the switch.
            if self._waits and now >= self._deadline:
                raise LinkLost("no answer")
        except (LinkLost, OpenFlowError) as error:
            self._link.lose(str(error), now)
            lost, self._batch = self._batch, None
            if lost is not None:
                lost.lost = str(error)
            return lost
        return None

    def wait(self, poller: Poller) -> None:
        """Register for what `run` has to be called for."""
        self._link.wait(poller)
        if self._link.connected and self._waits:
            poller.timer_wait_until(self._deadline * 1e3)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    @property
    def _waits(self) -> bool:
        return self._batch is not None or self._session.version is None
