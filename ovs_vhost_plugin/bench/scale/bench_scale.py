# SPDX-License-Identifier: Apache-2.0
"""A thousand ports on one host: what they cost, and how long one port more takes.

    make bench-scale        or: python -m ovs_vhost_plugin.bench.scale.bench_scale --help

A private host with the installed Open vSwitch, in a network namespace of its own. Guests are
software guests of this process. Where there is a goal, it stands beside what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from ovs_vhost_plugin.bench.processor import processor
from ovs_vhost_plugin.bench.scale import costs
from ovs_vhost_plugin.bench.scale.kill import kills
from ovs_vhost_plugin.bench.scale.rows import InterfaceRows, Port
from ovs_vhost_plugin.bench.scale.site import AT_ONCE, PATIENCE, ScaleFigure, Site, Stream
from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.namespace import scratch_directory
from ovs_vhost_plugin.lab.measure.latency import percentile
from ovs_vhost_plugin.lab.process import LabError, pause, wait_until
from ovs_vhost_plugin.lab.takedown import play

MOVED = 100  # guests that move in within a second
FIRST_MAC_MOVED = 0x8000
ONE_MORE = 7  # times that one port is added and deleted
KILLED = 20  # workers at most, one after the other
MIB = 1 << 20


def plain_taps(site: Site, count: int) -> None:
    """The switch's own share of adding: taps that nobody serves, added in the same way."""
    names = [f"t{number}" for number in range(count)]
    for name in names:
        site.host.namespace.tap(name)
    begin = time.monotonic()
    for some in chunks(names):
        words = [word for name in some for word in ("--", "add-port", BRIDGE, name)]
        site.host.switch.vsctl(*words)
    ports = site.rows.ports
    done = site.rows.until(
        lambda: all(ports.get(name, Port()).ofport for name in names), "ofports", PATIENCE
    )
    site.note(f"{count} plain taps added: all have an ofport", done - begin, "s")
    for some in chunks(names):
        site.delete(some)
    for name in names:
        site.host.namespace.run("ip", "link", "delete", name)


def add_all(site: Site, names: Sequence[str]) -> None:
    """Add ports, AT_ONCE in a transaction, until all wait."""
    begin, before = time.monotonic(), site.cpu
    for some in chunks(names):
        site.add(some)
    done = site.wait(names, "connecting")
    site.note(f"{len(names)} ports added: all have an ofport and wait", done - begin, "s", 30)
    spent = (site.cpu - before) / len(names)
    site.note("  of the daemon's processor, a port", spent * 1e3, "ms")


def one_more(site: Site, others: int) -> None:
    """One port is added, connects and is deleted, several times."""
    command, ready, connected, deleted, spent = [], [], [], [], []
    for _ in range(ONE_MORE):
        begin, before = time.monotonic(), site.cpu
        site.add(["one"], wait=False)
        command.append(time.monotonic() - begin)
        ready.append(site.wait(["one"], "connecting") - begin)
        time.sleep(0.5)
        connected.append(site.connect("one"))
        deleted.append(site.delete_one("one"))
        spent.append(site.cpu - before)
    goals = (150, 50) if others else (None, None)
    for what, times, goal in (
        ("added until it waits", ready, goals[0]),
        ("of that ovs-vsctl itself", command, None),
        ("VM's socket until connected", connected, goals[1]),
        ("deleted until its tap has gone", deleted, None),
        ("the daemon's processor for all of it", spent, None),
    ):
        site.note(f"one port beside {others}: {what}", statistics.median(times) * 1e3, "ms", goal)


def idle(site: Site, state: str, seconds: float) -> None:
    """Measure silence: wakeups, processor time and memory."""
    site.say(f"  {seconds:g} s of silence")
    time.sleep(1.0)
    pids = site.workers()
    woken, spent, begin = costs.wakeups(pids), site.cpu, time.monotonic()
    pause(seconds)
    length = time.monotonic() - begin
    share = (site.cpu - spent) / length * 100
    site.note(
        f"all {state}: wakeups of workers a second", (costs.wakeups(pids) - woken) / length, goal=0
    )
    site.note(f"all {state}: the daemon's processor", share, "%", 0.1)
    sizes = [costs.pss(pid) / MIB for pid in pids]
    site.note(f"all {state}: memory a port", statistics.mean(sizes), "MiB", 6)
    site.note(f"all {state}: memory of the daemon", costs.pss(site.daemon) / MIB, "MiB", 100)


def looks(site: Site, ports: int) -> None:
    """The cost of looking: all counters once, and a question of the live view."""
    for command, what in (
        ("vhost/stats", "all counters"),
        ("vhost/top", "a look of ovs-vhost top"),
    ):
        begin, before = time.monotonic(), site.cpu
        site.host.appctl(command, "--format", "json")
        site.note(f"{what} of {ports} ports", (time.monotonic() - begin) * 1e3, "ms")
        site.note("  of the daemon's processor", (site.cpu - before) * 1e3, "ms")


