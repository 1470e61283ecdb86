# SPDX-License-Identifier: Apache-2.0
"""The picture of a migration: a document that has each event, whatever is in it."""

from dataclasses import replace
from xml.etree.ElementTree import Element, fromstring

from ovs_vhost_plugin.lab.measure.picture import svg
from ovs_vhost_plugin.lab.measure.timeline import Mark, Report

REPORT = Report(
    guest="qemu",
    announce="rarp",
    stopped=5.0,
    resumed=5.05,
    marks=(
        Mark(4.0, "migration starts", "host a"),
        Mark(5.0, "guest stopped", "host a"),
        Mark(5.06, '<learned> & "found"', "host b"),
    ),
    sent=100,
    lost=3,
    damaged=0,
    duplicated=0,
    reordered=0,
    unseen=0,
    outage_ms=61.0,
    delay_ms=62.0,
    downtime_ms=50.0,
    found=True,
    received=(4.991, 4.995, 5.061, 99.0),
)
_NAME = "{http://www.w3.org/2000/svg}"


def shapes(root: Element, kind: str) -> list[Element]:
    return list(root.iter(f"{_NAME}{kind}"))


def texts(root: Element) -> list[str]:
    return [str(one.text) for one in shapes(root, "text")]


def test_each_event_is_listed_and_those_near_the_stop_are_drawn() -> None:
    root = fromstring(svg(REPORT))
    found = texts(root)
    assert {"migration starts", "guest stopped", '<learned> & "found"', "host b"} <= set(found)
    assert {"-1000.0 ms", "+0.0 ms", "+60.0 ms"} <= set(found)
    assert "outage 61.0 ms, downtime 50.0 ms; 100 sent, 3 lost, 0 damaged" in found
    lines = shapes(root, "line")
    assert len(lines) == 3  # the axis, and two of the three events
    apart = float(lines[2].get("x1", "")) - float(lines[1].get("x1", ""))
    axis = float(lines[0].get("x2", "")) - float(lines[0].get("x1", ""))
    assert abs(apart / axis - 60 / 800) < 0.001


def test_a_bar_shows_how_much_came_and_when() -> None:
    tall = [float(one.get("height", "")) for one in shapes(fromstring(svg(REPORT)), "rect")[1:]]
    assert len(tall) == 2 and tall[0] == 2 * tall[1]


def test_a_report_of_nothing_is_drawn_too() -> None:
    root = fromstring(svg(replace(REPORT, marks=(), received=())))
    assert len(shapes(root, "line")) == 1 and len(shapes(root, "rect")) == 1
