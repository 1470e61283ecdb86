# SPDX-License-Identifier: Apache-2.0
"""The kept OpenFlow connection to one bridge: bursts of packet-outs, a barrier behind each.

    burst ──► packet-out, packet-out, ..., BARRIER_REQUEST ──► bridge
    Done  ◄── ERROR of a packet-out, ..., BARRIER_REPLY    ◄──┘

Open vSwitch answers a packet-out only if it is wrong. The barrier makes the answer certain: what
no error came for before the barrier's reply was carried out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.openflow.session import (
    Barrier,
    ErrorReply,
    Negotiated,
    OpenFlowSession,
    SessionEvent,
)
from ovs_vhost_plugin.openflow.wire import Addressed, OpenFlowError, OpenFlowErrorName, Output
from ovs_vhost_plugin.vswitchd.link import Link, LinkLost, Poller

ANSWER_TIMEOUT = 1.0  # for the HELLO and for each barrier; seconds

vlog = Vlog("vhost_openflow")


@dataclass(frozen=True, slots=True)
class Done:
    """The outcome of the burst `xid` of `sent` packet-outs.

    refused  the names of the switch's errors, one for each packet-out that it refused
    lost     why the connection ended before the switch had answered: the burst may have worked
    """

    xid: int
    sent: int
    refused: tuple[str, ...] = ()
    lost: str = ""


@dataclass(slots=True)
class _Burst:
    xids: tuple[int, ...]
    barrier: int
    deadline: float
    refused: list[str] = field(default_factory=list)

    def done(self, lost: str = "") -> Done:
        return Done(self.xids[0], len(self.xids), tuple(self.refused), lost)


class BridgeConnection:
    """Sends packet-outs to the bridge whose management socket is `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._link = Link(lambda: path)
        self._session = OpenFlowSession()
        self._negotiate_by = 0.0
        self._under_way: deque[_Burst] = deque()

    @property
    def obstacle(self) -> str | None:
        """Why no packet-out can be sent now; None if one can."""
        if not self._link.connected:
            return self._link.error
        return "negotiating" if self._session.version is None else None

    @property
    def idle(self) -> bool:
        """Whether a burst can be sent now and none is under way."""
        return self.obstacle is None and not self._under_way

    def packet_outs(self, in_port: int, frames: Sequence[bytes], output: Output, now: float) -> int:
        """Queue a burst of frames as if they came in by `in_port`; return the burst's xid.

        The next `run` sends it. Raises OpenFlowError for an invalid port or frame, and when
        `obstacle` is not None.
        """
        self._require_negotiated()
        return self._end_burst([self.packet_out(in_port, one, output) for one in frames], now)

    def packets_to(self, batch: Sequence[Addressed], now: float) -> int:
        """Queue a burst of frames from no port, each to exactly its own; return the burst's xid.

        Raises OpenFlowError as `packet_outs` does.
        """
        self._require_negotiated()
        return self._end_burst([self.packet_to(port, frame) for frame, port in batch], now)

    def packet_out(self, in_port: int, frame: bytes, output: Output) -> int:
        """Queue one frame as if it came in by `in_port`. No answer tells what became of it."""
        self._require_negotiated()
        return self._session.packet_out(in_port, frame, output)

    def packet_to(self, port: int | Output, frame: bytes) -> int:
        """Queue one frame from no port to exactly `port`. No answer tells what became of it."""
        self._require_negotiated()
        return self._session.packet_to(port, frame)

    def run(self, now: float) -> list[Done]:
        """Connect, send, receive; return the bursts that are done."""
        if self._link.connect(now):
            self._session = OpenFlowSession()
            self._negotiate_by = now + ANSWER_TIMEOUT
        if not self._link.connected:
            return []
        done: list[Done] = []
        try:
            self._link.send(self._session.data_to_send())
            while data := self._link.receive():
                for event in self._session.feed(data):
                    self._handle(event, done)
                self._link.send(self._session.data_to_send())
            # After a look at what is there: a late caller is not to blame the switch.
            self._check_time(now)
        except (LinkLost, OpenFlowError) as error:
            done += self._lose(str(error), now)
        return done

    def wait(self, poller: Poller) -> None:
        """Register the events that `run` waits for."""
        self._link.wait(poller)
        timer = self.get_timer()
        if timer is not None:
            poller.timer_wait_until(timer * 1e3)

    def get_timer(self) -> float | None:
        """When an answer is overdue; None while none is awaited."""
        if self._link.connected and self._session.version is None:
            return self._negotiate_by
        return self._under_way[0].deadline if self._under_way else None

    def close(self) -> list[Done]:
        """Close the connection; return the bursts that were under way."""
        self._link.close()
        return self._give_up("closed")

    def _require_negotiated(self) -> None:
        if self.obstacle is not None:
            raise OpenFlowError(OpenFlowErrorName.NOT_NEGOTIATED, self.obstacle)

    def _end_burst(self, xids: Sequence[int], now: float) -> int:
        burst = _Burst(tuple(xids), self._session.barrier(), now + ANSWER_TIMEOUT)
        self._under_way.append(burst)
        return burst.xids[0]

    def _handle(self, event: SessionEvent, done: list[Done]) -> None:
        match event:
            case Negotiated(version):
                self._link.worked()
                vlog.info(f"{self._path}: connected, {version}")
            case Barrier(xid):
                if self._under_way and self._under_way[0].barrier == xid:
                    done.append(self._under_way.popleft().done())
            case ErrorReply(xid, name=name):
                self._refused(xid, name, done)
            case _:
                assert_never(event)

    def _refused(self, xid: int, name: str, done: list[Done]) -> None:
        for burst in self._under_way:
            if xid in burst.xids:
                burst.refused.append(name)
            elif xid == burst.barrier:
                # Without a reply to the barrier nothing is known of the frames before it.
                self._under_way.remove(burst)
                done.append(burst.done(lost=name))
                return

    def _check_time(self, now: float) -> None:
        if self._session.version is None and now >= self._negotiate_by:
            raise LinkLost("no HELLO")
        if self._under_way and now >= self._under_way[0].deadline:
            raise LinkLost("no barrier reply")

    def _lose(self, reason: str, now: float) -> list[Done]:
        if self._session.version is not None:
            vlog.info(f"{self._path}: connection lost: {reason}")
        self._link.lose(reason, now)
        return self._give_up(reason)

    def _give_up(self, reason: str) -> list[Done]:
        lost = [burst.done(lost=reason) for burst in self._under_way]
        self._under_way.clear()
        return lost
