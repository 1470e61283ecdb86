# SPDX-License-Identifier: Apache-2.0
"""Tables for people: aligned whatever is in them, and nothing in them moves a terminal's cursor."""

from ovs_vhost_plugin import render


def test_columns_are_aligned_and_numbers_to_the_right() -> None:
    rows = [("vhu0", 7, "/run/a", None), ("v", 1500, "", "x")]
    assert render._table(("port", "mtu", "socket", "error"), rows).splitlines() == [
        "port   mtu  socket  error",
        "vhu0     7  /run/a  -",
        "v     1500  -       x",
    ]


def test_a_wide_character_takes_two_columns() -> None:
    rows = [("漢", "x"), ("abc", "y")]
    assert render._table(("a", "b"), rows).splitlines() == ["a    b", "漢   x", "abc  y"]


def test_what_a_terminal_would_obey_is_escaped_and_nothing_else() -> None:
    rows = [("\x1b[2J\n", r"C:\x")]
    assert render._table(("a", "b"), rows).splitlines()[1] == r"\x1b[2J\n  C:\x"


def test_no_rows() -> None:
    assert render._table(("a", "b"), []) == "a  b\n"
