# SPDX-License-Identifier: Apache-2.0
"""What a site has: compared before and after, it shows what leaked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ovs_vhost_plugin.lab.process import run
from soak.site import Site

_MORE_FDS = 4  # a process may have a few more: a log that was opened again, a pidfd under way
_MORE_MEMORY = 16 << 20  # bytes
_TRACES = {"announced"}  # keys that tell of what was: a port has them once it was so
_HISTORY = {"migrations"}  # a file of the run directory, there once a guest has moved


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a site has at one moment."""

    processes: Mapping[str, int]  # by the name of what they are: pid
    fds: Mapping[str, int]
    memory: Mapping[str, int]  # bytes without a file, shared with the fork server or not
    things: frozenset[str]  # links, namespaces, records, keys

    def grown(self, later: Inventory) -> list[str]:
        """What `later` has and this has not."""
        new = [f"new: {thing}" for thing in sorted(later.things - self.things)]
        gone = [f"gone: {thing}" for thing in sorted(self.things - later.things)]
        fds = [
            f"{name}: {count} fds, {self.fds[name]} before"
            for name, count in later.fds.items()
            if count > self.fds.get(name, 0) + _MORE_FDS
        ]
        memory = [
            f"{name}: {size >> 10} KiB, {self.memory[name] >> 10} before"
            for name, size in later.memory.items()
            if size > self.memory.get(name, 0) + _MORE_MEMORY
        ]
        return new + gone + fds + memory


def inventory(site: Site) -> Inventory:
    """What `site` has now."""
    host, daemon = site.host, site.host.daemon
    assert daemon is not None
    ports = _roles(site)
    processes = {"daemon": daemon.pid} | {
        f"worker of {role}": host.worker_pid(name) for role, name in ports.items()
    }
    links = json.loads(host.namespace.run("ip", "-json", "link", "show"))
    keys = {
        f"key {role} {key}"
        for role, name in ports.items()
        for key in host.status(name).keys() - _TRACES
    }
    names = {path.name for path in host.directory.glob("ovs-vhost/*")} - _HISTORY
    records = {f"record {name}" for name in names}
    running = {f"process {name}" for name in _named(host.namespace.name)}
    things = {f"link {link['ifname']}" for link in links} | keys | records | running
    return Inventory(
        processes,
        {name: len(list(Path(f"/proc/{pid}/fd").iterdir())) for name, pid in processes.items()},
        {name: _memory(pid) for name, pid in processes.items()},
        frozenset(things),
    )


def _roles(site: Site) -> dict[str, str]:
    """The present port of each guest, and those that wait for one: guests move between them."""
    ports = {f"guest {number}": port.name for number, port in enumerate(site.ports)}
    for number, machine in enumerate(site.machines):
        ports |= {f"machine {number}": machine.name, f"machine {number}, spare": machine.spare}
    return ports | {"the spare": site.spare}


def _named(namespace: str) -> set[str]:
    """The names of the processes in a network namespace, and how many there are of each."""
    pids = run(["ip", "netns", "pids", namespace]).stdout.split()
    names: dict[str, int] = {}
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue  # it has just ended
        names[name] = names.get(name, 0) + 1
    return {f"{name} x {count}" for name, count in names.items()}


def _memory(pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) << 10 if found else 0
