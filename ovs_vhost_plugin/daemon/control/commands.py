# SPDX-License-Identifier: Apache-2.0
"""The commands of `ovs-appctl -t ovs-vhost`. Answers that need a worker or the switch come later.

Every command that shows something takes `--format json` (or `-f json`).
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ovs.unixctl

from ovs_vhost_plugin import __version__, render
from ovs_vhost_plugin.announce.announcement import DEADLINE
from ovs_vhost_plugin.announce.result import Result
from ovs_vhost_plugin.common.dirs import PROGRAM
from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.daemon.captures.captures import Captures
from ovs_vhost_plugin.daemon.control import overview
from ovs_vhost_plugin.daemon.events import Event, Heard
from ovs_vhost_plugin.daemon.loop import Loop
from ovs_vhost_plugin.daemon.metrics.scraping import Scraping
from ovs_vhost_plugin.daemon.options import Options
from ovs_vhost_plugin.daemon.ovsdb.database import Standing
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.row_values import parse_mac
from ovs_vhost_plugin.ipc.commands import GetStats
from ovs_vhost_plugin.ipc.reports import Stats

_STATS_TIMEOUT = 1.0
_ANNOUNCE_TIMEOUT = DEADLINE + 1.0
_UPGRADE_TIMEOUT = 30.0

Handler = Callable[[Any, list[str], float], None]


class UsageError(Exception):
    """A command was given wrong arguments; the text goes to the caller."""


@dataclass
class _Pending:
    """A command whose answer is incomplete."""

    connection: Any
    as_json: bool
    deadline: float
    waiting: set[str] = field(default_factory=set)
    answers: dict[str, Any] = field(default_factory=dict)
    finish: Callable[["_Pending"], None] = lambda _: None


class Commands:
    """The commands, and the answers under way."""

    def __init__(
        self, loop: Loop, options: Options, scraping: Scraping, captures: Captures
    ) -> None:
        self._loop = loop
        self._captures = captures
        self._scraping = scraping
        self._options = options
        self._stats: dict[int, _Pending] = {}
        self._announces: list[_Pending] = []
        self._upgrades: list[_Pending] = []
        self._last_id = 0
        self._exits: list[Any] = []
        for name, usage, most, handler in (
            ("version", "", 0, self._version),
            ("list-commands", "", 0, self._list_commands),
            ("exit", "[--cleanup]", 1, self._exit),
            ("vhost/show", "[--format json]", 2, self._show),
            ("vhost/stats", "[PORT] [--format json]", 3, self._show_stats),
            ("vhost/top", "[PORT]... [--format json]", overview.AT_ONCE + 2, self._top),
            ("vhost/announce", "PORT [MAC] [--format json]", 4, self._announce),
            ("vhost/announce-log", "[PORT] [--format json]", 3, self._announce_log),
            ("vhost/upgrade", "[PORT] [--format json]", 3, self._upgrade),
            ("vhost/hold-log", "[PORT] [--format json]", 3, self._hold_log),
            ("vhost/migrations", "[PORT] [--format json]", 3, self._migrations),
            ("vhost/captures", "[--format json]", 2, self._show_captures),
        ):
            ovs.unixctl.commands.pop(name, None)  # the bindings' own "version"
            ovs.unixctl.command_register(name, usage, 0, most, self._guarded, handler)

    def _guarded(self, connection: Any, argv: list[str], handler: Handler) -> None:
        try:
            handler(connection, argv, time.monotonic())
        except UsageError as error:
            connection.reply_error(str(error))

    # -- the loop --------------------------------------------------------------------------------

    def run(self, now: float) -> None:
        """Send the answers that are complete or have waited long enough."""
        for request, pending in list(self._stats.items()):
            pending.waiting &= self._loop.ports.workers.links.keys()
            if not pending.waiting or now >= pending.deadline:
                del self._stats[request]
                pending.finish(pending)
        for pending in [p for p in self._announces if now >= p.deadline or p.answers]:
            self._announces.remove(pending)
            pending.finish(pending)
        for pending in self._upgrades:
            for name in list(pending.waiting):
                if outcome := self._loop.upgrading.outcome(name):
                    pending.waiting.discard(name)
                    pending.answers[name] = outcome
        for pending in [p for p in self._upgrades if not p.waiting or now >= p.deadline]:
            self._upgrades.remove(pending)
            pending.finish(pending)
        if self._loop.exiting:
            for connection in self._exits:
                _reply(connection, "")

    def take(self, events: list[Event]) -> None:
        """Collect the statistics that workers sent."""
        for event in events:
            match event:
                case Heard(name, Stats(request, stats)) if request in self._stats:
                    pending = self._stats[request]
                    if name in pending.waiting:
                        pending.waiting.discard(name)
                        pending.answers[name] = stats

    def get_timer(self) -> float | None:
        """The time at which an answer is due; None while nobody waits for one."""
        waiting = (*self._stats.values(), *self._announces, *self._upgrades)
        return min((pending.deadline for pending in waiting), default=None)

    # -- the commands ----------------------------------------------------------------------------

    def _version(self, connection: Any, _argv: list[str], _now: float) -> None:
        connection.reply(f"{PROGRAM} {__version__}")

    def _list_commands(self, connection: Any, _argv: list[str], _now: float) -> None:
        lines = [f"  {name:23} {c.usage}" for name, c in sorted(ovs.unixctl.commands.items())]
        connection.reply("\n".join(["The available commands are:", *lines]) + "\n")

    def _exit(self, connection: Any, argv: list[str], now: float) -> None:
        if argv not in ([], ["--cleanup"]):
            raise UsageError("usage: exit [--cleanup]")
        standing = self._loop.database.standing
        if argv and standing is not Standing.ACTIVE:
            raise UsageError(f"cannot clean up, {standing.value}: exit without --cleanup")
        self._exits.append(connection)
        self._loop.exit(now, cleanup=bool(argv))

    def _show(self, connection: Any, argv: list[str], _now: float) -> None:
        as_json, rest = _format(connection, argv)
        if rest:
            raise UsageError("usage: vhost/show [--format json]")
        data = self._overview()
        _answer(connection, as_json, data, render.show)

    def _show_captures(self, connection: Any, argv: list[str], now: float) -> None:
        as_json, rest = _format(connection, argv)
        if rest:
            raise UsageError("usage: vhost/captures [--format json]")
        _answer(connection, as_json, self._captures.shown(now), render.captures)

    def _show_stats(self, connection: Any, argv: list[str], now: float) -> None:
        as_json, names = _format(connection, argv)
        links = self._loop.ports.workers.links
        if len(names) > 1:
            raise UsageError("usage: vhost/stats [PORT] [--format json]")
        for name in names:
            self._port(name)
        pending = _Pending(connection, as_json, now + _STATS_TIMEOUT, finish=self._finish_stats)
        self._ask_workers(pending, names or list(links), now)
        pending.answers = dict.fromkeys(names or self._loop.desired)

    def _ask_workers(self, pending: _Pending, names: list[str], now: float) -> None:
        """Ask the workers of these ports for their statistics."""
        links = self._loop.ports.workers.links
        self._last_id += 1
        request = GetStats(self._last_id)
        pending.waiting = {n for n in names if n in links and links[n].send(request, now)}
        self._stats[self._last_id] = pending

    def _finish_stats(self, pending: _Pending) -> None:
        ports = {name: stats for name, stats in pending.answers.items() if stats is not None}
        missing = sorted(pending.answers.keys() - ports.keys())
        data = {"ports": ports, "missing": missing}
        _answer(pending.connection, pending.as_json, data, render.stats)

    def _top(self, connection: Any, argv: list[str], now: float) -> None:
        _, names = _format(connection, argv)
        names = [name for name in names if name in self._loop.desired]
        pending = _Pending(connection, True, now + _STATS_TIMEOUT, finish=self._finish_top)
        self._ask_workers(pending, names or sorted(self._loop.desired)[: overview.AT_ONCE], now)

    def _finish_top(self, pending: _Pending) -> None:
        now = time.monotonic()
        _reply(pending.connection, json.dumps(overview.of_all(self._loop, pending.answers, now)))

    def _announce(self, connection: Any, argv: list[str], now: float) -> None:
        as_json, rest = _format(connection, argv)
        if not 1 <= len(rest) <= 2:
            raise UsageError("usage: vhost/announce PORT [MAC] [--format json]")
        port = self._port(rest[0])
        mac = None
        if len(rest) == 2 and (mac := parse_mac(rest[1])) is None:
            raise UsageError(f"{rest[1]!r} is no MAC address")
        announcing = self._loop.announcing
        if mac is None and not announcing.known(port.name):
            raise UsageError(
                f"the MAC of {port.name}'s guest is not known yet: give it, "
                "or set external_ids:attached-mac"
            )
        pending = _Pending(connection, as_json, now + _ANNOUNCE_TIMEOUT, {port.name})
        pending.finish = self._finish_announce

        def announced(result: Result) -> None:
            pending.answers["result"] = result

        if not announcing.by_hand(port.name, mac, announced):
            raise UsageError(f"{port.name} carries none of the VLANs of its guest's addresses")
        self._announces.append(pending)

    def _finish_announce(self, pending: _Pending) -> None:
        result: Result | None = pending.answers.get("result")
        if result is None:
            _reply_error(pending.connection, f"no result within {_ANNOUNCE_TIMEOUT:g} s")
        else:
            _answer(pending.connection, pending.as_json, result.as_dict(), render.announcement)

    def _announce_log(self, connection: Any, argv: list[str], _now: float) -> None:
        log = "announce-log", "announcements", self._loop.announcing.history()
        self._log(connection, argv, *log, render.announce_log)

    def _hold_log(self, connection: Any, argv: list[str], _now: float) -> None:
        log = "hold-log", "holds", self._loop.forwarding.log()
        self._log(connection, argv, *log, render.hold_log)

    def _migrations(self, connection: Any, argv: list[str], _now: float) -> None:
        log = "migrations", "migrations", self._loop.moves.log()
        self._log(connection, argv, *log, render.migrations)

    def _log(
        self,
        connection: Any,
        argv: list[str],
        command: str,
        key: str,
        history: list[dict[str, Any]],
        text: Callable[[dict[str, Any]], str],
    ) -> None:
        """Answer with the entries of a port's, also of one that has gone since, or with all."""
        as_json, names = _format(connection, argv)
        if len(names) > 1:
            raise UsageError(f"usage: vhost/{command} [PORT] [--format json]")
        found = [entry for entry in history if not names or entry["port"] == names[0]]
        _answer(connection, as_json, {"now": time.monotonic(), key: found}, text)

    def _upgrade(self, connection: Any, argv: list[str], now: float) -> None:
        as_json, names = _format(connection, argv)
        if len(names) > 1:
            raise UsageError("usage: vhost/upgrade [PORT] [--format json]")
        ports = [self._port(name) for name in names] or list(self._loop.desired.values())
        pending = _Pending(connection, as_json, now + _UPGRADE_TIMEOUT)
        pending.finish = self._finish_upgrade
        for port in ports:
            if why := self._loop.upgrading.ask(port):
                pending.answers[port.name] = f"not upgraded: {why}"
            else:
                pending.waiting.add(port.name)
        self._loop.upgrading.run(self._loop.desired, now)
        self._upgrades.append(pending)

    def _finish_upgrade(self, pending: _Pending) -> None:
        late = dict.fromkeys(pending.waiting, f"not yet, after {_UPGRADE_TIMEOUT:g} s")
        data = {"ports": dict(sorted({**pending.answers, **late}.items()))}
        _answer(pending.connection, pending.as_json, data, render.upgrade)

    # -- the commands' answers -------------------------------------------------------------------

    def _port(self, name: str) -> PortSpec:
        try:
            return self._loop.desired[name]
        except KeyError:
            words = "no such vhost-user port; vhost/show lists them"
            raise UsageError(f"{escaped(name)}: {words}") from None

    def _overview(self) -> dict[str, Any]:
        loop = self._loop
        snapshot = loop.snapshot
        wrong = {} if snapshot is None else snapshot.complaints
        return {
            "version": __version__,
            "pid": os.getpid(),
            "database": self._options.database,
            "standing": loop.database.standing.value,
            "sandbox": loop.ports.workers.sandbox,
            "build": loop.ports.workers.build,
            "tap_io": loop.ports.workers.tap_io,
            "metrics": self._scraping.shown,
            "stuck": [{"name": s.name, "pid": s.link.pid} for s in loop.ports.workers.stuck],
            "ports": [overview.of_port(loop, port) for _, port in sorted(loop.desired.items())],
            "wrong_rows": dict(sorted(wrong.items())),
            "leftovers": loop.ports.leftovers(loop.desired),
            "faults": dict(sorted(loop.ports.faults.counters.items())),
            "announce": loop.announcing.counters(),
            "forward": dict(sorted(loop.forwarding.counters.items())),
        }


def _format(connection: Any, argv: list[str]) -> tuple[bool, list[str]]:
    """Whether JSON is wanted, and the arguments that are left."""
    # From OVS 3.4 on, a connection has one format for all its commands (ovs-appctl --format).
    wanted = getattr(getattr(connection, "_fmt", None), "name", "TEXT").lower()
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word in ("-f", "--format"):
            wanted = next(words, "")
        elif word.startswith("--format="):
            wanted = word.partition("=")[2]
        elif word.startswith("-"):
            raise UsageError(f"unknown option {escaped(word)}")
        else:
            rest.append(word)
    if wanted not in ("json", "text"):
        raise UsageError("--format takes json or text")
    return wanted == "json", rest


def _answer(
    connection: Any, as_json: bool, data: dict[str, Any], text: Callable[[dict[str, Any]], str]
) -> None:
    _reply(connection, render.as_json(data) if as_json else text(data))


def _reply(connection: Any, text: str) -> None:
    # The caller may have gone meanwhile; the bindings then hold no request to reply to.
    if connection._request_id is not None:
        connection.reply(text)


def _reply_error(connection: Any, text: str) -> None:
    if connection._request_id is not None:
        connection.reply_error(text)
