# SPDX-License-Identifier: Apache-2.0
"""A live migration under a flow, from first to last: the demo's stage, and the tests'.

Everything that is reported was observed from outside: the guest's own record of what it received,
packet captures at its ports, the bridges' MAC tables, the hypervisor's events.  Only the times of
SEND_RARP and packet-out come from the back-end, as nobody else sees them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ovs_vhost_plugin.lab import image
from ovs_vhost_plugin.lab.capture import Capture, Frame
from ovs_vhost_plugin.lab.fabric import PHYSICAL, UPLINK, Fabric
from ovs_vhost_plugin.lab.flow import Arrivals, Flow, number_of
from ovs_vhost_plugin.lab.host import BRIDGE
from ovs_vhost_plugin.lab.macwatch import MacWatch
from ovs_vhost_plugin.lab.movable import Migration, Movable
from ovs_vhost_plugin.lab.movable_qemu import QemuMovable
from ovs_vhost_plugin.lab.movable_soft import SoftMovable
from ovs_vhost_plugin.lab.process import LabError, wait_until
from ovs_vhost_plugin.lab.setup import Setup
from ovs_vhost_plugin.timeline import Mark, Report, deliveries, longest_gap, overtaken

PORT = "vhu0"
UDP_PORT = 7000
RATE = 1000
"""Packets a second."""

_BEFORE = 1000
_AFTER = 1500
"""Packets sent before the migration begins and after it has ended."""

_LAST_SECONDS = 2.0
_ETHERTYPE_ARP = 0x0806
_ETHERTYPE_RARP = 0x8035

Progress = Callable[[str], None]


class Stage(Setup):
    """Two private hosts with a guest on the first.

    `kind` is "qemu" or "soft"; with `announces` the guest negotiates GUEST_ANNOUNCE, else the
    back-end gets SEND_RARP.  `backend` is "ovs-vhost" or "ovs-dpdk".  `progress` is told what goes
    on.
    """

    def __init__(
        self,
        kind: str,
        *,
        announces: bool,
        backend: str = "ovs-vhost",
        progress: Progress = lambda _: None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.fabric = Fabric(backend=backend)
        self.guest: Movable = (
            QemuMovable(announces=announces) if kind == "qemu" else SoftMovable(announces=announces)
        )
        self._announces = announces
        self._progress = progress

    def migrate(self) -> Report:
        """Migrate the guest under the flow and say what became of both."""
        fabric, guest = self.fabric, self.guest
        with contextlib.ExitStack() as closing:
            enter = closing.enter_context
            taps = [
                enter(Capture(host.namespace, host.capture_device(PORT), snap=256))
                for host in (fabric.a, fabric.b)
            ]
            uplink = enter(Capture(fabric.b.namespace, UPLINK, snap=256))
            local = enter(MacWatch(fabric.b.switch, BRIDGE, guest.mac))
            physical = enter(MacWatch(fabric.physical, PHYSICAL, guest.mac))
            flow = enter(Flow(fabric.client, (guest.address, UDP_PORT), rate=RATE))
            self._progress(f"{RATE} packets a second flow to the guest")
            _let_pass(flow, _BEFORE)
            self._progress("the guest migrates, live")
            moved = guest.migrate()
            self._progress("the network finds it")
            _let_pass(flow, _AFTER)
            flow.stop()
            self._progress("asking the guest what it received")
            since = moved.started
            seen = _Seen(
                moved=moved,
                mac=bytes.fromhex(guest.mac.replace(":", "")),
                flow=flow,
                arrivals=self._arrivals(flow),
                taps=(taps[0].frames(), taps[1].frames()),
                uplink=uplink.frames(),
                local_learned=local.learned_at(fabric.b.wait_ofport(PORT), since),
                physical_learned=physical.learned_at(fabric.physical_port(fabric.b), since),
                announcing=fabric.b.announcing(since),
            )
        return seen.report(self.kind, "guest" if self._announces else "rarp")

    def _arrivals(self, flow: Flow) -> Arrivals:
        """What the guest received, when the flow's last record is there or has had its time."""

        def so_far() -> Arrivals:
            return Arrivals.parse(flow.flow, self.guest.received())

        with contextlib.suppress(LabError):
            last = flow.sent - 1
            wait_until(lambda: last in so_far().numbers, "the last record", _LAST_SECONDS, 0.05)
        return so_far()

    def _set_up(self) -> None:
        fabric, guest, progress = self.fabric, self.guest, self._progress
        if self.kind == "qemu":
            progress("the guest's kernel (downloaded once)")
            image.build()
        progress("two hosts, a switch between them (the first start compiles the data path)")
        self._closing.enter_context(fabric)
        self._closing.callback(guest.close)
        fabric.set_neighbour(guest.address, guest.mac)
        sockets = [host.add_client_port(PORT) for host in (fabric.a, fabric.b)]
        for host in (fabric.a, fabric.b):
            host.wait_ready(PORT)
        progress("the guest boots")
        guest.boot(fabric.a, sockets[0])
        fabric.a.wait_running(PORT)
        guest.listen(UDP_PORT)
        guest.speak()
        wait_until(
            lambda: guest.mac in fabric.physical.fdb(PHYSICAL), "the network learns the guest's MAC"
        )
        guest.prepare(fabric.b, sockets[1])
        self._closing.callback(progress, "taking it all down")


