# SPDX-License-Identifier: Apache-2.0
"""A real bridge with ports that are plain taps, and a loop like the daemon's around the service."""

import contextlib
import fcntl
import itertools
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ovs.poller

from ovs_vhost_plugin.announce.announcement import Request
from ovs_vhost_plugin.announce.policy import DEFAULT, Policy
from ovs_vhost_plugin.announce.result import Result
from ovs_vhost_plugin.announce.service import AnnounceService
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch
from ovs_vhost_plugin.lab.process import PATIENCE, wait_until
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import ALL_VLANS, PortVlan, VlanMode
from ovs_vhost_plugin.vswitchd.link import Poller
from ovs_vhost_plugin.vswitchd.unixctl import Switchd

TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x1002

_serial = itertools.count()


class Tap:
    """A tap whose other end is the bridge."""

    def __init__(self, namespace: Namespace, name: str) -> None:
        with namespace.entered():
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP_NO_PI))
        namespace.run("ip", "link", "set", name, "up")

    def frames(self) -> list[bytes]:
        """Return what the bridge has sent here since the last call."""
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(os.read(self.fd, 2048))
        return frames

    def send(self, frame: bytes) -> None:
        os.write(self.fd, frame)


class Bridge:
    """A bridge of `switch` with the taps "guest" and "peer"."""

    def __init__(self, switch: PrivateSwitch, guest_tag: int | None = None, **columns: str) -> None:
        serial = next(_serial)
        self.name = f"br{serial}"
        self.switch = switch
        self.taps: dict[str, Tap] = {}
        self.ports = {role: f"{role}{serial}" for role in ("guest", "peer")}
        switch.add_bridge(self.name, **columns)
        for role, port in self.ports.items():
            self.taps[role] = Tap(switch.namespace, port)
            switch.add_port(self.name, port, tag=guest_tag if role == "guest" else None)
        self.guest_tag = guest_tag

    def close(self) -> None:
        self.switch.vsctl("--if-exists", "del-br", self.name)
        for tap in self.taps.values():
            os.close(tap.fd)

    def ofport(self, role: str) -> int:
        return wait_until(lambda: self.switch.ofport(self.ports[role]), f"ofport of {role}")

    def location(self) -> Location:
        path = str(self.switch.directory / f"{self.name}.mgmt")
        tag = self.guest_tag
        vlan = ALL_VLANS if tag is None else PortVlan(VlanMode.ACCESS, tag)
        return Location(self.name, self.ofport("guest"), path, vlan)

    def place_of(self, mac: bytes) -> tuple[str, int] | None:
        """Return (port, VLAN) of `mac` in the bridge's own table."""
        return self.switch.fdb(self.name).get(mac.hex(":"))


@contextlib.contextmanager
def private_switch(
    directory: Path, require: Callable[[object, str], None]
) -> Iterator[PrivateSwitch]:
    require(os.geteuid() == 0, "needs root")
    require(shutil.which("ovs-vswitchd"), "needs ovs-vswitchd (openvswitch-switch)")
    with Namespace("announce") as namespace, PrivateSwitch(namespace, directory) as switch:
        yield switch


@contextlib.contextmanager
def bridge(switch: PrivateSwitch, guest_tag: int | None = None, **columns: str) -> Iterator[Bridge]:
    made = Bridge(switch, guest_tag, **columns)
    try:
        yield made
    finally:
        made.close()


class SwitchService(AnnounceService):
    """The announcer of one switch, with the client of its control socket."""

    def __init__(self, switch: PrivateSwitch) -> None:
        self._client = Switchd(str(switch.directory))
        super().__init__(self._client)

    def wait(self, poller: Poller) -> None:
        super().wait(poller)
        self._client.wait(poller)

    def close(self) -> None:
        super().close()
        self._client.close()


def ask(
    service: AnnounceService,
    station: Station | bytes,
    port: str = "vhu0",
    policy: Policy = DEFAULT,
) -> None:
    """Request an announcement, as of now."""
    station = Station(station) if isinstance(station, bytes) else station
    service.request(Request(port, station, "send-rarp", time.monotonic(), policy))


def await_results(
    service: AnnounceService, count: int = 1, seconds: float = PATIENCE
) -> list[Result]:
    """Turn the loop as the daemon does until `count` announcements have ended."""
    results: list[Result] = []
    end = time.monotonic() + seconds
    for turn in itertools.count():
        now = time.monotonic()
        service.run()
        results += service.take_results()
        if len(results) >= count:
            return results
        assert now < end, f"only {results}"
        assert turn < 500, "a busy loop"
        poller = ovs.poller.Poller()
        service.wait(poller)
        poller.timer_wait_until(end * 1e3)
        poller.block()
    raise AssertionError
