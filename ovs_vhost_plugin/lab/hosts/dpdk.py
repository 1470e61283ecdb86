# SPDX-License-Identifier: Apache-2.0
"""A private host whose switch is OVS-DPDK, with vhost-user ports of its own, to compare with.

It is Debian's build, unchanged, on a machine without hugepages or a NIC of DPDK's. Its thread polls
for packets without end, and two hosts on a small machine would leave no processor for the guest.
So the thread sleeps when it finds nothing, up to a quarter of a millisecond. Cables are as on every
host.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, veth
from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch
from ovs_vhost_plugin.lab.measure import clock
from ovs_vhost_plugin.lab.measure.timeline import Mark
from ovs_vhost_plugin.lab.platform.packages import DPDK_SWITCH

_SETTINGS = ("dpdk-init=true", "pmd-cpu-mask=0x1", "pmd-maxsleep=250")
_SEND_RARP = re.compile(r"^(\S+)Z\|.*read message VHOST_USER_SEND_RARP", re.MULTILINE)


class DpdkSwitch(PrivateSwitch):
    """A private switch that runs OVS-DPDK."""

    # Without hugepages DPDK has its memory in one piece; --legacy-mem keeps OVS from asking for
    # something else.
    memory: ClassVar[str] = "--no-huge --legacy-mem -m 192"

    def __init__(
        self, namespace: Namespace, directory: Path, *, userspace_tso: bool = False
    ) -> None:
        super().__init__(
            namespace,
            directory,
            userspace_tso=userspace_tso,
            program=str(directory / "ovs-vswitchd"),
            other_config=(*_SETTINGS, f'dpdk-extra="{self.memory} --no-pci --no-telemetry"'),
        )
        # The directory of DPDK's files, instead of one for the whole machine.
        self.env["RUNTIME_DIRECTORY"] = str(directory)

    def _set_up(self) -> None:
        # A daemon names its control socket after its program: the link gives it the usual name.
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "ovs-vswitchd").symlink_to(DPDK_SWITCH.name)
        super()._set_up()


class DpdkHost(Host):
    """A host without our daemon. Its ports have no taps: a mirror shows their frames."""

    switch_type = DpdkSwitch

    def add_uplink(self, device: str) -> None:
        """Put an end of a cable on the bridge, as a NIC that DPDK polls."""
        # Frames that bypass the device's queue would bypass captures on the device.
        devargs = f"net_af_packet-{device},iface={device},qdisc_bypass=0"
        self.switch.add_port(BRIDGE, device, "type=dpdk", f'options:dpdk-devargs="{devargs}"')

    def add_client_port(
        self, name: str, path: Path | None = None, *settings: str, tag: int | None = None
    ) -> Path:
        """Add a port that connects to `path`, where the guest listens; return the path."""
        path = super().add_client_port(name, path, "type=dpdkvhostuserclient", *settings, tag=tag)
        mirror = self.capture_device(name)
        veth(self.namespace, mirror, self.namespace, f"{mirror}-end")
        self.switch.add_port(BRIDGE, mirror)
        self.switch.vsctl(
            *("--id=@guest", "get", "Port", name, "--", "--id=@shown", "get", "Port", mirror),
            *("--", "--id=@mirror", "create", "Mirror", f"name={mirror}", "output_port=@shown"),
            *("select_src_port=@guest", "select_dst_port=@guest"),
            *("--", "add", "Bridge", BRIDGE, "mirrors", "@mirror"),
        )
        return path

    def capture_device(self, name: str) -> str:
        """The mirror's output, into which all of the port's frames are sent."""
        return f"{name}-seen"

    def overruns(self, name: str) -> int:
        """None: the port has no tap."""
        return 0

    def wait_ready(self, name: str) -> None:
        """Return when the port waits for its guest."""
        self.wait_ofport(name)

    def wait_running(self, name: str) -> None:
        """Return when the port's rings run."""
        self.switch.wait_until("Interface", name, "link_state=up")

    def announcing(self, since: float, tag: int = 0) -> list[Mark]:
        """The first SEND_RARP since then, by the switch's log, to the millisecond."""
        offset = clock.from_wall()
        log = (self.directory / "ovs-vswitchd.log").read_text()
        stamps = (datetime.fromisoformat(f"{text}+00:00") for text in _SEND_RARP.findall(log))
        times = (stamp.timestamp() + offset for stamp in stamps)
        first = next((at for at in times if at >= since), None)
        where = f"host {self.label}, ovs-vswitchd"
        return [] if first is None else [Mark(first, "SEND_RARP received", where)]
