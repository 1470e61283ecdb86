# SPDX-License-Identifier: Apache-2.0
"""The kept OpenFlow connection to one bridge: a Session on a Link, with a barrier to each burst.

OVS answers a packet-out only if it is wrong. The barrier after it makes the answer certain: an
error that comes before the barrier's reply is the burst's, else it was carried out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import ovs.vlog

from ovs_vhost_plugin.openflow.session import Barrier, ErrorReply, Event, Negotiated, Session
from ovs_vhost_plugin.openflow.wire import OpenFlowError, OpenFlowErrorName, Output
from ovs_vhost_plugin.vswitchd.link import Link, LinkLost, Poller

ANSWER_TIMEOUT = 1.0  # for the HELLO and for each barrier; seconds

vlog = ovs.vlog.Vlog("vhost_openflow")


@dataclass(frozen=True, slots=True)
class Delivered:
    """The switch has carried all packet-outs of the burst `xid` out."""

    xid: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The switch answered a packet-out of the burst `xid` with the error `name`."""

    xid: int
    name: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The burst `xid` was under way when the connection ended: it may have worked."""

    xid: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Exchange:
    packet_xids: tuple[int, ...]
    barrier_xid: int
    deadline: float

    @property
    def xid(self) -> int:
        """By which the burst is known: of its first packet-out."""
        return self.packet_xids[0]


class Channel:
    """Sends packet-outs to the bridge whose management socket is `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._link = Link(lambda: path)
        self._session = Session()
        self._negotiate_by = 0.0
        self._under_way: deque[_Exchange] = deque()

    @property
    def obstacle(self) -> str | None:
        """Why no packet-out can be sent now; None if one can."""
        if not self._link.connected:
            return self._link.error
        return "negotiating" if self._session.version is None else None

    def packet_outs(self, in_port: int, frames: Sequence[bytes], output: Output, now: float) -> int:
        """Queue a burst of packet-outs and a barrier for the next `run`; return the burst's xid.

        Raises OpenFlowError for an invalid port or frame, and when `obstacle` is not None.
        """
        if self.obstacle is not None:
            raise OpenFlowError(OpenFlowErrorName.NOT_NEGOTIATED, self.obstacle)
        xids = tuple(self._session.packet_out(in_port, frame, output) for frame in frames)
        exchange = _Exchange(xids, self._session.barrier(), now + ANSWER_TIMEOUT)
        self._under_way.append(exchange)
        return exchange.xid

    def packets_to(self, port: int, frames: Sequence[bytes]) -> None:
        """Send frames to exactly `port` with the next `run`, from nobody; nothing tells of them.

        While there is an `obstacle` they go nowhere.
        """
        if self.obstacle is None:
            for frame in frames:
                self._session.packet_to(port, frame)

    def run(self, now: float) -> list[Delivered | Refused | Lost]:
        """Connect, receive, answer; return what became of packet-outs."""
        if self._link.connect(now):
            self._session = Session()
            self._negotiate_by = now + ANSWER_TIMEOUT
        if not self._link.connected:
            return []
        answers: list[Delivered | Refused | Lost] = []
        try:
            self._check_time(now)
            self._link.send(self._session.data_to_send())
            while data := self._link.receive():
                for event in self._session.feed(data):
                    answers += self._handle(event)
                self._link.send(self._session.data_to_send())
        except (LinkLost, OpenFlowError) as error:
            answers += self._lose(str(error), now)
        return answers

    def wait(self, poller: Poller) -> None:
        """Register for what `run` has to be called for."""
        self._link.wait(poller)
        if self._link.connected and self._session.version is None:
            poller.timer_wait_until(self._negotiate_by * 1e3)
        if self._under_way:
            poller.timer_wait_until(self._under_way[0].deadline * 1e3)

    def close(self) -> list[Lost]:
        """Close the connection; return what was under way."""
        self._link.close()
        return self._give_up("closed")

    def _handle(self, event: Event) -> list[Delivered | Refused]:
        match event:
            case Negotiated(version):
                self._link.settle()
                vlog.info(f"{self._path}: connected, {version}")
            case Barrier(xid):
                if self._under_way and self._under_way[0].barrier_xid == xid:
                    return [Delivered(self._under_way.popleft().xid)]
            case ErrorReply(xid, name=name):
                for exchange in self._under_way:
                    if xid in (*exchange.packet_xids, exchange.barrier_xid):
                        self._under_way.remove(exchange)
                        return [Refused(exchange.xid, name)]
        return []

    def _check_time(self, now: float) -> None:
        if self._session.version is None and now >= self._negotiate_by:
            raise LinkLost("no HELLO")
        if self._under_way and now >= self._under_way[0].deadline:
            raise LinkLost("no barrier reply")

    def _lose(self, reason: str, now: float) -> list[Lost]:
        if self._session.version is not None:
            vlog.info(f"{self._path}: connection lost: {reason}")
        self._link.lose(reason, now)
        return self._give_up(reason)

    def _give_up(self, reason: str) -> list[Lost]:
        lost = [Lost(exchange.xid, reason) for exchange in self._under_way]
        self._under_way.clear()
        return lost
