# SPDX-License-Identifier: Apache-2.0
"""The daemon's values as metric families, named as Prometheus and OpenMetrics want it. Pure.

Received and transmitted are as the guest sees them, as in `ovs-vhost stats`. Counters of queue
pairs are summed: a pair more would be 20 series more for each port.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

PREFIX = "ovs_vhost"
MOST_NAMES = 64
"""Faults or errors of a port that are shown by name: a worker that was taken over invents more."""

Values = Mapping[str, Any]

# name, unit, the counter, help
_SUMS = (
    ("port_receive_packets", "", "rx_packets", "Frames that the guest has received"),
    ("port_receive_bytes", "bytes", "rx_bytes", "Bytes of frames that the guest has received"),
    ("port_transmit_packets", "", "tx_packets", "Frames that the guest has sent"),
    ("port_transmit_bytes", "bytes", "tx_bytes", "Bytes of frames that the guest has sent"),
    (
        "port_transmit_batched_packets",
        "",
        "tx_batched",
        "Frames of the guest's that went several in one system call",
    ),
    ("port_wakeups", "", "wakeups", "Times that a queue pair's loop woke"),
    ("port_stations_replaced", "", "learned_replaced", "Addresses that made room for others"),
)

# name, label, {counter: label's value}, help
_SPLIT = (
    (
        "port_receive_dropped_packets",
        "reason",
        {"rx_dropped_too_long": "too-long", "rx_dropped_no_buffers": "no-buffers"},
        "Frames for the guest that were dropped",
    ),
    (
        "port_transmit_dropped_packets",
        "reason",
        {
            "tx_dropped_faulty": "faulty",
            "tx_dropped_disabled": "disabled",
            "tx_dropped_tap_down": "tap-down",
            "tx_dropped_tap_refused": "tap-refused",
            "tx_dropped_unserved": "unserved",
        },
        "Frames of the guest's that were dropped",
    ),
    ("port_kicks", "ring", {"rx_kicks": "rx", "tx_kicks": "tx"}, "Kicks of the guest's taken"),
    ("port_calls", "ring", {"rx_calls": "rx", "tx_calls": "tx"}, "Calls of the guest made"),
)

# name, {counter: ring}, help: states, not counts
_RINGS = (
    (
        "port_ring_size_entries",
        {"rx_ring_size": "rx", "tx_ring_size": "tx"},
        "Entries of the rings that run, of all queue pairs together",
    ),
    (
        "port_ring_filled_entries",
        {"rx_ring_filled": "rx", "tx_ring_filled": "tx"},
        "Of these, entries that the guest has filled: rx, buffers that wait for frames; tx, frames "
        "that wait for the tap",
    ),
)

# name, the value of `stats`, help
_SINGLE = (
    ("port_connections", "connections", "Front-ends that have connected"),
    ("port_send_rarp", "rarps", "SEND_RARP of front-ends"),
    ("port_iotlb_misses", "iotlb_misses", "Translations that were asked for"),
    ("port_iotlb_replaced", "iotlb_replaced", "Translations that made room for others"),
)

# name, label, the dict of `stats`, help
_NAMED = (
    ("port_errors", "error", "errors", "Errors of front-ends, by name"),
    ("port_faults", "fault", "faults", "Faults of the guest's, by name"),
)


def families(daemon: Values, ports: Mapping[str, Values]) -> Iterator[Metric]:
    """All families.

    daemon  what `daemon/metrics/values.py` tells of the daemon
    ports   the same of each port, with the `stats` of its worker; None: it did not answer
    """
    yield InfoMetricFamily(
        f"{PREFIX}_build", "The daemon's release.", {"version": daemon["version"]}
    )
    yield from _of_daemon(daemon)
    yield from _of_rows(ports)
    answered = {name: port for name, port in ports.items() if port["stats"] is not None}
    sums = {name: port["stats"]["counters"] for name, port in answered.items()}
    for name, unit, counter, text in _SUMS:
        values = (([port], count.get(counter, 0)) for port, count in sums.items())
        yield _counter(name, text, ["port"], values, unit)
    for name, label, counters, text in _SPLIT:
        split = (
            ([port, value], count.get(counter, 0))
            for port, count in sums.items()
            for counter, value in counters.items()
        )
        yield _counter(name, text, ["port", label], split)
    for name, states, text in _RINGS:
        filled = (
            ([port, ring], count.get(state, 0))
            for port, count in sums.items()
            for state, ring in states.items()
        )
        yield _gauge(name, text, ["port", "ring"], filled)
    stats = {name: port["stats"] for name, port in answered.items()}
    for name, key, text in _SINGLE:
        yield _counter(name, text, ["port"], (([p], s.get(key, 0)) for p, s in stats.items()))
    for name, label, key, text in _NAMED:
        named = (([p, n], v) for p, s in stats.items() for n, v in _few(s.get(key, {})))
        yield _counter(name, text, ["port", label], named)
    yield from _of_holds(stats)
    text = "Addresses (MAC and VLAN) that the guest was seen to use"
    used = (([p], len(s.get("addresses", ()))) for p, s in stats.items())
    yield _gauge("port_stations", text, ["port"], used)


def _of_daemon(daemon: Values) -> Iterator[Metric]:
    for name, text in (
        ("serving", "1: this daemon has the database's lock and serves"),
        ("ports", "Ports that rows ask for"),
        ("wrong_rows", "Rows with an error or a warning"),
    ):
        yield _gauge(name, text, [], [((), daemon[name])])
    for name, label, key, text in (
        ("faults", "fault", "faults", "Faults of ports, rows and workers, by name"),
        ("announcements", "event", "announce", "Announcements: requests, attempts and results"),
        ("forwarding", "event", "forward", "Held frames and holds, as the daemon saw them"),
    ):
        yield _counter(name, text, [label], (([n], v) for n, v in sorted(daemon[key].items())))
    announced = "Time from the request of an announcement to the switch's confirmation"
    yield _histogram("announcement_duration", announced, "trigger", daemon["announced_in"])
    outage = (
        "Time without a network in a migration, as this host saw it: of a guest that left until "
        "the bridge had it elsewhere, of one that came from its rings' start to its first frame"
    )
    yield _histogram("migration_outage", outage, "way", daemon["outages"])


def _of_rows(ports: Mapping[str, Values]) -> Iterator[Metric]:
    info = InfoMetricFamily(f"{PREFIX}_port", "Bridge, mode and status of a port.", labels=["port"])
    for name, port in ports.items():
        info.add_metric([name], {key: port[key] for key in ("bridge", "mode", "status")})
    yield info
    runs = (([name], float(port["status"] == "running")) for name, port in ports.items())
    yield _gauge("port_running", "1: the port's guest has its network", ["port"], runs)
    answers = (([name], float(port["stats"] is not None)) for name, port in ports.items())
    yield _gauge("port_answered", "1: the port's worker told its counters", ["port"], answers)


def _of_holds(stats: Mapping[str, Values]) -> Iterator[Metric]:
    waiting = (([p], s.get("hold", {}).get("waiting", 0)) for p, s in stats.items())
    text = "Frames that are held for a guest that has left"
    yield _gauge("port_held_packets", text, ["port"], waiting)
    fates = (
        ([p, fate.replace("_", "-")], count)
        for p, s in stats.items()
        for fate, count in _few(s.get("hold", {}))
        if fate != "waiting"
    )
    text = "Frames for guests that had left, by what became of them (held: all)"
    yield _counter("port_hold_packets", text, ["port", "fate"], fates)


def _few(named: Values) -> list[tuple[str, Any]]:
    counts = [(name, count) for name, count in sorted(named.items()) if isinstance(count, int)]
    return counts[:MOST_NAMES]


Samples = Iterable[tuple[Sequence[str], float]]


def _counter(name: str, text: str, labels: list[str], values: Samples, unit: str = "") -> Metric:
    made = CounterMetricFamily(f"{PREFIX}_{name}", f"{text}.", labels=labels, unit=unit)
    for label, value in values:
        made.add_metric(label, value)
    return made


def _gauge(name: str, text: str, labels: list[str], values: Samples) -> Metric:
    made = GaugeMetricFamily(f"{PREFIX}_{name}", f"{text}.", labels=labels)
    for label, value in values:
        made.add_metric(label, value)
    return made


def _histogram(name: str, text: str, label: str, found: Mapping[str, Values]) -> Metric:
    name = f"{PREFIX}_{name}_seconds"
    made = HistogramMetricFamily(name, f"{text}.", labels=[label], unit="seconds")
    for value, histogram in sorted(found.items()):
        total, buckets = 0, []
        for bound, count in histogram["counts"].items():
            total += count
            buckets.append((bound, total))
        made.add_metric([value], buckets, histogram["sum"])
    return made
