# SPDX-License-Identifier: Apache-2.0
"""docs/configuration.md has each key of the database that the code knows, and no other."""

import re

import pytest
from support.checkout import TOP

from ovs_vhost_plugin import cli
from ovs_vhost_plugin.daemon import status
from ovs_vhost_plugin.daemon.ovsdb import database

PAGE = (TOP / "docs/configuration.md").read_text()
PARTS = [TOP / "ovs_vhost_plugin" / part for part in ("announce", "daemon")]

# A key of ours as the code has it: a literal, or one with a number in it (vhost-user-vring-N-size).
_KEY = re.compile(r"\"(vhost-(?:server|sock|user)-[a-z-]+[a-z](?:-\{\w+\}-size)?)\"")


def in_code() -> set[str]:
    text = "".join(path.read_text() for part in PARTS for path in part.rglob("*.py"))
    return {re.sub(r"\{\w+\}", "N", key) for key in _KEY.findall(text)}


def in_tables() -> set[str]:
    cells = re.findall(r"^\| (?:Interface|Open_vSwitch) \| `([^`]+)`", PAGE, re.MULTILINE)
    return {cell.rpartition(":")[2] for cell in cells}


def test_the_tables_have_the_keys_of_the_code() -> None:
    assert len(in_code()) > 20
    tables = in_tables()
    assert in_code() - tables == set()
    others = {"attached-mac", "mtu_request", "userspace-tso-enable", "iface_types"}
    assert tables - in_code() == others


def test_each_key_that_is_published_is_in_the_second_table() -> None:
    written = PAGE.partition("## Keys that the daemon writes")[2].partition("\n## ")[0]
    keys = {key.replace("N", "0") for key in re.findall(r"`external_ids:([\w-]+)`", written)}
    assert {key for key in keys if status._OURS.fullmatch(key)} == keys - {"vhost-user-dpdk-type"}


@pytest.mark.parametrize(
    ("table", "column"), [(table, c) for table, found in database._COLUMNS.items() for c in found]
)
def test_each_column_that_is_read_is_named(table: str, column: str) -> None:
    structure = {"name", "ports", "bridges", "interfaces", "type", "options"}
    assert column in structure or re.search(rf"`(?:\w+:)?{column}\b", PAGE)


def test_each_command_is_named() -> None:
    assert [name for name in cli.COMMANDS if f"ovs-vhost {name}" not in PAGE] == []
