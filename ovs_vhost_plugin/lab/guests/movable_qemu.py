# SPDX-License-Identifier: Apache-2.0
"""A Linux guest in QEMU as the demo's subject, and the migration matrix's."""

from __future__ import annotations

import contextlib
import socket as sockets
from collections.abc import Iterator
from pathlib import Path

from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.movable import Move
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig, QemuGuest, VhostUser
from ovs_vhost_plugin.lab.hosts.fabric import CLIENT_MAC
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.measure.flow import GuestReceiver
from ovs_vhost_plugin.lab.measure.tcp import IPERF_PORT
from ovs_vhost_plugin.lab.process import LabError

MAC = "52:54:00:00:00:01"

_RECOVERY_PORT = 7099
_FETCH_SECONDS = 60.0
# sched(7): a thread of real-time priority takes all of the processor from normal threads. Only
# interrupts, their softirqs, and the test's own threads of higher priority run beside it.
_HANG = (
    "echo -1 >/proc/sys/kernel/sched_rt_runtime_us; : >/tmp/recover; "
    "for pid in $(pidof ksoftirqd/0) $(pidof nc.openbsd) $$; do chrt -f -p 90 $pid; done; "
    f"nc.openbsd -u -l {_RECOVERY_PORT} >/tmp/recover & "
    "chrt -f 50 sh -c 'until [ -s /tmp/recover ]; do :; done' &"
)
_RECOVER = "for pid in $(pidof ksoftirqd/0) $(pidof nc.openbsd) $$; do chrt -o -p 0 $pid; done"


class QemuMovable:
    """A guest that sends nothing unasked, unless it announces itself."""

    def __init__(self, *, announces: bool) -> None:
        self.mac = MAC
        self._vlan = 0
        self._config = GuestConfig(
            mac=MAC,
            address=f"{self.address}/24",
            neighbours={self._client: CLIENT_MAC},
            device={"guest_announce": "on" if announces else "off"},
        )
        self._closing = contextlib.ExitStack()
        self._left: QemuGuest | None = None
        self._here: QemuGuest | None = None
        self._there: QemuGuest | None = None
        self._receiver: GuestReceiver | None = None

    @property
    def address(self) -> str:
        """The guest's address in the VLAN that it uses."""
        return f"10.0.{self._vlan}.2"

    @property
    def _client(self) -> str:
        return f"10.0.{self._vlan}.1"

    @property
    def _device(self) -> str:
        return f"eth0.{self._vlan}" if self._vlan else "eth0"

    def boot(self, host: Host, socket: Path) -> None:
        """Start QEMU and await the guest's init."""
        self._here = self._guest(host, socket, incoming=False)

    def use_vlan(self, vlan: int) -> None:
        """Tag the guest's frames with this VLAN from now on; 0: leave them untagged."""
        self._vlan = vlan
        device = self._device
        if vlan:
            self._running().run(
                f"[ -e /sys/class/net/{device} ] || {{ "
                "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 && "
                f"ip link add link eth0 name {device} type vlan id {vlan} && "
                f"ip address add {self.address}/24 dev {device} && ip link set {device} up && "
                f"arp -i {device} -s {self._client} {CLIENT_MAC}; }}"
            )

    def listen(self, port: int) -> None:
        """Keep data that comes to a UDP port in a file of the guest's."""
        self._receiver = GuestReceiver(self._running(), port)

    def serve_tcp(self) -> None:
        """Start iperf3, which takes one stream."""
        guest = self._running()
        guest.run(f"iperf3 -s -1 -p {IPERF_PORT} >/tmp/iperf3 2>&1 &")
        listens = f":{IPERF_PORT:04X} 0*:0000 0A "  # TCP_LISTEN
        guest.run(f"until cat /proc/net/tcp* | grep -q '{listens}'; do usleep 10000; done")

    def speak(self) -> None:
        """Send an ARP request for the client."""
        self._running().run(f"arping -q -c 1 -I {self._device} {self._client}")

    def prepare(self, host: Host, socket: Path) -> None:
        """Start the destination's QEMU."""
        if self._left is not None:
            self._left.stop()
        self._there = self._guest(host, socket, incoming=True)

    def migrate(self) -> Move:
        """Migrate by QEMU's live migration."""
        if self._there is None:
            raise LabError("there is no destination")
        self._left, self._here, self._there = self._running(), self._there, None
        return self._left.migrate(self._here)

    @contextlib.contextmanager
    def hung(self, client: Namespace) -> Iterator[None]:
        """Stop the work queues of the guest's kernel until a datagram from the client.

        virtio_net.c announces from a work queue (config_work). Softirqs go on receiving.
        """
        self._running().run(_HANG)
        yield
        with client.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as caller:
            caller.connect((self.address, _RECOVERY_PORT))
            caller.send(b"recover")
        self._running().run(_RECOVER)

    def received_size(self) -> int:
        """The size of the receiver's file."""
        return self._listening().size(self._running())

    def unread(self) -> int:
        """The bytes that wait in the receiver's socket."""
        return self._listening().unread(self._running())

    def received(self) -> bytes:
        """The receiver's file."""
        return self._listening().fetch(self._running())

    def received_by_network(self, client: Namespace) -> bytes:
        """The receiver's file, sent to the client: the guest's console is slow."""
        with client.socket(sockets.AF_INET, sockets.SOCK_STREAM) as server:
            server.bind((self._client, 0))
            server.listen(1)
            server.settimeout(_FETCH_SECONDS)
            port = server.getsockname()[1]
            self._listening().send(self._running(), self._client, port)
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as stream:
                connection.settimeout(_FETCH_SECONDS)
                return stream.read()

    def close(self) -> None:
        """End both QEMUs."""
        self._closing.close()

    def _guest(self, host: Host, socket: Path, *, incoming: bool) -> QemuGuest:
        return self._closing.enter_context(
            QemuGuest(
                host.namespace,
                host.directory / "guest",
                image.build(),
                VhostUser(socket),
                self._config,
                incoming=incoming,
            )
        )

    def _running(self) -> QemuGuest:
        if self._here is None:
            raise LabError("the guest is not running")
        return self._here

    def _listening(self) -> GuestReceiver:
        if self._receiver is None:
            raise LabError("the guest does not listen")
        return self._receiver
