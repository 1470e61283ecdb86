# SPDX-License-Identifier: Apache-2.0
"""Guests in QEMU, each with two ports to migrate between, and numbered datagrams that they echo.

peer: eth0 10.0.0.1 ═ up0 ─ vmbr ─┬ vm0a ─ worker ─ QEMU: eth0 10.0.0.2
                                  └ vm0b ─ worker
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from support.system.numbered_traffic import Span, within

from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig, QemuGuest, VhostUser
from ovs_vhost_plugin.lab.hosts.fabric import finish_checksums
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, veth
from ovs_vhost_plugin.lab.measure.flow import Flow, GuestReceiver
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import LabError, wait_until

_BRIDGE, _UPLINK = "vmbr", "up0"
_PEER, _PEER_MAC = "10.0.0.1", "02:00:00:00:00:01"
_UDP_PORT = 7000
RATE = 50
"""Datagrams a second to all machines: who stands still for seconds has room for all of them.

The switch has least, in the socket by which it reads the cable: some 270 frames.
"""
_MEMORY = 128  # MiB
_QUIET = 3.0  # seconds without an answer, after which none is under way any more
_KINDS = ({"guest_announce": "off"}, {"packed": "on"})


def missing() -> str | None:
    """What machines lack here; None: there can be some."""
    if words := packages.missing(packages.GUEST):
        return words
    try:
        image.build()
    except LabError as error:
        return str(error)
    return None


class Peer:
    """A machine on a cable to the guests' bridge, which learns where they are."""

    def __init__(self, host: Host, stack: ExitStack) -> None:
        self.namespace = stack.enter_context(Namespace("peer"))
        host.switch.add_bridge(_BRIDGE)
        ends = ((self.namespace, "eth0"), (host.namespace, _UPLINK))
        veth(self.namespace, "eth0", host.namespace, _UPLINK)
        for namespace, device in ends:
            finish_checksums(namespace, device)
        self.namespace.run("ip", "link", "set", "eth0", "address", _PEER_MAC)
        self.namespace.address("eth0", f"{_PEER}/24")
        host.switch.add_port(_BRIDGE, _UPLINK)

    def meet(self, address: str, mac: str) -> None:
        """Know a guest's MAC without asking for it."""
        entry = (address, "lladdr", mac, "dev", "eth0", "nud", "permanent")
        self.namespace.run("ip", "neigh", "replace", *entry)


class EchoedTraffic:
    """A flow to a guest that sends each record back."""

    def __init__(
        self, namespace: Namespace, name: str, address: str, flow: int, rate: int = RATE
    ) -> None:
        self.outages: list[Span] = []
        """From when to when the guest had no port, or no switch."""
        self._name = name
        self._flow = Flow(namespace, (address, _UDP_PORT), rate=rate, flow=flow)

    def start(self) -> None:
        """Begin."""
        self._flow.__enter__()

    def stop(self) -> None:
        """End, when all that was sent had time to come back."""
        self._flow.stop()
        while (missing := self._missing()) and (
            self._flow.collect(_QUIET) or self._missing() != missing
        ):
            pass
        self._flow.__exit__(None, None, None)

    @property
    def sent(self) -> int:
        """The number of records that were sent."""
        return self._flow.sent

    @property
    def came(self) -> int:
        """The number of records that have come back."""
        return len(self._flow.answers)

    def wait_for_more(self, count: int) -> None:
        """Return when a record has come back that so many others are sent before, from now on."""
        goal = self._flow.sent + count
        answers = self._flow.answers
        wait_until(lambda: answers and answers[-1][1] >= goal, f"{self._name}: {count} answers")

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """The guest loses its port in the block; at its end it is awaited."""
        begun = time.monotonic()
        yield
        self.wait_for_more(1)
        self.outages.append((begun, time.monotonic()))

    def faults(self) -> list[str]:
        """What must not be."""
        times = Counter(number for _, number in self._flow.answers)
        twice = [number for number, came in times.items() if came > 1]
        sent_at = self._flow.sent_at
        lost = [number for number in self._missing() if not within(sent_at[number], self.outages)]
        damaged = self._flow.damaged_answers
        found = [f"{damaged} datagrams were changed"] if damaged else []
        found += [f"datagrams came twice: {twice[:10]}"] if twice else []
        if lost:
            first, last = (sent_at[number] - sent_at[0] for number in (lost[0], lost[-1]))
            when = f"sent {first:.1f} to {last:.1f} s after the first"
            found.append(f"{len(lost)} datagrams were lost, {when}: {lost[:10]}")
        return [f"{self._name}: {fault}" for fault in found]

    def _missing(self) -> list[int]:
        came = {number for _, number in self._flow.answers}
        return [number for number in range(self._flow.sent) if number not in came]


