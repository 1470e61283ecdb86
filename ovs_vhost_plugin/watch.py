# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost watch`: what changes at the ports, a line each, as it happens.

It follows the switch's database, as a controller would. So it runs wherever the database can be
reached, and costs the daemon and the data path nothing.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import ovs.db.idl
import ovs.poller

from ovs_vhost_plugin.common import dirs
from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.control import add_format
from ovs_vhost_plugin.daemon import status

PATIENCE = 5.0
"""Seconds for the first answer of the database."""

_STRINGS = {"key": "string", "value": "string", "min": 0, "max": "unlimited"}
_COLUMNS = {"name": {"type": "string"}, "external_ids": {"type": _STRINGS}}
_SCHEMA = {
    "name": "Open_vSwitch",
    "version": "1.0.0",
    "tables": {"Interface": {"columns": _COLUMNS, "isRoot": True}},
}

Rows = Mapping[str, Mapping[str, str]]
"""Status keys by port; a port without any is none of ours."""


class WatchError(Exception):
    """The database does not answer; the text says what to do."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """Something that a port's row says now.

    kind  "status", "error" or "announced"
    was   the value before; "" where there was none
    now   the value; "" where there is none any more
    """

    port: str
    kind: str
    was: str
    now: str

    def as_text(self, at: datetime) -> str:
        """A line for people."""
        change = f"{self.was or '-'} -> {self.now or '-'}"
        shown = change if self.kind == "status" else self.now or "none any more"
        return f"{_stamp(at)}  {escaped(self.port):15}  {self.kind:9}  {escaped(shown)}"

    def as_json(self, at: datetime) -> str:
        """A line for a program: one JSON object."""
        found = {"time": _stamp(at), "port": self.port, "event": self.kind}
        return json.dumps({**found, "was": self.was, "now": self.now})


def _stamp(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_KINDS = {"status": status.STATUS, "error": status.ERROR, "announced": status.ANNOUNCED}


def changes(before: Rows, after: Rows) -> Iterator[RowChange]:
    """Compare rows, port by port in the order of their names."""
    for port in sorted(before.keys() | after.keys()):
        had, has = before.get(port, {}), after.get(port, {})
        for kind, key in _KINDS.items():
            was, now = had.get(key, ""), has.get(key, "")
            if was != now:
                yield RowChange(port, kind, was, now)


class Follower:
    """The status keys of all ports in a database. It connects again by itself."""

    def __init__(self, database: str) -> None:
        schema = ovs.db.idl.SchemaHelper(schema_json=_SCHEMA)
        schema.register_columns("Interface", list(_COLUMNS))
        self._idl = ovs.db.idl.Idl(database, schema, leader_only=False)
        self._seen = self._idl.change_seqno

    @property
    def has_read(self) -> bool:
        """Whether the database has ever been read."""
        return bool(self._idl.has_ever_connected())

    def run(self) -> bool:
        """Take what has come; return whether the rows may be others."""
        self._idl.run()
        before, self._seen = self._seen, self._idl.change_seqno
        return before != self._seen and self.has_read

    def rows(self) -> dict[str, dict[str, str]]:
        """The rows of ours."""
        found = {}
        for row in self._idl.tables["Interface"].rows.values():
            keys = {key: row.external_ids.get(key, "") for key in _KINDS.values()}
            if any(keys.values()):
                found[row.name] = keys
        return found

    def wait(self, seconds: float | None) -> None:
        """Sleep until something has come, or for so long."""
        poller = ovs.poller.Poller()
        self._idl.wait(poller)
        if seconds is not None:
            poller.timer_wait(max(0, math.ceil(seconds * 1e3)))
        poller.block()

    def close(self) -> None:
        """Leave the database."""
        self._idl.close()


def follow(
    follower: Follower, ports: Collection[str], clock: Callable[[], float]
) -> Iterator[RowChange]:
    """All changes of `ports`, or of all ports where there are none, without end.

    It begins with the ports that there are. While the database is away nothing comes; what has
    changed meanwhile comes then. Raises WatchError when it does not answer at first.
    """
    before: Rows = {}
    deadline = clock() + PATIENCE
    while True:
        if follower.run():
            rows = follower.rows().items()
            after = {name: keys for name, keys in rows if not ports or name in ports}
            yield from changes(before, after)
            before = after
        if follower.has_read:
            follower.wait(None)
        elif (left := deadline - clock()) > 0:
            follower.wait(left)
        else:
            raise WatchError("the database does not answer; does ovsdb-server run?")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    rundir = dirs.set_up()
    made = argparse.ArgumentParser(
        prog=f"{dirs.PROGRAM} watch",
        description="Print a line for each change of a port's status, error or last announcement, "
        "beginning with the ports that there are, until Ctrl-C.",
    )
    made.add_argument("ports", nargs="*", metavar="PORT", help="only these (default: all)")
    add_format(made, "a line to read, or a JSON object a line")
    made.add_argument(
        "--db",
        metavar="DATABASE",
        default=f"unix:{rundir}/db.sock",
        help="the switch's database (default: %(default)s)",
    )
    return made


def main(argv: Sequence[str]) -> int:
    """Print changes until it is interrupted; raises WatchError."""
    args = parser().parse_args(argv)
    follower = Follower(args.db)
    try:
        for change in follow(follower, args.ports, time.monotonic):
            at = datetime.now(UTC)
            print(change.as_json(at) if args.format == "json" else change.as_text(at), flush=True)
    except KeyboardInterrupt:
        print(file=sys.stderr)
    finally:
        follower.close()
    return 0
