# SPDX-License-Identifier: Apache-2.0
"""The programs that bench_rings compares, with one interface to control them.

A front-end (DPDK's virtio-user) and a back-end are each a busy thread on a core of its own. Each
counts; a run is over when both have counted the same packets.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ovs_vhost_plugin.lab.guests.testpmd import Testpmd
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.process import Process, wait_until

FRONT_CORE, BACK_CORE = 0, 1
MEGABYTES = 256
"""Memory of each testpmd."""
FORWARD = {"send": ("txonly", "rxonly"), "receive": ("rxonly", "txonly"), "loopback": ("io", "io")}
"""Direction → testpmd's forwarding modes of front-end and back-end."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Packets of one run."""

    received: int
    sent: int
    dropped: int


class BackEnd(Protocol):
    """A back-end to compare."""

    def await_start(self) -> None:
        """Wait until a front-end can connect."""

    def begin(self, direction: str, length: int) -> None:
        """Begin a run."""

    def received(self) -> int:
        """Packets so far in this run."""

    def looks(self) -> tuple[int, int]:
        """The number of looks into a ring so far, and of those in vain; zeros: not counted."""

    def end(self) -> Counts:
        """End the run."""

    def close(self) -> None:
        """End the program."""


class Pmd:
    """A testpmd with these virtual devices, forwarding on `core`; counts are those of the first.

    `queues` are those of each device, `options` more of testpmd's; it runs in `namespace`, if one
    is given.
    """

    def __init__(
        self,
        vdev: str,
        core: int,
        *more: str,
        directory: Path,
        prefix: str,
        hugepages: bool,
        descriptors: int = 0,
        queues: int = 1,
        options: Sequence[str] = (),
        namespace: Namespace | None = None,
    ) -> None:
        other = BACK_CORE if core == FRONT_CORE else FRONT_CORE
        memory = ("--in-memory", "--single-file-segments") if hugepages else ("--no-huge",)
        sizes = (f"--rxd={descriptors}", f"--txd={descriptors}") if descriptors else ()
        vdevs = [word for one in (vdev, *more) for word in ("--vdev", one)]
        argv = [
            *("stdbuf", "-oL", "dpdk-testpmd", "--lcores", f"0@{other},1@{core}"),
            *(*memory, "-m", str(MEGABYTES), "--no-pci", "--no-telemetry"),
            *(f"--file-prefix={prefix}", *vdevs, "--", "-i", "--nb-cores=1"),
            *("--no-mlockall", "--total-num-mbufs=8192", "--no-flush-rx", *sizes),
            *(f"--rxq={queues}", f"--txq={queues}", *options),
        ]
        if namespace is not None:
            argv = namespace.argv(*argv)
        self._testpmd = Testpmd(argv, directory, prefix)
        prefer(self._testpmd.pid)
        self._before = 0

    def await_start(self) -> None:
        """Await the prompt: the device exists then."""
        self._testpmd.await_start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._testpmd.pid

    def start(self, forward: str, length: int, bursts_first: int = 0) -> None:
        """Forward in mode `forward`; testpmd's own frames have `length` bytes."""
        self._testpmd.command(f"set fwd {forward}")
        self._testpmd.command(f"set txpkts {length}")
        self._before = self._port("RX-packets")
        first = f" tx_first {bursts_first}" if bursts_first else ""
        self._testpmd.command(f"start{first}")

    def all_received(self, port: int) -> int:
        """Packets that a port has received so far."""
        return _number("RX-packets", self._testpmd.command(f"show port stats {port}"))

    def received(self) -> int:
        """Packets since `start`."""
        return self._port("RX-packets") - self._before

    def looks(self) -> tuple[int, int]:
        """Zeros: testpmd does not count looks."""
        return 0, 0

    def rate(self, which: str) -> int:
        """Packets a second since the last call; `which` is "Rx" or "Tx"."""
        return self._port(f"{which}-pps")

    def end(self) -> Counts:
        """Stop; return the counts since `start`."""
        text = self._testpmd.command("stop")
        return Counts(*(_number(name, text) for name in ("RX-packets", "TX-packets", "TX-dropped")))

    def close(self) -> None:
        """End the program."""
        self._testpmd.close()

    def _port(self, name: str) -> int:
        return _number(name, self._testpmd.command("show port stats 0"))


