# SPDX-License-Identifier: Apache-2.0
"""Request and response over one TCP connection, one byte each way, as netperf's TCP_RR.

    python -m ovs_vhost_plugin.lab.measure.latency ADDRESS PORT SECONDS

The far end answers with all that it gets (`SERVER`). The client runs in a process of its own, as
other threads would be in its way, and prints its percentiles as JSON.
"""

from __future__ import annotations

import gc
import json
import math
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ovs_vhost_plugin.lab.hosts.namespace import Namespace

ECHO_PORT = 7007
SERVER = f"busybox nc -ll -p {ECHO_PORT} -e cat"
"""The command that answers; each connection has a process of its own."""
WARM = 200
"""Exchanges that are not counted: caches of the switch and of addresses fill."""
_LIMIT = 10.0  # seconds for one answer


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Microseconds from a request to its response."""

    times: int
    p50_us: float
    p99_us: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of `ordered` that `share` of them do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def exchange(address: str, port: int, seconds: float) -> list[int]:
    """Nanoseconds of each exchange. Raises OSError if there is no answer."""
    taken = []
    with socket.create_connection((address, port), _LIMIT) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(WARM):
            _once(stream)
        end = time.perf_counter_ns() + round(seconds * 1e9)
        now = 0
        while now < end:
            begin = time.perf_counter_ns()
            _once(stream)
            now = time.perf_counter_ns()
            taken.append(now - begin)
    return taken


def measure(client: Namespace, address: str, seconds: float) -> RoundTrips:
    """Exchange with a `SERVER` from a namespace, by a process there."""
    top = str(Path(__file__).parents[3])
    words = ("-P", "-m", "ovs_vhost_plugin.lab.measure.latency", address, str(ECHO_PORT))
    command = ("env", f"PYTHONPATH={top}", sys.executable, *words, str(seconds))
    return RoundTrips(**json.loads(client.run(*command, seconds=seconds + 60)))


def _once(stream: socket.socket) -> None:
    stream.send(b"x")
    if not stream.recv(1):
        raise ConnectionResetError("the far end has closed the connection")


def main() -> None:
    """Print the percentiles of one connection."""
    address, port, seconds = sys.argv[1:]
    gc.disable()
    taken = sorted(exchange(address, int(port), float(seconds)))
    p50, p99 = (round(percentile(taken, share) / 1e3, 1) for share in (0.5, 0.99))
    print(json.dumps(asdict(RoundTrips(len(taken), p50, p99))))


if __name__ == "__main__":
    main()
