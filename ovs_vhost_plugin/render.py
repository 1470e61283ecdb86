# SPDX-License-Identifier: Apache-2.0
"""Renders the daemon's answers, as text for people and JSON for programs.

ovs-appctl and a terminal get the same text, so it is plain: aligned columns, no colours. Parts of
it come from guests: what is not printable is escaped.
"""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from ovs_vhost_plugin.common.text import escaped

_MOST_COLUMNS = 8  # queue pairs shown side by side; of more, only the sum is shown


def as_json(data: object) -> str:
    """The data for a program: one JSON document."""
    return json.dumps(data, indent=2) + "\n"


def show(data: Mapping[str, Any]) -> str:
    """All ports and their faults, from the data of `vhost/show`."""
    parts = [f"ovs-vhost {data['version']}, pid {data['pid']}, {data['database']}: "]
    parts[0] += f"{data['standing']}\n"
    if data["sandbox"].startswith("without"):
        parts.append(f"the workers' sandbox is {data['sandbox']}: see docs/security.md\n")
    if data.get("metrics"):  # a daemon of the release before does not tell
        parts.append(f"metrics: {data['metrics']}\n")
    rows = [_port_row(port) for port in data["ports"]]
    if rows:
        heads = ("port", "bridge", "ofport", "status", "mode", "queues", "mtu", "offloads")
        parts.append(_table((*heads, "socket", "announced"), rows))
    errors = [(port["name"], port["error"]) for port in data["ports"] if port["error"]]
    errors += [(port["name"], text) for port in data["ports"] if (text := _exposed(port))]
    errors += sorted({**data["leftovers"], **data["wrong_rows"]}.items())
    if errors:
        parts.append(_table(("port", "error"), errors))
    outdated = [
        (port["name"], port["worker"]["version"], port["worker"]["outdated"])
        for port in data["ports"]
        if port["worker"] and port["worker"]["outdated"]
    ]
    if outdated:
        parts.append(_table(("port", "release", "its worker is of"), outdated))
    if data["stuck"]:
        stuck = [(one["name"], one["pid"]) for one in data["stuck"]]
        parts.append(_table(("was the worker of", "stuck in the kernel, pid"), stuck))
    if data["faults"]:
        parts.append(_table(("fault", "times"), data["faults"].items()))
    if not rows and not errors:
        parts.append("no vhost-user ports; add one with:\n  ovs-vsctl add-port BRIDGE PORT -- set ")
        parts[-1] += "Interface PORT options:vhost-server-path=SOCKET\n"
    return "\n".join(parts)


def _exposed(port: Mapping[str, Any]) -> str:
    """The note on a port whose guest this host's own network stack may hear, or ""."""
    told = str(port["host_stack"])
    return told if told.startswith("host-stack-open") else ""


def _port_row(port: Mapping[str, Any]) -> list[object]:
    vrings = len(port["vring_sizes"])
    queues = f"{vrings // 2}/{port['queues']}" if vrings else port["queues"]
    offloads = "finished here" if port["finish_offloads"] else "passed on"
    fields = [port[key] for key in ("name", "bridge", "ofport", "status", "mode")]
    return [*fields, queues, port["mtu"], offloads, port["socket"], port["announced"]]


def captures(data: Mapping[str, Any]) -> str:
    """Who captures which port, from the data of `vhost/captures`."""
    rows = [(one["port"], one["pid"], f"{one['seconds']:.0f}") for one in data["captures"]]
    return _table(("port", "captured by pid", "for s"), rows) if rows else "nobody captures\n"


def stats(data: Mapping[str, Any]) -> str:
    """The ports' counters, from the data of `vhost/stats`."""
    parts = [_port_stats(name, found) for name, found in sorted(data["ports"].items())]
    for name in data["missing"]:
        parts.append(f"{name}: its worker did not answer\n")
    return "\n".join(parts) or "no vhost-user ports\n"


