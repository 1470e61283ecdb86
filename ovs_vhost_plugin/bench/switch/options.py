# SPDX-License-Identifier: Apache-2.0
"""The options that benchmarks through a switch have in common, and how they print their figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ovs_vhost_plugin.bench.processor import processor
from ovs_vhost_plugin.bench.switch.site import available


@dataclass(frozen=True, slots=True)
class SwitchOptions:
    """The command line of a benchmark, as it was understood.

    seconds   of each turn
    wanted    the peers that are here
    left_out  a peer that is not → why
    screen    for what is not a figure
    """

    rounds: int
    seconds: float
    json: bool
    wanted: Sequence[str]
    left_out: Mapping[str, str]
    screen: Console

    def print(self, results: Sequence[Mapping[str, Any]], show: Callable[[], None]) -> None:
        """Print the figures as JSON, or let `show` print them."""
        if self.json:
            print_json(results, self.left_out)
        else:
            show()


def parse_options(
    doc: str | None, peers: Sequence[str], rounds: int, seconds: float, turn: str
) -> SwitchOptions:
    """Parse the command line of a benchmark beside `peers`, with its defaults."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="(default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"of each {turn} (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--without", nargs="*", default=[], choices=peers, metavar="PEER")
    asked = parser.parse_args()
    screen = Console(stderr=True)
    wanted, left_out = available([peer for peer in peers if peer not in asked.without])
    for name, reason in left_out.items():
        screen.print(f"{name} is left out: {reason}", markup=False)
    return SwitchOptions(asked.rounds, asked.seconds, asked.json, wanted, left_out, screen)


def print_json(results: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> None:
    """Print figures for a program, with the processor that they are of."""
    whole = {"processor": processor(), "results": results, "left_out": left_out}
    print(json.dumps(whole, indent=2))
