# SPDX-License-Identifier: Apache-2.0
"""Every way to run DPDK's virtio-user on a port, and why some of the combinations do not exist.

The grid is the whole product of AXES. `absent` names why DPDK (22.11) makes no driver of its own
of a cell; for all others `drivers` says which of its receive and transmit functions it takes, as
its log does.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from itertools import combinations, product
from typing import NamedTuple

from ovs_vhost_plugin.lab.guests.virtiouser import VirtioUserConfig

MAC = "52:54:00:00:00:01"
ODD = 1000
"""No power of two, which only a packed ring may have (virtio 1.2, 2.7 and 2.8)."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One front-end; `mode` is the port's, so in client mode it is virtio-user that listens."""

    packed: bool
    mergeable: bool
    in_order: bool
    vectorized: bool
    queues: int
    size: int
    mode: str

    def __str__(self) -> str:
        words = [f.name for f in fields(self) if getattr(self, f.name) is True]
        return "-".join([*(words or ["plain"]), f"{self.queues}x{self.size}", self.mode])

    def config(self) -> VirtioUserConfig:
        """The same for the lab."""
        return VirtioUserConfig(
            MAC,
            queues=self.queues,
            queue_size=self.size,
            mergeable=self.mergeable,
            vectorized=self.vectorized,
            packed=self.packed,
            in_order=self.in_order,
        )


AXES = {
    "packed": (False, True),
    "mergeable": (True, False),
    "in_order": (True, False),
    "vectorized": (False, True),
    "queues": (1, 2, 3, 4),
    "size": (64, 256, ODD, 1024, 4096, 32768),
    "mode": ("client", "server"),
}


class Drivers(NamedTuple):
    """The functions that DPDK's log says it takes."""

    receive: str
    transmit: str


def absent(cell: Cell) -> str | None:
    """Why there is no such front-end; None: there is."""
    if not cell.packed and cell.size & (cell.size - 1):
        return "the size of a split ring is a power of two"
    if not cell.vectorized:
        return None
    if cell.packed:
        return None if cell.in_order else "packed rings are vectorized in order only"
    if cell.in_order:
        return "split rings in order have a driver of their own, which is not vectorized"
    return "split rings with mergeable buffers are not vectorized" if cell.mergeable else None


def drivers(cell: Cell) -> Drivers:
    """What DPDK takes for a cell that exists."""
    if cell.packed:
        plain = "mergeable buffer" if cell.mergeable else "standard"
        receive = "vectorized" if cell.vectorized and not cell.mergeable else plain
        transmit = "vectorized" if cell.vectorized else "standard"
        return Drivers(f"packed ring {receive}", f"packed ring {transmit}")
    if cell.in_order:
        return Drivers("inorder", "inorder")
    if cell.vectorized:
        return Drivers("vectorized", "standard")
    return Drivers("mergeable buffer" if cell.mergeable else "standard", "standard")


def cells() -> list[Cell]:
    """All that exist."""
    return [cell for cell in product_of_axes() if absent(cell) is None]


def product_of_axes() -> Iterator[Cell]:
    """All that could be thought of."""
    return (Cell(*values) for values in product(*AXES.values()))


def covering(every: Iterable[Cell]) -> list[Cell]:
    """Few of the cells that have, between them, each pair of values that any of the cells has.

    Greedy: the cell with most that is new, then again; of equal ones, of a kind had less often.
    At most some cells more than the smallest such set.
    """
    pairs = {cell: set(combinations(enumerate(astuple(cell)), 2)) for cell in every}
    missing = set().union(*pairs.values())
    had = Counter[tuple[bool, ...]]()
    chosen = []
    while missing:
        best = max(pairs, key=lambda cell: (len(pairs[cell] & missing), -had[_kind(cell)]))
        missing -= pairs[best]
        had[_kind(best)] += 1
        chosen.append(best)
    return chosen


def _kind(cell: Cell) -> tuple[bool, ...]:
    return cell.packed, cell.mergeable, cell.in_order, cell.vectorized
