# SPDX-License-Identifier: Apache-2.0
"""The order of rows, the filter, and the keys of the live view."""

import pytest

from ovs_vhost_plugin.top.model import PortRow
from ovs_vhost_plugin.top.view import Order, View


def row(name: str, bits: float | None, **others: str) -> PortRow:
    rates = None if bits is None else {"rx_bytes": bits / 8, "wakeups": 1000 - bits}
    about = {"bridge": "br0", "status": "running", "error": "", **others}
    return PortRow(name, **about, rates=rates)


ROWS = [row("a", 8), row("b", 800), row("c", None), row("d", 80, bridge="br1")]


def names(view: View) -> list[str]:
    return [one.name for one in view.arrange(ROWS)]


def press(view: View, *keys: str) -> bool:
    return [view.press(key, view.arrange(ROWS)) for key in keys][-1]


def test_the_busiest_come_first_and_those_without_a_rate_last() -> None:
    assert names(View()) == ["b", "d", "a", "c"]
    assert names(View(order=Order.WAKEUPS)) == ["a", "d", "b", "c"]
    assert names(View(order=Order.NAME)) == ["a", "b", "c", "d"]


def test_s_goes_through_all_orders() -> None:
    view = View()
    seen = []
    for _ in Order:
        press(view, "s")
        seen.append(view.order)
    assert set(seen) == set(Order) and seen[-1] is Order.BITS


@pytest.mark.parametrize(("typed", "found"), [("b", "bdac"), ("br1", "d"), ("x", "")])
def test_the_filter_looks_at_names_bridges_and_status_while_it_is_typed(
    typed: str, found: str
) -> None:
    view = View()
    press(view, "/", *typed)
    assert names(view) == list(found)
    press(view, "enter", "s")
    assert view.filter == typed and view.order is Order.PACKETS, "s is a command again"


def test_a_filter_is_left_and_taken_back() -> None:
    view = View(filter="a")
    press(view, "/", "backspace", "q", "escape")
    assert view.filter == "a", "q was typed, and left"
    press(view, "escape")
    assert view.filter == ""


def test_arrows_mark_a_row_and_enter_shows_it_alone() -> None:
    view = View()
    press(view, "down", "down", "up", "up", "down")
    assert view.selected == "d"
    press(view, "enter")
    chosen = view.chosen(ROWS)
    assert chosen is not None and chosen.name == "d"
    press(view, "enter")
    assert view.chosen(ROWS) is None and view.selected == "d"


def test_enter_alone_shows_the_busiest() -> None:
    view = View()
    press(view, "enter")
    assert view.selected == "b" and view.chosen(ROWS) is not None


def test_the_marked_row_stays_in_sight() -> None:
    view = View(selected="c")
    assert [one.name for one in view.window(view.arrange(ROWS), 2)] == ["a", "c"]
    assert [one.name for one in View().window(view.arrange(ROWS), 2)] == ["b", "d"]


def test_a_port_that_has_gone_is_marked_no_more() -> None:
    view = View(selected="gone", detail=True)
    assert view.chosen(ROWS) is None
    press(view, "down")
    assert view.selected == "b"


def test_q_ends_and_other_keys_do_not() -> None:
    assert not press(View(), "q") and not press(View(detail=True), "q")
    assert press(View(), "x", "left", "backspace", "escape")
