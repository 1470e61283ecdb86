# SPDX-License-Identifier: Apache-2.0
"""The database with a mocked Idl: who may act, what is read, what is written and when."""

from types import SimpleNamespace
from typing import Any

import ovs.db.idl
import pytest
from support.daemon.idl import BRIDGE, Row, interface, read_all, tables
from support.daemon.rows import PORT

from ovs_vhost_plugin.daemon.ovsdb import database as ovsdb
from ovs_vhost_plugin.daemon.ovsdb.database import LOCK, Database, Standing

NOW = 10.0


class FakeIdl:
    IDL_S_MONITORING = 6

    def __init__(self, remote: str, schema: Any, leader_only: bool) -> None:
        self.schema = schema.get_idl_schema()
        self.tables = tables()
        self.state = 0
        self.change_seqno = 0
        self.has_lock = self.is_lock_contended = self.connected = False
        self.lock_name: str | None = None
        self.wakes: list[int] = []
        self._session = SimpleNamespace(is_connected=lambda: self.connected)

    def set_lock(self, name: str) -> None:
        self.lock_name = name

    def session_name(self) -> str:
        return "fake"

    def run(self) -> None:
        pass

    def wait(self, poller: Any) -> None:
        pass

    def connect(self, *, lock: bool) -> None:
        self.connected, self.state = True, self.IDL_S_MONITORING
        self.has_lock, self.is_lock_contended = lock, not lock
        self.change_seqno += 1


class FakeTransaction:
    INCOMPLETE, SUCCESS, UNCHANGED, TRY_AGAIN = "incomplete", "success", "unchanged", "try again"
    made: "list[FakeTransaction]"

    def __init__(self, idl: Any) -> None:
        self.status = self.INCOMPLETE
        self.commits = 0
        FakeTransaction.made.append(self)

    def commit(self) -> str:
        self.commits += 1
        return self.status

    def commit_block(self) -> None:
        raise AssertionError("the loop must not block")

    @staticmethod
    def status_to_string(status: str) -> str:
        return status

    def get_error(self) -> str | None:
        return None


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    FakeTransaction.made = []
    monkeypatch.setattr(ovs.db.idl, "Transaction", FakeTransaction)
    return Database("unix:x", "/run/ovs", FakeIdl)


def idl(database: Database) -> FakeIdl:
    found: FakeIdl = database._idl
    return found


def test_only_what_is_read_is_replicated_and_the_lock_is_asked_for(database: Database) -> None:
    schema = idl(database).schema
    assert set(schema.tables) == {"Open_vSwitch", "Bridge", "Port", "Interface"}
    assert "statistics" not in schema.tables["Interface"].columns
    assert idl(database).lock_name == LOCK == "ovs_vhost_plugin"


def test_the_columns_suit_the_real_idl() -> None:
    real = Database("unix:/nonexistent/db.sock", "/run/ovs")
    assert real.standing is Standing.WAITING
    real.close()


def test_who_may_act(database: Database) -> None:
    assert database.standing is Standing.WAITING
    idl(database).connect(lock=False)
    assert database.standing is Standing.CONTENDED
    idl(database).connect(lock=True)
    assert database.standing is Standing.ACTIVE
    idl(database).connected = False
    assert database.standing is Standing.WAITING
    # Connected again, and the server has not yet said who has the lock.
    idl(database).connected, idl(database).has_lock = True, False
    assert database.standing is Standing.WAITING