class Machine:
    """A guest in QEMU; it is on the port `name`, and migrates to `spare`."""

    def __init__(self, host: Host, peer: Peer, number: int, directory: Path, rate: int) -> None:
        """`directory`: for QEMU's sockets; a short path."""
        self.name, self.spare = f"vm{number}a", f"vm{number}b"
        self._host, self._directory = host, directory
        self._starts = itertools.count()
        address, mac = f"10.0.0.{number + 2}", f"52:54:00:00:01:{number:02x}"
        self._config = GuestConfig(
            mac=mac,
            address=f"{address}/24",
            neighbours={_PEER: _PEER_MAC},
            device=_KINDS[number % len(_KINDS)],
            memory_mib=_MEMORY,
        )
        for name in (self.name, self.spare):
            self._add(name)
        peer.meet(address, mac)
        self.guest = self._qemu(self.name)
        host.wait_status(self.name, "running")
        GuestReceiver(self.guest, _UDP_PORT, echo=True)
        self.traffic = EchoedTraffic(peer.namespace, f"machine {number}", address, number, rate)

    @property
    def pid(self) -> int:
        """The worker's."""
        return self._host.worker_pid(self.name)

    def wait_for_traffic(self) -> None:
        """Return when datagrams come back."""
        self.traffic.wait_for_more(5)

    def slow(self, seconds: float) -> None:
        """Let the whole machine stand still for a while."""
        pid = self.guest.process.pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def delete(self) -> None:
        """Remove the port; QEMU goes on listening."""
        self._host.delete_port(self.name)

    def add(self) -> None:
        """Add the port again."""
        self._add(self.name)

    def migrate(self) -> None:
        """Migrate to the other port, and end the QEMU that was left."""
        there = self._qemu(self.spare, incoming=True)
        self.guest.migrate(there)
        self.guest.stop()
        self.guest = there
        self.name, self.spare = self.spare, self.name
        self._host.wait_status(self.spare, "connecting")

    def dropped(self) -> str:
        """How many frames were dropped by those who count them: worker, taps, the switch's sockets.

        A worker that was killed, and a switch that was, have counted for themselves.
        """
        pairs = self._host.stats(self.name)["queue_pairs"]
        worker = {key: n for pair in pairs for key, n in pair.items() if "dropped" in key and n}
        taps = {name: self._host.overruns(name) for name in (self.name, self.spare)}
        sockets = self._host.switch.overruns()
        return f"{self.name}: dropped by worker {worker}, taps {taps}, switch {sockets}"

    def close(self) -> None:
        """End QEMU."""
        self.guest.stop()

    def _add(self, name: str) -> None:
        path = f"options:vhost-server-path={self._socket(name)}"
        self._host.switch.add_port(_BRIDGE, name, path, "external_ids:vhost-user-queues=1")

    def _socket(self, name: str) -> Path:
        return self._directory / f"{name}.sock"

    def _qemu(self, name: str, *, incoming: bool = False) -> QemuGuest:
        guest = QemuGuest(
            self._host.namespace,
            self._directory / f"{name}{next(self._starts)}",
            image.build(),
            VhostUser(self._socket(name)),
            self._config,
            incoming=incoming,
        )
        return guest.__enter__()
