# SPDX-License-Identifier: Apache-2.0
"""The commands of `ovs-vhost try`, as text: a switch, a bridge, a port and a VM at a terminal.

They are a shell script for a person too. So each is what an administrator would type, and nothing
is done beside them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ovs_vhost_plugin.lab.guests.image import Image
from ovs_vhost_plugin.lab.guests.qemu import EMULATION, PROGRAM, GuestConfig, VhostUser
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.hosts.switch import SCHEMA

PORT = "vhu0"
HOST_ADDRESS = "10.0.0.1"
GUEST = GuestConfig("52:54:00:00:00:02", "10.0.0.2/24", shell=True)
LEAVE = "`exit`, or Ctrl-A X, ends the VM and takes all of it down. Ctrl-C is for the VM."


@dataclass(frozen=True, slots=True)
class CommandGroup:
    """Shell commands that belong together."""

    why: str
    commands: tuple[str, ...]

    def as_text(self) -> str:
        """The commands below their reason, a comment."""
        return "\n".join([f"# {self.why}", *self.commands])


@dataclass(frozen=True, slots=True)
class Trial:
    """All commands of one trial.

    namespace  the network namespace that it makes
    directory  the directory of its files, which it makes
    image      the VM's kernel and initramfs
    program    the shell's words for `ovs-vhost`
    """

    namespace: str
    directory: Path
    image: Image
    program: str

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables by which the programs of Open vSwitch, and ours, find this switch."""
        names = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        return dict.fromkeys(names, str(self.directory))

    @property
    def export(self) -> str:
        """The command that sets the environment."""
        words = (f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        return " ".join(["export", *words])

    def make(self) -> Iterator[CommandGroup]:
        """The steps before the VM."""
        inside = self._inside
        daemon = "--detach --no-chdir --pidfile --log-file"
        yield CommandGroup(
            "A directory and a network namespace of its own: nothing of the machine's is touched.",
            (
                f"mkdir -m 700 {self._directory}",
                self.export,
                f"ip netns add {self.namespace}",
                f"{inside} ip link set lo up",
            ),
        )
        yield CommandGroup(
            "A switch, as its service starts it.",
            (
                f"ovsdb-tool create $OVS_DBDIR/conf.db {SCHEMA}",
                f"{inside} ovsdb-server {daemon} --remote=punix:$OVS_RUNDIR/db.sock",
                "ovs-vsctl --no-wait init",
                f"{inside} ovs-vswitchd {daemon}",
            ),
        )
        yield CommandGroup(
            "The daemon of the ports.",
            (f"{inside} {self.program} daemon {daemon}",),
        )
        yield CommandGroup(
            f"A bridge; its own port has {HOST_ADDRESS}.",
            (
                f"ovs-vsctl add-br {BRIDGE} -- set Bridge {BRIDGE} datapath_type=netdev",
                f"{inside} ip address add {HOST_ADDRESS}/24 dev {BRIDGE}",
                f"{inside} ip link set {BRIDGE} up",
            ),
        )
        yield CommandGroup(
            f"A port. ovs-vsctl may warn that {PORT} is not there yet: a moment later it is.\n"
            "# The first port on a machine awaits the compiler, for a minute or two.",
            (
                f"ovs-vsctl add-port {BRIDGE} {PORT} -- set Interface {PORT} "
                f"options:vhost-server-path={self._socket}",
                f"ovs-vsctl wait-until Interface {PORT} external_ids:vhost-user-status=connecting",
            ),
        )

    def machine(self) -> CommandGroup:
        """The VM, whose console is the terminal's."""
        options = (
            ("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            ("-accel", EMULATION, "-m", f"{GUEST.memory_mib}M"),
            GUEST.machine_arguments(),
            ("-object", f"{GUEST.memory},id=memory,size={GUEST.memory_mib}M"),
            VhostUser(Path(self._socket)).arguments(),
            GUEST.nic_arguments(queues=1),
            ("-kernel", str(self.image.kernel), "-initrd", str(self.image.initramfs)),
            ("-append", GUEST.kernel_arguments()),
            ("-serial", "mon:stdio"),
        )
        lines = [f"{self._inside} {PROGRAM}", *map(shlex.join, options)]
        return CommandGroup(f"The VM. {LEAVE}", (" \\\n    ".join(lines),))

    def around(self) -> Iterator[str]:
        """Commands to look around with, in another terminal, while the VM runs."""
        yield self.export
        yield "ovs-vsctl show"
        yield f"ovs-vsctl get Interface {PORT} external_ids"
        yield f"ovs-appctl fdb/show {BRIDGE}"
        yield f"{self.program} show"
        yield f"{self.program} stats {PORT}"

    def end(self) -> CommandGroup:
        """The commands that take it all down, after the VM."""
        running = f'[ -n "$(ip netns pids {self.namespace})" ]'
        return CommandGroup(
            "All of it is taken down.",
            (
                "ovs-appctl -t ovs-vhost exit --cleanup",
                "ovs-appctl -t ovs-vswitchd exit --cleanup",
                "ovs-appctl -t ovsdb-server exit",
                f"while {running}; do sleep 0.1; done",
                f"ip netns delete {self.namespace}",
                f"rm -r {self._directory}",
            ),
        )

    @property
    def _inside(self) -> str:
        return f"ip netns exec {self.namespace}"

    @property
    def _directory(self) -> str:
        return shlex.quote(str(self.directory))

    @property
    def _socket(self) -> str:
        return f"{self.directory}/{PORT}.sock"
