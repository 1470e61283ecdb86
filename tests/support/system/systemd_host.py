# SPDX-License-Identifier: Apache-2.0
"""A private host on which systemd itself runs our unit, as it is in etc/.

systemd wants to be the first process, with a /run, a /sys/fs/cgroup and an /etc of its own: it gets
a PID namespace and a mount namespace for that, in the network namespace of the lab's host. The
switch's directory is its /run/openvswitch, and this checkout's programs are all that its drop-in
adds to the unit.
"""

import os
import sys
from pathlib import Path

from support.checkout import TOP
from support.system import cgroups

from ovs_vhost_plugin.jit import cache
from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.process import PATIENCE, LabError, Process

UNIT = TOP / "etc" / "systemd" / "system" / "ovs-vhost.service"
RUNDIR = Path("/run/openvswitch")

# $1: the switch's directory, $2: a scratch directory, $3: the kernels' cache
_BOOT = """
set -e
mount --make-rprivate /
mount --bind "$1" /mnt
mount -t tmpfs tmpfs /run
mkdir -p /run/openvswitch
mount --move /mnt /run/openvswitch
mount -t tmpfs tmpfs /var/cache
mkdir -m 0700 /var/cache/ovs-vhost
mount --bind "$3" /var/cache/ovs-vhost
mount -t proc proc /proc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind "$2/system" /etc/systemd/system
mount --bind "$2/default" /etc/default
export container=lxc
exec /lib/systemd/systemd --system --unit=lab.target --log-target=console --show-status=no
"""
_NAMESPACES = ("--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--kill-child")
_TARGET = """
[Unit]
DefaultDependencies=no
Wants=ovs-vhost.service
"""
# What a machine has below /usr is here in a checkout, and maybe in a home.
_DROP_IN = """
[Unit]
DefaultDependencies=no
[Service]
ProtectHome=tmpfs
BindReadOnlyPaths={checkout} {python} {environment}
StandardError=append:/run/openvswitch/ovs-vhost.err
"""


class SystemdHost(Host):
    """Its daemon is a service; `options` are those of /etc/default/ovs-vhost.

    `drop_in` are more lines of the unit's [Service].
    """

    def __init__(
        self, label: str, directory: Path, *, options: str = "", drop_in: str = ""
    ) -> None:
        super().__init__(label, directory)
        self._default = options
        self._drop_in = drop_in
        self._scratch = directory.parent / f"{directory.name}-systemd"
        self._group = cgroups.Group(self.namespace.name)

    def _set_up(self) -> None:
        self._write_scratch()
        self._closing.enter_context(self._group)
        super()._set_up()
        # As seen from inside
        self.switch.vsctl("set", "Open_vSwitch", ".", f"external_ids:rundir={RUNDIR}")

    def launch_daemon(self) -> None:
        """Boot systemd, whose target wants our unit."""
        place = cache.find().directory
        assert place is not None
        places = (self.directory, self._scratch, place)
        boot = ["unshare", *_NAMESPACES, "bash", "-c", _BOOT, "boot", *map(str, places)]
        # In the group before `ip netns exec`, which hides where the groups are.
        enter = self._group.argv(*self.namespace.argv(*boot))
        self.daemon = Process(enter, self.directory / "systemd.out")

    def wait_daemon(self) -> None:
        """Return when it answers."""
        assert self.daemon is not None
        try:
            self.daemon.ready(
                lambda: self.appctl("version").startswith("ovs-vhost ") or None, "ovs-vhost answers"
            )
        except LabError as error:
            raise LabError(f"{error}\n{self._words()}") from error

    def _words(self) -> str:
        """What the service said last."""
        printed = self.run("tail", "-n", "20", "/run/openvswitch/ovs-vhost.err")
        return self.run("systemctl", "status", "ovs-vhost") + printed

    def appctl(self, *command: str, check: bool = True) -> str:
        """From inside: a pidfile's number means nothing elsewhere."""
        return self.run("ovs-appctl", "-t", "ovs-vhost", *command)

    def run(self, *command: str) -> str:
        """Run a command beside the service; what it printed."""
        assert self.daemon is not None
        children = Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children")
        first = self.daemon.ready(lambda: children.read_text().split() or None, "systemd")[0]
        argv = ["nsenter", "--all", f"--target={first}", *command]
        done = process.run(argv, check=False, seconds=PATIENCE)
        return done.stdout + done.stderr

    def stop_daemon(self, *, kill: bool = False) -> None:
        """End systemd and all that it runs: it is the first process of its namespace."""
        super().stop_daemon(kill=True)

    def _write_scratch(self) -> None:
        system, default = self._scratch / "system", self._scratch / "default"
        system.mkdir(parents=True)
        default.mkdir()
        (system / UNIT.name).write_text(UNIT.read_text())
        (system / "lab.target").write_text(_TARGET)
        drop_in = _DROP_IN.format(checkout=TOP, python=sys.base_prefix, environment=sys.prefix)
        (system / f"{UNIT.name}.d").mkdir()
        (system / f"{UNIT.name}.d" / "lab.conf").write_text(f"{drop_in}{self._drop_in}\n")
        lines = [
            f"PATH={sys.prefix}/bin:{os.environ['PATH']}",
            f"PYTHONPATH={TOP}",
            "OVS_LOGDIR=/run/openvswitch",
            f'OVS_VHOST_OPTIONS="--log-file {self._default}"',
        ]
        (default / "ovs-vhost").write_text("\n".join(lines) + "\n")
