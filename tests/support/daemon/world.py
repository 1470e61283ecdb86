# SPDX-License-Identifier: Apache-2.0
"""The daemon's loop in a world of stand-ins: database, taps, workers, network stack."""

import os
import select
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.connector import Connector
from ovs_vhost_plugin.daemon.guests.moves import Moves
from ovs_vhost_plugin.daemon.handover.upgrading import Upgrading
from ovs_vhost_plugin.daemon.loop import Loop
from ovs_vhost_plugin.daemon.options import Options
from ovs_vhost_plugin.daemon.ovsdb.database import Standing
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.daemon.ovsdb.switch_row import Switch
from ovs_vhost_plugin.daemon.ports import Ports
from ovs_vhost_plugin.daemon.reconcile import Phase
from ovs_vhost_plugin.daemon.sockets.listener import FrontEndListeners
from ovs_vhost_plugin.daemon.sockets.mounts import Mounts
from ovs_vhost_plugin.daemon.sockets.reach import Nobody
from ovs_vhost_plugin.daemon.sockets.sockpath import OnStep
from ovs_vhost_plugin.daemon.sockets.sockpolicy import SocketError, SocketErrorName
from ovs_vhost_plugin.daemon.taps.seclusion import Seclusion
from ovs_vhost_plugin.daemon.workers.uids import Uids
from ovs_vhost_plugin.daemon.workers.workers import Workers
from ovs_vhost_plugin.tap import HostStackError, TapError, TapErrorName
from ovs_vhost_plugin.vswitchd.unixctl import Switchd

NOW = 100.0


OPTIONS = Options("unix:x", None, False, None, None, 0o660)


class FakeDatabase:
    def __init__(self, *, adopts: bool) -> None:
        self.tells_types = adopts
        self.standing = Standing.ACTIVE
        self.rows = Snapshot(Switch("/run/ovs", "", False, frozenset()))
        self.written: list[tuple[dict[str, Any], frozenset[str], Mapping[str, bool]]] = []
        self.busy = False

    def run(self, now: float) -> None:
        pass

    def wait(self, poller: Any) -> None:
        pass

    def get_timer(self) -> None:
        return None

    def snapshot(self) -> Snapshot:
        return self.rows

    def writable(self, now: float) -> bool:
        return not self.busy

    @property
    def iface_types(self) -> frozenset[str]:
        return self.rows.switch.iface_types

    def write(
        self,
        changes: dict[str, Any],
        clear_types: frozenset[str],
        iface_types: Mapping[str, bool] = MappingProxyType({}),
    ) -> None:
        self.written.append((changes, clear_types, iface_types))
        self.tell({name for name, wanted in iface_types.items() if wanted}, iface_types.keys())
        for name, todo in changes.items():
            keys = dict(self.rows.keys[name])
            for key, value in todo.items():
                if value is None:
                    keys.pop(key, None)
                else:
                    keys[key] = value
            self.rows = replace(self.rows, keys={**self.rows.keys, name: keys})

    def tell(self, types: Iterable[str], gone: Iterable[str] = ()) -> None:
        """Change what Open_vSwitch:iface_types has."""
        found = (self.rows.switch.iface_types - frozenset(gone)) | frozenset(types)
        self.rows = replace(self.rows, switch=replace(self.rows.switch, iface_types=found))


class AtOnce(Executor):
    """A thread that is as quick as its caller."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **others: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*args, **others))
        except Exception as error:
            done.set_exception(error)
        return done


class FakePoller:
    """How long the loop sleeps, in milliseconds: not at all where an fd is ready."""

    def __init__(self) -> None:
        self.waits: list[int] = []

    def timer_wait(self, milliseconds: int) -> None:
        self.waits.append(milliseconds)

    def fd_wait(self, fd: int, _events: int) -> None:
        if select.select([fd], [], [], 0)[0]:
            self.waits.append(0)


class FakeTaps:
    def __init__(self) -> None:
        self.made: set[str] = set()
        self.open: set[str] = set()  # in the switch
        self.foreign: set[str] = set()
        self.held: dict[str, int] = {}  # queues that others have open
        self.stuck: set[str] = set()
        self.unclaimed: set[str] = set()

    def claim(self, name: str) -> bool:
        claimed = name in self.unclaimed
        self.unclaimed.discard(name)
        return claimed

    def queues(self, name: str) -> int:
        return self.held.get(name, 0)

    def owned(self, name: str) -> int | None:
        return 7 if name in self.made else None

    def make(self, name: str) -> int:
        if name in self.foreign:
            raise TapError(TapErrorName.FOREIGN, "x")
        self.made.add(name)
        return self.open_first(name)

    def set_up(self, name: str) -> None:
        pass

    def open_first(self, name: str) -> int:
        return os.open(os.devnull, os.O_RDONLY)

    def open_further(self, name: str) -> int:
        if name in self.stuck:
            raise TapError(TapErrorName.HELD, "x")
        return os.open(os.devnull, os.O_RDONLY)

    def delete(self, name: str) -> None:
        if name in self.stuck:
            raise TapError(TapErrorName.HELD, "x")
        self.made.discard(name)
        self.held.pop(name, None)

    def is_open_in_switch(self, name: str) -> bool:
        return name in self.open


class FakeStack:
    """What is kept from the host's stack; `others` is what somebody else changed."""

    def __init__(self) -> None:
        self.shut_out: dict[str, int] = {}
        self.touched: list[str] = []
        self.others: list[str] = []
        self.unable = ""

    def shut(self, name: str, index: int) -> None:
        if self.unable:
            raise HostStackError(self.unable)
        self.shut_out[name] = index

    def open(self, name: str) -> None:
        self.touched.append(name)
        self.shut_out.pop(name, None)

    def forget(self, name: str) -> None:
        self.shut_out.pop(name, None)

    def let_go(self) -> None:
        self.shut_out.clear()

    def hear(self) -> list[str]:
        lost, self.others = self.others, []
        for name in lost:
            self.shut_out.pop(name)
        return lost

    def fileno(self) -> int | None:
        return None


