# SPDX-License-Identifier: Apache-2.0
"""The database: reads the ports that its rows ask for, and writes their status.

Level-triggered: what counts is what the rows say, not what happened to them. The Idl's events only
tell which rows to read again, and not even that after a reconnection: there is no event for a row
that was deleted meanwhile, so all rows are read then. Nothing blocks: one transaction at a time is
under way, and its outcome is seen in the rows.
"""

from collections.abc import Callable, Collection, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

import ovs.db.idl

from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.daemon.ovsdb import adoption
from ovs_vhost_plugin.daemon.ovsdb.reader import Reader
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot

vlog = Vlog("vhost_db")

LOCK = "ovs_vhost_plugin"
"""OVSDB lock (RFC 7047, 4.1.8) that the one acting daemon holds."""

_RETRY_AFTER = 1.0  # seconds after a transaction that the server refused

_STRINGS = {"key": "string", "value": "string", "min": 0, "max": "unlimited"}


def _refs(table: str) -> dict[str, Any]:
    key = {"type": "uuid", "refTable": table, "refType": "strong"}
    return {"type": {"key": key, "min": 0, "max": "unlimited"}}


def _set_of(kind: str, limit: int | str = "unlimited") -> dict[str, Any]:
    return {"type": {"key": kind, "min": 0, "max": limit}}


# The columns read, with the types that vswitch.ovsschema gives them: only these are replicated,
# and no schema file of the installed switch is needed.
_COLUMNS: dict[str, dict[str, dict[str, Any]]] = {
    "Open_vSwitch": {
        "bridges": _refs("Bridge"),
        "external_ids": {"type": _STRINGS},
        "other_config": {"type": _STRINGS},
        "iface_types": _set_of("string"),
        "ovs_version": _set_of("string", 1),
    },
    "Bridge": {
        "name": {"type": "string"},
        "datapath_type": {"type": "string"},
        "datapath_version": {"type": "string"},
        "fail_mode": _set_of("string", 1),
        "mcast_snooping_enable": {"type": "boolean"},
        "ports": _refs("Port"),
    },
    "Port": {
        "interfaces": _refs("Interface"),
        "tag": _set_of("integer", 1),
        "trunks": _set_of("integer"),
        "cvlans": _set_of("integer"),
        "other_config": {"type": _STRINGS},
        "vlan_mode": _set_of("string", 1),
        "bond_mode": _set_of("string", 1),
        "status": {"type": _STRINGS},
        "rstp_status": {"type": _STRINGS},
    },
    "Interface": {
        "name": {"type": "string"},
        "type": {"type": "string"},
        "options": {"type": _STRINGS},
        "external_ids": {"type": _STRINGS},
        "mtu_request": _set_of("integer", 1),
        "mtu": _set_of("integer", 1),
        "ofport": _set_of("integer", 1),
        "mac_in_use": _set_of("string", 1),
        "admin_state": _set_of("string", 1),
        "error": _set_of("string", 1),
    },
}
_SCHEMA = {
    "name": "Open_vSwitch",
    "version": "1.0.0",
    "tables": {
        name: {"columns": columns, "isRoot": name == "Open_vSwitch"}
        for name, columns in _COLUMNS.items()
    },
}


class Standing(Enum):
    """Whether this daemon may act."""

    WAITING = "waiting for the database"
    CONTENDED = "another daemon serves this database"
    ACTIVE = "active"


