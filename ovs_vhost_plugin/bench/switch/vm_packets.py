# SPDX-License-Identifier: Apache-2.0
"""Small packets between two VMs of one bridge, which poll: what one core can switch.

One dpdk-testpmd is both VMs: it has a virtio-user device on each of two ports. Some frames go round
each way: a VM gets one from the switch, and it is sent again from the other VM, unchanged (io). So
nobody is offered more than it can take, and no work is lost with frames that are dropped. The VMs
have one core; switch and back-ends have the other one. OVS-DPDK's thread polls there; our workers
and the switch share it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ovs_vhost_plugin.bench.hugepages import reserved
from ovs_vhost_plugin.bench.rings.peers import BACK_CORE, FRONT_CORE, MEGABYTES, Pmd
from ovs_vhost_plugin.bench.switch.site import DPDK, OURS, ROOM, dpdk_host, turn
from ovs_vhost_plugin.bench.tap.sides import RING, give_core, processor_time
from ovs_vhost_plugin.lab.hosts.dpdk import DpdkHost
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.process import LabError, pause

PACKETS = "small packets"
LENGTH = 64
_MACS = "52:54:00:00:00:01", "52:54:00:00:00:02"
BURSTS = 2
"""Of 32 frames, on their way in each direction: a switch's packet socket has room for some 90."""
_SETTLE = 1.0  # seconds: the switch learns the VMs' places, and its flows follow


@dataclass(frozen=True, slots=True)
class Carried:
    """Packets or Gb a second, and per CPU second of switch and back-ends."""

    rate: float
    per_cpu: float


class PollingPair:
    """Two polling VMs in one testpmd, on two ports of `host`."""

    def __init__(
        self, closing: contextlib.ExitStack, directory: Path, host: Host, hugepages: bool
    ) -> None:
        self.host = host
        kind = ("type=dpdkvhostuserclient",) if isinstance(host, DpdkHost) else ()
        ports = "vm0", "vm1"
        # Without the mirror that the lab has for captures
        paths = [Host.add_client_port(host, port, None, *kind) for port in ports]
        for port in ports:
            host.wait_ready(port)
        devices = [
            f"net_virtio_user{number},path={path},mac={mac},queues=1,queue_size={RING},server=1"
            for number, (path, mac) in enumerate(zip(paths, _MACS, strict=True))
        ]
        self._vms = Pmd(
            devices[0],
            FRONT_CORE,
            devices[1],
            directory=directory,
            prefix=f"ovh-bench-{os.getpid()}-{host.label}-vms",
            hugepages=hugepages,
            descriptors=RING,
            options=[f"--eth-peer={n},{mac}" for n, mac in enumerate(reversed(_MACS))],
        )
        closing.callback(self._vms.close)
        self._vms.await_start()
        for port in ports:
            host.wait_running(port)
        assert host.switch.vswitchd is not None
        self._pids = [host.switch.vswitchd.pid]
        if isinstance(host, DpdkHost):
            mask = f"other_config:pmd-cpu-mask={1 << BACK_CORE:#x}"
            host.switch.vsctl("set", "Open_vSwitch", ".", mask)
        else:
            self._pids += [host.worker_pid(port) for port in ports]
        for pid in self._pids:
            give_core(pid)

    def window(self, seconds: float) -> Carried:
        """Packets that the VMs got, both ways together."""
        self._vms.start("io", LENGTH, BURSTS)
        time.sleep(_SETTLE)
        begin, received, spent = time.monotonic(), self._received(), self._spent()
        pause(seconds)
        packets, took = self._received() - received, time.monotonic() - begin
        cpu = self._spent() - spent
        self._vms.end()
        if not packets:
            raise LabError(f"{self.host.label}: no frame comes any more")
        return Carried(packets / took, packets / cpu)

    def _received(self) -> int:
        return sum(map(self._vms.all_received, range(2)))

    def _spent(self) -> float:
        return sum(map(processor_time, self._pids))


def measure(
    rounds: int, seconds: float, wanted: Sequence[str], screen: Console
) -> Iterator[tuple[str, Carried]]:
    """Windows of ours and OVS-DPDK's by turns, where the latter is wanted."""
    with contextlib.ExitStack() as closing:
        top = closing.enter_context(tempfile.TemporaryDirectory(prefix="ovs-vhost-"))
        hugepages = closing.enter_context(reserved(2 * MEGABYTES + ROOM << 20))
        hosts = {OURS: closing.enter_context(Host("v", Path(top, "v")))}
        if DPDK in wanted:
            hosts[DPDK] = closing.enter_context(dpdk_host(Path(top, "d"), tso=False))
        pairs = {
            name: PollingPair(closing, Path(top), host, hugepages) for name, host in hosts.items()
        }
        for _ in track(range(rounds), f"VM to VM, {PACKETS}", console=screen):
            for name, pair in pairs.items():
                with turn(pair.host):
                    yield name, pair.window(seconds)
