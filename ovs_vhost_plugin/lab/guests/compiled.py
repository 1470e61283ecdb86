# SPDX-License-Identifier: Apache-2.0
"""A namespace that is the guest of a port, with the compiled driver in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.process import Process
from ovs_vhost_plugin.lab.setup import Setup

_START_SECONDS = 180.0
"""The first start on a machine compiles the driver."""


class CompiledNamespace(Setup):
    """The guest at `socket`, on which it listens for the back-end; its NIC is `eth0`.

    `address` has a prefix length; `options` are more of the command's.
    """

    def __init__(
        self, label: str, socket: Path, directory: Path, address: str, options: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.namespace = Namespace(label)
        self._socket = socket
        self._output = directory / f"{label}.out"
        self._options = ["--address", address, *options]
        self._process: Process | None = None

    def _set_up(self) -> None:
        self._closing.enter_context(self.namespace)
        command = [sys.executable, "-P", "-m", "ovs_vhost_plugin.guest.compiled"]
        path = str(Path(__file__).parents[3])
        process = self.namespace.start(
            [*command, str(self._socket), *self._options],
            self._output,
            env={"PYTHONPATH": path},
        )
        self._process = process
        self._closing.callback(self.end)
        process.ready(self._socket.exists, "the guest listens", _START_SECONDS)

    def wait_running(self) -> None:
        """Return when the rings run."""
        assert self._process is not None
        self._process.ready(lambda: "the rings run" in self._output.read_text(), "the rings run")

    def end(self) -> dict[str, int]:
        """End the guest, whose port is left without one; return its counters."""
        assert self._process is not None
        self._process.stop()
        counters: dict[str, int] = json.loads(self._process.tail(1))
        return counters
