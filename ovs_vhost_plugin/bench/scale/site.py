# SPDX-License-Identifier: Apache-2.0
"""A private host with many ports, its guests, and a table of what was measured on it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ovs_vhost_plugin.bench.scale import costs
from ovs_vhost_plugin.bench.scale.rows import InterfaceRows, Port
from ovs_vhost_plugin.guest.frontend.connection import FrontEndConnection, listen
from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.process import LabError, wait_until

AT_ONCE = 32  # ports a transaction
PATIENCE = 600.0
SHOWN_EVERY = 2.0  # seconds
RING = 64  # descriptors of a guest's vring
ETHERTYPE = b"\x88\xb5"  # IEEE 802: local experimental


@dataclass(frozen=True, slots=True)
class ScaleFigure:
    """One line of the table. No goal: it explains another line."""

    what: str
    measured: float
    unit: str
    goal: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the goal is met, for people."""
        return "" if self.goal is None else "met" if self.measured <= self.goal else "missed"

    @property
    def figure(self) -> str:
        """The measured figure with three digits."""
        return f"{self.measured:.3g}" if self.measured < 100 else f"{self.measured:.0f}"


class Site:
    """The host, its ports by name, and what was measured."""

    def __init__(self, host: Host, rows: InterfaceRows, screen: Console) -> None:
        self.host = host
        self.rows = rows
        self.results: list[ScaleFigure] = []
        self.guests: dict[str, SoftGuest] = {}
        self._screen = screen
        self._sockets = host.directory / "g"
        self._sockets.mkdir()

    def say(self, text: str) -> None:
        """Show how far it is."""
        self._screen.print(text, highlight=False)

    def note(self, what: str, measured: float, unit: str = "", goal: float | None = None) -> None:
        """Note and show a result."""
        result = ScaleFigure(what, measured, unit, goal)
        self.results.append(result)
        against = "" if goal is None else f" (goal {goal:g}: {result.verdict})"
        self.say(f"  {what}: {result.figure} {unit}{against}")

    def close(self) -> None:
        """Switch all guests off."""
        for guest in self.guests.values():
            with contextlib.suppress(OSError):
                guest.close()

    # -- the machine ------------------------------------------------------------------------------

    @property
    def daemon(self) -> int:
        """The daemon's pid."""
        if self.host.daemon is None:
            raise LabError("there is no daemon")
        return self.host.daemon.pid

    @property
    def cpu(self) -> float:
        """Seconds that the daemon has been on a processor."""
        return costs.cpu(self.daemon)

    def workers(self) -> list[int]:
        """The workers' pids, from the daemon's records."""
        records = (self.host.directory / "ovs-vhost").glob("*.pid")
        return [int(record.read_text().split()[0]) for record in records]

    def has_tap(self, name: str) -> bool:
        """Whether the daemon has a tap of this name."""
        return (self.host.directory / "ovs-vhost" / f"{name}.tap").exists()

    # -- ports ------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Where the guest of a port listens."""
        return self._sockets / name

    def add(self, names: Sequence[str], *, wait: bool = True) -> None:
        """Add ports in one transaction; `wait`: until ovs-vswitchd has taken it up."""
        words = [] if wait else ["--no-wait"]
        for name in names:
            words += ["--", "add-port", BRIDGE, name, "--", "set", "Interface", name]
            words += [f"external_ids:vhost-user-path={self.path(name)}"]
            words += ["external_ids:vhost-user-queues=1"]
        self.host.switch.vsctl(*words)

    def delete(self, names: Sequence[str]) -> None:
        """Delete ports in one transaction."""
        words = [word for name in names for word in ("--", "del-port", BRIDGE, name)]
        self.host.switch.vsctl(*words)

    def delete_one(self, name: str) -> float:
        """Delete a port; the seconds until its tap has gone."""
        begin = time.monotonic()
        self.delete([name])
        wait_until(lambda: not self.has_tap(name), f"{name}: its tap goes", PATIENCE, 0.001)
        took = time.monotonic() - begin
        self.rows.until(lambda: name not in self.rows.ports, f"{name}: its row goes", PATIENCE)
        return took

    def wait(self, names: Sequence[str], *states: str) -> float:
        """The time at which all have an ofport and one of these states; shown as it goes."""
        shown = begin = time.monotonic()
        while (there := self._count(names, states)) < len(names):
            now = time.monotonic()
            if now > begin + PATIENCE:
                raise LabError(f"{there} of {len(names)} {'/'.join(states)} after {PATIENCE:g} s")
            if now >= shown + SHOWN_EVERY:
                shown = now
                self.say(f"    {there} of {len(names)} {'/'.join(states)}")
            self.rows.run(0.5)
        return time.monotonic()

    def _count(self, names: Iterable[str], states: tuple[str, ...]) -> int:
        found = (self.rows.ports.get(name, Port()) for name in names)
        return sum(one.ofport is not None and one.status in states for one in found)

    # -- guests -----------------------------------------------------------------------------------

    def connect(self, name: str) -> float:
        """Listen for a moment where a guest would; the seconds until the port is connected."""
        path = self.path(name)
        begin = time.monotonic()
        with listen(path) as listener:
            connection = FrontEndConnection.accept(listener, PATIENCE)
            took = self.wait([name], "connected", "running") - begin
            connection.close()
        path.unlink()
        return took

    def guest(self, name: str, number: int, first_index: int = 0) -> SoftGuest:
        """A guest that is not started yet, with a MAC of its own."""
        mac = b"\x52\x54\x00\x00" + number.to_bytes(2, "big")
        config = Config(size=RING, mac=mac, first_index=first_index)
        made = self.guests[name] = SoftGuest(self.path(name), config, server=True)
        return made

    def adopted(self) -> int:
        """The ports with a worker that has said hello to this daemon."""
        shown = json.loads(self.host.appctl("vhost/show", "--format", "json"))
        workers = [port["worker"] for port in shown["ports"]]
        return sum(worker is not None and worker["phase"] == "running" for worker in workers)


class Stream:
    """Numbered frames from one guest to another, to see that none is lost."""

    def __init__(self, sender: SoftGuest, receiver: SoftGuest) -> None:
        self.sent = 0
        self._sender, self._receiver = sender, receiver
        self._frame = receiver.config.mac + sender.config.mac + ETHERTYPE
        self._numbers: set[bytes] = set()
        back = sender.config.mac + receiver.config.mac + ETHERTYPE
        receiver.send(back.ljust(60, b"\0"))  # the bridge learns where it is
        sender.receive(1.0)

    def send(self) -> None:
        """Send one frame, and take what has come."""
        self.sent += 1
        self._sender.send((self._frame + self.sent.to_bytes(4, "big")).ljust(60, b"\0"))
        self._take(0.0)

    def lost(self) -> int:
        """How many have not come, once none comes any more."""
        while self._take(1.0):
            pass
        return self.sent - len(self._numbers)

    def _take(self, seconds: float) -> bool:
        frames = self._receiver.receive(seconds)
        self._numbers |= {frame[14:18] for frame in frames if frame.startswith(self._frame)}
        return bool(frames)
