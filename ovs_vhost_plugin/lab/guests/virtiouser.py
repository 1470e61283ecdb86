# SPDX-License-Identifier: Apache-2.0
"""DPDK's virtio-user as a front-end: a driver that is not ours and polls instead of sleeping.

dpdk-testpmd runs in the place of a guest: it sends frames of its own, or sends back frames that it
receives.  It takes commands at its prompt; the next prompt ends a command.
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from ovs_vhost_plugin.lab.guests.testpmd import Testpmd
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.process import LabError

# RTE_ETH_TX_OFFLOAD_MULTI_SEGS of rte_eth.h: a frame may lie in several buffers.
_MULTI_SEGMENT = 0x8000
_ETHERNET_OVERHEAD = 18
BURST = 16
"""Frames that testpmd sends at once, and drops where its ring is too short for them.

With IN_ORDER its driver uses no indirect tables: a ring of 64 takes 16 frames of three descriptors
and a header.
"""
_SPARE_BUFFERS = 8192  # beside those that receive rings take
_BUFFER = 4608  # bytes of each buffer: without huge pages a page and its overhead
_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class VirtioUserConfig:
    """The front-end's configuration.

    `mtu` above 1500 needs `mergeable`: the receive buffers hold 2 KiB each.
    `vectorized` takes DPDK's vectorized drivers, which need `mergeable` off, and `in_order` for
    packed rings. Each frame then lies in one descriptor.
    """

    mac: str
    queues: int = 1
    queue_size: int = 256
    mergeable: bool = True
    vectorized: bool = False
    packed: bool = False
    in_order: bool = True
    mtu: int = 1500


class VirtioUser:
    """A dpdk-testpmd in `namespace`, with its files in `directory`, on the vhost-user `socket`.

    With `server` it listens there, and accepts a back-end again after it was lost; otherwise it
    connects once.  While it forwards it keeps one core busy, so `stop` it soon.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        socket: Path,
        config: VirtioUserConfig,
        *,
        server: bool = False,
    ) -> None:
        self.config = config
        self._namespace = namespace
        self._directory = directory
        self._socket = socket
        self._server = server
        self._prefix = f"{namespace.name}-{next(_serial)}"
        self._testpmd: Testpmd | None = None
        self._log = ""

    def __enter__(self) -> VirtioUser:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def drivers(self, direction: Literal["Rx", "Tx"]) -> set[str]:
        """The names of the functions that DPDK has chosen for receiving or transmitting."""
        return set(re.findall(rf"virtio: using (.+) {direction} path", self._log))

    def command(self, text: str) -> str:
        """Give testpmd one command; return its output when it has ended."""
        if self._testpmd is None:
            raise LabError("testpmd was not started")
        return self._testpmd.command(text)

    def send(self, lengths: str, bursts: int = 1) -> None:
        """Send `bursts` times BURST of testpmd's own frames, shared by the queues.

        They are UDP from 198.18.0.1 to 198.18.0.2; `lengths` are the lengths of each frame's
        descriptors: "1514", or "64,256,512".
        """
        self.command(f"set burst {BURST // self.config.queues}")
        self.command("set fwd rxonly")
        self.command(f"set txpkts {lengths}")
        self.command(f"start tx_first {bursts}")
        self.command("stop")

    def forward(self, mode: str) -> None:
        """Send received frames back until `stop`: "io" (unchanged), "macswap" or "5tswap"."""
        self.command("set burst 32")
        self.command(f"set fwd {mode}")
        self.command("start")

    def stop(self) -> None:
        """End forwarding."""
        self.command("stop")

    def close(self) -> None:
        """End testpmd, in order if it still takes commands."""
        testpmd, self._testpmd = self._testpmd, None
        if testpmd is not None:
            testpmd.close()

    def _start(self) -> None:
        argv = self._namespace.argv(*self._argv())
        self._testpmd = Testpmd(argv, self._directory, self._prefix)
        self._log = self._testpmd.await_start()

    def _argv(self) -> list[str]:
        """The command line; line-buffered, because its output goes to a file."""
        config = self.config
        device = [
            *(f"net_virtio_user0,path={self._socket}", f"mac={config.mac}"),
            *(f"queues={config.queues}", f"queue_size={config.queue_size}"),
            *(f"mrg_rxbuf={config.mergeable:d}", f"vectorized={config.vectorized:d}"),
            *(f"packed_vq={config.packed:d}", f"in_order={config.in_order:d}"),
            f"server={self._server:d}",
        ]
        descriptors, queues = str(config.queue_size), str(config.queues)
        buffers = config.queues * config.queue_size + _SPARE_BUFFERS
        mebibytes = 160 + (buffers * _BUFFER >> 20)
        return [
            *("stdbuf", "-oL", "dpdk-testpmd"),
            # The busy thread gets a core that its main thread does not run on.
            *("--lcores", "0@1,1@0" if (os.cpu_count() or 1) > 1 else "0@0,1@0"),
            *("--no-huge", "-m", str(mebibytes), "--no-pci", "--no-telemetry"),
            *(f"--file-prefix={self._prefix}", "--vdev", ",".join(device)),
            "--log-level=pmd.net.virtio.init:info",  # logs the chosen drivers
            # AVX-512, without which a packed ring is not vectorized
            *(["--force-max-simd-bitwidth=512"] if config.vectorized else []),
            *("--", "-i", "--nb-cores=1", "--no-mlockall"),
            f"--total-num-mbufs={buffers}",
            *(f"--rxq={queues}", f"--txq={queues}", f"--rxd={descriptors}", f"--txd={descriptors}"),
            *(self._large() if config.mtu > 1500 else ()),
        ]

    def _large(self) -> list[str]:
        longest = self.config.mtu + _ETHERNET_OVERHEAD
        return [
            *("--enable-scatter", f"--max-pkt-len={longest}"),
            f"--tx-offloads={_MULTI_SEGMENT:#x}",
        ]
