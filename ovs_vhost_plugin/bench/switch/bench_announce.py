# SPDX-License-Identifier: Apache-2.0
"""Time until a bridge learns a guest's place: from QMP announce-self to its MAC table.

    make bench-announce     or: python -m ovs_vhost_plugin.bench.switch.bench_announce --help

The same guest on our back-end and on OVS-DPDK. It is silent and does not know GUEST_ANNOUNCE, so
QEMU sends SEND_RARP. Each time another port first takes its MAC away, by a frame to an address that
no flow has yet. The theft wakes the switch's revalidator, so the announcement waits until that is
at rest. The flow cache stays warm: the last announcement is still in it, and a flow to the guest
runs all the time. Frames of the guest's own would make the revalidator move the MAC back
unannounced.

The MAC table is asked again and again, so a time there is late by an answer of the switch. The RARP
is stamped by the kernel as it comes to the client, behind the next switch: ours is learned before
it goes out, OVS-DPDK's is not.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import socket
import statistics
import sys
import time
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ovs_vhost_plugin.announce.frames.announcements import ETH_P_RARP
from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig, QemuGuest, VhostUser
from ovs_vhost_plugin.lab.hosts.fabric import CLIENT_ADDRESS, CLIENT_MAC, Fabric
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.lab.measure.flow import Flow, GuestReceiver
from ovs_vhost_plugin.lab.measure.latency import percentile
from ovs_vhost_plugin.lab.measure.macwatch import MacTable
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import LabError, wait_until
from ovs_vhost_plugin.lab.takedown import play

OURS, DPDK = "ovs-vhost", "ovs-dpdk"
PORT, UDP_PORT = "vhu0", 7000
MAC, ADDRESS = "52:54:00:00:00:01", "10.0.0.2"
FLOW_RATE = 100  # frames a second
INTERVAL = 0.11  # seconds: a worker passes on ten SEND_RARPs a second
REST = 0.05  # seconds for the revalidator, which runs again after half a second
POLL = 0.0002  # seconds between two looks at the MAC table
MOST_THEFTS = 5
BATCH = 200  # announcements, of which the daemon remembers 256
ETHERTYPE = b"\x88\xb5"  # IEEE 802: local experimental

ARRIVED = "RARP at the client"

STEPS = {
    "SEND_RARP read": "received_at",
    "packet-out sent": "sent_at",
    "learned, as the daemon sees it": "learned_at",
}
"""Steps of an announcement → their names in our daemon's log."""


