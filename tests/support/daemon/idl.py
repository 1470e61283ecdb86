# SPDX-License-Identifier: Apache-2.0
"""An Idl of rows that note what is written to them."""

import uuid
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

from support.daemon.rows import PORT

from ovs_vhost_plugin.daemon.ovsdb.reader import Reader
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot


class Row(SimpleNamespace):
    """A row that notes what is done to it."""

    def __init__(self, **columns: Any) -> None:
        super().__init__(**columns, written=[])

    def setkey(self, column: str, key: str, value: str) -> None:
        self.written.append(("set", column, key, value))

    def delkey(self, column: str, key: str) -> None:
        self.written.append(("delete", column, key))

    def addvalue(self, column: str, value: str) -> None:
        self.written.append(("add", column, value))

    def delvalue(self, column: str, value: str) -> None:
        self.written.append(("take", column, value))

    def verify(self, column: str) -> None:
        self.written.append(("verify", column))


def interface(name: str, **columns: Any) -> Row:
    defaults = {"type": "", "options": {}, "external_ids": {}, "mtu_request": [], "ofport": []}
    defaults |= {"mac_in_use": [], "admin_state": [], "error": [], "mtu": []}
    return Row(name=name, **{**defaults, **columns})


BRIDGE: dict[str, Any] = {
    "datapath_type": "netdev",
    "datapath_version": "<built-in>",
    "fail_mode": [],
    "mcast_snooping_enable": False,
}
"""A Bridge row's, but for its name and ports."""


def tables(*interfaces: Row, iface_types: tuple[str, ...] = ("system",)) -> dict[str, Any]:
    port = Row(interfaces=list(interfaces), **PORT)
    bridge = Row(name="br0", ports=[port], **BRIDGE)
    switch = Row(bridges=[bridge], external_ids={}, other_config={}, ovs_version=[])
    switch.iface_types = list(iface_types)
    found = {"Open_vSwitch": [switch], "Bridge": [bridge], "Port": [port]}
    return {
        name: SimpleNamespace(rows={uuid.uuid4(): row for row in rows})
        for name, rows in {**found, "Interface": interfaces}.items()
    }


def read_all(
    tables: dict[str, Any], rundir: str, formats: Collection[str] = (), *, adopts: bool = False
) -> Snapshot:
    """What a reader makes of tables that it has not seen before."""
    (row,) = tables["Open_vSwitch"].rows.values()
    return Reader(rundir, formats, adopts=adopts).read(row)
