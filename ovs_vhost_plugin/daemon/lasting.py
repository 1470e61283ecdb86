# SPDX-License-Identifier: Apache-2.0
"""Troubles of ports in ovs-vswitchd's columns, once they last.

While ovs-vswitchd makes a change, its columns still have the old state: for a moment every new port
seems to have no bridge that carries it, and every requested MTU seems refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import ovs.vlog

from ovs_vhost_plugin.daemon.ovsdb.carriage import Trouble
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.status import ERROR

vlog = ovs.vlog.Vlog("vhost_lasting")

PATIENCE = 2.0
"""Seconds that ovs-vswitchd has to take up a row: a change of the datapath takes less than one."""


class Lasting:
    """The troubles of ports that have lasted for longer than PATIENCE."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, Trouble], str] = {}
        self._since: dict[tuple[str, Trouble], float] = {}

    def of(self, port: str, trouble: Trouble) -> str:
        """The trouble of a port as name and text; "" if it has none, or not for long enough."""
        text = self._texts.get((port, trouble))
        return f"{trouble}: {text}" if text else ""

    def look(
        self, ports: Iterable[PortSpec], keys: Mapping[str, Mapping[str, str]], now: float
    ) -> list[Trouble]:
        """Read the troubles of the present rows; return those that count from now on.

        keys  external_ids by name: a trouble published by an earlier daemon counts at once
        """
        wrong = {(port.name, name): text for port in ports for name, text in port.troubles.items()}
        for port, name in wrong.keys() - self._since.keys():
            known = keys[port].get(ERROR, "").startswith(name)
            self._since[port, name] = now - PATIENCE if known else now
        for gone in self._since.keys() - wrong.keys():
            del self._since[gone]
        before, self._texts = (
            self._texts,
            {one: text for one, text in wrong.items() if now >= self._since[one] + PATIENCE},
        )
        for port, name in before.keys() - self._texts.keys():
            vlog.info(f"{port}: no more {name}")
        begun = sorted(self._texts.keys() - before.keys())
        for port, name in begun:
            vlog.warn(f"{port}: {self.of(port, name)}")
        return [name for _, name in begun]

    def get_timer(self) -> float | None:
        """The time at which `look` has to be called again; None: not before a row changes."""
        waiting = self._since.keys() - self._texts.keys()
        return min((self._since[one] + PATIENCE for one in waiting), default=None)
