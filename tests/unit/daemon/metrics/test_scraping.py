# SPDX-License-Identifier: Apache-2.0
"""One scrape after the other, with workers and an exporter that do what the test says."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ovs_vhost_plugin.daemon.events import Heard
from ovs_vhost_plugin.daemon.metrics import place
from ovs_vhost_plugin.daemon.metrics.scraping import (
    AT_ONCE,
    LONGEST,
    PATIENCE,
    PAUSE,
    RETRY,
    Scraping,
)
from ovs_vhost_plugin.daemon.ovsdb.database import Standing
from ovs_vhost_plugin.ipc.reports import Stats
from ovs_vhost_plugin.metrics.histogram import Histogram

NOW = 100.0
TOLD = {"rarps": 1, "counters": {"rx_packets": 3, "tx_packets": 5}}


class Worker:
    def __init__(self, name: str, *, there: bool = True) -> None:
        self.name, self.there = name, there
        self.asked: list[int] = []

    def send(self, command: Any, now: float) -> bool:
        if self.there:
            self.asked.append(command.id)
        return self.there

    def answers(self) -> Heard:
        pairs = [{"rx_packets": 1, "tx_packets": 5}, {"rx_packets": 2, "tx_packets": 0}]
        return Heard(self.name, Stats(self.asked[-1], {"rarps": 1, "queue_pairs": pairs}))


class Link:
    """An exporter that asks when it is told to."""

    def __init__(self, _listener: Any) -> None:
        self.asks = self.gone = self.closed = False
        self.idle = True
        self.events = 1
        self.told: list[dict[str, Any]] = []
        links.append(self)

    def fileno(self) -> int:
        return 7

    def flush(self) -> None:
        pass

    def asked(self) -> bool:
        asks, self.asks = self.asks, False
        return asks

    def send(self, value: dict[str, Any]) -> None:
        self.told.append(value)

    def close(self) -> None:
        self.closed = True


links: list[Link] = []


class World:
    def __init__(self, directory: Path, ports: int = 3) -> None:
        links.clear()
        self.workers = {f"vhu{n}": Worker(f"vhu{n}") for n in range(ports)}
        spec = SimpleNamespace(bridge="br0", mode="client")
        self.switch = SimpleNamespace(metrics="unix")
        announcing = SimpleNamespace(counters=dict, durations={"send-rarp": Histogram()})
        workers = SimpleNamespace(links=self.workers)
        faults = SimpleNamespace(counters={})
        self.loop: Any = SimpleNamespace(
            snapshot=SimpleNamespace(switch=self.switch, complaints={}),
            desired=dict.fromkeys(self.workers, spec),
            database=SimpleNamespace(standing=Standing.ACTIVE),
            ports=SimpleNamespace(workers=workers, faults=faults),
            announcing=announcing,
            moves=SimpleNamespace(outages={}),
            forwarding=SimpleNamespace(counters={}),
            keys=lambda _port: {"vhost-user-status": "running"},
        )
        self.directory = directory
        make: Any = Link
        self.scraping = Scraping(self.loop, directory, make)
        self.now = NOW
        self.run()

    def run(self, after: float = 0.0) -> None:
        self.now += after
        self.scraping.run(self.now)

    def scrape(self) -> None:
        links[-1].asks = True
        self.run()

    def hear(self, *events: Heard) -> None:
        self.scraping.take(events)
        self.run()

    @property
    def asked(self) -> list[str]:
        return [name for name, worker in self.workers.items() if worker.asked]

    @property
    def told(self) -> dict[str, Any]:
        """The statistics of each port that was told of."""
        return {one["port"]: one["stats"] for one in links[-1].told if "port" in one}

    @property
    def whole(self) -> bool:
        return bool(links[-1].told) and "daemon" in links[-1].told[-1]

    def wakes(self) -> list[float]:
        waits: list[float] = []
        poller = SimpleNamespace(fd_wait=lambda *_: None, timer_wait=waits.append)
        self.scraping.wait(poller, self.now)
        return waits


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_scrape_has_every_port_and_then_the_daemon(world: World) -> None:
    world.scrape()
    assert world.asked == ["vhu0", "vhu1"] and not world.told
    for worker in world.workers.values():
        assert not world.whole
        world.hear(worker.answers())
    assert world.told == dict.fromkeys(world.workers, TOLD)
    assert world.whole and world.wakes() == []


def test_scrapes_have_a_pause_between_them(world: World) -> None:
    for worker in world.workers.values():
        worker.there = False
    world.scrape()
    world.run()
    assert world.whole
    links[-1].told.clear()
    world.scrape()
    assert not world.whole and world.wakes() == [PAUSE * 1e3 + 1]
    world.run(after=PAUSE)
    world.run()
    assert world.whole


def test_ports_without_workers_are_told_of_a_few_in_a_turn(tmp_path: Path) -> None:
    world = World(tmp_path, ports=3 * AT_ONCE)
    world.workers.clear()
    world.scrape()
    assert len(world.told) == AT_ONCE and world.wakes() == [1.0]
    world.run()
    assert len(world.told) == 2 * AT_ONCE


def test_few_workers_are_asked_at_a_time(tmp_path: Path) -> None:
    world = World(tmp_path, ports=3 * AT_ONCE)
    world.scrape()
    assert len(world.asked) == AT_ONCE
    world.hear(world.workers["vhu1"].answers())
    assert len(world.asked) == AT_ONCE + 1
    world.run()
    assert len(world.asked) == AT_ONCE + 1


def test_nobody_is_asked_while_the_exporter_does_not_read(world: World) -> None:
    links[-1].idle = False
    world.scrape()
    assert world.asked == []
    links[-1].idle = True
    world.run()
    assert world.asked == ["vhu0", "vhu1"]


def test_a_worker_that_does_not_answer_holds_up_nobody_for_long(world: World) -> None:
    world.workers["vhu1"].there = False
    world.scrape()
    world.hear(world.workers["vhu0"].answers())
    assert world.wakes() == [PATIENCE * 1e3 + 1]
    world.run(after=PATIENCE)
    assert world.told == {"vhu0": TOLD, "vhu1": None, "vhu2": None} and world.whole
    world.hear(world.workers["vhu2"].answers())  # late: it was told of already
    assert len(world.told) == 3


def test_a_scrape_ends_however_many_workers_hang(tmp_path: Path) -> None:
    world = World(tmp_path, ports=1000)
    world.scrape()
    turns = 0
    while not world.whole:
        world.run(after=PATIENCE if world.now < NOW + LONGEST else 0.0)
        turns += 1
    assert world.now < NOW + LONGEST + 2 * PATIENCE and len(world.told) == 1000
    assert len(world.asked) <= AT_ONCE * (1 + LONGEST / PATIENCE)


def test_answers_that_nobody_asked_for_are_nothing(world: World) -> None:
    world.scrape()
    request = world.workers["vhu0"].asked[-1]
    world.hear(Heard("vhu1", Stats(request, {})), Heard("vhu0", Stats(request + 100, {})))
    assert world.told == {}


def test_a_port_that_goes_meanwhile_is_not_told_of(world: World) -> None:
    world.scrape()
    del world.loop.desired["vhu1"]
    for worker in world.workers.values():
        world.hear(worker.answers())
    assert world.told.keys() == {"vhu0", "vhu2"} and world.whole


def test_it_serves_as_the_row_says(world: World) -> None:
    path = world.directory / place.NAME
    assert world.scraping.shown == f"unix:{path}" and path.exists()
    world.switch.metrics = "tcp:none"
    world.run()
    assert links[-1].closed and not path.exists()
    assert world.scraping.shown.startswith("metrics-place-invalid: ") and world.wakes() == []
    world.switch.metrics = "off"
    world.run()
    assert world.scraping.shown == "" and len(links) == 1
    world.switch.metrics = "unix"
    world.run()
    assert len(links) == 2 and path.exists()
    world.scraping.close()
    assert links[-1].closed and not path.exists()


def test_another_daemon_serves_where_it_has_the_lock(world: World) -> None:
    world.loop.database.standing = Standing.CONTENDED
    world.run()
    assert links[-1].closed and world.scraping.shown == ""
    world.loop.database.standing = Standing.WAITING
    world.loop.snapshot = None
    world.run()
    assert len(links) == 1


def test_a_place_that_is_taken_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / place.NAME).mkdir()
    world = World(tmp_path)
    assert links == [] and world.scraping.error.startswith("metrics-not-served: ")
    assert world.wakes() == [RETRY * 1e3 + 1]
    (tmp_path / place.NAME).rmdir()
    world.run(after=RETRY)
    assert len(links) == 1 and world.scraping.error == ""


def test_a_process_that_ends_is_started_again_and_the_scrape_forgotten(world: World) -> None:
    world.scrape()
    links[-1].gone = True
    world.run()
    assert links[-1].closed and world.scraping.error.startswith("metrics-not-served: ")
    world.run(after=RETRY)
    assert len(links) == 2 and not world.told
    world.hear(world.workers["vhu0"].answers())
    assert world.told == {}
