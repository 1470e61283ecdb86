# SPDX-License-Identifier: Apache-2.0
"""The announcer with its connections, as the daemon's loop drives it.

Times are CLOCK_MONOTONIC seconds (`time.monotonic()`, `ovs.timeval.msec() / 1000`), read anew for
each answer, so that a confirmation is not dated to the begin of the turn in which it came. Nothing
here blocks: `run` does all that can be done at once, `wait` registers what wakes the loop. In each
turn the daemon calls `set_locations` (when rows changed) and `request`, then `run`, then
`take_results`, then `wait`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import assert_never

from ovs_vhost_plugin.announce.actions import (
    AnnouncerAction,
    AskRevalidator,
    AskTable,
    AskTrace,
    InjectFrames,
    PacketOut,
    TellBridge,
    WakeSwitch,
)
from ovs_vhost_plugin.announce.announcement import Request
from ovs_vhost_plugin.announce.announcer import Announcer
from ovs_vhost_plugin.announce.formats import Format
from ovs_vhost_plugin.announce.result import Outcome, Result
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.openflow.connection import BridgeConnection, Done
from ovs_vhost_plugin.openflow.wire import OpenFlowError
from ovs_vhost_plugin.vswitchd.link import Poller
from ovs_vhost_plugin.vswitchd.unixctl import Answer, NoAnswer, Question, Switchd

Injector = Callable[[str, tuple[bytes, ...]], bool]


def _no_worker(_port: str, _frames: tuple[bytes, ...]) -> bool:
    return False


class AnnounceService:
    """Announces guests on the bridges of the ovs-vswitchd that `switchd` asks."""

    def __init__(
        self,
        switchd: Switchd,
        *,
        inject: Injector = _no_worker,
        formats: Mapping[str, Format] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The service over `switchd`, which others may ask too, and which they have to `wait` for.

        inject   has a port's worker write frames into its tap; False: there is no worker
        formats  users' frames by name, see `formats.installed`
        """
        self._announcer = Announcer(formats)
        self._inject = inject
        self._clock = clock
        self._switchd = switchd
        # By a connection of its own: answers come in order, and this one may take half a second.
        self._revalidator = Switchd()
        self._locations: dict[str, Location] = {}
        self._bridges: set[str] = set()  # the management sockets of bridges with ports of ours
        self._connections: dict[str, BridgeConnection] = {}  # to each of them
        self._tokens: dict[tuple[str, int], int] = {}  # (path, xid) of a burst to its token

    def set_locations(self, locations: Mapping[str, Location]) -> None:
        """Take the whole, current map of port name to location; ports that left it are forgotten.

        Level-triggered: to be called again with every change. A port that has no ofport yet stands
        in it with `ofport` -1: requests for it wait, bounded, until it has one.
        """
        self._announcer.set_locations(locations)
        self._locations = dict(locations)
        self._bridges = {location.mgmt_path for location in locations.values()}

    def request(self, request: Request, refusal: str = "") -> None:
        """Ask for an announcement, or note its `refusal`; the result tells what came of it."""
        self._announcer.request(request, self._clock(), refusal)

    def query(self, port: str, frames: Sequence[bytes]) -> None:
        """Send frames to the guest of `port`, if its bridge can be reached."""
        location = self._locations.get(port)
        if location is not None and location.ofport > 0 and location.mgmt_path in self._connections:
            connection = self._connections[location.mgmt_path]
            if connection.obstacle is None:
                for frame in frames:
                    connection.packet_to(location.ofport, frame)

    def withdraw(self, port: str, reason: str, macs: Iterable[bytes]) -> None:
        """End all announcements on `port`: its guest, which has `macs`, has stopped."""
        if (location := self._locations.get(port)) is not None:
            self._announcer.returns.left(location.bridge, macs, self._clock())
        self._announcer.withdraw(port, reason)

    def run(self) -> None:
        """Do all that can be done without blocking."""
        self._keep_connections()
        while True:
            for path, connection in self._connections.items():
                for answer in connection.run(self._clock()):
                    self._take_burst(path, answer)
            self._revalidator.run(self._clock())  # a wait goes out before what it is for
            self._switchd.run(self._clock())
            actions = self._announcer.run(self._clock(), self._obstacle)
            if not actions:
                return
            for action in actions:
                self._carry_out(action)

    def wait(self, poller: Poller) -> None:
        """Register with an `ovs.poller.Poller` (or alike) the events that `run` waits for."""
        for connection in self._connections.values():
            connection.wait(poller)
        self._revalidator.wait(poller)
        timer = self._announcer.get_timer()
        if timer is not None:
            poller.timer_wait_until(timer * 1e3)

    def take_results(self) -> list[Result]:
        """Return the announcements that ended since the last call, oldest first."""
        return self._announcer.take_results()

    def history(self) -> list[dict[str, str | int | float | None]]:
        """Return the last announcements that ended, oldest first, see `Result.as_dict`."""
        return [result.as_dict() for result in self._announcer.history]

    def counters(self) -> dict[str, int]:
        """Return the totals: requests, merged, packet-outs, injections, and of each outcome."""
        return dict(self._announcer.counters)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()
        self._revalidator.close()

    def _keep_connections(self) -> None:
        self._revalidator.follow(self._switchd.rundir, self._clock())
        for path in self._connections.keys() - self._bridges:
            for answer in self._connections.pop(path).close():
                self._take_burst(path, answer)
        for path in self._bridges - self._connections.keys():
            self._connections[path] = BridgeConnection(path)

    def _obstacle(self, location: Location) -> str | None:
        return self._connections[location.mgmt_path].obstacle

    def _carry_out(self, action: AnnouncerAction) -> None:
        match action:
            case AskTable(bridge):
                question = Question("fdb/show", (bridge,))
                self._switchd.ask(question, partial(self._take_table, bridge), self._clock())
            case AskTrace(token, bridge, flow, frame):
                params = (bridge, flow, frame.hex()) if frame else (bridge, flow)
                question = Question("ofproto/trace", params)
                self._switchd.ask(question, partial(self._take_trace, token), self._clock())
            case AskRevalidator():
                question = Question("revalidator/wait", ())
                self._revalidator.ask(question, self._take_wait, self._clock())
            case TellBridge(number, bridge, flow, frame):
                question = Question("ofproto/trace", (bridge, flow, frame.hex()))
                self._switchd.ask(question, partial(self._take_told, number), self._clock())
            case WakeSwitch():
                self._switchd.ask(Question("version", ()), lambda _reply, _now: None, self._clock())
            case InjectFrames(token, port, frames):
                if self._inject(port, frames):
                    self._announcer.delivered(token)
                else:
                    self._fail(token, Outcome.NOT_LEARNED, "no worker to inject by")
            case PacketOut():
                self._packet_out(action)
            case _:
                assert_never(action)

    def _packet_out(self, action: PacketOut) -> None:
        place = action.location
        try:
            connection = self._connections[place.mgmt_path]
            xid = connection.packet_outs(place.ofport, action.frames, action.output, self._clock())
        except OpenFlowError as error:
            self._fail(action.token, Outcome.REFUSED, str(error))
        else:
            self._tokens[place.mgmt_path, xid] = action.token

    def _take_burst(self, path: str, burst: Done) -> None:
        token = self._tokens.pop((path, burst.xid))
        if burst.lost:
            self._fail(token, Outcome.NOT_LEARNED, f"OpenFlow: {burst.lost}")
        elif burst.refused:
            self._fail(token, Outcome.REFUSED, burst.refused[0])
        else:
            self._announcer.delivered(token)

    def _fail(self, token: int, outcome: Outcome, reason: str) -> None:
        self._announcer.failed(token, outcome, reason, self._clock())

    def _take_table(self, bridge: str, reply: Answer | NoAnswer, _now: float) -> None:
        match reply:
            case Answer(text):
                self._announcer.table(bridge, text, self._clock())
            case NoAnswer(reason):
                self._announcer.no_table(bridge, reason, self._clock())
            case _:
                assert_never(reply)

    def _take_wait(self, _reply: Answer | NoAnswer, _now: float) -> None:
        self._switchd.run(self._clock())  # which bridges had learned before
        self._announcer.returns.revalidated(self._clock())

    def _take_told(self, number: int, reply: Answer | NoAnswer, _now: float) -> None:
        text = reply.text if isinstance(reply, Answer) else ""
        self._announcer.returns.told(number, text, self._clock())

    def _take_trace(self, token: int, reply: Answer | NoAnswer, _now: float) -> None:
        match reply:
            case Answer(text):
                self._announcer.trace(token, text, self._clock())
            case NoAnswer(reason):
                self._announcer.no_trace(token, reason, self._clock())
            case _:
                assert_never(reply)