def _port_stats(name: str, found: Mapping[str, Any]) -> str:
    pairs = found.get("queue_pairs", [])
    plain = {key: value for key, value in found.items() if not isinstance(value, list | dict)}
    lines = [f"{name}: " + ", ".join(f"{key} {value}" for key, value in plain.items()) + "\n"]
    if pairs:
        lines.append(_pairs_table(pairs))
    addresses = found.get("addresses", [])
    if addresses:
        heads = ("  the guest's MAC", "vlan", "IPv4", "IPv6")
        lines.append(_table(heads, map(_station_row, addresses)))
    held = {key: count for key, count in found.get("hold", {}).items() if count}
    if held:
        lines.append(_table(("frames of a guest that left", "count"), held.items()))
    faults = found.get("faults", {})
    if faults:
        lines.append(_table(("fault of the guest's", "times"), faults.items()))
    errors = found.get("errors", {})
    if errors:
        lines.append(_table(("error", "times"), errors.items()))
    return "".join(lines)


def _station_row(station: Mapping[str, Any]) -> list[object]:
    ips = [" ".join(station[family]) for family in ("ipv4", "ipv6")]
    return [f"  {station['mac']}", station["vlan"], *ips]


def _pairs_table(pairs: Sequence[Mapping[str, Any]]) -> str:
    counters = dict.fromkeys(key for pair in pairs for key in pair)
    shown = pairs if 1 < len(pairs) <= _MOST_COLUMNS else []
    rows = []
    for key in counters:
        values = [pair.get(key, 0) for pair in pairs]
        if all(isinstance(value, int) for value in values) and any(values):
            rows.append([f"  {key}", sum(values), *(pair.get(key, 0) for pair in shown)])
    if not rows:
        return "  no packets yet\n"
    return _table(("  counter", "total", *(f"pair {i}" for i in range(len(shown)))), rows)


def announcement(data: Mapping[str, Any]) -> str:
    """An announcement's outcome, from the data of `vhost/announce`."""
    took = data["milliseconds"]
    words = [f"{data['port']}: {data['mac']} {data['outcome']}"]
    if took is not None:
        words.append(f"on {data['bridge']} port {data['ofport']} in {took:.1f} ms")
    return " ".join(words) + (f": {data['reason']}" if data["reason"] else "") + "\n"


def announce_log(data: Mapping[str, Any]) -> str:
    """The announcements that ended, from the data of `vhost/announce-log`."""
    heads: tuple[str, ...] = ("seconds ago", "port", "mac", "vlan", "trigger", "outcome")
    rows = []
    for entry in data["announcements"]:
        took = entry["milliseconds"]
        fields = [entry[key] for key in ("port", "mac", "vlan", "trigger", "outcome")]
        ago = f"{data['now'] - entry['received_at']:.1f}"
        took = None if took is None else f"{took:.1f}"
        rows.append([ago, *fields, took, *(entry[key] for key in ("attempts", "frames", "reason"))])
    return (
        _table((*heads, "ms", "attempts", "frames", "reason"), rows)
        if rows
        else "nothing has been announced yet\n"
    )


def upgrade(data: Mapping[str, Any]) -> str:
    """The fate of each port's worker, from the data of `vhost/upgrade`."""
    rows = data["ports"].items()
    return _table(("port", "its worker"), rows) if rows else "no vhost-user ports\n"


def hold_log(data: Mapping[str, Any]) -> str:
    """The holds that ended, from the data of `vhost/hold-log`."""
    heads = ("seconds ago", "port", "seconds", "held", "forwarded", "returned", "dropped", "to")
    rows = []
    for entry in data["holds"]:
        counts = entry["counts"]
        dropped = {k.removeprefix("dropped_"): n for k, n in counts.items() if "dropped_" in k}
        ago, took = data["now"] - entry["ended_at"], entry["ended_at"] - entry["began_at"]
        known = [counts.get(key, 0) for key in ("held", "forwarded", "returned")]
        dropped |= entry["refused"]
        whys = [f"{key} {count}" for key, count in dropped.items()]
        why = ", ".join([*whys, *(["hold-over-limit"] if entry["over"] else [])])
        ports = ", ".join(sorted({f"port {port}" for port in entry["places"].values()}))
        rows.append([f"{ago:.1f}", entry["port"], f"{took:.2f}", *known, why, ports])
    return _table(heads, rows) if rows else "nothing has been held yet\n"