def restart(site: Site, state: str, count: int) -> None:
    """The daemon is killed, and the next one adopts all ports, while a guest sends to another."""
    running = list(site.guests.values())[:2]
    stream = Stream(*running) if len(running) == 2 else None
    site.host.stop_daemon(kill=True)
    begin = time.monotonic()
    site.host.launch_daemon()
    site.host.wait_daemon()

    def all_adopted() -> bool:
        if stream is not None:
            stream.send()
        return site.adopted() >= count

    wait_until(all_adopted, f"{count} adopted", PATIENCE, 0.05)
    done = time.monotonic()
    site.note(f"all {state}: daemon killed and started, {count} adopted", done - begin, "s", 3)
    if stream is not None:
        site.note(f"  frames lost meanwhile, of {stream.sent}", stream.lost(), goal=0)


def migrate_in(site: Site, names: Sequence[str]) -> None:
    """Guests that ran elsewhere start within a second, and QEMU would send SEND_RARP for each."""
    here = [
        site.guest(name, number, first_index=7)
        for number, name in enumerate(names, FIRST_MAC_MOVED)
    ]
    guests = [(guest, guest.connect()) for guest in here]
    site.wait(names, "connected", "running")
    begin = time.monotonic()
    for number, (guest, frontend) in enumerate(guests):
        time.sleep(max(0.0, begin + number / len(names) - time.monotonic()))
        guest.run_on(frontend, [vring.queue.base for vring in guest.vrings])
        frontend.send_rarp(guest.config.mac)
    length = time.monotonic() - begin
    seen: dict[str, tuple[float, float]] = {}

    def all_told() -> bool:
        for one in site.host.announcements():
            asked, sent, learned = (one[f"{step}_at"] for step in ("received", "sent", "learned"))
            if asked >= begin and learned is not None:
                seen.setdefault(one["port"], (learned - asked, learned - sent))
        return len(seen) == len(names)

    with contextlib.suppress(LabError):
        wait_until(all_told, "announcements", 30.0, 0.25)
    site.note(f"{len(names)} guests move in: they took", length, "s")
    if seen:
        whole, switch = (sorted(times) for times in zip(*seen.values(), strict=True))
        site.note("  asked for until learned, median", statistics.median(whole) * 1e3, "ms")
        site.note("  asked for until learned, p99", percentile(whole, 0.99) * 1e3, "ms", 100)
        site.note(
            "  of that the switch, from the packet-out on, p99",
            percentile(switch, 0.99) * 1e3,
            "ms",
        )
    site.note("  announcements lost", len(names) - len(seen), goal=0)


def start_guests(site: Site, names: Sequence[str]) -> None:
    """Start a guest on each port, until all run."""
    begin = time.monotonic()
    for guest in [site.guest(name, number) for number, name in enumerate(names)]:
        guest.start()
        site.rows.run(0)
    site.note(f"{len(names)} guests started, one by one", site.wait(names, "running") - begin, "s")


def measure(site: Site, ports: int, running: int, seconds: float, *, taps: bool) -> None:
    """Fill `site.results`."""
    names = [f"v{number}" for number in range(ports)]
    site.say("the first port, which waits for the kernels")
    site.add(["first"])
    site.wait(["first"], "connecting")
    site.delete_one("first")
    if taps:
        site.say("plain taps")
        plain_taps(site, ports)
    site.say("one port")
    one_more(site, 0)
    site.say(f"{ports} ports")
    add_all(site, names)
    idle(site, "waiting", seconds)
    looks(site, ports)
    one_more(site, ports)
    restart(site, "waiting", ports)
    site.say("guests")
    moved = names[:MOVED]
    migrate_in(site, moved)
    start_guests(site, names[len(moved) : running])
    if running >= ports:
        idle(site, "running", seconds)
        restart(site, "running", ports)
    if running >= 2:
        site.say("workers are killed")
        kills(site, names[: min(running, KILLED)])


def chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the names, AT_ONCE at a time."""
    for first in range(0, len(names), AT_ONCE):
        yield names[first : first + AT_ONCE]


def show(results: Sequence[ScaleFigure]) -> None:
    """Print the figures as a table."""
    table = Table(title=processor())
    for heading in ("", "measured", "", "goal", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for one in results:
        goal = "" if one.goal is None else f"{one.goal:g}"
        table.add_row(one.what, one.figure, one.unit, goal, one.verdict)
    Console(width=100).print(table)


def main() -> None:
    """Print the figures, as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ports", type=int, default=1000, help="ports on the host (1000)")
    parser.add_argument("--running", type=int, help="of which so many get a guest (all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of silence (10)")
    parser.add_argument("--taps", action="store_true", help="as many plain taps before")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    running = options.ports if options.running is None else options.running
    process.raise_fd_limit()
    directory = scratch_directory()
    with (
        Host("scale", directory) as host,
        InterfaceRows(directory) as rows,
        contextlib.closing(Site(host, rows, Console(stderr=True))) as site,
    ):
        measure(site, options.ports, running, options.seconds, taps=options.taps)
        results = site.results
    if options.json:
        found = [asdict(one) for one in results]
        print(json.dumps({"processor": processor(), "results": found}, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    sys.exit(play(main))
