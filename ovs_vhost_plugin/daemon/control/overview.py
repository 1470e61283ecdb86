# SPDX-License-Identifier: Apache-2.0
"""The ports as plain data: one in full for `vhost/show`, all of them in short for `vhost/top`."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from ovs_vhost_plugin.daemon.loop import Loop
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.ipc.stations import StationCodec

AT_ONCE = 64
"""Workers that `vhost/top` asks for their statistics, at most."""
_LAST = 8  # migrations and announcements that it tells of


def of_all(loop: Loop, stats: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The standing of each port, the last events, and the `stats` of ports that were asked."""
    history = loop.moves.history
    return {
        "now": now,
        "standing": loop.database.standing.value,
        "ports": {name: _in_short(loop, port) for name, port in loop.desired.items()},
        "stats": dict(stats),
        "migrations": [m.as_dict() for m in islice(history, max(0, len(history) - _LAST), None)],
        "announcements": loop.announcing.history()[-_LAST:],
    }


def _in_short(loop: Loop, port: PortSpec) -> dict[str, Any]:
    keys = loop.keys(port) or {}
    return {
        "bridge": port.bridge,
        "status": keys.get("vhost-user-status", "unknown"),
        "error": keys.get("vhost-user-error", ""),
    }


def of_port(loop: Loop, port: PortSpec) -> dict[str, Any]:
    """One port in full."""
    link = loop.ports.link(port.name)
    state = None if link is None else link.state
    keys = loop.keys(port) or {}
    return {
        "name": port.name,
        "bridge": port.bridge,
        "ofport": port.ofport,
        "mode": port.mode,
        "socket": port.path,
        "status": keys.get("vhost-user-status", "unknown"),
        "error": keys.get("vhost-user-error", ""),
        "queues": port.queues,
        "mtu": port.settings.mtu,
        "finish_offloads": port.settings.finish_offloads,
        "host_stack": loop.ports.seclusion.shown(port.name),
        "features": "" if state is None else state.features,
        "protocol_features": "" if state is None else state.protocol_features,
        "vring_sizes": [] if state is None else list(state.vring_sizes),
        "errors": 0 if state is None else state.errors,
        "addresses": [] if link is None else [StationCodec().encode(one) for one in link.stations],
        "worker": None
        if link is None
        else {
            "phase": link.phase.value,
            "version": link.release.version,
            "build": link.release.build,
            "protocol": link.release.protocol,
            "outdated": loop.upgrading.shown(link),
            "ignored_reports": link.release.ignored,
        },
        "announced": loop.announcing.announced.get(port.name, ""),
    }
