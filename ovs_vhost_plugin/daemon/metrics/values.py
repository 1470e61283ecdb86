# SPDX-License-Identifier: Apache-2.0
"""The daemon's own values, and those of a port, as plain data for `metrics/families.py`."""

from collections import Counter
from typing import Any

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.daemon.loop import Loop
from ovs_vhost_plugin.daemon.ovsdb.database import Standing


def of_daemon(loop: Loop) -> dict[str, Any]:
    """The counts over all ports."""
    snapshot = loop.snapshot
    announcing, moves = loop.announcing, loop.moves
    return {
        "version": __version__,
        "serving": int(loop.database.standing is Standing.ACTIVE),
        "ports": len(loop.desired),
        "wrong_rows": 0 if snapshot is None else len(snapshot.complaints),
        "faults": dict(loop.ports.faults.counters),
        "announce": announcing.counters(),
        "forward": dict(loop.forwarding.counters),
        "announced_in": {name: one.as_dict() for name, one in announcing.durations.items()},
        "outages": {way.value: one.as_dict() for way, one in moves.outages.items()},
    }


def of_port(loop: Loop, name: str, stats: dict[str, Any] | None) -> dict[str, Any] | None:
    """A port with the counters of its worker; None: the port is no more."""
    port = loop.desired.get(name)
    if port is None:
        return None
    keys = loop.keys(port) or {}
    return {
        "port": name,
        "bridge": port.bridge,
        "mode": port.mode,
        "status": keys.get("vhost-user-status", "unknown"),
        "stats": None if stats is None else _summed(stats),
    }


def _summed(stats: dict[str, Any]) -> dict[str, Any]:
    """The statistics with the counters of all queue pairs added up, as "counters"."""
    counters: Counter[str] = Counter()
    for pair in stats.get("queue_pairs", ()):
        counters.update(pair)
    others = {key: value for key, value in stats.items() if key != "queue_pairs"}
    return {**others, "counters": counters}
