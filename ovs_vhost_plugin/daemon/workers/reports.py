# SPDX-License-Identifier: Apache-2.0
"""What a worker reports, checked once and then carried in types.

A worker faces a guest. One that was taken over must not get more than its own port's status out
of the daemon: unknown words, wrong types and control characters end here.
"""

import base64
import ipaddress
import math
import re
from dataclasses import dataclass
from typing import Any

from ovs_vhost_plugin.ipc.channel import HELD_BATCH_FRAMES, WorkerSpec
from ovs_vhost_plugin.net.ethernet import MacError, check_mac
from ovs_vhost_plugin.net.station import MAX_VLAN, Station, StationKey, is_host

STATUSES = frozenset({"connecting", "listening", "connected", "running"})

_TEXT_MAX = 240
_STATS_DEPTH = 5
_STATIONS_MAX, _IPS_MAX = 64, 8  # what an honest worker keeps
_COUNTS_MAX = 32
_PAIRS_MAX, _COUNTERS_MAX = 128, 64
_HEX = re.compile(r"0x[0-9a-f]{1,16}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class ReportError(ValueError):
    """A worker reported something that is no report."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A worker presents itself: its release and what it serves."""

    version: str
    spec: WorkerSpec


@dataclass(frozen=True, slots=True)
class State:
    """A snapshot of the port, whole at every transition."""

    status: str
    socket: str
    features: str
    protocol_features: str
    num_vrings: int
    vring_sizes: tuple[int, ...]
    mtu: int | None
    error: str
    error_detail: str
    errors: int

    @property
    def error_text(self) -> str:
        """Name and detail in one line, "" for no error."""
        return f"{self.error}: {self.error_detail}" if self.error_detail else self.error

    def has(self, mask: int) -> bool:
        """Whether a feature was acknowledged."""
        return bool(int(self.features or "0", 16) & mask)


@dataclass(frozen=True, slots=True)
class Rarp:
    """The front-end sent SEND_RARP for `mac` at CLOCK_MONOTONIC second `at`."""

    mac: bytes
    at: float


@dataclass(frozen=True, slots=True)
class Started:
    """Rings began to run; `base` above zero: of a guest that has used them before.

    `sent` counts the frames that the worker had taken from guests before. `moved_in`: its
    front-end has brought its state from another host. `further`: it was told that they began at
    zero, and one more has begun, at `base`.
    """

    base: int
    sent: int = 0
    moved_in: bool = False
    further: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    """The worker wants a front-end: the daemon is to connect it with its port's socket."""


@dataclass(frozen=True, slots=True)
class AskUserfaultfd:
    """The worker needs /dev/userfaultfd: its front-end may be offered postcopy."""


@dataclass(frozen=True, slots=True)
class Stats:
    """The answer to the request `id`: plain JSON, made fit to print."""

    id: int
    stats: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Addresses:
    """What the guest uses now, all of it, as learned from its own frames."""

    stations: tuple[Station, ...]


@dataclass(frozen=True, slots=True)
class Holding:
    """The hold number `hold`: whom frames are held for, or, once it is over, what became of them.

    stations  bounded, by the tags of the frames
    sighted   frames that came to the port from one of them: it is elsewhere now, and says so
    """

    hold: int
    active: bool
    stations: tuple[StationKey, ...]
    counts: dict[str, int]
    sighted: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """Frames that the worker hands over for the request `id`, oldest first; `left` has more."""

    id: int
    frames: tuple[bytes, ...]
    left: bool


Report = (
    Hello | State | Rarp | Started | Connect | AskUserfaultfd | Stats | Addresses | Holding | Held
)


def parse(event: dict[str, Any], now: float) -> Report:
    """Check one packet. `now` bounds the times in it: nothing was seen in the future."""
    match event:
        case {"event": "hello", "version": str() as version, "spec": spec}:
            try:
                return Hello(printable(version), WorkerSpec.from_json(spec))
            except ValueError as error:
                raise ReportError(str(error)) from error
        case {"event": "state", "state": dict() as state}:
            return _state(state)
        case {"event": "rarp", "mac": str() as mac, "at": float() | int() as at}:
            if not _MAC.fullmatch(mac) or not at >= 0:  # also what is no number
                raise ReportError("rarp: no MAC or no time")
            return Rarp(bytes.fromhex(mac.replace(":", "")), float(min(at, now)))
        case {"event": "started", "base": base}:
            sent = _count(event.get("sent", 0), 1 << 64)
            moved_in, further = (event.get(key) is True for key in ("moved_in", "further"))
            return Started(_count(base, 1 << 32), sent, moved_in, further)
        case {"event": "connect"}:
            return Connect()
        case {"event": "userfaultfd"}:
            return AskUserfaultfd()
        case {"event": "stats", "id": int() as request, "stats": dict() as stats}:
            return Stats(request, _stats(stats))
        case {"event": "addresses", "addresses": list() as entries}:
            return Addresses(_stations(entries))
        case {"event": "holding", "hold": hold, "active": bool() as active, **rest}:
            return _holding(_count(hold, 1 << 53), active, rest)
        case {"event": "held", "id": int() as request, "frames": list() as frames, "left": left}:
            return Held(request, _frames(frames), _count(left, 1 << 53) > 0)
    raise ReportError(f"no such event: {printable(str(event.get('event')))}")


def printable(text: str, limit: int = _TEXT_MAX) -> str:
    """`text` in printable ASCII, cut to `limit` characters: fit for logs, the database, terminals.

    '[' stays: what prints tables must not take it for markup.
    """
    return "".join(c if " " <= c <= "~" else "?" for c in text[:limit])


def _holding(hold: int, active: bool, rest: dict[str, Any]) -> Holding:
    stations, counts = rest.get("stations"), rest.get("counts")
    if not isinstance(stations, list) or len(stations) > _STATIONS_MAX:
        raise ReportError("holding: no list of stations")
    try:
        keys = tuple(StationKey.decode(station) for station in stations)
    except ValueError as error:
        raise ReportError(f"holding: {error}") from error
    if not isinstance(counts, dict) or len(counts) > _COUNTS_MAX:
        raise ReportError("holding: no counts")
    checked = {printable(str(k), 40): _count(n, 1 << 53) for k, n in counts.items()}
    sighted = _count(rest.get("sighted", 0), 1 << 53)  # a worker of before does not say
    return Holding(hold, active, keys, checked, sighted)


def _frames(encoded: list[object]) -> tuple[bytes, ...]:
    if len(encoded) > HELD_BATCH_FRAMES:
        raise ReportError("held: too many frames")
    try:
        return tuple(base64.b64decode(_text(frame), validate=True) for frame in encoded)
    except ValueError as error:
        raise ReportError(f"held: {error}") from error


def _state(state: dict[str, Any]) -> State:
    try:
        sizes = [_count(size, 1 << 16) for size in state["vring_sizes"][:256]]
        mtu = state["mtu"]
        status = state["status"]
        if status not in STATUSES:
            raise ReportError("state: no such status")
        return State(
            status=status,
            socket=printable(_text(state["socket"])),
            features=_hex(state["features"]),
            protocol_features=printable(_text(state["protocol_features"]), 20),
            num_vrings=_count(state["num_vrings"], 256),
            vring_sizes=tuple(sizes),
            mtu=None if mtu is None else _count(mtu, 1 << 16),
            error=printable(_text(state["error"]), 60),
            error_detail=printable(_text(state["error_detail"])),
            errors=_count(state["errors"], 1 << 64),
        )
    except (KeyError, TypeError) as error:
        raise ReportError(f"state: {error!r:.80}") from error


def _stats(stats: dict[str, Any]) -> dict[str, Any]:
    """Whatever is counted, in the shape that can be shown."""
    cleaned = _plain(stats, _STATS_DEPTH)
    assert isinstance(cleaned, dict)
    addresses = cleaned.get("addresses", [])
    if "queue_pairs" in cleaned:
        cleaned["queue_pairs"] = _pairs(cleaned["queue_pairs"])
    if not all(isinstance(cleaned.get(key, {}), dict) for key in ("errors", "faults", "hold")):
        raise ReportError("stats: no errors, faults or hold")
    if not isinstance(addresses, list):
        raise ReportError("stats: no addresses")
    _stations(addresses)
    return cleaned


def _pairs(table: object) -> list[dict[str, Any]]:
    """The counters of each queue pair by name."""
    match table:
        case {"names": list() as names, "values": list() as rows}:
            if len(names) > _COUNTERS_MAX or not all(isinstance(name, str) for name in names):
                raise ReportError("stats: no names of counters")
            if len(rows) > _PAIRS_MAX or any(
                not isinstance(row, list) or len(row) != len(names) for row in rows
            ):
                raise ReportError("stats: no counters")
            return [dict(zip(names, map(_number, row), strict=True)) for row in rows]
    raise ReportError("stats: no queue pairs")


def _number(value: object) -> int:
    return _count(value, 1 << 64)


def _stations(entries: list[Any]) -> tuple[Station, ...]:
    if len(entries) > _STATIONS_MAX:
        raise ReportError("addresses: too many")
    return tuple(_station(entry) for entry in entries)


def _station(entry: object) -> Station:
    match entry:
        case {"mac": str() as text, "vlan": int() as vlan, "router": bool() as router, **more}:
            mac = bytes.fromhex(text.replace(":", "")) if _MAC.fullmatch(text) else b""
            try:
                check_mac(mac)
            except MacError as error:
                raise ReportError("addresses: no guest's MAC") from error
            if isinstance(vlan, bool) or not 0 <= vlan <= MAX_VLAN:
                raise ReportError("addresses: no VLAN")
            ipv4, ipv6 = _ips(more.get("ipv4"), 4), _ips(more.get("ipv6"), 6)
            return Station(mac, vlan, ipv4, ipv6, router)
    raise ReportError("addresses: no station")


def _ips(texts: object, version: int) -> tuple[bytes, ...]:
    if not isinstance(texts, list) or len(texts) > _IPS_MAX:
        raise ReportError("addresses: no list of addresses, or too many")
    found = []
    for text in texts:
        try:
            ip = ipaddress.ip_address(_text(text))
        except ValueError as error:
            raise ReportError("addresses: no IP address") from error
        # one with a scope is spelled right, but of no frame
        if ip.version != version or "%" in text or not is_host(ip.packed, len(ip.packed)):
            raise ReportError("addresses: no host's IP address")
        found.append(ip.packed)
    return tuple(found)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ReportError("no text")
    return value


def _hex(value: object) -> str:
    text = _text(value)
    if text and not _HEX.fullmatch(text):
        raise ReportError("state: no features")
    return text


def _count(value: object, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise ReportError("no count")
    return value


def _plain(value: object, depth: int) -> object:
    if depth == 0:
        raise ReportError("stats: nested too deep")
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(k), 60): _plain(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, depth - 1) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ReportError("stats: no number")
    if isinstance(value, int) and abs(value) >= 1 << 64:
        raise ReportError("stats: no count")  # Python counts further, but would not print it
    return value
