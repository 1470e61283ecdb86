# SPDX-License-Identifier: Apache-2.0
"""Linux guests in QEMU, with a vhost-user NIC, and their live migration.

QEMU emulates the processor (`-accel tcg`), so this runs where virtual machines cannot nest.  Two
things then differ from production: guests are slow, and the NIC has no MSI-X vectors, unless a
configuration gives it some (QEMU 7.2 crashes in its own MSI-X code with TCG and vhost; 10.0 does
not).
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.guests.console import Console
from ovs_vhost_plugin.lab.guests.image import Image
from ovs_vhost_plugin.lab.guests.movable import Move
from ovs_vhost_plugin.lab.guests.qmp import Event, Qmp
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.process import PATIENCE, LabError, Process, wait_until
from ovs_vhost_plugin.lab.setup import Setup

T = TypeVar("T")

PROGRAM = "qemu-system-x86_64"
UNALIGNED = 8192
"""Bytes by which guest memory is short of whole MiB, so that writes during a migration arrive.

QEMU before 9.0 collects dirty bits for 64 pages at a time, and then does not make the emulated
processor set them again (fixed by "physmem: Fix migration dirty bitmap coherency with TCG memory
access"). In memory that is no multiple of 64 pages it goes page by page, and works.
"""

EMULATION = "tcg,thread=single"
"""All processors of a guest in one thread.

With a thread each, QEMU may fail an assertion in `iotlb_to_section` while the guest maps its
devices (QEMU's issue 1921).
"""


@functools.cache
def version() -> tuple[int, ...]:
    """The installed QEMU's version, as numbers; none where there is no QEMU."""
    if shutil.which(PROGRAM) is None:
        return ()
    words = process.run([PROGRAM, "--version"]).stdout
    found = re.search(r"version ([0-9.]+)", words)
    if found is None:
        raise LabError(f"{PROGRAM}: no version in {words!r}")
    return tuple(map(int, found[1].split(".")))


@dataclass(frozen=True)
class VhostUser:
    """A back-end behind the socket `path`, on which QEMU listens.

    With `listen=False` QEMU connects, and connects again when the back-end went away.
    """

    path: Path
    listen: bool = True
    queues: int = 1

    def arguments(self) -> list[str]:
        """QEMU's options for it."""
        role = "server=on,wait=off" if self.listen else "server=off,reconnect=1"
        return [
            *("-chardev", f"socket,id=nic,path={self.path},{role}"),
            *("-netdev", f"vhost-user,id=net,chardev=nic,queues={self.queues}"),
        ]


@dataclass(frozen=True)
class Tap:
    """A back-end in QEMU itself, on an existing tap: the reference to compare with.

    `offloads` only on a switch that takes them: others forward partial checksums unchanged.
    """

    name: str
    queues: int = 1
    offloads: bool = False

    def arguments(self) -> list[str]:
        """QEMU's options for it."""
        header = "on" if self.offloads else "off"
        options = f"tap,id=net,ifname={self.name},script=no,downscript=no,vnet_hdr={header}"
        return ["-netdev", options if self.queues == 1 else f"{options},queues={self.queues}"]


@dataclass(frozen=True)
class GuestConfig:
    """The guest's configuration: its NIC, and the NIC's settings in the guest.

    `device` adds properties to virtio-net-pci, in QEMU's words: `guest_announce="off"`,
    `mrg_rxbuf="off"`, `host_mtu="9000"`, `csum="off"`, `packed="on"`, …  `neighbours` are the
    guest's static ARP entries (address → MAC).  A `silent` guest has no IPv6 and so sends nothing
    unasked.  `iommu` are kernel parameters of a guest whose NIC is behind an Intel IOMMU:
    `("iommu.strict=1",)`, …
    """

    mac: str
    address: str
    device: Mapping[str, str] = field(default_factory=dict)
    neighbours: Mapping[str, str] = field(default_factory=dict)
    mtu: int | None = None
    silent: bool = True
    memory_mib: int = 256
    cpus: int = 1
    iommu: Sequence[str] = ()
    machine: str = "pc"
    """Both QEMUs of a migration must know it: `pc-i440fx-7.2`, ..."""
    memory: str = "memory-backend-memfd,share=on"
    """The kind of guest memory; a back-end cannot serve memory that is not shared."""
    shell: bool = False
    """Whether the console has a shell for a person; the guest ends with it."""

    def kernel_arguments(self) -> str:
        """The kernel's command line; `lab.` ones are for init.sh."""
        words = [
            *("console=ttyS0", "quiet", "loglevel=1", "panic=-1", "mitigations=off"),
            "no_timer_check",  # an emulated timer may be late; the kernel's check would panic
            *(f"lab.address={self.address}", f"lab.silent={int(self.silent)}"),
            *([f"lab.mtu={self.mtu}"] if self.mtu else []),
            *(["lab.shell=1"] if self.shell else []),
            *(("intel_iommu=on", *self.iommu) if self.iommu else ()),
            *(f"lab.neighbour={address},{mac}" for address, mac in self.neighbours.items()),
        ]
        return " ".join(words)

    def machine_arguments(self) -> list[str]:
        """QEMU's options for the machine; an IOMMU comes before the devices behind it."""
        if not self.iommu:
            return ["-machine", f"{self.machine},memory-backend=memory"]
        iommu = "intel-iommu,intremap=off,device-iotlb=on"
        port = "pcie-root-port,id=above,chassis=1"  # a NIC has ATS only below one
        return ["-machine", "q35,memory-backend=memory", "-device", iommu, "-device", port]

    def nic_arguments(self, queues: int) -> list[str]:
        """QEMU's options for the NIC."""
        behind = {"bus": "above", "iommu_platform": "on", "ats": "on"}
        properties = {"mac": self.mac, "vectors": "0", "romfile": "", **self.device}
        if self.iommu:
            properties |= behind
        if queues > 1:
            properties["mq"] = "on"
        listed = ",".join(f"{key}={value}" for key, value in properties.items())
        return ["-device", f"virtio-net-pci,id=nic0,netdev=net,{listed}"]


class QemuGuest(Setup):
    """A QEMU process and the guest in it.

    Its sockets are in `directory` (keep the path short).  `incoming=True` makes a destination
    that waits for a migration instead of booting; it must have the same `config`. `program` calls
    a QEMU other than the machine's own.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        image: Image,
        backend: VhostUser | Tap,
        config: GuestConfig,
        *,
        incoming: bool = False,
        extra: Sequence[str] = (),
        program: Sequence[str] = (PROGRAM,),
    ) -> None:
        super().__init__()
        self.namespace = namespace
        self.directory = directory
        self.backend = backend
        self.config = config
        self._image = image
        self._incoming = incoming
        self._extra = list(extra)
        self._program = program
        self._process: Process | None = None
        self._qmp: Qmp | None = None
        self._console: Console | None = None

    def _set_up(self) -> None:
        self.start()

    @property
    def process(self) -> Process:
        """The running QEMU."""
        return _present(self._process)

    @property
    def qmp(self) -> Qmp:
        """QEMU's monitor."""
        return _present(self._qmp)

    @property
    def console(self) -> Console:
        """The guest's serial console."""
        return _present(self._console)

    def launch(self) -> None:
        """Start QEMU without waiting for it.

        As server of a vhost-user socket QEMU waits for the back-end before it answers anybody.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process = self.namespace.start(self._argv(), self.directory / "qemu.out")
        self._closing.callback(self._process.stop)

    def start(self, seconds: float = PATIENCE) -> None:
        """Launch QEMU and return when the guest takes commands, or waits for its migration."""
        self.launch()
        self.attend(seconds)

    def attend(self, seconds: float = PATIENCE) -> None:
        """Return when the launched guest takes commands, or waits for its migration."""
        self._qmp = self.process.ready(
            lambda: _connect(self.directory / "qmp", seconds), "QEMU's monitor", seconds
        )
        self._closing.callback(self._qmp.close)
        self._console = Console.connect(self.directory / "console")
        self._closing.callback(self._console.close)
        if not self._incoming:
            self.qmp.command("cont")
            self.console.wait_booted(seconds)

    def stop(self) -> None:
        """End QEMU; the guest's memory is gone."""
        self._closing.close()

    def run(self, command: str, *, check: bool = True, seconds: float = PATIENCE) -> str:
        """Run a shell command in the guest; return its output."""
        return self.console.run(command, check=check, seconds=seconds)

    def start_migration(
        self, destination: QemuGuest, *, postcopy: bool = False, **parameters: Any
    ) -> None:
        """Begin a live migration; `parameters` are QEMU's (`downtime_limit=300` ms, …).

        With `postcopy` it may be switched to that by `switch_to_postcopy`.
        """
        for qmp in (self.qmp, destination.qmp):
            # The destination may have events of an earlier migration.
            qmp.drain().clear()
            wanted = {"events": True, "postcopy-ram": postcopy}
            capabilities = [{"capability": key, "state": on} for key, on in wanted.items()]
            qmp.command("migrate-set-capabilities", capabilities=capabilities)
        self.qmp.drain().clear()  # events of the migration that brought the guest here
        limits = {"max_bandwidth": 1 << 30, **parameters}
        self.qmp.command("migrate-set-parameters", **limits)
        self.qmp.command("migrate", uri=destination.incoming_uri)

    def switch_to_postcopy(self) -> None:
        """Make the guest resume at the destination now; its memory follows."""
        self.qmp.command("migrate-start-postcopy")

    def finish_sending(self, seconds: float = PATIENCE) -> Event:
        """Await the end of a migration on this side.  Raises LabError with QEMU's error."""
        ends = ("completed", "failed", "cancelled")

        def ended() -> Event | None:
            events = (event for event in self.qmp.drain() if event.name == "MIGRATION")
            return next((event for event in events if event.data["status"] in ends), None)

        end = wait_until(ended, "the migration's end", seconds)
        if end.data["status"] != "completed":
            words = self.qmp.command("query-migrate").get("error-desc", end.data["status"])
            raise LabError(f"the migration failed: {words}")
        return end

    def finish_migration(self, destination: QemuGuest, seconds: float = PATIENCE) -> Move:
        """Await the end of a migration on both sides."""
        try:
            ended = self.finish_sending(seconds)
        except LabError as error:
            raise LabError(f"{error}; {destination.process.tail()}") from error
        stopped = self.qmp.wait_event("STOP", seconds)
        resumed = destination.qmp.wait_event("RESUME", seconds)
        started = self.qmp.wait_event("MIGRATION", seconds, status="setup")
        figures = self.qmp.command("query-migrate")
        return Move(
            started=started.at,
            source_stopped=stopped.at,
            destination_resumed=resumed.at,
            completed=ended.at,
            downtime_ms=float(figures["downtime"]),
            total_ms=float(figures["total-time"]),
        )

    def migrate(self, destination: QemuGuest, seconds: float = PATIENCE, **parameters: Any) -> Move:
        """Live-migrate to `destination` and await the end."""
        self.start_migration(destination, **parameters)
        return self.finish_migration(destination, seconds)

    def announce_self(self, rounds: int = 5) -> None:
        """Make QEMU announce the NIC again (SEND_RARP, or GUEST_ANNOUNCE where negotiated)."""
        self.qmp.command("announce-self", initial=50, max=550, rounds=rounds, step=100)

    @property
    def incoming_uri(self) -> str:
        """The URI at which this guest, as a destination, takes the migration."""
        return f"unix:{self.directory}/migrate"

    def _argv(self) -> list[str]:
        return [
            *(*self._program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-accel", EMULATION, *self._machine_arguments()),
            *("-kernel", str(self._image.kernel), "-initrd", str(self._image.initramfs)),
            *("-append", self.config.kernel_arguments()),
            *("-qmp", f"unix:{self.directory}/qmp,server=on,wait=off"),
            *("-chardev", f"socket,id=tty,path={self.directory}/console,server=on,wait=off"),
            *("-serial", "chardev:tty"),
            # A guest that boots waits until somebody listens to its console.
            *(["-incoming", self.incoming_uri] if self._incoming else ["-S"]),
            *self._extra,
        ]

    def _machine_arguments(self) -> list[str]:
        """QEMU's options for the machine and its NIC."""
        config = self.config
        size = (config.memory_mib << 20) - UNALIGNED
        return [
            *("-object", f"{config.memory},id=memory,size={size}"),
            *config.machine_arguments(),
            *("-m", f"{size}B", "-smp", str(config.cpus)),
            *self.backend.arguments(),
            *config.nic_arguments(self.backend.queues),
        ]


def _connect(path: Path, seconds: float) -> Qmp | None:
    try:
        return Qmp(path, seconds)
    except (FileNotFoundError, ConnectionRefusedError):
        return None


def _present(value: T | None) -> T:
    if value is None:
        raise LabError("this guest is not running")
    return value
