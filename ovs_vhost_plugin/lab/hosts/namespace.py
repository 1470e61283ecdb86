# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: a private host's network, and everything that lives in it.

A namespace carries its owner's pid in its name, so that remains of a killed owner can be told from
namespaces in use.  Taking one down ends every process in it (workers outlive the daemon that
started them, so ending our own children would not be enough) and all its devices with it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ovs_vhost_plugin.common import pidfile
from ovs_vhost_plugin.common.dirs import PROGRAM
from ovs_vhost_plugin.common.process import NEW_NET, enter
from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.process import PATIENCE, LabError, Process
from ovs_vhost_plugin.lab.setup import Setup

PREFIX = "ovh"

_NETNS_DIRECTORY = Path("/run/netns")
_SCRATCH = Path("/tmp")
_serial = itertools.count()


class Namespace(Setup):
    """A network namespace with its loopback up; made on entry, gone on exit.

    `label` is a hint for the reader of `ip netns`; the name is unique.  IPv6 is off unless asked
    for: a kernel that sends packets of its own would spoil every count.
    """

    def __init__(self, label: str, *, ipv6: bool = False) -> None:
        super().__init__()
        self.name = f"{PREFIX}-{os.getpid()}-{next(_serial)}-{label}"
        self._ipv6 = ipv6

    def _set_up(self) -> None:
        self._closing.callback(remove, self.name)
        process.run(["ip", "netns", "add", self.name])
        if not self._ipv6:
            self.sysctl("net/ipv6/conf/all/disable_ipv6", "1")
            self.sysctl("net/ipv6/conf/default/disable_ipv6", "1")
        self.run("ip", "link", "set", "lo", "up")

    def argv(self, *command: str) -> list[str]:
        """The command line that runs `command` in this namespace (under the same pid)."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(
        self, *command: str, stdin: str | None = None, check: bool = True, seconds: float = PATIENCE
    ) -> str:
        """Run a command in the namespace to its end; its standard output."""
        return process.run(self.argv(*command), stdin=stdin, check=check, seconds=seconds).stdout

    def ping(self, address: str, *flags: str, count: int = 3) -> str:
        """Ping until `count` answers have come: the first may take as long as a guest's boot.

        Raises LabError if they do not come (ping(8): -c with -w).
        """
        words = ("ping", "-n", "-c", str(count), "-w", f"{PATIENCE:g}", *flags, address)
        return self.run(*words, seconds=2 * PATIENCE)

    def start(
        self,
        command: Sequence[str],
        output: Path,
        *,
        env: Mapping[str, str] | None = None,
        fds: Sequence[int] = (),
    ) -> Process:
        """Start a program in the namespace; its output goes to the file `output`."""
        return Process(self.argv(*command), output, env=env, fds=fds)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread into the namespace for the length of the context.

        setns(2) moves one thread; sockets opened inside stay there after it has left.
        """
        with (
            open("/proc/thread-self/ns/net") as home,  # noqa: PTH123  a handle, not a file
            (_NETNS_DIRECTORY / self.name).open() as there,
        ):
            enter(there.fileno(), NEW_NET)
            try:
                yield
            finally:
                enter(home.fileno(), NEW_NET)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that lives in this namespace, usable from anywhere."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def address(self, device: str, address: str) -> None:
        """Give a device an address with its prefix length, and bring it up."""
        self.run("ip", "address", "add", address, "dev", device)
        self.run("ip", "link", "set", device, "up")

    def sysctl(self, key: str, value: str) -> None:
        """Write a setting below /proc/sys, which shows the calling thread's network."""
        with self.entered():
            Path("/proc/sys", key).write_text(value)

    def mac(self, device: str) -> str:
        """The MAC of a device."""
        return self.run("ip", "-brief", "link", "show", "dev", device).split()[2]

    def dropped(self, device: str) -> int:
        """The number of frames that did not go out, as the device's queue was full."""
        shown = json.loads(self.run("ip", "-json", "-stats", "link", "show", "dev", device))
        return int(shown[0]["stats64"]["tx"]["dropped"])

    def tap(self, name: str, *, mtu: int = 1500) -> None:
        """Make a persistent tap and bring it up (for guests that QEMU itself serves)."""
        self.run("ip", "tuntap", "add", "dev", name, "mode", "tap")
        self.run("ip", "link", "set", name, "mtu", str(mtu), "up")


def veth(left: Namespace, left_name: str, right: Namespace, right_name: str) -> None:
    """Make a cable between two namespaces, both ends up."""
    process.run(
        [
            *("ip", "link", "add", left_name, "netns", left.name, "type", "veth"),
            *("peer", "name", right_name, "netns", right.name),
        ]
    )
    left.run("ip", "link", "set", left_name, "up")
    right.run("ip", "link", "set", right_name, "up")


def remove(name: str) -> None:
    """End every process in the namespace `name` and delete it, if it exists."""
    if not (_NETNS_DIRECTORY / name).exists():
        return
    _end(name, signal.SIGTERM, seconds=3.0)
    _end(name, signal.SIGKILL, seconds=3.0)

    def deleted() -> bool:
        # The devices of a deleted namespace are destroyed by the kernel in its own time.
        process.run(["ip", "netns", "delete", name], check=False)
        return not (_NETNS_DIRECTORY / name).exists()

    # A command that was interrupted may be about to make it still.
    with contextlib.suppress(LabError):
        process.wait_until(deleted, f"{name}: its end", seconds=3.0, poll=0.1)


def scratch_directory() -> Path:
    """A new directory for sockets and databases, with a short name that carries our pid."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-", dir=_SCRATCH))


def sweep(pid: int | None = None) -> list[str]:
    """Remove the namespaces of owners that are gone, or of `pid`; return their names."""
    swept = []
    for path in (*_NETNS_DIRECTORY.glob(f"{PREFIX}-*"), *_SCRATCH.glob(f"{PREFIX}-*-*")):
        owner = path.name.split("-")[1]
        if not owner.isdigit():
            continue
        if int(owner) == pid if pid is not None else not Path("/proc", owner).exists():
            if path.parent == _NETNS_DIRECTORY:
                remove(path.name)
            else:
                end_workers(path)
                shutil.rmtree(path, ignore_errors=True)
            swept.append(path.name)
    return swept


def end_workers(directory: Path) -> None:
    """End workers that outlive the daemon of `directory`; they are in namespaces of their own."""
    for record in (directory / PROGRAM).glob("*.pid"):
        worker = pidfile.open_process(record)
        if worker is not None:
            pidfile.kill(worker)
            os.close(worker)


def _pids(name: str) -> list[int]:
    listed = process.run(["ip", "netns", "pids", name], check=False).stdout.split()
    # The lab's own threads may be inside for a moment (`entered`): never end the owner.
    return [int(pid) for pid in listed if int(pid) != os.getpid()]


def _end(name: str, number: signal.Signals, seconds: float) -> None:
    for pid in _pids(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    with contextlib.suppress(LabError):
        process.wait_until(lambda: not _running(name), f"{name}: end of its processes", seconds)


def _running(name: str) -> list[int]:
    """The processes in the namespace, without zombies (ours are reaped by their owner)."""
    return [pid for pid in _pids(name) if _state(pid) not in ("Z", "X")]


def _state(pid: int) -> str:
    try:
        # proc(5): the state follows the name, which is in parentheses and may contain some.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
