# SPDX-License-Identifier: Apache-2.0
"""Values of a daemon as the exporter gets them, scrapes over a socket, the dashboard's names."""

import contextlib
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support.checkout import TOP

from ovs_vhost_plugin.jit.layout import COUNTERS_DTYPE
from ovs_vhost_plugin.metrics.histogram import Histogram

DASHBOARD = TOP / "etc" / "grafana" / "ovs-vhost.json"
RINGS = {"rx_ring_size": 512, "rx_ring_filled": 500, "tx_ring_size": 512, "tx_ring_filled": 3}
COUNTERS = (*(COUNTERS_DTYPE.names or ()), "learned_replaced")


def histogram(*seconds: float) -> dict[str, Any]:
    made = Histogram()
    for one in seconds:
        made.observe(one)
    return made.as_dict()


def daemon(**changes: Any) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "serving": 1,
        "ports": 2,
        "wrong_rows": 0,
        "faults": {"worker-stuck": 1},
        "announce": {"requests": 3, "learned": 2},
        "forward": {"holds": 1},
        "announced_in": {"send-rarp": histogram(0.0015, 0.2, 60.0)},
        "outages": {"leaves": histogram(0.004), "comes": histogram()},
        **changes,
    }


def port(name: str = "vhu0", **changes: Any) -> dict[str, Any]:
    stats = {
        "status": "running",
        "connections": 1,
        "rarps": 2,
        "postcopy": "offered",
        "hold": {"waiting": 5, "held": 9, "dropped_other-guest": 4},
        "errors": {"header-version": 3},
        "iotlb_misses": 7,
        "iotlb_replaced": 8,
        "addresses": [{}, {}],
        "faults": {"zero-length": 6},
        "counters": dict.fromkeys(COUNTERS, 11) | RINGS,
    }
    told = {"port": name, "bridge": "br0", "mode": "client", "status": "running", "stats": stats}
    return {**told, **changes}


def samples(page: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Each sample's value, by its name and its labels' values: port first, the bound last."""
    return {
        (one.name, tuple(one.labels[label] for label in sorted(one.labels, key=_place))): one.value
        for family in text_string_to_metric_families(page)
        for one in family.samples
    }


def _place(label: str) -> tuple[bool, bool, str]:
    return label == "le", label != "port", label


def names_of_dashboard() -> set[str]:
    """The names of metrics in the dashboard's expressions and variables."""
    found: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in ("expr", "query", "definition") and isinstance(inner, str):
                    found.update(re.findall(r"\bovs_vhost_\w+", inner))
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(json.loads(DASHBOARD.read_text()))
    return found


def ask(
    where: Path | tuple[str, int],
    request: bytes = b"GET /metrics HTTP/1.1\r\n\r\n",
    make: Callable[[int, int], socket.socket] = socket.socket,
) -> bytes:
    """All that is answered to a request; b"" to who is refused, or comes before it listens."""
    try:
        client = connect(where, make)
    except ConnectionRefusedError:
        return b""
    with client:
        with contextlib.suppress(ConnectionError):  # refused before all of it was said
            client.sendall(request)
        return rest(client)


def connect(
    where: Path | tuple[str, int], make: Callable[[int, int], socket.socket] = socket.socket
) -> socket.socket:
    """A connection on which nothing was said; `make` makes its socket."""
    family = socket.AF_UNIX if isinstance(where, Path) else socket.AF_INET
    client = make(family, socket.SOCK_STREAM)
    client.settimeout(60.0)
    client.connect(str(where) if isinstance(where, Path) else where)
    return client


def rest(client: socket.socket) -> bytes:
    """All that comes until the other side closes, or is not there any more."""
    pieces = []
    try:
        while piece := client.recv(1 << 16):
            pieces.append(piece)
    except ConnectionError:
        pass
    return b"".join(pieces)
