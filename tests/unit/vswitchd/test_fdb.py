# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.vswitchd.fdb import Entry, entries_of, knows, missing, on_port

MAC = bytes.fromhex("525400123456")
TABLE = """\
 port  VLAN  MAC                Age
    1     0  52:54:00:12:34:55   12
    2     0  52:54:00:12:34:56    0
65279   100  52:54:00:12:34:56  299
LOCAL     0  aa:55:aa:55:00:00   60
    3     7  02:00:00:00:00:01  static
"""


def test_only_the_lines_of_the_address_are_read():
    assert entries_of(TABLE, MAC) == [Entry(2, 0, MAC, 0), Entry(65279, 100, MAC, 299)]


def test_a_last_line_may_lack_its_end():
    assert entries_of("    2     0  52:54:00:12:34:56   29", MAC) == [Entry(2, 0, MAC, 29)]


def test_an_address_is_known_in_the_vlans_that_the_table_has_it_in():
    assert [knows(entries_of(TABLE, MAC), vlan) for vlan in (0, 100, 5)] == [True, True, False]


def test_local_port_and_static_entries_are_understood():
    local = bytes.fromhex("aa55aa550000")
    assert entries_of(TABLE, local) == [Entry("LOCAL", 0, local, 60)]
    static = bytes.fromhex("020000000001")
    assert entries_of(TABLE, static) == [Entry(3, 7, static, None)]


@pytest.mark.parametrize(
    ("ofport", "vlan", "reason"),
    [
        (2, 0, None),
        (65279, 100, None),
        (3, 0, "on port 2"),
        (2, 100, "on port 65279"),
        (2, 5, "not in VLAN 5"),
    ],
)
def test_an_address_counts_only_on_its_port_in_its_vlan(ofport, vlan, reason):
    assert missing(entries_of(TABLE, MAC), {ofport}, vlan) == reason


def test_an_address_that_is_nowhere():
    assert missing(entries_of(TABLE, bytes(6)), {2}, 0) == "not in the MAC table"
    assert missing(entries_of("", MAC), {2}, 0) == "not in the MAC table"


LINE = st.tuples(
    st.integers(1, 65279), st.integers(0, 4095), st.binary(min_size=6, max_size=6), st.integers(0)
)


@given(st.lists(LINE))
def test_every_entry_of_a_table_is_found(lines):
    rows = [f"{port:5}  {vlan:4}  {mac.hex(':')}  {age:3}\n" for port, vlan, mac, age in lines]
    table = " port  VLAN  MAC                Age\n" + "".join(rows)
    for mac in {line[2] for line in lines}:
        assert entries_of(table, mac) == [Entry(*line) for line in lines if line[2] == mac]


@given(st.lists(st.text() | st.just(MAC.hex(":")) | st.just("\n") | st.just(" 1 0 ")))
def test_any_text_is_read_without_an_exception(pieces):
    for entry in entries_of("".join(pieces), MAC):
        assert entry.mac == MAC


def test_the_addresses_on_a_port():
    assert on_port(TABLE, {1}) == {(bytes.fromhex("525400123455"), 0)}


@pytest.mark.parametrize("line", ["9" * 5000 + "  52:54:00:12:34:56", "0  a::::::::::::::::"])
def test_a_garbled_line_is_passed_over(line):
    """A number that int() does not take, a MAC that bytes.fromhex() does not."""
    assert on_port(f"    1  {line}    0\n", {1}) == set()
