# SPDX-License-Identifier: Apache-2.0
"""Announcements and migrations as lines, by the time at which something last happened to them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ovs_vhost_plugin import render


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened to a port, `ago` seconds before the answer that tells it."""

    ago: float
    port: str
    text: str


def happenings(answer: Mapping[str, Any]) -> list[Happening]:
    """All that an answer of `vhost/top` tells of, oldest first."""
    found = [*_announcements(answer), *_migrations(answer)]
    return sorted(found, key=lambda one: (-one.ago, one.port))


def _announcements(answer: Mapping[str, Any]) -> Iterator[Happening]:
    for told in answer["announcements"]:
        at = told["learned_at"] or told["sent_at"] or told["received_at"]
        took = told["milliseconds"]
        words = f"{told['mac']} {told['outcome']}"
        words += "" if took is None else f" in {took:.1f} ms"
        yield Happening(answer["now"] - at, told["port"], f"{words} ({told['trigger']})")


def _migrations(answer: Mapping[str, Any]) -> Iterator[Happening]:
    for move in answer["migrations"]:
        last = move["timeline"][-1]
        words = f"its guest {render.ENDS[move['way'], move['end']]}"
        words += f": {render.STEPS[last['event']]}"
        took = move["outage_ms"]
        words += "" if took is None else f", outage {took:.1f} ms"
        yield Happening(answer["now"] - last["at"], move["port"], words)
