# SPDX-License-Identifier: Apache-2.0
"""Rows → PortSpec or a named error."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.daemon.rows import RUNDIR, bridge, interface, parse, port, server, switch

from ovs_vhost_plugin.announce.policy import Policy
from ovs_vhost_plugin.daemon.ovsdb import interface_rows as rows
from ovs_vhost_plugin.daemon.ovsdb import port_rows
from ovs_vhost_plugin.daemon.ovsdb.carriage import Trouble
from ovs_vhost_plugin.daemon.ovsdb.row_values import RowError
from ovs_vhost_plugin.daemon.ovsdb.switch_row import parse_switch
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode


def error_of(row: Any, **others: Any) -> str:
    with pytest.raises(RowError) as caught:
        parse(row, **others)
    # Each says what to do, in a line that fits a log.
    assert len(str(caught.value)) < 200 and ": " in str(caught.value)
    return caught.value.name.value


def test_a_client_port() -> None:
    spec = parse(
        interface(
            external_ids={"attached-mac": "52:54:00:00:00:01", "vhost-user-announce": "off"},
            mtu_request=[9000],
        ),
        port=port(tag=[10], trunks=[30, 20]),
    )
    assert spec == rows.PortSpec(
        name="vhu0",
        bridge="br0",
        ofport=3,
        mode="client",
        path="/run/vm.sock",
        queues=128,
        settings=PortSettings(mtu=9000, finish_offloads=True, hold=True),
        vlan=PortVlan(VlanMode.ACCESS, 10, frozenset({20, 30})),
        userspace=True,
        announce=Policy(enabled=False),
        attached_mac="52:54:00:00:00:01",
        members=(3,),
        mates=(3,),
    )


def test_what_a_port_works_without_is_a_slip_and_no_error() -> None:
    keys = {
        "vhost-user-announce": "frames=rarp,smoke",
        "vhost-user-addresses": "52:54:00:00:00:01 192.0.2.1; 52:54",
        "attached-mac": "52:54",
    }
    spec = parse(interface(external_ids=keys))
    assert (spec.announce, spec.addresses) == (Policy(), ())
    mac, first, second = spec.warning.split("; ", 2)
    assert mac.startswith("attached-mac-invalid: external_ids:attached-mac: ")
    assert first.startswith("announce-frames-unknown: external_ids:vhost-user-announce: 'smoke'")
    assert second.startswith("addresses-mac-invalid: external_ids:vhost-user-addresses: '52:54'")
    assert parse(interface(external_ids=keys), formats=["smoke"]).announce.frames[1] == "smoke"


def test_addresses_and_vlans_are_passed_on() -> None:
    keys = {"vhost-user-addresses": "52:54:00:00:00:01 vlan=7 192.0.2.1"}
    row = port(tag=[10], trunks=[7], vlan_mode=["native-untagged"])
    spec = parse(interface(external_ids=keys), port=row)
    assert spec.vlan == PortVlan(VlanMode.NATIVE_UNTAGGED, 10, frozenset({7}))
    assert spec.addresses == (Station(bytes.fromhex("525400000001"), 7, (b"\xc0\0\2\1",)),)


def test_a_server_port_listens_where_ovs_dpdk_would() -> None:
    assert parse(server()).path == "/run/ovs/vhu0"
    assert parse(server(), switch=switch(vhost_sock_dir="vhost/a")).path == "/run/ovs/vhost/a/vhu0"
    assert parse(server(), switch=switch(vhost_sock_dir="/vhost")).path == "/run/ovs/vhost/vhu0"
    assert parse(server(), switch=switch(vhost_sock_dir="/X/a")).path == "/run/ovs/X/a/vhu0"


def test_the_switch_names_its_run_directory() -> None:
    row = SimpleNamespace(
        bridges=[],
        ovs_version=[],
        external_ids={"rundir": "/x"},
        other_config={},
        iface_types=[],
    )
    assert parse_switch(row, RUNDIR).rundir == "/x"
    row.external_ids["rundir"] = "relative"
    assert parse_switch(row, RUNDIR).rundir == RUNDIR


@pytest.mark.parametrize(
    ("columns", "datapath", "version", "why"),
    [
        ({}, "netdev", "<built-in>", ""),
        ({}, "system", "<unknown>", ""),
        ({}, "", "6.1.0", ""),
        ({}, "netdev", "", ""),  # a switch that is too old to say
        ({"ofport": []}, "netdev", "<built-in>", "has given the port no number"),
        ({"ofport": [-1]}, "netdev", "<built-in>", "has given the port no number"),
        ({"error": ["could not open\n"], "ofport": [-1]}, "netdev", "", "could not open\\n"),
        # what the row says of the bridge is of before it was given another type
        ({}, "system", "<built-in>", "datapath_type=system"),
        ({}, "", "<built-in>", "datapath_type=system"),
        ({}, "netdev", "<unknown>", "datapath_type=netdev"),
    ],
)
def test_whether_the_bridge_carries_a_port(
    columns: dict[str, Any], datapath: str, version: str, why: str
) -> None:
    row = bridge(datapath)
    row.datapath_version = version
    troubles = parse(interface(**columns), bridge=row).troubles
    uncarried = troubles.get(Trouble.CANNOT_CARRY, "")
    assert why in uncarried and bool(why) == bool(uncarried) and len(uncarried) < 200


@pytest.mark.parametrize(
    ("request_", "has", "offered", "wrong"),
    [
        ([], [1500], None, ""),
        ([9000], [9000], 9000, ""),
        ([9000], [], 9000, ""),  # ovs-vswitchd has not opened the tap, which will take it
        ([9000], [1500], 1500, "mtu_request=9000: a tap takes 65521 at most; offered is 1500"),
        ([65535], [1500], 1500, "mtu_request=65535: a tap takes 65521 at most; offered is 1500"),
        ([65535], [], None, "mtu_request=65535: a tap takes 65521 at most; offered is no MTU"),
        ([65521], [65521], 65521, ""),
    ],
)
def test_the_guest_is_offered_the_mtu_that_the_tap_has(
    request_: list[int], has: list[int], offered: int | None, wrong: str
) -> None:
    spec = parse(interface(mtu_request=request_, mtu=has))
    assert spec.settings.mtu == offered
    trouble = spec.troubles.get(Trouble.MTU_NOT_TAKEN, "")
    assert trouble.startswith(wrong) and bool(wrong) == bool(trouble)


@pytest.mark.parametrize(
    ("columns", "tag"),
    [
        ({"tag": [7]}, 7),
        ({"tag": [7], "vlan_mode": ["access"]}, 7),
        ({"tag": [7], "vlan_mode": ["native-untagged"]}, 7),
        ({"tag": [7], "vlan_mode": ["trunk"]}, 0),
        ({"trunks": [7]}, 0),
    ],
)
def test_the_vlan_of_untagged_frames(columns: dict[str, Any], tag: int) -> None:
    assert parse(interface(), port=port(**columns)).vlan.tag == tag


@pytest.mark.parametrize("ofport", [[], [-1], [0]])
def test_no_ofport_yet(ofport: list[int]) -> None:
    assert parse(interface(ofport=ofport)).ofport is None


def test_queues_are_limited_by_the_row_alone() -> None:
    assert parse(interface()).queues == 128
    assert parse(interface(external_ids={"vhost-user-queues": "3"})).queues == 3


def test_whose_rows() -> None:
    assert rows.is_ours(interface())
    assert rows.is_ours(server())
    assert not rows.is_ours(interface(options={}))
    assert not rows.is_ours(interface(type="dpdkvhostuserclient"))
    assert not rows.is_ours(interface(type="internal"))


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (interface("sixteen-bytes-xy"), "name-too-long"),
        (interface("ünïcödé-näme"), "name-too-long"),
        (interface("ü"), "name-invalid"),
        (interface(""), "name-invalid"),
        (interface("."), "name-invalid"),
        (interface(".."), "name-invalid"),
        (interface("all"), "name-invalid"),
        (interface("default"), "name-invalid"),
        (interface("a/b"), "name-invalid"),
        (interface("a:b"), "name-invalid"),
        (interface("a b"), "name-invalid"),
        (interface("tap%d"), "name-invalid"),
        (interface("a\n"), "name-invalid"),
        (server("../x"), "name-invalid"),
        (interface(external_ids={"vhost-user-mode": "Server"}), "mode-unknown"),
        (interface(external_ids={"vhost-user-mode": ""}), "mode-unknown"),
        (interface(external_ids={"vhost-user-mode": "server"}), "path-unexpected"),
        (interface(options={}, external_ids={"vhost-user-mode": "client"}), "path-missing"),
        (interface(options={"vhost-server-path": ""}), "path-missing"),
        (interface(options={"vhost-server-path": "vm.sock"}), "path-relative"),
        (interface(options={"vhost-server-path": "/a\0b"}), "path-invalid"),
        (interface(options={"vhost-server-path": "/a\nb"}), "path-invalid"),
        (interface(options={"vhost-server-path": "/" + 256 * "x"}), "path-too-long"),
        (interface(options={"vhost-server-path": "/" + 128 * "ü"}), "path-too-long"),
        (interface(options={"vhost-server-path": 2048 * "/x"}), "path-too-long"),
        (interface(options={}, external_ids={"vhost-user-path": "vm.sock"}), "path-relative"),
        (interface(options={}, external_ids={"vhost-user-path": ""}), "path-missing"),
        (interface(external_ids={"vhost-user-path": "/other"}), "path-unexpected"),
        (
            interface(
                options={}, external_ids={"vhost-user-path": "/x", "vhost-user-mode": "server"}
            ),
            "path-unexpected",
        ),
        *(
            (interface(external_ids={"vhost-user-queues": text}), "queues-invalid")
            for text in ("", "0", "129", "-1", "1.5", " 2", "0x2", "٣", "many", "1000", "1\n")
        ),
        (interface(mtu_request=[67]), "mtu-out-of-range"),
        (interface(mtu_request=[65536]), "mtu-out-of-range"),
    ],
)
def test_wrong_rows(row: Any, error: str) -> None:
    assert error_of(row) == error


def test_errors_of_other_rows_say_where_to_mend_them() -> None:
    with pytest.raises(RowError) as caught:
        parse(server(), switch=switch(vhost_sock_dir=".."))
    assert str(caught.value) == (
        "sock-dir-invalid: set Open_vSwitch other_config:vhost-sock-dir to a directory without '..'"
    )
    named = bridge()
    named.name = "br\n0"
    with pytest.raises(RowError) as caught:
        parse(interface(), bridge=named)
    assert str(caught.value) == (
        "bridge-name-invalid: the bridge's name has characters not printable"
    )


@pytest.mark.parametrize("options", [{}, {"vhost-server-path": "/run/a"}])
def test_the_path_may_be_given_without_an_option(options: dict[str, str]) -> None:
    row = interface(options=options, external_ids={"vhost-user-path": "/run/a"})
    assert rows.is_ours(row)
    spec = parse(row)
    assert (spec.mode, spec.path) == ("client", "/run/a")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            interface("all"),
            "name-invalid: no network interface may have this name; "
            "use letters, digits and '.', '_', '-' (not 'all' or 'default')",
        ),
        (
            interface(options={"vhost-server-path": "/run/a\nb"}),
            "path-invalid: the socket's path has characters not printable",
        ),
    ],
)
def test_an_error_says_what_to_do(row: Any, text: str) -> None:
    with pytest.raises(RowError) as caught:
        parse(row)
    assert str(caught.value) == text


def test_the_longest_that_fits_is_taken() -> None:
    assert parse(interface("fifteen-bytes-x")).name == "fifteen-bytes-x"
    for path in ("/" + 255 * "x", 2047 * "/x", 2047 * "/x" + "y"):
        assert parse(interface(options={"vhost-server-path": path})).path == path
    assert parse(interface(external_ids={"vhost-user-queues": "128"})).queues == 128


def test_the_least_that_is_allowed_is_taken() -> None:
    assert parse(interface(external_ids={"vhost-user-queues": "1"})).queues == 1
    assert parse(interface(mtu_request=[68], mtu=[68])).settings.mtu == 68


def test_a_bonds_mode_a_spanning_tree_and_snooping_are_passed_on() -> None:
    spec = parse(interface(ofport=[1]))
    assert (spec.ofport, spec.slb, spec.hindered, spec.snoops) == (1, False, "", False)
    assert spec.attached_mac == ""
    bond = port(
        interfaces=[interface(), interface("eth0")],
        bond_mode=["balance-slb"],
        status={"stp_state": "listening"},
    )
    snooping = SimpleNamespace(**{**vars(bridge()), "mcast_snooping_enable": True})
    spec = parse(interface(), port=bond, bridge=snooping)
    assert (spec.slb, spec.hindered, spec.snoops) == (True, "STP: listening", True)


def test_a_switch_says_its_interface_types_and_its_run_directory() -> None:
    assert switch().iface_types == {"system", "internal"}
    assert switch().rundir == RUNDIR


def test_a_bridge_whose_name_cannot_be_shown_is_refused() -> None:
    named = SimpleNamespace(**{**vars(bridge()), "name": "br\n0"})
    assert error_of(interface(), bridge=named) == "bridge-name-invalid"


@pytest.mark.parametrize("directory", ["..", "a/../..", "/..", "a/.."])
def test_a_socket_directory_outside_is_refused(directory: str) -> None:
    assert error_of(server(), switch=switch(vhost_sock_dir=directory)) == "sock-dir-invalid"


def test_a_long_socket_directory_is_refused() -> None:
    assert error_of(server(), switch=switch(vhost_sock_dir="x" * 256)) == "path-too-long"


def test_the_owner_of_the_socket_is_taken_as_it_is_written() -> None:
    keys = {"vhost-user-socket-owner": "libvirt-qemu"}
    assert parse(interface(external_ids=keys)).socket_owner == "libvirt-qemu"
    assert parse(interface()).socket_owner == ""


def test_the_socket_directory_does_not_concern_client_ports() -> None:
    assert parse(interface(), switch=switch(vhost_sock_dir="..")).path == "/run/vm.sock"


TEXT = st.text(max_size=130)


@given(TEXT, TEXT, TEXT, TEXT, st.integers(-(2**63), 2**63 - 1), TEXT)
def test_any_row_is_a_port_or_a_named_error(
    name: str, mode: str, path: str, queues: str, mtu: int, directory: str
) -> None:
    for given_mode in (mode, "server", "client"):
        row = interface(
            name,
            options={"vhost-server-path": path} if path else {},
            external_ids={"vhost-user-mode": given_mode, "vhost-user-queues": queues},
            mtu_request=[mtu],
        )
        try:
            spec = parse(row, switch=switch(vhost_sock_dir=directory))
        except RowError as error:
            assert error.name in rows.RowErrorName
        else:
            assert 1 <= spec.queues <= 128 and len(spec.path.encode()) <= 107
            assert "/" not in spec.name and ".." not in spec.name.split("/")


@pytest.mark.parametrize(
    ("announce", "fail_mode", "holds"),
    [
        ("", (), True),
        ("", ("standalone",), True),
        ("", ("secure",), False),
        ("hold=off", (), False),
        ("rounds=5 hold=off", (), False),
        ("hold=on", (), True),
    ],
)
def test_where_frames_are_held(announce: str, fail_mode: tuple[str, ...], holds: bool) -> None:
    row = interface(external_ids={"vhost-user-announce": announce})
    assert parse(row, bridge=bridge(fail_mode=fail_mode)).settings.hold is holds


@pytest.mark.parametrize(
    ("everywhere", "announce", "moves"),
    [
        (None, "", False),
        (None, "state=on", True),
        ("true", "", True),
        ("true", "off", True),
        ("true", "state=off", False),
        ("false", "state=on", True),
        ("true", "frames=smoke", True),
    ],
)
def test_where_the_state_of_a_guest_moves_with_it(
    everywhere: str | None, announce: str, moves: bool
) -> None:
    """As the row says, else the database."""
    config = {} if everywhere is None else {"vhost_user_device_state": everywhere}
    row = interface(external_ids={"vhost-user-announce": announce})
    assert parse(row, switch=switch(**config)).settings.state is moves


@pytest.mark.parametrize(
    ("keys", "ovn"),
    [
        ({}, False),
        ({"iface-id": "port"}, False),
        ({"iface-id": "port", "ovn-installed": "true"}, True),
        ({"iface-id": "port", "ovn-installed": "false"}, False),
    ],
)
def test_which_ports_are_ovns(keys: dict[str, str], ovn: bool) -> None:
    """An iface-id alone is also what other controllers' ports have."""
    assert parse(interface(external_ids=keys)).ovn is ovn