@dataclass
class _Seen:
    """The evidence of one migration, not yet interpreted."""

    moved: Migration
    mac: bytes
    flow: Flow
    arrivals: Arrivals
    taps: tuple[list[Frame], list[Frame]]
    uplink: list[Frame]
    local_learned: float | None
    physical_learned: float | None
    announcing: list[Mark]

    def report(self, kind: str, announce: str) -> Report:
        moved, arrivals = self.moved, self.arrivals
        source, destination = (self._passed(frames) for frames in self.taps)
        delivered = deliveries(
            arrivals.numbers,
            source,
            destination,
            stopped=moved.source_stopped,
            resumed=moved.destination_resumed,
        )
        times = sorted(delivered.values())
        delays = (at - self.flow.sent_at[number] for number, at in delivered.items())
        after = [at for at in times if at >= moved.destination_resumed]
        lost = arrivals.lost(self.flow.sent)
        return Report(
            guest=kind,
            announce=announce,
            stopped=moved.source_stopped,
            marks=tuple(self._marks(after[0] if after else None)),
            sent=self.flow.sent,
            lost=len(lost),
            damaged=arrivals.damaged,
            duplicated=len(arrivals.duplicates()),
            unseen=sum(n not in source and n not in destination for n in lost),
            reordered=overtaken(arrivals.numbers),
            delay_ms=max(delays, default=0.0) * 1e3,
            outage_ms=longest_gap(times) * 1e3,
            downtime_ms=moved.downtime_ms,
            found=bool(after) and self.flow.sent - 1 not in lost,
        )

    def _passed(self, frames: list[Frame]) -> dict[int, float]:
        """When each record passed a tap on its way to the guest."""
        passed: dict[int, float] = {}
        for frame in frames:
            payload = frame.udp_payload(UDP_PORT) if frame.outgoing else None
            number = None if payload is None else number_of(self.flow.flow, payload)
            if number is not None:
                passed.setdefault(number, frame.at)
        return passed

    def _marks(self, first_through: float | None) -> Iterator[Mark]:
        moved = self.moved
        yield Mark(moved.started, "migration starts", "host a")
        yield Mark(moved.source_stopped, "guest stopped", "host a")
        yield Mark(moved.destination_resumed, "guest runs", "host b")
        yield Mark(moved.completed, "migration completed", "host a")
        yield from self._announcement_marks()
        learned = "guest's MAC learned"
        yield from _mark(self.local_learned, learned, f"{BRIDGE} of host b")
        yield from _mark(self.physical_learned, learned, "physical switch")
        yield from _mark(first_through, "first packet through", "host b")

    def _announcement_marks(self) -> Iterator[Mark]:
        yield from self.announcing
        own = self._first_announcement(self.taps[1], _ETHERTYPE_ARP)
        yield from _mark(own, "guest announces itself (ARP)", "host b")
        for ethertype, name in ((_ETHERTYPE_RARP, "RARP"), (_ETHERTYPE_ARP, "ARP")):
            sent = (frame for frame in self.uplink if frame.outgoing)
            left = self._first_announcement(sent, ethertype)
            yield from _mark(left, f"{name} leaves the host", f"{UPLINK} of host b")

    def _first_announcement(self, frames: Iterable[Frame], ethertype: int) -> float | None:
        found = (
            frame.at
            for frame in frames
            if frame.ethertype == ethertype
            and frame.data[6:12] == self.mac
            and frame.at >= self.moved.started
        )
        return next(found, None)


def _mark(at: float | None, what: str, where: str) -> Iterator[Mark]:
    if at is not None:
        yield Mark(at, what, where)


def _let_pass(flow: Flow, packets: int) -> None:
    """Return when the flow has sent that many more."""
    goal = flow.sent + packets
    wait_until(lambda: flow.sent >= goal, f"{packets} packets more", 10 * packets / RATE)
