# SPDX-License-Identifier: Apache-2.0
"""A fresh Debian that its own systemd runs, in namespaces: packages are installed as people do it.

It has processes, a network, control groups and devices of its own. Packages come from the machine's
mirrors while its root is entered by the network of this machine (`fetch`); what runs in the booted
machine (`run`) has no network but its own.
"""

from pathlib import Path

from support.system import cgroups
from support.system.fresh_root import APT, SECONDS, FreshRoot

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.process import PATIENCE, LabError, Process

# $1: the root, $2: a directory that it shares with this machine, at the same path
_BOOT = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mkdir -p "$1$2"
mount --bind "$2" "$1$2"
cd "$1"
mount -t tmpfs -o mode=755 tmpfs run
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -o remount,bind,ro sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for device in null zero full random urandom tty net/tun userfaultfd; do
    [ ! -e "/dev/$device" ] || { touch "dev/$device" && mount --bind "/dev/$device" "dev/$device"; }
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
pivot_root . .
umount -l .
exec env -i container=lxc /lib/systemd/systemd --unit=multi-user.target --log-target=console
"""
_NAMESPACES = ("--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--kill-child")
_ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    *("HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"),
)
_MASKED = ("tmp.mount", "getty.target", "console-getty.service", "apt-daily.timer")
"""Units that would cover the shared directory, take this machine's terminals, or call apt."""


class DebianMachine(FreshRoot):
    """A machine whose files are in `directory`/root; `boot` starts it.

    `shared` is a directory that it and this machine see at the same path.
    """

    def __init__(self, label: str, directory: Path) -> None:
        super().__init__(directory / "root")
        self.shared = directory / "shared"
        self.namespace = Namespace(label)
        self._group = cgroups.Group(self.namespace.name)
        self._init: Process | None = None

    def _set_up(self) -> None:
        super()._set_up()
        self.shared.mkdir(parents=True)
        self._closing.enter_context(self.namespace)
        self._closing.enter_context(self._group)
        self._closing.callback(self.halt)

    def boot(self) -> None:
        """Start it; returns when its services run."""
        units = self.root / "etc/systemd/system"
        for name in _MASKED:
            (units / name).unlink(missing_ok=True)
            (units / name).symlink_to("/dev/null")
        script = ["bash", "-c", _BOOT, "boot", str(self.root), str(self.shared)]
        command = self.namespace.argv("unshare", *_NAMESPACES, *script)
        self._init = Process(self._group.argv(*command), self.shared.parent / "systemd.out")
        self._init.ready(
            lambda: self.result("systemctl", "is-system-running")[1].strip() == "running",
            "its services run",
            poll=0.1,
        )

    def halt(self) -> None:
        """End all that runs in it."""
        if self._init is not None:
            self._init.kill()  # the first process of its namespace is ended with it
        self._init = None

    def inside(self, *command: str) -> list[str]:
        """The command line that runs `command` in the booted machine."""
        assert self._init is not None
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        first = self._init.ready(lambda: children.read_text().split() or None, "systemd")[0]
        return ["nsenter", "--all", f"--target={first}", "env", "-i", *_ENVIRONMENT, *command]

    def run(self, *command: str, seconds: float = PATIENCE) -> str:
        """Run a command in the booted machine; what it printed. Raises LabError if it fails."""
        status, words = self.result(*command, seconds=seconds)
        if status:
            raise LabError(f"{' '.join(command)}: exit status {status}: {words[-3000:]}")
        return words

    def result(self, *command: str, seconds: float = PATIENCE) -> tuple[int, str]:
        """Run a command in the booted machine; its exit status, and what it printed."""
        done = process.run(self.inside(*command), check=False, seconds=seconds)
        return done.returncode, done.stdout + done.stderr

    def apt(self, *words: str) -> str:
        """apt-get in the booted machine, which has what `fetch_packages` has downloaded."""
        return self.run(*APT, *words, seconds=SECONDS)

    def programs(self) -> list[str]:
        """The command lines of all processes that run in it."""
        assert self._init is not None
        lines = []
        for pid in sorted({*self._group.pids()} - {self._init.pid}):  # which is outside
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            lines.append(words.decode(errors="replace").strip())
        return lines

    def files(self) -> set[str]:
        """All paths on its disk, and below /run."""
        return set(self.run("find", "/", "/run", "/dev/shm", "-xdev").splitlines())