@dataclass
class Times:
    """Milliseconds from QMP announce-self to the MAC table, to ARRIVED and to each of STEPS."""

    learned: list[float] = field(default_factory=list)
    steps: dict[str, list[float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The summaries, for JSON."""
        steps = {name: summary(times) for name, times in self.steps.items()}
        return {"learned": summary(self.learned), "steps": steps}


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and worst of times in milliseconds, and their number."""
    ordered = sorted(times)
    p99 = percentile(ordered, 0.99)
    return {
        "times": len(ordered),
        "median_ms": round(statistics.median(ordered), 3),
        "p99_ms": round(p99, 3),
        "worst_ms": round(ordered[-1], 3),
    }


@contextlib.contextmanager
def running_guest(fabric: Fabric) -> Iterator[QemuGuest]:
    """A guest on host a that receives and sends nothing."""
    host = fabric.a
    path = host.add_client_port(PORT)
    host.wait_ready(PORT)
    fabric.set_neighbour(ADDRESS, MAC)
    config = GuestConfig(
        mac=MAC,
        address=f"{ADDRESS}/24",
        neighbours={CLIENT_ADDRESS: CLIENT_MAC},
        device={"guest_announce": "off"},
    )
    directory = host.directory / "guest"
    with QemuGuest(host.namespace, directory, image.build(), VhostUser(path), config) as guest:
        host.wait_running(PORT)
        guest.run(f"arping -q -c 1 -I eth0 {CLIENT_ADDRESS}")
        GuestReceiver(guest, UDP_PORT)
        yield guest


class AnnounceCourse:
    """Announces one guest again and again."""

    def __init__(self, fabric: Fabric, guest: QemuGuest, table: MacTable, capture: Capture) -> None:
        self._host = fabric.a
        self._guest = guest
        self._table = table
        self._capture = capture
        self._here = str(fabric.a.wait_ofport(PORT))
        self._elsewhere = str(fabric.uplink(fabric.a))
        self._thief = fabric.client.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._thief.bind(("eth0", 0))
        self._thefts = itertools.count()
        self._asked_at: list[float] = []
        self._learned_at: list[float] = []

    def run(self, times: int, what: str, screen: Console) -> Times:
        """Announce so often; `what` is shown beside the progress."""
        measured = Times()
        for number in track(range(1, times + 1), f"{what}: {times} announcements", console=screen):
            begin = time.monotonic()
            self._announce()
            if number % BATCH == 0 or number == times:
                self._take(measured)
            time.sleep(max(0.0, begin + INTERVAL - time.monotonic()))
        self._thief.close()
        return measured

    def _announce(self) -> None:
        self._steal()
        time.sleep(REST)
        self._asked_at.append(time.monotonic())
        self._guest.announce_self(rounds=1)
        self._wait(self._here, 10.0)
        self._learned_at.append(time.monotonic())

    def _steal(self) -> None:
        """Move the MAC away; repeat it if the daemon saw it and announced again."""
        for number in itertools.islice(self._thefts, MOST_THEFTS):
            nobody = b"\x02\x00\x00\x01" + number.to_bytes(2, "big")
            frame = nobody + bytes.fromhex(MAC.replace(":", "")) + ETHERTYPE
            self._thief.send(frame.ljust(60, b"\0"))
            with contextlib.suppress(LabError):
                self._wait(self._elsewhere, 1.0)
                return
        raise LabError(f"{MAC} stays where it is")

    def _wait(self, port: str, seconds: float) -> None:
        what = f"{MAC} on port {port}"
        wait_until(lambda: self._table.port_of(MAC) == port, what, seconds, POLL)

    def _take(self, measured: Times) -> None:
        """Add the times of the last batch."""
        batch = list(zip(self._asked_at, self._learned_at, strict=True))
        measured.learned += [(learned - asked) * 1e3 for asked, learned in batch]
        came = (frame.at for frame in self._capture.frames() if frame.ethertype == ETH_P_RARP)
        # The first of each: the capture has those of earlier batches too.
        first = {bisect(self._asked_at, at): at for at in sorted(came, reverse=True)}
        self._add(measured, ARRIVED, first)
        if self._host.daemon is not None:
            last = self._asked_at[-1]
            wait_until(lambda: self._told()[-1]["received_at"] >= last, "the daemon's last word")
            # The daemon does not list an announcement on its own that it saw undone by a theft.
            told = {bisect(self._asked_at, one["received_at"]): one for one in self._told()}
            for name, key in STEPS.items():
                self._add(measured, name, {number: one[key] for number, one in told.items()})
        self._asked_at, self._learned_at = [], []

    def _add(self, measured: Times, step: str, times: Mapping[int, float | None]) -> None:
        """Add the times of a step, by the announcement's number in the batch."""
        measured.steps.setdefault(step, []).extend(
            (at - asked) * 1e3
            for number, asked in enumerate(self._asked_at, 1)
            if (at := times.get(number)) is not None
        )

    def _told(self) -> list[dict[str, Any]]:
        return self._host.announcements()


def measure(backend: str, times: int, screen: Console) -> Times:
    """Measure one back-end, on hosts of its own."""
    with (
        Fabric(backend=backend) as fabric,
        running_guest(fabric) as guest,
        contextlib.closing(MacTable(fabric.a.switch, BRIDGE)) as table,
        Flow(fabric.client, (ADDRESS, UDP_PORT), rate=FLOW_RATE),
        Capture(fabric.client, "eth0") as capture,
    ):
        return AnnounceCourse(fabric, guest, table, capture).run(times, backend, screen)


def show(results: dict[str, Times]) -> None:
    """Print the times as a table."""
    table = Table(title="From QMP announce-self, in ms")
    for heading in ("", "times", "median", "p99", "worst"):
        table.add_column(heading, justify="right" if heading else "left")

    def add(name: str, times: Sequence[float]) -> None:
        count, *figures = summary(times).values()
        table.add_row(name, str(count), *(f"{figure:.2f}" for figure in figures))

    for backend, measured in results.items():
        add(f"{backend}: MAC learned", measured.learned)
        for name, times in measured.steps.items():
            add(f"  {name}", times)
    Console().print(table)


def main() -> None:
    """Print the figures, as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=1000, help="announcements on our back-end")
    parser.add_argument(
        "--dpdk-times", type=int, default=100, help="and on OVS-DPDK, half a second each"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    screen = Console(stderr=True)
    times = {OURS: options.times, DPDK: options.dpdk_times}
    left_out: dict[str, str] = {}
    words = packages.missing([packages.DPDK_SWITCH], root=False)
    if words and times[DPDK]:
        screen.print(f"{DPDK} is left out: {words}", markup=False)
        times[DPDK], left_out[DPDK] = 0, words
    results = {name: measure(name, count, screen) for name, count in times.items() if count}
    if options.json:
        found = {name: one.as_dict() for name, one in results.items()}
        print(json.dumps({"results": found, "left_out": left_out}, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    sys.exit(play(main))
