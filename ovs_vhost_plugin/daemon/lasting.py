# SPDX-License-Identifier: Apache-2.0
"""Troubles of ports in ovs-vswitchd's columns, once they last.

While ovs-vswitchd makes a change, its columns still have the old state: for a moment every new port
seems to have no bridge that carries it, and every requested MTU seems refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.common.timers import Timers
from ovs_vhost_plugin.daemon.ovsdb.carriage import Trouble
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.status import ERROR

vlog = Vlog("vhost_lasting")

PATIENCE = 2.0
"""Seconds that ovs-vswitchd has to take up a row: a change of the datapath takes less than one."""


class Lasting:
    """The troubles of ports that have lasted for longer than PATIENCE."""

    def __init__(self) -> None:
        self._texts: dict[str, dict[Trouble, str]] = {}  # by port: those that count
        self._since: dict[str, dict[Trouble, float]] = {}  # by port: all
        self._timers = Timers()

    def of(self, port: str, trouble: Trouble) -> str:
        """The trouble of a port as name and text; "" if it has none, or not for long enough."""
        text = self._texts.get(port, {}).get(trouble)
        return f"{trouble}: {text}" if text else ""

    def look(
        self,
        names: Iterable[str],
        ports: Mapping[str, PortSpec],
        keys: Mapping[str, Mapping[str, str]],
        now: float,
    ) -> dict[str, list[Trouble]]:
        """Read the troubles of the rows `names` that changed, and of those whose time has come.

        Returns the ports whose lasting troubles changed, with the troubles that have begun.

        ports  the ports of the present rows
        keys   external_ids by name: a trouble published by an earlier daemon counts at once
        """
        found: dict[str, list[Trouble]] = {}
        for name in {*names, *self._timers.take_due(now)}:
            troubles = ports[name].troubles if name in ports else {}
            begun = self._look_at(name, troubles, keys.get(name, {}), now)
            if begun is not None:
                found[name] = begun
        return found

    def _look_at(
        self, name: str, wrong: Mapping[Trouble, str], keys: Mapping[str, str], now: float
    ) -> list[Trouble] | None:
        """The troubles of one port that have begun to last; None: no text has changed."""
        known = self._since.get(name, {})
        published = keys.get(ERROR, "")
        since = {
            one: known.get(one, now - PATIENCE if published.startswith(one) else now)
            for one in wrong
        }
        before = self._texts.get(name, {})
        texts = {one: text for one, text in wrong.items() if now >= since[one] + PATIENCE}
        _keep(self._since, name, since)
        _keep(self._texts, name, texts)
        waiting = [at + PATIENCE for one, at in since.items() if one not in texts]
        self._timers.set(name, min(waiting, default=None))
        for gone in before.keys() - texts.keys():
            vlog.info(f"{name}: no more {gone}")
        begun = sorted(texts.keys() - before.keys())
        for one in begun:
            vlog.warn(f"{name}: {self.of(name, one)}")
        return None if texts == before else begun

    def get_timer(self) -> float | None:
        """The time at which `look` has to be called again; None: not before a row changes."""
        return self._timers.get_timer()


def _keep(of_all: dict[str, dict[Trouble, Any]], name: str, of_one: dict[Trouble, Any]) -> None:
    if of_one:
        of_all[name] = of_one
    else:
        of_all.pop(name, None)
