# SPDX-License-Identifier: Apache-2.0
"""What goes wrong at night. Each function breaks something and mends it again.

A fault that costs a guest its port is in a block of `outage`, which ends when the guest is back.
Only frames of that time may be lost, and every other one has to come.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from support.system.disks import filled

from ovs_vhost_plugin.lab.process import wait_until
from soak.machine import Machine
from soak.site import Port, Site

Fault = Callable[[Site, Random], str]
"""Breaks and mends; returns the detail for the report."""


def daemon_killed(site: Site, _random: Random) -> str:
    """The next daemon adopts the workers."""
    site.host.stop_daemon(kill=True)
    site.wait_for_traffic()
    site.host.start_daemon()
    return ""


def daemon_restarted(site: Site, _random: Random) -> str:
    """As by systemctl restart."""
    site.host.stop_daemon()
    site.host.start_daemon()
    return ""


def database_killed(site: Site, _random: Random) -> str:
    """The database comes back with what it had. Without one, the switch forwards nothing."""
    with _no_switch(site):
        site.host.switch.stop_server(kill=True)
        for port in site.ports:
            port.wait_for_traffic()
        site.host.switch.start_server()
    return ""


def database_silent(site: Site, random: Random) -> str:
    """The database takes no step for a while."""
    server = site.host.switch.server
    assert server is not None
    return _stopped([server.pid], random.uniform(0.5, 3.0))


def switch_killed(site: Site, _random: Random) -> str:
    """The switch comes back, and finds the taps. Meanwhile it forwards nothing."""
    with _no_switch(site):
        site.host.switch.stop_vswitchd(kill=True)
        for port in site.ports:
            port.wait_for_traffic()
        site.host.switch.start_vswitchd()
    return ""


def fork_server_killed(site: Site, _random: Random) -> str:
    """Workers go on without the process that they were forked from."""
    daemon = site.host.daemon
    assert daemon is not None
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    for pid in map(int, children):
        os.kill(pid, signal.SIGKILL)
    return f"{len(children)} children"


def worker_killed(site: Site, random: Random) -> str:
    """Another worker serves the port; the guest comes back to it."""
    port = random.choice(site.served)
    pid = port.pid
    with port.traffic.outage():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: _pid(port) not in (None, pid), f"{port.name}: another worker")
    return port.name


def worker_stopped(site: Site, random: Random) -> str:
    """A worker takes no step for a while; the tap keeps its frames."""
    port = random.choice(site.served)
    return f"{port.name}, {_stopped([port.pid], random.uniform(0.1, 1.5))}"


def host_suspended(site: Site, random: Random) -> str:
    """All processes stand still, and go on in any order."""
    switch, daemon = site.host.switch, site.host.daemon
    assert switch.server is not None and switch.vswitchd is not None and daemon is not None
    pids = [switch.server.pid, switch.vswitchd.pid, daemon.pid, *(p.pid for p in site.served)]
    pids += [machine.guest.process.pid for machine in site.machines]
    random.shuffle(pids)
    return _stopped(pids, random.uniform(0.5, 3.0))


def guest_slow(site: Site, random: Random) -> str:
    """A guest takes no frames for a while; ring and tap keep them."""
    port, seconds = random.choice(site.served), random.uniform(0.5, 3.0)
    port.slow(seconds)
    return f"{port.name}, {seconds:.1f} s"


def guest_left(site: Site, random: Random) -> str:
    """A guest hangs up and comes back."""
    port = random.choice(site.ports)
    with port.traffic.outage():
        port.traffic.hang_up()
    return port.name


def port_added_again(site: Site, random: Random) -> str:
    """A port is deleted and added under its guest."""
    port = random.choice(site.served)
    with port.traffic.outage():
        port.delete()
        port.add()
    return port.name


def guest_migrated(site: Site, random: Random) -> str:
    """A guest goes to the port that had none."""
    port = random.choice(site.ports)
    site.spare = port.migrate(site.spare)
    return f"{site.spare} to {port.name}"


def disk_full(site: Site, random: Random) -> str:
    """Database, logs and records have no room for a while."""
    seconds = random.uniform(0.2, 2.0)
    with filled(site.disk):
        time.sleep(seconds)
    return f"{seconds:.1f} s"


def worker_upgraded(site: Site, random: Random) -> str:
    """A worker hands its port over to another one, and its guest notices nothing."""
    port = random.choice(site.served)
    pid, outages = port.pid, len(port.traffic.outages)
    told = site.host.appctl("vhost/upgrade", port.name)
    if port.pid == pid or len(port.traffic.outages) > outages:
        raise AssertionError(f"{port.name} was not upgraded: {told}")
    return port.name


def machine_migrated(site: Site, random: Random) -> str:
    """A machine migrates to its other port; what came for it meanwhile goes after it."""
    machine = random.choice(site.machines)
    machine.migrate()
    return f"{machine.spare} to {machine.name}"


OF_PORTS: tuple[Fault, ...] = (
    daemon_killed,
    daemon_restarted,
    database_killed,
    database_silent,
    switch_killed,
    fork_server_killed,
    worker_killed,
    worker_stopped,
    worker_upgraded,
    host_suspended,
    guest_slow,
    guest_left,
    guest_migrated,
    port_added_again,
    disk_full,
)
"""Faults that a site without machines has."""

OF_MACHINES: tuple[Fault, ...] = (machine_migrated,)
"""Further ones, of a site with machines."""


@contextmanager
def _no_switch(site: Site) -> Iterator[None]:
    """Machines' datagrams may be lost in the block: they come through the switch."""
    with ExitStack() as outages:
        for machine in site.machines:
            outages.enter_context(machine.traffic.outage())
        yield


def _stopped(pids: list[int], seconds: float) -> str:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)
    return f"{seconds:.1f} s"


def _pid(port: Port | Machine) -> int | None:
    try:
        return port.pid
    except (OSError, IndexError):
        return None  # between two workers