TUNNEL = {"tag": [7], "vlan_mode": ["dot1q-tunnel"]}


@pytest.mark.parametrize(
    ("columns", "vlan"),
    [
        ({}, PortVlan()),
        ({"tag": [7]}, PortVlan(VlanMode.ACCESS, 7)),
        ({"tag": [0]}, PortVlan(VlanMode.ACCESS, 0)),
        ({"tag": [7], "vlan_mode": ["trunk"]}, PortVlan(VlanMode.TRUNK)),
        ({"tag": [7], "vlan_mode": ["native-untagged"]}, PortVlan(VlanMode.NATIVE_UNTAGGED, 7)),
        ({"interfaces": [interface("a"), interface("b")]}, PortVlan(bond=True)),
        (TUNNEL, PortVlan(VlanMode.DOT1Q_TUNNEL, 7, tpid=b"\x88\xa8")),
        (
            {**TUNNEL, "cvlans": [20], "other_config": {"qinq-ethtype": "802.1q"}},
            PortVlan(VlanMode.DOT1Q_TUNNEL, 7, cvlans=frozenset({20}), tpid=b"\x81\0"),
        ),
    ],
)
def test_what_a_port_does_with_vlans(columns: dict[str, Any], vlan: PortVlan) -> None:
    assert port_rows.parse_vlan(port(**columns)) == vlan


