# SPDX-License-Identifier: Apache-2.0
"""Any JSON, and what a worker may report."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ovs_vhost_plugin.ipc.codec import codec_of
from ovs_vhost_plugin.ipc.commands import PROTOCOL
from ovs_vhost_plugin.ipc.spec import WorkerSpec

NUMBER = (
    st.integers(-1, 2**65)
    | st.floats()
    | st.sampled_from([-1, 0, 10**308, 10**400, 10**4299, -(10**400), 1e308, -1e308])
)


WORDS = [
    "event", "hello", "state", "rarp", "started", "connect", "stats", "addresses", "holding",
    "held", "mac", "at", "base", "sent", "path", "id", "frames", "left", "hold", "active", "counts",
    "stations", "sighted", "moved_in", "queue_pairs", "names", "values", "errors", "faults",
    "vlan", "router", "ipv4", "ipv6", "running", "0x1", "AAEC",
    "52:54:00:00:00:01", "10.0.0.2", "fe80::1", "525400000001.0", "\ud800", "\0", "[/]",
]  # fmt: skip


TEXT = st.sampled_from(WORDS) | st.text(st.characters(), max_size=12)


JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


SPEC = codec_of(WorkerSpec).encode(WorkerSpec("vhu0", "client", "/run/vm.sock", 2))


STATION = {
    "mac": "52:54:00:00:00:01",
    "vlan": 7,
    "router": False,
    "ipv4": ["10.0.0.2"],
    "ipv6": ["fe80::1"],
}


EVENTS: list[dict[str, Any]] = [
    {
        "event": "hello",
        "version": "0.1",
        "queues": 1,
        "protocol": PROTOCOL,
        "oldest": 2,
        "build": "0.1-00ff",
        "commands": ["hello", "quit"],
        "spec": SPEC,
    },
    {"event": "handed-over", "id": 3, "outcome": "busy", "why": "half a message"},
    {
        "event": "state",
        "status": "running",
        "socket": "/run/vm.sock",
        "features": "0x40000000",
        "protocol_features": "0x7",
        "num_vrings": 2,
        "vring_sizes": [256, 256],
        "mtu": None,
        "error": "header-version",
        "error_detail": "version 3",
        "errors": 4,
    },
    {"event": "rarp", "mac": "52:54:00:00:00:01", "at": 99.5},
    {"event": "started", "base": 17, "sent": 3, "moved_in": False, "further": False} | {"at": 98.5},
    {"event": "first-received", "at": 99.25},
    {"event": "connect"},
    {"event": "userfaultfd"},
    {"event": "queues", "queues": 2},
    {
        "event": "stats",
        "id": 3,
        "stats": {
            "status": "running",
            "hold": {"waiting": 0, "held": 3},
            "errors": {"header-version": 1},
            "addresses": [STATION],
            "faults": {"zero-length": 1},
            "queue_pairs": {"names": ["rx_packets", "tx_packets"], "values": [[1, 2], [7, 0]]},
        },
    },
    {"event": "stations", "stations": [STATION]},
    {
        "event": "holding",
        "hold": 2,
        "active": True,
        "stations": ["525400000001.0"],
        "counts": {"held": 3},
        "sighted": 1,
        "since": 97.5,
    },
    {"event": "held", "id": 9, "frames": ["AAEC", ""], "left": True},
]