class Database:
    """The connection to ovsdb-server."""

    def __init__(
        self,
        remote: str,
        rundir: str,
        make_idl: Callable[..., Any] = ovs.db.idl.Idl,
        formats: Collection[str] = (),
        *,
        adopts: bool = False,
    ) -> None:
        """`adopts`: rows of OVS-DPDK's types are taken over where the switch has none itself."""
        self.adopts = adopts
        schema = ovs.db.idl.SchemaHelper(schema_json=_SCHEMA)
        for table, columns in _COLUMNS.items():
            schema.register_columns(table, list(columns))
        # A follower of a clustered database will do as well as its leader.
        self._idl = make_idl(remote, schema, leader_only=False)
        self._idl.set_lock(LOCK)
        self._idl.notify = self._notice
        self._reader = Reader(rundir, formats, adopts=adopts)
        self._snapshot: Snapshot | None = None
        self._read_at: int | None = None
        self._noticed: list[Any] = []  # rows changed since they were read
        self._all_changed = True
        self._transaction: Any = None
        self._retry_at = 0.0
        self._told: Standing | None = None

    def run(self, now: float) -> None:
        """Take the server's messages."""
        if now >= self._retry_at:
            self._retry_at = 0.0
        self._idl.run()
        if self._idl.state != self._idl.IDL_S_MONITORING:
            self._all_changed = True
        if self._transaction is not None:
            self._conclude(now)
        standing = self.standing
        if standing is not self._told:
            vlog.info(f"{self._idl.session_name()}: {standing.value}")
            self._told = standing

    def get_timer(self) -> float | None:
        """The time at which `write` may be called again after a failure; None: now."""
        return self._retry_at or None

    def wait(self, poller: Any) -> None:
        """Register the fds for which `run` has to be called."""
        self._idl.wait(poller)

    @property
    def standing(self) -> Standing:
        """Whether this daemon may act: connected, with all rows and the lock.

        Rows stay readable while the server is away, but the lock's holder is then unknown.
        """
        idl = self._idl
        if not idl._session.is_connected() or idl.state != idl.IDL_S_MONITORING:
            return Standing.WAITING
        if idl.is_lock_contended:
            return Standing.CONTENDED
        return Standing.ACTIVE if idl.has_lock else Standing.WAITING

    def snapshot(self) -> Snapshot | None:
        """The rows' current content."""
        if self._read_at != self._idl.change_seqno:
            self._read_at = self._idl.change_seqno
            row = next(iter(self._idl.tables["Open_vSwitch"].rows.values()), None)
            noticed, self._noticed = self._noticed, []
            if row is None:
                self._snapshot = None  # ovs-vswitchd has not made its one row yet
            elif self._snapshot is None or self._all_changed or not noticed:
                self._snapshot = self._reader.read(row)
            else:
                self._snapshot = self._reader.follow(self._snapshot, noticed, row)
            self._all_changed = self._idl.state != self._idl.IDL_S_MONITORING
        return self._snapshot

    def _notice(self, _event: str, row: Any, _updates: Any = None) -> None:
        """Take the Idl's word that a row was changed, made or removed."""
        self._noticed.append(row)

    @property
    def iface_types(self) -> frozenset[str]:
        """The interface types that the database has now; some may be added by us."""
        rows = self._idl.tables["Open_vSwitch"].rows.values()
        return frozenset().union(*(row.iface_types for row in rows))

    @property
    def tells_types(self) -> bool:
        """Whether to add OVS-DPDK's types to `iface_types`."""
        rows = self._idl.tables["Open_vSwitch"].rows.values()
        return self.adopts and all(adoption.tells(row.external_ids) for row in rows)

    def writable(self, now: float) -> bool:
        """Whether `write` may be called: no transaction is under way or was just refused."""
        return self._transaction is None and now >= self._retry_at

    def write(
        self,
        changes: Mapping[str, Mapping[str, str | None]],
        clear_types: frozenset[str],
        iface_types: Mapping[str, bool] = MappingProxyType({}),
    ) -> None:
        """Set or (None) remove external_ids by Interface name; empty the type of `clear_types`.

        `iface_types` are added to the switch's (True) or taken out of them (False).

        The outcome shows in the next snapshots: compare, and write missing changes again.
        """
        transaction = ovs.db.idl.Transaction(self._idl)
        for name in sorted({*changes, *clear_types}):
            row = self._reader.row_of(name)
            if row is None:
                continue
            if name in clear_types:
                # Only if nobody has changed the type since it was read.
                row.verify("type")
                row.type = ""
            for key, value in changes.get(name, {}).items():
                if value is None:
                    row.delkey("external_ids", key)
                else:
                    row.setkey("external_ids", key, value)
        for row in self._idl.tables["Open_vSwitch"].rows.values():
            for name, wanted in iface_types.items():
                # Value by value, so that a concurrent write by ovs-vswitchd is not lost.
                change = row.addvalue if wanted else row.delvalue
                change("iface_types", name)
        self._transaction = transaction
        transaction.commit()

    def _conclude(self, now: float) -> None:
        transaction = self._transaction
        status = transaction.commit()
        if status == transaction.INCOMPLETE:
            return
        self._transaction = None
        if status not in (transaction.SUCCESS, transaction.UNCHANGED):
            name = transaction.status_to_string(status)
            words = escaped(transaction.get_error() or "")
            vlog.warn(f"status not written: {name} {words}".rstrip())
            self._retry_at = now + _RETRY_AFTER

    def close(self) -> None:
        """Leave the server, which frees the lock."""
        self._idl.close()
