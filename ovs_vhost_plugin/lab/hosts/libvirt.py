# SPDX-License-Identifier: Apache-2.0
"""A private host with a libvirtd of its own, as `qemu:///system`.

libvirtd, QEMU, our daemon and the switch have their usual paths: each of the host's programs gets a
mount namespace in which /run and libvirt's directories are the host's. The machine's libvirt, D-Bus
and systemd cannot be reached from there.
"""

from __future__ import annotations

import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.process import PATIENCE, Process

URI = "qemu:///system"

_PLACES = (
    "run",
    "etc/libvirt",
    "var/lib/libvirt",
    "var/cache/libvirt",
    "var/log/libvirt",
)
_RUNDIR = Path("run", "openvswitch")
_SOCKET = Path("run", "libvirt", "libvirt-sock")
IMAGES = Path("/var/lib/libvirt/images")
"""The directory of guests' files, as seen from inside."""

# `ip netns exec` has made the mount namespace, from which nothing gets out. $1: the host's files.
_MOUNT = f"""
set -e
root=$1
shift
for place in {" ".join(_PLACES)}; do mount --bind "$root/$place" "/$place"; done
[ ! -e /dev/kvm ] || mount --bind "$root/no-kvm" /dev/kvm
exec "$@"
"""

_LIBVIRTD = """
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{uuid}"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
# No feature that needs a service beside libvirtd: no virtlogd, security module or control groups.
# And no /dev of QEMU's own: libvirt cannot make one where something is mounted in /dev.
_QEMU = """
stdio_handler = "file"
security_driver = "none"
cgroup_controllers = []
namespaces = []
"""


class Machine(Namespace):
    """A network namespace whose programs have /run and libvirt's directories in `root`."""

    def __init__(self, label: str, root: Path) -> None:
        super().__init__(label)
        self.root = root

    def argv(self, *command: str) -> list[str]:
        """The command line that runs `command` there (under the same pid)."""
        return super().argv("sh", "-c", _MOUNT, "sh", str(self.root), *command)


class LibvirtHost(Host):
    """Its libvirtd starts with it; `directory` has all its files, and those of guests."""

    def __init__(self, label: str, directory: Path, **options: Any) -> None:
        self.root = directory
        self.libvirtd: Process | None = None
        super().__init__(label, directory / _RUNDIR, **options)

    def _make_namespace(self) -> Namespace:
        return Machine(self.label, self.root)

    def _set_up(self) -> None:
        self._closing.callback(shutil.rmtree, self.root, ignore_errors=True)
        for place in _PLACES:
            (self.root / place).mkdir(parents=True)
        # Guests are emulated on every machine alike. If /dev/kvm exists and does not work, libvirt
        # asks QEMU for its capabilities over and over.
        (self.root / "no-kvm").touch(mode=0)
        etc = self.root / "etc" / "libvirt"
        (etc / "libvirtd.conf").write_text(_LIBVIRTD.format(uuid=uuid.uuid4()))
        (etc / "qemu.conf").write_text(_QEMU)
        self.images.mkdir()
        super()._set_up()
        self._closing.callback(self.stop_libvirtd)
        self.start_libvirtd()

    @property
    def run_directory(self) -> Path:
        """The directory that is /run to the host."""
        return self.root / "run"

    @property
    def images(self) -> Path:
        """The directory that is IMAGES to the host."""
        return self.root / IMAGES.relative_to("/")

    @property
    def uri(self) -> str:
        """The URI by which another host of the lab reaches this libvirtd."""
        return f"qemu+unix:///system?socket={self.root / _SOCKET}"

    def start_libvirtd(self) -> None:
        """Start libvirtd; returns when it answers."""
        self.libvirtd = self.namespace.start(
            ["libvirtd", "--pid-file", "/run/libvirtd.pid"], self.root / "libvirtd.out"
        )
        self.libvirtd.ready(self._answers, "libvirtd answers", poll=0.1)

    def stop_libvirtd(self) -> None:
        """End libvirtd; domains go on."""
        if self.libvirtd is not None:
            self.libvirtd.stop()
        self.libvirtd = None

    def virsh(self, *command: str, check: bool = True, seconds: float = PATIENCE) -> str:
        """`virsh COMMAND` on this libvirtd; its output, stripped."""
        argv = ["virsh", "--quiet", "--connect", URI, *command]
        return self.namespace.run(*argv, check=check, seconds=seconds).strip()

    def shell(self, commands: str) -> str:
        """Run commands in /run, as an administrator does on a machine where we are installed."""
        path = f"PATH={Path(sys.executable).parent}:$PATH"
        return self.namespace.run("sh", "-ec", f"{path}\ncd /run\n{commands}")

    def _answers(self) -> bool:
        return self.virsh("uri", check=False) == URI