def test_the_members_of_a_bond_are_one_place() -> None:
    spec = parse(
        interface(ofport=[4]),
        port=port(
            interfaces=[
                interface(ofport=[4]),
                interface(ofport=[3]),
                interface(ofport=[]),
                interface(ofport=[0]),
                interface(ofport=[1]),
                interface("eth0", options={}, ofport=[5]),
            ]
        ),
    )
    assert (spec.ofport, spec.members, spec.mates) == (4, (1, 3, 4, 5), (1, 3, 4))


@pytest.mark.parametrize(
    ("mode", "count", "slb"),
    [
        (["balance-slb"], 2, True),
        (["balance-slb"], 1, False),
        (["balance-tcp"], 2, False),
        ([], 2, False),
    ],
)
def test_which_port_is_in_a_balance_slb_bond(mode: list[str], count: int, slb: bool) -> None:
    assert port_rows.is_slb(port(bond_mode=mode, interfaces=[interface()] * count)) is slb


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({}, ""),
        ({"rstp_status": {"rstp_port_state": "Forwarding"}}, ""),
        ({"rstp_status": {"rstp_port_state": "Discarding"}}, "RSTP: Discarding"),
        ({"status": {"stp_state": "forwarding", "stp_sec_in_state": "3"}}, ""),
        ({"status": {"stp_state": "listening", "stp_sec_in_state": "3"}}, "STP: listening"),
        ({"status": {"stp_state": "x\n"}}, "STP: x\\n"),
    ],
)
def test_a_spanning_tree_keeps_a_port_from_forwarding(columns: dict[str, Any], why: str) -> None:
    assert port_rows.hindered(port(**columns)) == why
