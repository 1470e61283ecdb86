# SPDX-License-Identifier: Apache-2.0
"""Ports whose bridge cannot carry their frames, by what ovs-vswitchd says in their rows.

A guest may run on such a port, and be cut off. A row shows it for a moment also while
ovs-vswitchd is at it, so it has to last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import ovs.vlog

from ovs_vhost_plugin.daemon.rows import PortSpec
from ovs_vhost_plugin.daemon.status import ERROR

vlog = ovs.vlog.Vlog("vhost_carrying")

NAME = "bridge-cannot-carry"
PATIENCE = 2.0
"""Seconds that ovs-vswitchd has to take up a row: a change of the datapath takes less than one."""


class Carrying:
    """Which ports are not carried, by name.

    errors  those that have not been for longer than PATIENCE: name and text
    """

    def __init__(self) -> None:
        self.errors: dict[str, str] = {}
        self._since: dict[str, float] = {}

    def look(
        self, ports: Mapping[str, PortSpec], keys: Mapping[str, Mapping[str, str]], now: float
    ) -> Collection[str]:
        """Take what the rows say now; the ports that have become errors.

        keys  external_ids by name: what an earlier daemon has waited for needs no more patience
        """
        wrong = {name: port.uncarried for name, port in ports.items() if port.uncarried}
        for name in wrong.keys() - self._since.keys():
            known = keys[name].get(ERROR, "").startswith(NAME)
            self._since[name] = now - PATIENCE if known else now
        for name in self._since.keys() - wrong.keys():
            del self._since[name]
        before = self.errors.keys()
        self.errors = {
            name: f"{NAME}: {text}"
            for name, text in wrong.items()
            if now >= self._since[name] + PATIENCE
        }
        for name in before - self.errors.keys():
            vlog.info(f"{name}: its bridge carries it again")
        for name in self.errors.keys() - before:
            vlog.warn(f"{name}: {self.errors[name]}")
        return self.errors.keys() - before

    def wait(self, poller: Any) -> None:
        """Register what `look` has to be called again for."""
        for name in self._since.keys() - self.errors.keys():
            poller.timer_wait_until((self._since[name] + PATIENCE) * 1e3)
