# SPDX-License-Identifier: Apache-2.0
"""The soak: traffic through all ports, and one fault after the other, chosen by a seed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random

from ovs_vhost_plugin.lab.process import LabError, wait_until
from soak.faults import OF_MACHINES, OF_PORTS, Fault
from soak.leaks import Inventory, inventory
from soak.site import Site, made

_SETTLED = 30.0  # seconds within which all that was made for a moment is gone again


def soak(
    seconds: float,
    seed: int,
    ports: int,
    say: Callable[[str], None],
    machines: int = 0,
) -> list[str]:
    """Run for so many seconds, and until each fault has been there; return what must not be."""
    random = Random(seed)
    faults = [*OF_PORTS, *(OF_MACHINES if machines else ())]
    with made(ports, machines) as site:
        say("traffic flows")
        site.wait_for_traffic()
        site.add_and_delete(range(1))
        before = inventory(site)
        done = _break(site, random, time.monotonic() + seconds, say, faults)
        site.wait_for_traffic()
        grown = _settle(site, before)
        flows = [one.traffic for one in site.served]
        with ThreadPoolExecutor(len(flows)) as pool:
            list(pool.map(lambda flow: flow.stop(), flows))
        found = [fault for flow in flows for fault in flow.faults()]
        found += [fault for port in site.ports for fault in port.traffic.unexpected()]
        for machine in site.machines:
            if machine.traffic.faults():
                say(machine.dropped())
        frames = sum(flow.came for flow in flows)
        outages = sum(len(flow.outages) for flow in flows)
        say(f"{done.total()} faults, {frames} frames, {outages} outages")
        return found + grown


def _break(
    site: Site, random: Random, until: float, say: Callable[[str], None], faults: Sequence[Fault]
) -> Counter[str]:
    done: Counter[str] = Counter()
    waiting = random.sample(list(faults), len(faults))
    while waiting:
        fault = waiting.pop()
        begun = time.monotonic()
        detail = fault(site, random)
        site.wait_for_traffic()
        done[fault.__name__] += 1
        words = f"{fault.__name__.replace('_', ' '):20} {time.monotonic() - begun:6.1f} s  {detail}"
        say(words.rstrip())
        if not waiting and time.monotonic() < until:
            waiting = random.sample(list(faults), len(faults))
    return done


def _settle(site: Site, before: Inventory) -> list[str]:
    """What has grown for good."""
    grown: list[str] = []

    def same() -> bool:
        grown[:] = before.grown(inventory(site))
        return not grown

    with suppress(LabError):
        wait_until(same, "all as it was", _SETTLED, poll=0.5)
    return grown