STEPS = {
    "memory-is-copied": "its memory is copied",
    "rings-stopped": "its rings stopped",
    "found-elsewhere": "found elsewhere",
    "first-frame-forwarded": "the first held frame was sent on",
    "rings-run-again": "its rings run here again",
    "memory-is-not-copied": "its memory is copied no more",
    "announcement-asked-for": "to be announced",
    "rings-run": "its rings run",
    "announced": "announced",
    "learned": "the switch has learned it",
    "first-frame-received": "its first frame came",
    "hold-over": "no more frames are held",
    "front-end-gone": "its front-end has gone",
}
"""Steps of a migration (`daemon/guests/moves.py`), for people."""

ENDS = {
    ("leaves", "under-way"): "is leaving",
    ("leaves", "left"): "left",
    ("leaves", "stayed"): "was to leave, and stayed",
    ("comes", "under-way"): "is coming",
    ("comes", "came"): "came",
    ("comes", "did-not-come"): "was to come, and did not",
}


def migrations(data: Mapping[str, Any]) -> str:
    """Each migration as a timeline, from the data of `vhost/migrations`."""
    parts = [_migration(move, data["now"]) for move in data["migrations"]]
    return "\n".join(parts) or "no guest has migrated since the machine was started\n"


def _migration(move: Mapping[str, Any], now: float) -> str:
    begun = now - move["timeline"][0]["at"]
    lines = [f"{_shown(move['port'])}: its guest {ENDS[move['way'], move['end']]}, "]
    lines[0] += f"{begun:.1f} s ago\n"
    rows = [
        (f"{step['ms']:+.1f}", STEPS[step["event"]] + _at_step(move, step["event"]))
        for step in move["timeline"]
    ]
    width = max(len(at) for at, _ in rows)
    lines += [f"  {at:>{width}} ms  {what}\n" for at, what in rows]
    spans = {"downtime": move["downtime_ms"], "outage": move["outage_ms"]}
    words = [f"{name} {took:.1f} ms" for name, took in spans.items() if took is not None]
    words += [f"{n} {name.replace('_', ' ')}" for name, n in sorted(move["held"].items())]
    words += [] if move["lost"] is None else [f"{move['lost']} lost"]
    if words:
        lines.append(textwrap.indent(textwrap.fill(", ".join(words), 78), "  ") + "\n")
    return "".join(lines)


def _at_step(move: Mapping[str, Any], step: str) -> str:
    """The detail of a step: who asked, where it was found, what became of the announcement."""
    if step == "announcement-asked-for" and move["trigger"]:
        return f" ({move['trigger']})"
    if step == "found-elsewhere":
        ports = sorted(set(move["places"].values()))
        return f" on port {', '.join(map(str, ports[:4]))}" if ports else ""
    if step == "announced":
        outcomes = Counter(move["announced"].values())
        return ": " + ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items()))
    return ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns, of which those of numbers alone are to the right.

    Not by the library's table: of a thousand ports it takes half a second, in which the daemon does
    nothing else when ovs-appctl asks.
    """
    cells = [[*row] for row in rows]
    lines = [["-" if cell in (None, "") else _shown(str(cell)) for cell in row] for row in cells]
    columns = range(len(heads))
    numeric = [all(isinstance(row[column], int | None) for row in cells) for column in columns]
    widths = [max(cell_len(line[column]) for line in (heads, *lines)) for column in columns]

    def put(line: Sequence[str]) -> str:
        padded = []
        for text, width, right in zip(line, widths, numeric, strict=True):
            padding = " " * (width - cell_len(text))
            padded.append(padding + text if right else text + padding)
        return "  ".join(padded).rstrip() + "\n"

    return "".join(map(put, (heads, *lines)))


def _shown(text: str) -> str:
    return text if text.isprintable() else escaped(text)
