# SPDX-License-Identifier: Apache-2.0
"""A User Mode Linux guest: a kernel that is a process, and whose NIC is a vhost-user front-end.

It needs no KVM and runs at the machine's own speed. Its virtio_uml connects to a socket, so the
port is in server mode. docs/uml.md has the requirements.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.console import Console
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.process import LabError, Process
from ovs_vhost_plugin.lab.setup import Setup

PROGRAM = "linux.uml"
MODULES = ("failover", "net_failover", "virtio_net")
"""The modules in order of loading; the rest is built in."""
ENVIRONMENT = {"TMPDIR": "/dev/shm"}
"""The directory of the guest's memory file: a tmpfs, as a port requires."""
PORT_SETTINGS = (
    "external_ids:vhost-user-mode=server",
    "external_ids:vhost-user-queues=1",
    "external_ids:vhost-user-config=true",
    "external_ids:vhost-user-features-off="
    "VIRTIO_F_ACCESS_PLATFORM,VIRTIO_F_RING_PACKED,VIRTIO_NET_F_CTRL_VQ",
)
"""Settings of the port's Interface row, without the MAC."""

_TREES = Path("/usr/lib/uml/modules")


def arguments(path: str, initramfs: str) -> list[str]:
    """The command for a guest on the port with socket `path`; its console is stdin and stdout."""
    return [
        *(PROGRAM, "mem=128M", f"initrd={initramfs}", "rdinit=/init"),
        *("con0=fd:0,fd:1", "con=null", "ssl=null", f"virtio_uml.device={path}:1"),
    ]


def initramfs() -> Path:
    """The guest's software, with the modules of the distribution's User Mode Linux."""
    trees = sorted(_TREES.glob("*"))
    if not trees:
        raise LabError(f"{_TREES}: no modules; is user-mode-linux installed?")
    return image.initramfs(trees[-1], MODULES)


class UmlGuest(Setup):
    """A guest on the port whose socket is `path`, with `settings` of init.sh (`address`, ...)."""

    def __init__(
        self, namespace: Namespace, directory: Path, path: Path, settings: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._namespace = namespace
        self._directory = directory
        self._path = path
        self._settings = settings
        self._process: Process | None = None
        self._console: Console | None = None

    def _set_up(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        command = arguments(str(self._path), str(initramfs()))
        command += ["lab.console=tty0", *(f"lab.{setting}" for setting in self._settings)]
        ours, its = socket.socketpair()
        with its:
            self._console = Console(ours)
            self._closing.callback(self._console.close)
            self._process = Process(
                self._namespace.argv(*command),
                self._directory / "uml.out",
                env=ENVIRONMENT,
                stdin=its.fileno(),
                stdout=its.fileno(),
            )
        self._closing.callback(self._process.stop)
        self._console.wait_booted()

    @property
    def process(self) -> Process:
        """The running kernel."""
        assert self._process is not None
        return self._process

    def run(self, command: str, *, check: bool = True, seconds: float = 60.0) -> str:
        """Run a shell command in the guest; return its output."""
        assert self._console is not None
        return self._console.run(command, check=check, seconds=seconds)
