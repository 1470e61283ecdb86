# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch: OVSDB and its Python client, when the server goes away and comes back."""

import json
from collections.abc import Callable, Iterator

import ovs.db.idl
import ovs.poller
import pytest

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, scratch_directory
from ovs_vhost_plugin.lab.hosts.switch import SCHEMA, PrivateSwitch

PATIENCE, STEP = 60_000, 20  # milliseconds


class Replica(ovs.db.idl.Idl):
    """A client that keeps what it was told of."""

    def __init__(self, remote: str) -> None:
        schema = ovs.db.idl.SchemaHelper(str(SCHEMA))
        schema.register_columns("Bridge", ["name", "external_ids"])
        super().__init__(remote, schema)
        self.told: list[tuple[str, str]] = []

    def notify(self, event: str, row: ovs.db.idl.Row, updates: object = None) -> None:
        self.told.append((event, row.name))

    def row(self, name: str) -> ovs.db.idl.Row:
        return next(row for row in self.tables["Bridge"].rows.values() if row.name == name)

    def bridges(self) -> set[str]:
        return {row.name for row in self.tables["Bridge"].rows.values()}

    def connected(self) -> bool:
        """The bindings say it of their session alone."""
        return bool(self._session.is_connected())

    def run_until(self, condition: Callable[[], object], what: str) -> None:
        for _ in range(PATIENCE // STEP):
            self.run()
            if condition():
                return
            poller = ovs.poller.Poller()
            self.wait(poller)
            poller.timer_wait(STEP)
            poller.block()
        raise AssertionError(what)


class Server(PrivateSwitch):
    """An ovsdb-server without an ovs-vswitchd."""

    def start_vswitchd(self) -> None:
        """None."""

    def add(self, *bridges: str) -> None:
        for bridge in bridges:
            self.vsctl("--no-wait", "add-br", bridge)


@pytest.fixture
def server(namespace: Namespace) -> Iterator[Server]:
    with Server(namespace, scratch_directory()) as made:
        made.add("br0", "br1")
        yield made


@pytest.fixture
def replica(server: Server) -> Iterator[Replica]:
    made = Replica(server.db)
    made.run_until(lambda: made.bridges() == {"br0", "br1"}, "the first rows")
    yield made
    made.close()


def test_rows_stay_readable_while_the_server_is_away(server: Server, replica: Replica) -> None:
    server.stop_server()
    replica.run_until(lambda: not replica.connected(), "the end of the connection")
    assert replica.bridges() == {"br0", "br1"}


def test_who_comes_back_is_told_of_rows_again_and_not_of_one_that_has_gone(
    server: Server, replica: Replica
) -> None:
    server.stop_server()
    change = ["bridges", "delete", ["uuid", str(replica.row("br1").uuid)]]
    gone = {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [change]}
    words = json.dumps(["Open_vSwitch", gone])
    process.run(["ovsdb-tool", "transact", str(server.database), words])
    replica.run_until(lambda: not replica.connected(), "the end of the connection")
    replica.told.clear()
    server.start_server()
    replica.run_until(lambda: replica.bridges() == {"br0"}, "the rows of now")
    assert (ovs.db.idl.ROW_CREATE, "br0") in replica.told
    assert (ovs.db.idl.ROW_DELETE, "br1") not in replica.told


def test_a_mutation_of_one_key_leaves_what_others_write_meanwhile(
    server: Server, replica: Replica
) -> None:
    """external_ids are written by others too, who may not have seen what we wrote last."""
    row = replica.row("br0")
    server.vsctl("--no-wait", "set", "Bridge", "br0", "external_ids:theirs=1")
    transaction = ovs.db.idl.Transaction(replica)
    row.setkey("external_ids", "ours", "2")
    assert transaction.commit_block() == ovs.db.idl.Transaction.SUCCESS
    kept = server.vsctl("get", "Bridge", "br0", "external_ids")
    assert kept == '{ours="2", theirs="1"}'
