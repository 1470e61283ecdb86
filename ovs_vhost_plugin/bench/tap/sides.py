# SPDX-License-Identifier: Apache-2.0
"""A guest's port and its tap: ours, and dpdk-testpmd between net_vhost and net_tap.

The front-end of each is DPDK's virtio-user, which polls on a core of its own; the back-end has the
other core. The tap is alone in a network namespace, and nobody listens there: what is written into
it ends in the kernel, and what is to be read comes from a packet socket of the bench. The kernel
counts the tap's frames, the same way on both sides.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ovs_vhost_plugin.bench.rings.peers import BACK_CORE, FRONT_CORE, Pmd, prefer
from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.process import wait_until

PORT = "vhu0"
RING = 1024
DEPTH = 32768
"""Frames that wait in a tap: txqueuelen of each of its queues."""
_TO_ANOTHER = bytes.fromhex("025400000002") + bytes.fromhex("025400000001")  # the host drops it
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20  # linux/if_packet.h


class TapBackEnd(Protocol):
    """Everything between the socket of a front-end and a tap."""

    namespace: Namespace
    """Where the tap is."""
    device: str
    """The tap's name."""
    pid: int

    @property
    def has_uring(self) -> bool:
        """Whether it writes by an io_uring."""

    def connect(self) -> None:
        """Return when the front-end's rings run."""

    def begin(self) -> None:
        """Begin to forward."""

    def end(self) -> None:
        """Forward no more."""


class OwnPort:
    """A port of our daemon on a private switch, which is stopped when it has opened the tap."""

    device = PORT

    def __init__(
        self, closing: contextlib.ExitStack, directory: Path, socket_path: Path, queues: int
    ) -> None:
        self._host = closing.enter_context(Host("port", directory / "host"))
        self.namespace = self._host.namespace
        self._host.add_client_port(PORT, socket_path, f"external_ids:vhost-user-queues={queues}")
        self._host.wait_started(PORT)
        self._host.wait_ofport(PORT)
        # testpmd has nobody who listens at its tap.
        self._host.switch.stop_vswitchd()
        self.pid = self._host.worker_pid(PORT)

    def connect(self) -> None:
        """Return when the guest runs and the tap has a carrier; the worker then has its core."""
        self._host.wait_running(PORT)
        self._host.wait_carrier(PORT)
        give_core(self.pid)

    def begin(self) -> None:
        """Nothing: a port always forwards."""

    def end(self) -> None:
        """Nothing."""

    @property
    def has_uring(self) -> bool:
        """Whether it writes by an io_uring, as the daemon has chosen at its start."""
        fds = Path(f"/proc/{self.pid}/fd").iterdir()
        return any("[io_uring]" in str(fd.readlink()) for fd in fds)


class NetTap:
    """dpdk-testpmd, which forwards between net_vhost and net_tap and polls both."""

    device = "bench-tap"
    has_uring = False

    def __init__(
        self,
        closing: contextlib.ExitStack,
        directory: Path,
        socket_path: Path,
        queues: int,
        hugepages: bool,
    ) -> None:
        self.namespace = closing.enter_context(Namespace("nettap"))
        self._pmd = Pmd(
            f"net_vhost0,iface={socket_path},queues={queues},client=1",
            BACK_CORE,
            f"net_tap0,iface={self.device}",
            directory=directory,
            prefix=f"ovh-bench-{os.getpid()}-nettap",
            hugepages=hugepages,
            queues=queues,
            namespace=self.namespace,
        )
        closing.callback(self._pmd.close)
        self._pmd.await_start()
        self.pid = self._pmd.pid

    def connect(self) -> None:
        """Return when the tap is up."""
        wait_until(lambda: "LOWER_UP" in self._link(), "the tap is up")

    def begin(self) -> None:
        """Begin to forward."""
        self._pmd.start("io", 64)

    def end(self) -> None:
        """Forward no more."""
        self._pmd.end()

    def _link(self) -> str:
        return self.namespace.run("ip", "link", "show", "dev", self.device)


class TapCounters:
    """The kernel's counts of a tap: frames written into it, read from it, dropped before that."""

    def __init__(self, namespace: Namespace, device: str) -> None:
        with namespace.entered():
            self._file = Path("/proc/thread-self/net/dev").open()  # noqa: SIM115
        self._device = device

    def read(self) -> tuple[int, int, int]:
        """Written, read, dropped: a tap that is written into receives."""
        self._file.seek(0)
        for line in self._file:
            name, _, counts = line.partition(":")
            if name.strip() == self._device:
                words = counts.split()
                return int(words[1]), int(words[9]), int(words[11])
        raise process.LabError(f"{self._device}: no such device")

    def close(self) -> None:
        """Close the kernel's file."""
        self._file.close()


class Filler:
    """Puts frames into a tap, from whose queues somebody is to read them."""

    def __init__(self, namespace: Namespace, device: str, length: int) -> None:
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        self._socket.bind((device, 0))
        self._frames = [udp_frame(length, port) for port in range(5000, 5064)]

    def put(self, frames: int) -> None:
        """Send as many, of different flows: a tap chooses its queue by flow."""
        for number in range(frames):
            self._socket.send(self._frames[number % len(self._frames)])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def udp_frame(length: int, port: int) -> bytes:
    """A frame of `length` bytes to another host's MAC, from UDP port `port`."""
    ip_length, addresses = length - 14, bytes((10, 0, 0, 1, 10, 0, 0, 2))
    ip = b"\x45\0" + ip_length.to_bytes(2, "big") + bytes(4) + b"\x40\x11\0\0" + addresses
    udp = port.to_bytes(2, "big") + b"\x13\x88" + (ip_length - 20).to_bytes(2, "big") + b"\0\0"
    return (_TO_ANOTHER + b"\x08\0" + ip + udp).ljust(length, b"\0")


def front_end(directory: Path, name: str, socket_path: Path, queues: int, hugepages: bool) -> Pmd:
    """virtio-user, which listens for a back-end."""
    device = f"net_virtio_user0,path={socket_path},queues={queues},queue_size={RING},server=1"
    return Pmd(
        device,
        FRONT_CORE,
        directory=directory,
        prefix=f"ovh-bench-{os.getpid()}-{name}-front",
        hugepages=hugepages,
        descriptors=RING,
        queues=queues,
    )


def give_core(pid: int) -> None:
    """Let all threads of a process run on the back-end's core alone, before all others."""
    process.run(["taskset", "-a", "-p", "-c", str(BACK_CORE), str(pid)])
    for thread in threads(pid):
        prefer(thread)


def threads(pid: int) -> list[int]:
    """The ids of a process's threads."""
    return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]


def processor_time(pid: int) -> float:
    """Seconds that a process's threads have run."""
    return sum(thread_time(pid, thread) for thread in threads(pid))


def thread_time(pid: int, thread: int) -> float:
    """Seconds that a thread has run (proc(5), schedstat)."""
    return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9


@contextlib.contextmanager
def suspended(pid: int) -> Iterator[None]:
    """Stop a process for the length of the context."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: is_stopped(pid), "the back-end is stopped")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process are stopped (proc(5): T)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((t / "stat").read_text().rpartition(")")[2].split()[0] == "T" for t in tasks)
