# SPDX-License-Identifier: Apache-2.0
"""A live migration under traffic, from first to last: the demo's stage, and the tests'.

Everything that is reported was observed from outside: the guest's own record of received data,
packet captures at its ports, the bridges' MAC tables, the hypervisor's events.  Only the times of
SEND_RARP and packet-out come from the back-end, as nobody else sees them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from ovs_vhost_plugin.lab.cases import PLAIN, TCP_BITS, TCP_PACKETS, Case
from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.movable import Movable, Move
from ovs_vhost_plugin.lab.guests.movable_qemu import QemuMovable
from ovs_vhost_plugin.lab.guests.movable_soft import SoftMovable
from ovs_vhost_plugin.lab.hosts import wiring
from ovs_vhost_plugin.lab.hosts.fabric import Fabric
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.lab.measure.evidence import Evidence, merged
from ovs_vhost_plugin.lab.measure.flow import Flow, FlowArrivals
from ovs_vhost_plugin.lab.measure.macwatch import MacWatch
from ovs_vhost_plugin.lab.measure.tcp import TcpStream
from ovs_vhost_plugin.lab.measure.timeline import Report
from ovs_vhost_plugin.lab.process import LabError, wait_until
from ovs_vhost_plugin.lab.setup import Setup
from ovs_vhost_plugin.vswitchd.fdb import entries_of

PORT = "vhu0"
UDP_PORT = 7000

_BEFORE_SECONDS, _AFTER_SECONDS = 1.0, 1.5
"""Seconds of traffic before the migration begins and after it has ended."""
_LONGEST_SECONDS = 60.0

_PAUSE = 0.5
"""Seconds; a receiver that reads nothing for twice as long reads no more."""
_SNAP = 128
"""Captured bytes of each frame, besides those of a datagram."""
_MOST_FOR_CONSOLE = 1 << 20

Progress = Callable[[str], None]
Learned = Callable[[float], float | None]
"""Gives the time at or after its argument when the network learned the guest's place, or None."""