def test_a_standing_is_told_once(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(ovsdb.vlog, "info", told.append)
    idl(database).connect(lock=False)
    for _ in range(3):
        database.run(NOW)
    assert told == ["fake: another daemon serves this database"]


def test_all_rows_are_read(database: Database) -> None:
    ours = interface("vhu0", options={"vhost-server-path": "/run/vm.sock"})
    wrong = interface("vhu1", external_ids={"vhost-user-mode": "?"})
    theirs = interface("eth0", external_ids={"iface-id": "x"})
    dpdk = interface("vhu2", type="dpdkvhostuser")
    idl(database).tables = tables(ours, wrong, theirs, dpdk)
    idl(database).connect(lock=True)

    snapshot = database.snapshot()

    assert snapshot is not None
    assert list(snapshot.ports) == ["vhu0"] and snapshot.ports["vhu0"].bridge == "br0"
    assert {name: error.name for name, error in snapshot.errors.items()} == {"vhu1": "mode-unknown"}
    assert not snapshot.adopted
    assert snapshot.keys["eth0"] == {"iface-id": "x"}
    assert database.snapshot() is snapshot
    idl(database).change_seqno += 1
    assert database.snapshot() is not snapshot


def test_a_row_of_ovs_dpdk_is_a_port_from_the_first_look_at_it() -> None:
    dpdk = interface("vhu2", type="dpdkvhostuser", mtu_request=[2000])
    snapshot = read_all(tables(dpdk), "/run/ovs", adopts=True)
    assert snapshot is not None
    port = snapshot.ports["vhu2"]
    assert (port.mode, port.settings.mtu) == ("server", 2000)
    assert list(snapshot.adopted) == ["vhu2"]
    assert dpdk.type == "dpdkvhostuser" and snapshot.keys["vhu2"] == {}

    own = tables(dpdk, iface_types=("system", "dpdk", "dpdkvhostuser"))
    snapshot = read_all(own, "/run/ovs", adopts=True)
    assert snapshot is not None and not snapshot.ports and not snapshot.adopted


def test_there_is_nothing_to_read_before_ovs_vswitchd_made_its_row(database: Database) -> None:
    idl(database).tables["Open_vSwitch"].rows.clear()
    idl(database).connect(lock=True)
    assert database.snapshot() is None


def test_keys_are_written_one_by_one_and_others_left_alone(database: Database) -> None:
    one, other = interface("vhu0"), interface("eth0")
    idl(database).tables = tables(one, other)
    idl(database).connect(lock=True)
    database.snapshot()

    database.write(
        {"vhu0": {"vhost-user-status": "running", "vhost-user-error": None}}, frozenset()
    )

    assert one.written == [
        ("set", "external_ids", "vhost-user-status", "running"),
        ("delete", "external_ids", "vhost-user-error"),
    ]
    assert other.written == []


def test_a_type_is_cleared_only_if_it_is_still_what_was_read(database: Database) -> None:
    row = interface("vhu0", type="dpdkvhostuser")
    idl(database).tables = tables(row)
    idl(database).connect(lock=True)
    database.snapshot()
    database.write({"vhu0": {}}, frozenset({"vhu0"}))
    assert row.written == [("verify", "type")] and row.type == ""


def test_interface_types_are_added_and_taken_out_one_by_one(database: Database) -> None:
    (switch,) = idl(database).tables["Open_vSwitch"].rows.values()
    assert database.iface_types == {"system"} and not database.tells_types
    database.adopts = True
    assert database.tells_types
    switch.external_ids = {"vhost-user-iface-types": "false"}
    assert not database.tells_types
    database.write({}, frozenset(), {"dpdkvhostuser": True, "dpdkvhostuserclient": False})
    assert switch.written == [
        ("add", "iface_types", "dpdkvhostuser"),
        ("take", "iface_types", "dpdkvhostuserclient"),
    ]


def test_one_transaction_at_a_time(database: Database) -> None:
    database.write({}, frozenset())
    (transaction,) = FakeTransaction.made
    database.run(NOW)
    assert not database.writable(NOW)

    transaction.status = transaction.SUCCESS
    database.run(NOW)

    assert database.writable(NOW)


def test_a_refusal_is_tried_again_after_a_while(database: Database) -> None:
    database.write({}, frozenset())
    FakeTransaction.made[0].status = FakeTransaction.TRY_AGAIN
    database.run(NOW)

    assert not database.writable(NOW)
    assert database.get_timer() == NOW + 1
    assert database.writable(NOW + 1)
    database.run(NOW + 1)
    assert database.get_timer() is None, "the loop would not sleep"


def two_bridges(*interfaces: tuple[str, Row]) -> dict[str, Any]:
    """Tables with each interface on the bridge that it comes with."""
    found = tables(*(row for _, row in interfaces))
    (switch,) = found["Open_vSwitch"].rows.values()
    switch.bridges = [
        Row(
            name=bridge,
            **BRIDGE,
            ports=[Row(interfaces=[row], **PORT) for name, row in interfaces if name == bridge],
        )
        for bridge in ("br0", "br1")
    ]
    return found


def ours(name: str, ofport: int) -> Row:
    return interface(name, options={"vhost-server-path": "/x"}, ofport=[ofport])


def test_a_number_that_two_ports_of_a_bridge_have_is_not_believed() -> None:
    """A port that was just moved to a bridge has its old number, which may be another's there."""
    other = interface("eth0", ofport=[1])
    snapshot = read_all(two_bridges(("br0", ours("vhu0", 1)), ("br1", other)), "/run/ovs")
    assert snapshot is not None and snapshot.ports["vhu0"].ofport == 1
    snapshot = read_all(two_bridges(("br1", ours("vhu0", 1)), ("br1", other)), "/run/ovs")
    assert snapshot is not None and snapshot.ports["vhu0"].ofport is None


def test_the_bridges_own_macs_are_those_of_its_internal_ports() -> None:
    local = interface("br0", type="internal", mac_in_use=["52:54:00:00:00:09"])
    uplink = interface("eth0", mac_in_use=["52:54:00:00:00:08"])
    snapshot = read_all(two_bridges(("br0", local), ("br0", uplink)), "/run/ovs")
    assert snapshot is not None and snapshot.own_macs == {"br0": {"52:54:00:00:00:09"}}


def test_warnings_are_complaints_of_ports_that_work() -> None:
    row = ours("vhu0", 1)
    row.external_ids = {"vhost-user-announce": "frames=smoke"}
    bad = interface("vhu1", external_ids={"vhost-user-mode": "sometimes"})
    snapshot = read_all(two_bridges(("br0", row), ("br0", bad)), "/run/ovs")
    assert snapshot is not None and list(snapshot.ports) == ["vhu0"]
    assert sorted(snapshot.complaints) == ["vhu0", "vhu1"]
    assert snapshot.complaints["vhu0"].startswith("announce-frames-unknown: ")
    snapshot = read_all(two_bridges(("br0", row)), "/run/ovs", ["smoke"])
    assert snapshot is not None and not snapshot.complaints


def test_rows_that_changed_are_read_alone_and_all_after_a_reconnection(database: Database) -> None:
    one, gone = ours("vhu0", 1), ours("vhu1", 2)
    gone.options = {"vhost-server-path": "/y"}
    found = idl(database)
    found.tables = two_bridges(("br0", one), ("br0", gone))
    found.connect(lock=True)
    assert database.snapshot() is not None
    one.external_ids = {"a": "b"}
    found.notify("update", one)
    found.change_seqno += 1
    snapshot = database.snapshot()
    assert snapshot is not None and snapshot.changed == {"vhu0"}

    found.state = 0  # as while the Idl connects anew
    database.run(NOW)
    found.state = FakeIdl.IDL_S_MONITORING
    (switch,) = found.tables["Open_vSwitch"].rows.values()
    bridge = switch.bridges[0]
    bridge.ports = bridge.ports[:1]  # of which there is no notice
    found.notify("create", one)
    found.change_seqno += 1
    database.run(NOW)
    snapshot = database.snapshot()
    assert snapshot is not None and snapshot.changed is None and list(snapshot.ports) == ["vhu0"]
