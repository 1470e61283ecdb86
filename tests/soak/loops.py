# SPDX-License-Identifier: Apache-2.0
"""Counted loops: the same thing many times over, after which all must be as before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from support.system.soft_ports import settle

from ovs_vhost_plugin.lab.stage import PORT, Stage
from soak.leaks import inventory
from soak.site import Port, Site, made

Say = Callable[[str], None]
_STEPS = 20  # lines of progress


def connects(count: int, say: Say) -> list[str]:
    """A guest leaves its port and comes back, so many times."""
    with made(1) as site:
        port = _quiet(site)
        before = inventory(site)
        for number in _counted(count, "connects", say):
            assert port.guest.frontend is not None, number
            port.guest.frontend.close()
            port.guest.start()
            settle(port.guest)
        site.host.wait_status(port.name, "running")
        return before.grown(inventory(site))


def adds(count: int, say: Say) -> list[str]:
    """A port is added and deleted, so many times."""
    with made(1) as site:
        _quiet(site)
        site.add_and_delete(range(1))
        before = inventory(site)
        site.add_and_delete(_counted(count, "ports", say))
        return before.grown(inventory(site))


def migrations(count: int, say: Say) -> list[str]:
    """A guest that does not announce itself migrates to and fro, so many times, under a flow."""
    found = []
    with Stage("soft", announces=False) as stage:
        # It is gone within milliseconds, before the bridge can be asked whose address it is.
        mac = f'external_ids:attached-mac="{stage.guest.mac}"'
        for host in (stage.fabric.a, stage.fabric.b):
            host.switch.vsctl("set", "Interface", PORT, mac)
        for number in _counted(count, "migrations", say):
            report = stage.migrate()
            # What the network between loses is nobody's here: it came to no port of the guest.
            lost = report.lost - report.unseen - report.overrun
            if not report.found or lost > 0 or report.duplicated or report.damaged:
                words = f"{lost} lost, {report.duplicated} doubled, {report.damaged} damaged"
                found.append(f"migration {number}: {words}")
    return found


LOOPS = {"connects": connects, "adds": adds, "migrations": migrations}
"""All loops, by what is counted."""


def _quiet(site: Site) -> Port:
    """The port of a site, whose traffic has ended."""
    port = site.ports[0]
    port.wait_for_traffic()
    port.traffic.stop()
    return port


def _counted(count: int, name: str, say: Say) -> Iterator[int]:
    """Numbers up to `count`; some of them are told."""
    for number in range(count):
        if number % max(1, count // _STEPS) == 0:
            say(f"{number} of {count} {name}")
        yield number
