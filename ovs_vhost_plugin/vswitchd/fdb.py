# SPDX-License-Identifier: Apache-2.0
"""Reads a bridge's MAC table, as `fdb/show` prints it. Pure.

     port  VLAN  MAC                Age
        2    10  52:54:00:12:34:56    0
    LOCAL     0  aa:55:aa:55:00:00  static

The table can have many thousand lines and is read on the way to a guest's first packet, so only
the lines of the address asked for are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the table. `port` is an OpenFlow number or "LOCAL"; `age` None means static."""

    port: int | str
    vlan: int
    mac: bytes
    age: int | None


def entries_of(table: str, mac: bytes) -> list[Entry]:
    """Return the lines of `table` about `mac`, one for each VLAN; other lines are passed over."""
    text = mac.hex(":")
    entries = []
    at = table.find(text)
    while at >= 0:
        start = table.rfind("\n", 0, at) + 1
        end = table.find("\n", at)
        end = len(table) if end < 0 else end
        entry = _parse_line(table[start:end])
        if entry is not None and entry.mac == mac:
            entries.append(entry)
        at = table.find(text, end)
    return entries


def _parse_line(line: str) -> Entry | None:
    try:
        port, vlan, mac, age = line.split()
        return Entry(
            port=int(port) if port.isascii() and port.isdigit() else port,
            vlan=int(vlan),
            mac=bytes.fromhex(mac.replace(":", "")),
            age=None if age == "static" else int(age),
        )
    except ValueError:
        return None


def on_port(table: str, ofports: Collection[int]) -> set[tuple[bytes, int]]:
    """Return the addresses of `table` that sit on one of `ofports`, each with its VLAN."""
    ports = "|".join(str(number) for number in sorted(ofports))
    lines = re.finditer(
        rf"^ *(?:{ports}) +(\d{{1,4}}) +((?:[0-9a-f]{{2}}:){{5}}[0-9a-f]{{2}}) ",
        table,
        re.MULTILINE,
    )
    return {(bytes.fromhex(line[2].replace(":", "")), int(line[1])) for line in lines}


def missing(entries: list[Entry], ofports: Collection[int], vlan: int) -> str | None:
    """Return None if the address sits on one of `ofports` in `vlan`, else where it is instead."""
    if any(entry.port in ofports and entry.vlan == vlan for entry in entries):
        return None
    for entry in entries:
        if entry.vlan == vlan:
            return f"on port {entry.port}"
    if entries:
        return f"not in VLAN {vlan}"
    return "not in the MAC table"


def knows(entries: list[Entry], vlan: int) -> bool:
    """Whether the table has the address at all, wherever it is."""
    return any(entry.vlan == vlan for entry in entries)
