# SPDX-License-Identifier: Apache-2.0
"""The announcer with its connections: what the daemon's loop drives.

`now` is always CLOCK_MONOTONIC seconds (`time.monotonic()`, `ovs.timeval.msec() / 1000`). Nothing
here blocks: `run` does what can be done at once, `wait` says what to be woken for. In each turn of
the loop the daemon calls `set_locations` (when rows changed) and `request`, then `run`, then
`take_results`, then `wait`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ovs_vhost_plugin.announce.announcer import Announcer, AskTable, PacketOut
from ovs_vhost_plugin.announce.channel import Channel, Delivered, Lost, Refused
from ovs_vhost_plugin.announce.confirm import NoTable, Table, TableReader
from ovs_vhost_plugin.announce.link import Poller
from ovs_vhost_plugin.announce.model import Location, Outcome, Result
from ovs_vhost_plugin.announce.wire import OpenFlowError, Output


class AnnounceService:
    """Announces guests on the bridges of the ovs-vswitchd that runs in `rundir`."""

    def __init__(self, rundir: str) -> None:
        """`rundir` holds ovs-vswitchd.pid and ovs-vswitchd's control socket."""
        self._announcer = Announcer()
        self._tables = TableReader(rundir)
        self._bridges: set[str] = set()  # the management sockets of bridges with ports of ours
        self._channels: dict[str, Channel] = {}  # to each of them
        self._tokens: dict[tuple[str, int], int] = {}  # (path, xid) of a packet-out to its token

    def set_locations(self, locations: Mapping[str, Location]) -> None:
        """Take the whole, current map of port name to location; ports that left it are forgotten.

        Level-triggered: to be called again with every change. A port that has no ofport yet stands
        in it with `ofport` -1: requests for it wait, bounded, until it has one.
        """
        self._announcer.set_locations(locations)
        self._bridges = {location.mgmt_path for location in locations.values()}

    def request(
        self, port: str, mac: bytes, trigger: str, now: float, received_at: float | None = None
    ) -> None:
        """Ask that `mac` be announced on `port`. Never raises: a refusal is a result as well.

        `trigger` is a word for log and history ("send-rarp", "manual"). `received_at` is when the
        trigger happened, by default `now`.
        """
        received_at = now if received_at is None else received_at
        self._announcer.request(port, mac, trigger, now, received_at)

    def run(self, now: float) -> None:
        """Do what can be done without blocking."""
        self._keep_channels(now)
        while True:
            for path, channel in self._channels.items():
                for answer in channel.run(now):
                    self._take_answer(path, answer, now)
            for reply in self._tables.run(now):
                self._take_table(reply, now)
            actions = self._announcer.run(now, self._obstacle)
            if not actions:
                return
            for action in actions:
                self._carry_out(action, now)

    def wait(self, poller: Poller) -> None:
        """Register with an `ovs.poller.Poller` (or alike) what `run` has to be called for."""
        for channel in self._channels.values():
            channel.wait(poller)
        self._tables.wait(poller)
        wake_at = self._announcer.wake_at()
        if wake_at is not None:
            poller.timer_wait_until(wake_at * 1e3)

    def take_results(self) -> list[Result]:
        """Return the announcements that ended since the last call, oldest first."""
        return self._announcer.take_results()

    def history(self) -> list[dict[str, str | int | float | None]]:
        """Return the last announcements that ended, oldest first, see `Result.as_dict`."""
        return [result.as_dict() for result in self._announcer.history]

    def counters(self) -> dict[str, int]:
        """Return the totals: requests, merged, packet-outs, and one of each outcome."""
        return dict(self._announcer.counters)

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            channel.close()
        self._tables.close()

    def _keep_channels(self, now: float) -> None:
        for path in self._channels.keys() - self._bridges:
            for answer in self._channels.pop(path).close():
                self._take_answer(path, answer, now)
        for path in self._bridges - self._channels.keys():
            self._channels[path] = Channel(path)

    def _obstacle(self, location: Location) -> str | None:
        return self._channels[location.mgmt_path].obstacle

    def _carry_out(self, action: PacketOut | AskTable, now: float) -> None:
        if isinstance(action, AskTable):
            self._tables.ask(action.bridge, now)
            return
        place = action.location
        try:
            # through the pipeline: what it would not let the guest do, an announcement may not do
            channel = self._channels[place.mgmt_path]
            xid = channel.packet_out(place.ofport, action.frame, Output.TABLE, now)
        except OpenFlowError as error:
            self._announcer.failed(action.token, Outcome.REFUSED, str(error), now)
        else:
            self._tokens[place.mgmt_path, xid] = action.token

    def _take_answer(self, path: str, answer: Delivered | Refused | Lost, now: float) -> None:
        token = self._tokens.pop((path, answer.xid))
        match answer:
            case Delivered():
                self._announcer.delivered(token)
            case Refused(name=name):
                self._announcer.failed(token, Outcome.REFUSED, name, now)
            case Lost(reason=reason):
                reason = f"OpenFlow: {reason}"
                self._announcer.failed(token, Outcome.NOT_LEARNED, reason, now)

    def _take_table(self, reply: Table | NoTable, now: float) -> None:
        match reply:
            case Table(bridge, text):
                self._announcer.table(bridge, text, now)
            case NoTable(bridge, reason):
                self._announcer.no_table(bridge, reason, now)