class NetVhost(Pmd):
    """DPDK's net_vhost, which is librte_vhost behind a port."""

    def __init__(self, socket: Path, directory: Path, prefix: str, hugepages: bool) -> None:
        vdev = f"net_vhost0,iface={socket},queues=1"
        super().__init__(vdev, BACK_CORE, directory=directory, prefix=prefix, hugepages=hugepages)

    def begin(self, direction: str, length: int) -> None:
        """Begin a run."""
        self.start(FORWARD[direction][1], length)


class NullPortPeer:
    """Our own back-end, see null_port."""

    def __init__(self, socket: Path, directory: Path, prefix: str, hugepages: bool) -> None:
        self._socket = socket
        reader, self._input = os.pipe2(os.O_CLOEXEC)
        argv = [
            "taskset",
            "-c",
            str(BACK_CORE),
            sys.executable,
            "-m",
            f"{__package__}.null_port",
        ]
        try:
            output = directory / f"{prefix}.out"
            self._process = Process([*argv, str(socket)], output, stdin=reader)
        finally:
            os.close(reader)
        prefer(self._process.pid)
        self._answers = 0
        self._before: dict[str, int] = {}

    def await_start(self) -> None:
        """Await the back-end's socket; its first start compiles kernels missing in the cache."""
        self._process.ready(self._socket.exists, "null_port starts", 180.0)

    def begin(self, direction: str, length: int) -> None:
        """Begin a run."""
        self._before = self._command("idle")
        self._command(f"{direction} {length}")

    def received(self) -> int:
        """Packets so far in this run."""
        return self._command(self._doing)["tx_packets"] - self._before["tx_packets"]

    def looks(self) -> tuple[int, int]:
        """The number of looks into a ring so far, and of those in vain."""
        now = self._command(self._doing)
        return now["looks"], now["in_vain"]

    def end(self) -> Counts:
        """End the run."""
        now = self._command("idle")
        delta = {name: now[name] - self._before.get(name, 0) for name in now}
        dropped = delta["rx_dropped_no_buffers"]
        return Counts(delta["tx_packets"], delta["rx_packets"], dropped)

    def close(self) -> None:
        """End the program."""
        os.close(self._input)
        try:
            self._process.wait(5.0)
        except Exception:
            self._process.kill()
            raise

    def _command(self, line: str) -> dict[str, int]:
        self._doing = line
        os.write(self._input, f"{line}\n".encode())
        self._answers += 1

        def answers() -> list[str] | None:
            lines = self._process.output.read_text().splitlines(keepends=True)
            return lines if len(lines) >= self._answers and lines[-1].endswith("\n") else None

        lines = self._process.ready(answers, f"null_port: {line}")
        counters: dict[str, int] = json.loads(lines[self._answers - 1])
        return counters


def prefer(pid: int) -> None:
    """Raise a process's priority, where that is allowed.

    Both ends have to run at once: another process on the core of one stops the two. Where sessions
    are scheduled as groups (sched(7), "The autogroup feature"), the group's priority counts.
    Kernels and containers differ in what they allow and in how they refuse it.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, -20)
        Path(f"/proc/{pid}/autogroup").write_text("-20")


def _number(name: str, text: str) -> int:
    """The last count of this name: behind those of each queue comes their sum."""
    found = re.findall(rf"{name}:\s+(\d+)", text)
    if not found:
        raise ValueError(f"no {name} in {text!r}")
    return int(found[-1])


def await_count(what: str, peer: BackEnd | Pmd, count: int) -> None:
    """Wait until `peer` has received `count` packets in this run."""
    wait_until(lambda: peer.received() >= count, f"{what}: {count} packets")