class Stage(Setup):
    """Two private hosts with a guest on the first.

    `kind` is "qemu" or "soft"; with `announces` the guest negotiates GUEST_ANNOUNCE, else the
    back-end gets SEND_RARP.  `backend` is "ovs-vhost" or "ovs-dpdk".  `progress` gets a line for
    each step.
    """

    here: Host
    """The guest's host; it moves `there` next."""
    there: Host
    _sockets: dict[Host, Path]

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

    def __exit__(self, *exception: object) -> None:
        self._progress("taking it all down")
        super().__exit__(*exception)

    def migrate(self, case: Case = PLAIN) -> Report:
        """Migrate the guest to the other host under traffic; return the report.

        This can be repeated, there and back, if the guest can. A case gets its own network first.
        """
        if case is not PLAIN:
            self._progress("the network of the case")
            wiring.wire(self.fabric, case, PORT, self.guest.mac)
            if self.kind == "qemu":
                self._linux().use_vlan(case.vlan if case.tagged else 0)
        self._introduce(case)
        self.guest.prepare(self.there, self._sockets[self.there])
        with contextlib.ExitStack() as closing:
            evidence = self._observe(case, closing)
        self.here, self.there = self.there, self.here
        return evidence.report(self.kind, "guest" if self._announces else "rarp")

    def _set_up(self) -> None:
        fabric, guest, progress = self.fabric, self.guest, self._progress
        if self.kind == "qemu":
            progress("the guest's kernel (downloaded once)")
            image.build()
        progress("two hosts, a switch between them (the first start compiles the data path)")
        self._closing.enter_context(fabric)
        self._closing.callback(guest.close)
        self.here, self.there = fabric.a, fabric.b
        self._sockets = {host: host.add_client_port(PORT) for host in (fabric.a, fabric.b)}
        for host in (fabric.a, fabric.b):
            host.wait_ready(PORT)
            host.wait_ofport(PORT)  # until then the switch does not read the tap
        progress("the guest boots")
        guest.boot(self.here, self._sockets[self.here])
        self.here.wait_running(PORT)

    def _introduce(self, case: Case) -> None:
        """Make the guest listen, and the network and the client learn its place."""
        guest, fabric = self.guest, self.fabric
        wiring.wait_passing(self.here.switch, case, PORT)
        wiring.wait_passing(self.there.switch, case)
        fabric.set_neighbour(guest.address, guest.mac)
        guest.listen(UDP_PORT)
        guest.speak()
        mac, ports = bytes.fromhex(guest.mac.replace(":", "")), fabric.physical_ports(self.here)

        def known() -> bool:
            bridge = fabric.client_bridge
            table = fabric.physical.appctl("ovs-vswitchd", "fdb/show", bridge)
            return any(e.vlan == case.vlan and e.port in ports for e in entries_of(table, mac))

        wait_until(known, "the network learns the guest's MAC")

    def _observe(self, case: Case, closing: contextlib.ExitStack) -> Evidence:
        """Migrate the guest under the case's traffic; return what was observed."""
        enter = closing.enter_context
        fabric, guest, here, there = self.fabric, self.guest, self.here, self.there
        taps = [
            enter(Capture(host.namespace, host.capture_device(PORT), snap=_SNAP + case.size))
            for host in (here, there)
        ]
        uplinks = [
            [
                enter(Capture(host.namespace, name, snap=_SNAP + case.size))
                for name in wiring.uplinks(case)
            ]
            for host in (here, there)
        ]
        local = enter(MacWatch(there.switch, BRIDGE, guest.mac, case.vlan))
        bridge = fabric.client_bridge
        physical = enter(MacWatch(fabric.physical, bridge, guest.mac, case.vlan))
        before = self._overruns()
        switches = (fabric.physical, here.switch, there.switch)
        unread = sum(switch.overruns() for switch in switches)
        traffic = self._traffic(case)
        enter(traffic)
        ports = fabric.physical_ports(there)
        moved = self._move(case, traffic, lambda at: physical.learned_at(*ports, since=at))
        self._progress("asking the guest what it received")
        arrivals = self._arrivals(traffic) if isinstance(traffic, Flow) else None
        tag, since = case.vlan if case.tagged else 0, moved.started
        return Evidence(
            moved=moved,
            source=f"host {here.label}",
            destination=f"host {there.label}",
            mac=bytes.fromhex(guest.mac.replace(":", "")),
            sent_at=traffic.times(),
            number=traffic.number,
            arrived=None if arrivals is None else arrivals.numbers,
            damaged=0 if arrivals is None else arrivals.damaged,
            taps=(taps[0].frames(), taps[1].frames()),
            uplinks=(merged(uplinks[0]), merged(uplinks[1])),
            overruns=self._overruns() - before,
            congestion=sum(switch.overruns() for switch in switches) - unread,
            local_learned=local.learned_at(there.wait_ofport(PORT), since=since),
            physical_learned=physical.learned_at(*ports, since=since),
            announcing=there.announcing(since, tag),
        )

    def _traffic(self, case: Case) -> Flow | TcpStream:
        client, address = self.fabric.client, self.guest.address
        if not case.tcp:
            self._progress(f"{case.rate} packets a second flow to the guest")
            return Flow(client, (address, UDP_PORT), rate=case.rate, size=case.size)
        self._progress("a TCP stream flows to the guest")
        self._linux().serve_tcp()
        return TcpStream(client, "eth0", address, self.fabric.directory, TCP_BITS)

    def _move(self, case: Case, traffic: Flow | TcpStream, learned: Learned) -> Move:
        """Migrate after some traffic, which flows on until a while after the guest is found."""
        packets = TCP_PACKETS if case.tcp else case.rate
        _let_pass(traffic, round(packets * _BEFORE_SECONDS))
        self._progress("the guest migrates, live")
        hangs = self._linux().hung(self.fabric.client) if case.hung else contextlib.nullcontext()
        with hangs:
            moved = self.guest.migrate()
            self._progress("the network finds it")
            if case.found:
                what = "the network finds the guest"
                wait_until(lambda: learned(moved.started), what, _LONGEST_SECONDS)
            _let_pass(traffic, round(packets * _AFTER_SECONDS))
            traffic.stop()
        return moved

    def _arrivals(self, flow: Flow) -> FlowArrivals:
        """The guest's received records, when it has all of the flow or gets no more."""
        sizes = [-3, -2, -1]

        def ended() -> bool:
            sizes.append(self.guest.received_size())
            if sizes[-1] == flow.sent * flow.size:
                return True
            # A machine that is busy may hold the receiver up for longer than that.
            return len(set(sizes[-3:])) == 1 and self.guest.unread() == 0

        wait_until(ended, "the guest to have read what it received", _LONGEST_SECONDS, _PAUSE)
        if self.kind == "qemu" and sizes[-1] > _MOST_FOR_CONSOLE:
            data = self._linux().received_by_network(self.fabric.client)
        else:
            data = self.guest.received()
        return FlowArrivals.parse(flow.flow, data, flow.size)

    def _overruns(self) -> int:
        return sum(host.overruns(PORT) for host in (self.here, self.there))

    def _linux(self) -> QemuMovable:
        if not isinstance(self.guest, QemuMovable):
            raise LabError("this case needs a guest in QEMU")
        return self.guest


class Stages(Setup):
    """Stages for any case, each made when it is first needed and kept for the next cases.

    A stage is not used again after a failure. `kind` is the kind of the guests.
    """

    def __init__(self, progress: Progress = lambda _: None, *, kind: str = "qemu") -> None:
        super().__init__()
        self._progress = progress
        self._kind = kind
        self._stages: dict[tuple[str, bool, bool], Stage] = {}

    def _set_up(self) -> None:
        self._closing.callback(self._take_down)

    def source(self, case: Case) -> Host:
        """The host from which the case's guest will migrate."""
        return self._stage(case).here

    def play(self, case: Case) -> Report:
        """Migrate the case's guest on the case's network."""
        stage = self._stage(case)
        try:
            return stage.migrate(case)
        except BaseException:
            self._stages.pop(_key(case)).__exit__()
            raise

    def _stage(self, case: Case) -> Stage:
        key = _key(case)
        if key not in self._stages:
            stage = Stage(
                self._kind, announces=case.announces, backend=case.backend, progress=self._progress
            )
            self._stages[key] = stage.__enter__()
        return self._stages[key]

    def _take_down(self) -> None:
        with contextlib.ExitStack() as closing:
            for stage in self._stages.values():
                closing.push(stage)
            self._stages = {}


def _key(case: Case) -> tuple[str, bool, bool]:
    """The settings of a case that are fixed when the guest boots, or cannot be undone.

    After RSTP is switched off, Open vSwitch 3.1 floods to none of the bridge's ports.
    """
    return case.backend, case.announces, case.rstp


def _let_pass(traffic: Flow | TcpStream, packets: int) -> None:
    """Return when `packets` more have been sent."""
    goal = traffic.sent + packets
    wait_until(lambda: traffic.sent >= goal, f"{packets} packets more", _LONGEST_SECONDS, 0.05)