class FakeWorkers:
    def __init__(self) -> None:
        self.links: dict[str, Any] = {}
        self.spawn_slots = 4
        self.broken = ""
        self.events: list[Any] = []
        self.adopted = self.forgotten = 0
        self.build, self.tap_io = "ours", "writev"
        self.handovers: dict[str, Any] = {}

    def is_outdated(self, link: Any) -> bool:
        return Workers.is_outdated(self, link)  # type: ignore[arg-type]

    def is_dispensable(self, link: Any) -> bool:
        return Workers.is_dispensable(self, link)  # type: ignore[arg-type]

    def hand_over(self, spec: Any, now: float) -> None:
        self.handovers[spec.name] = spec

    def run(self, now: float) -> list[Any]:
        events, self.events = self.events, []
        return events

    def born(self) -> None:
        """Let all workers that were asked for run."""
        for link in self.links.values():
            link.phase = Phase.RUNNING

    def take_touched(self) -> set[str]:
        return set(self.links)  # a test changes them as it likes

    def adopt(self, now: float) -> None:
        self.adopted += 1

    def forget_all(self) -> None:
        self.forgotten += 1
        self.links.clear()

    def spawn(self, spec: Any, front_end: Any, _journal: int, tap: int, now: float) -> None:
        self.links[spec.name] = SimpleNamespace(
            name=spec.name,
            spec=spec,
            phase=None,
            since=now,
            state=None,
            child=True,
            told_to_quit=False,
            release=SimpleNamespace(version="", build=self.build, protocol=3, ignored=0),
            knows=lambda _: True,
        )

    def wait(self, poller: Any) -> None:
        pass

    def get_timer(self) -> None:
        return None


class FakeAnnouncing:
    def __init__(self) -> None:
        self.announced: dict[str, str] = {}

    def take_news(self) -> set[str]:
        return set(self.announced)

    def locate(self, snapshot: Snapshot) -> None:
        pass

    def take(self, events: list[Any], now: float) -> None:
        pass

    def run(self) -> None:
        pass

    def wait(self, poller: Any) -> None:
        pass


class FakeForwarding:
    def locate(self, snapshot: Snapshot) -> None:
        pass

    def take(self, events: list[Any], now: float) -> None:
        pass

    def run(self, now: float) -> None:
        pass

    def wait(self, poller: Any) -> None:
        pass


class FakeReopener:
    def run(self, names: set[str], snapshot: Snapshot, now: float) -> None:
        pass

    def get_timer(self) -> float | None:
        return None


class FakeWays:
    """Ways on which nothing changes unless `news` says so."""

    def __init__(self) -> None:
        self.refusals: dict[str, str] = {}
        self.followed: set[str] = set()
        self.news: set[str] = set()
        self.read_at: float | None = None

    @contextmanager
    def following(self, port: str) -> Iterator[OnStep]:
        self.followed.add(port)
        yield lambda _directory, _name: None

    def forget(self, port: str) -> None:
        self.followed.discard(port)

    def changed(self, now: float) -> set[str]:
        news, self.news = self.news & self.followed, set()
        return news

    def get_timer(self) -> float | None:
        return self.read_at

    def wait(self, poller: Any) -> None:
        pass

    def close(self) -> None:
        self.followed.clear()


class World:
    def __init__(self, directory: Path, *, adopt: bool = False) -> None:
        self.database, self.taps = FakeDatabase(adopts=adopt), FakeTaps()
        self.workers = FakeWorkers()
        self.announcing, self.forwarding = FakeAnnouncing(), FakeForwarding()
        state = StateDir.create(directory)
        listeners = FrontEndListeners(state, Mounts())
        uids = Uids(state.path / "last-uid")
        self.stack = FakeStack()
        parts: Any = (self.workers, self.taps, AtOnce(), Seclusion(self.stack))  # type: ignore[arg-type]
        options = replace(OPTIONS, adopt_dpdk_types=adopt)
        ports = Ports(*parts, state, options, listeners, uids)
        self.connector = Connector(
            self.workers.links, self.reach, FakeWays(), ports.faults.counters, lambda: 1.0
        )
        self.upgrading = Upgrading(ports, lambda: (7, 7), by_itself=options.upgrade_workers)
        self.loop = Loop(
            self.database,  # type: ignore[arg-type]
            ports,
            self.connector,
            self.announcing,  # type: ignore[arg-type]
            self.forwarding,  # type: ignore[arg-type]
            Moves(),
            FakeReopener(),  # type: ignore[arg-type]
            Switchd(),
            self.upgrading,
        )

    def reach(self, path: str, owner: str, on_step: OnStep) -> Nobody:
        raise SocketError(SocketErrorName.NOT_TRUSTED, f"{path} of {owner}")

    def rows(self, *, keys: dict[str, str] | None = None, **changes: Any) -> None:
        names = {*changes.get("ports", {}), *changes.get("errors", {})}
        names |= {*changes.get("adopted", {}), *self.database.rows.keys}
        found = {name: self.database.rows.keys.get(name, keys or {}) for name in names}
        self.database.rows = replace(self.database.rows, keys=found, **changes)

    def sleeps(self, now: float) -> float | None:
        """How long the loop sleeps at most, in seconds."""
        poller = FakePoller()
        self.loop.wait(poller, now)  # type: ignore[arg-type]
        return min(poller.waits) / 1000 if poller.waits else None

    def keys(self, name: str = "vhu0") -> dict[str, str]:
        return dict(self.database.rows.keys[name])
