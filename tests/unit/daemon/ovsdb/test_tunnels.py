# SPDX-License-Identifier: Apache-2.0
"""Which bridges lead into tunnels that drop what is unfinished."""

from types import SimpleNamespace
from typing import Any

import pytest

from ovs_vhost_plugin.daemon.ovsdb.tunnels import is_wire, lead_into_tunnels, version_of


def bridge(name: str, *interfaces: tuple[str, str], peer: str = "") -> Any:
    """A bridge whose ports are (name, type); patch ports have the peer `peer`."""
    rows = [SimpleNamespace(name=n, type=t, options={"peer": peer}) for n, t in interfaces]
    return SimpleNamespace(name=name, ports=[SimpleNamespace(interfaces=[row]) for row in rows])


@pytest.mark.parametrize(
    ("kind", "version", "drops"),
    [
        ("vxlan", "3.1.0", True),
        ("geneve", "3.4.2", True),
        ("vxlan", "3.5.0", False),
        ("gre", "3.5.0-1ubuntu", False),
        ("ip6gre", "4.0.0", False),
        ("erspan", "4.0.0", True),
        ("gtpu", "3.10.1", True),
        ("geneve", "3.10.1", False),
        ("vxlan", "", True),  # who does not say is taken for an old one
        ("", "3.1.0", False),
        ("internal", "3.1.0", False),
        ("patch", "3.1.0", False),
        ("dpdk", "3.1.0", False),
    ],
)
def test_which_tunnels_drop(kind: str, version: str, drops: bool) -> None:
    found = lead_into_tunnels([bridge("br0", ("x", kind))], version_of(version))
    assert found == ({"br0"} if drops else set())


def test_patch_ports_lead_to_other_bridges_tunnels() -> None:
    rows = [
        bridge("inner", ("a", "patch"), peer="b"),
        bridge("middle", ("b", "patch"), peer="a"),
        bridge("middle2", ("c", "patch"), peer="d"),
        bridge("outer", ("d", "patch"), ("v", "vxlan"), peer="c"),
        bridge("other", ("e", "patch"), peer="no such"),
    ]
    assert lead_into_tunnels(rows, (3, 1)) == {"outer", "middle2"}
    rows[1].ports.append(bridge("", ("m", "patch"), peer="n").ports[0])
    rows[2].ports.append(bridge("", ("n", "patch"), peer="m").ports[0])
    assert lead_into_tunnels(rows, (3, 1)) == {"outer", "middle2", "middle", "inner"}


@pytest.mark.parametrize(
    ("text", "version"),
    [("3.1.0", (3, 1)), ("3.10", (3, 10)), ("", (0, 0)), ("git", (0, 0)), ("99999.1", (0, 0))],
)
def test_versions(text: str, version: tuple[int, int]) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize(
    ("kind", "wire"),
    [("patch", True), ("vxlan", True), ("stt", True), ("", False), ("internal", False)],
)
def test_which_interfaces_count_for_where_bridges_lead(kind: str, wire: bool) -> None:
    assert is_wire(kind) == wire
