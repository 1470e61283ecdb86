# SPDX-License-Identifier: Apache-2.0
"""A migration's timeline as a picture (SVG): what the guest received, and the events.  Pure.

A few lines and texts need no plotting library, which the demo would have to install.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ovs_vhost_plugin.lab.measure.timeline import Report, TimelineRow

BIN_MS = 10
BEFORE_MS, AFTER_MS = 200, 600
"""The part of the time line that is drawn. Events beyond it are in the list."""

_WIDTH, _LEFT, _TOP, _HEIGHT = 900, 60, 60, 220
_ROW = 20
_COLOURS = ("#c0392b", "#27ae60", "#8e44ad", "#2980b9", "#d35400", "#16a085", "#7f8c8d", "#2c3e50")


def svg(report: Report) -> str:
    """The picture as a document: bars of what the guest received, a numbered line an event."""
    rows = report.rows()
    height = _TOP + _HEIGHT + 50 + _ROW * (len(rows) + 1)
    size = {"width": str(_WIDTH), "height": str(height), "viewBox": f"0 0 {_WIDTH} {height}"}
    about = {"xmlns": "http://www.w3.org/2000/svg", "font-family": "sans-serif"}
    root = Element("svg", {**about, **size})
    SubElement(root, "title").text = _title(report)
    SubElement(root, "rect", width="100%", height="100%", fill="white")
    _text(root, _LEFT, 24, _title(report), size=16)
    _text(root, _LEFT, 44, _figures(report), size=12)
    _bars(root, report)
    _axis(root)
    for number, row in enumerate(rows, 1):
        _event(root, number, row)
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def _title(report: Report) -> str:
    who = {"rarp": "announced by SEND_RARP", "guest": "announces itself"}
    return f"Live migration, guest {report.guest}, {who.get(report.announce, report.announce)}"


def _figures(report: Report) -> str:
    return (
        f"outage {report.outage_ms:.1f} ms, downtime {report.downtime_ms:.1f} ms; "
        f"{report.sent} sent, {report.lost} lost, {report.damaged} damaged"
    )


def _bars(root: Element, report: Report) -> None:
    counts = list(_counts(report))
    most = max((count for _, count in counts), default=0) or 1
    for at, count in counts:
        tall = _HEIGHT * count / most
        place = {"x": f"{_x(at):.1f}", "y": f"{_TOP + _HEIGHT - tall:.1f}"}
        wide = _x(BIN_MS) - _x(0) - 1
        shape = {"width": f"{wide:.1f}", "height": f"{tall:.1f}", "fill": "#bdc3c7"}
        SubElement(root, "rect", {**place, **shape})
    _text(root, 8, _TOP + 10, f"{most}", size=11)
    _text(root, 8, _TOP + 24, f"in {BIN_MS} ms", size=11)


def _counts(report: Report) -> Iterator[tuple[int, int]]:
    """The records that came to the guest, in each bin that has any."""
    times = [(at - report.stopped) * 1e3 for at in report.received]
    for start in range(-BEFORE_MS, AFTER_MS, BIN_MS):
        if count := sum(start <= at < start + BIN_MS for at in times):
            yield start, count


def _axis(root: Element) -> None:
    y = str(_TOP + _HEIGHT)
    ends = {"x1": f"{_x(-BEFORE_MS):.1f}", "x2": f"{_x(AFTER_MS):.1f}", "y1": y, "y2": y}
    SubElement(root, "line", {**ends, "stroke": "black"})
    for at in range(-BEFORE_MS, AFTER_MS + 1, 100):
        _text(root, _x(at), _TOP + _HEIGHT + 16, f"{at:+d}" if at else "0", size=11, middle=True)
    what = "milliseconds since the source stopped the guest"
    _text(root, _x((AFTER_MS - BEFORE_MS) / 2), _TOP + _HEIGHT + 34, what, size=11, middle=True)


def _event(root: Element, number: int, row: TimelineRow) -> None:
    """An event's line in the picture, and its entry in the list below."""
    colour = _COLOURS[(number - 1) % len(_COLOURS)]
    if -BEFORE_MS <= row.milliseconds <= AFTER_MS:
        x = f"{_x(row.milliseconds):.1f}"
        ends = {"x1": x, "x2": x, "y1": str(_TOP), "y2": str(_TOP + _HEIGHT)}
        SubElement(root, "line", {**ends, "stroke": colour, "stroke-width": "1.5"})
        # Events that are close together have their numbers below each other.
        y = _TOP + 12 + 14 * ((number - 1) % 15)
        _text(root, _x(row.milliseconds) + 3, y, str(number), size=11, colour=colour)
    y = _TOP + _HEIGHT + 50 + _ROW * number
    _text(root, _LEFT, y, str(number), size=13, colour=colour)
    _text(root, _LEFT + 110, y, f"{row.milliseconds:+.1f} ms", size=13, end=True)
    _text(root, _LEFT + 130, y, row.what, size=13)
    _text(root, _LEFT + 400, y, row.where, size=13)


def _x(milliseconds: float) -> float:
    """The place of a time."""
    span = BEFORE_MS + AFTER_MS
    return _LEFT + (milliseconds + BEFORE_MS) / span * (_WIDTH - _LEFT - 20)


def _text(
    root: Element,
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    colour: str = "black",
    middle: bool = False,
    end: bool = False,
) -> None:
    anchor = "middle" if middle else "end" if end else "start"
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "font-size": str(size), "fill": colour}
    SubElement(root, "text", {**place, "text-anchor": anchor}).text = text
