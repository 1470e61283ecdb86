# SPDX-License-Identifier: Apache-2.0
"""What one burst over a ring may come to, by the plain walker of the unit tests."""

from __future__ import annotations

from typing import Any

from support.jit.ring_reference import Driver, reference_walk

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.layout import CHAINS, HELD_IOVECS_MAX

Range = tuple[int, int]
"""Where it lies in this process, bytes."""


def outcome(driver: Driver, state: Any, indirect: bool) -> tuple[set[int], list[list[Range]]]:
    """The faults that the chains offered may come to, 0 for none, and all chains before them.

    Chains that are held when a burst begins are given back in its course, so that an index which
    is too far ahead at first may not be so when it is looked at.
    """
    at, known, last = (int(state[n]) for n in ("next_pop", "avail_idx", "next_avail"))
    write = bool(state["writes"])
    fault, chains = _walk(driver, at, known, write, indirect)
    if fault:
        return {fault}, chains
    index = driver.get(driver.avail + 2)
    ahead = (index - last) & 0xFFFF
    faults: set[int] = set()
    if ahead > driver.size:
        faults.add(Fault.AVAIL_GOES_BACK if ahead >= 0x8000 else Fault.AVAIL_JUMPS)
    elif ahead < (known - last) & 0xFFFF:
        faults.add(Fault.AVAIL_GOES_BACK)
    if faults and at == last:
        return faults, chains
    if faults:
        faults |= {0, Fault.AVAIL_GOES_BACK, Fault.AVAIL_JUMPS}
    if (index - known) & 0xFFFF <= driver.size:
        fault, more = _walk(driver, known, index, write, indirect)
        return faults | {fault}, chains + more
    return faults, chains


def _walk(
    driver: Driver, at: int, end: int, write: bool, indirect: bool
) -> tuple[int, list[list[Range]]]:
    chains: list[list[Range]] = []
    while at != end:
        head = driver.get(driver.avail + 4 + 2 * (at % driver.size))
        found = reference_walk(
            driver,
            head,
            write=write,
            indirect=indirect,
            pieces_max=HELD_IOVECS_MAX,
            table_max=CHAINS,
        )
        if isinstance(found, str):
            return Fault[found], chains
        chains.append(found)
        at = (at + 1) & 0xFFFF
    return 0, chains
