# SPDX-License-Identifier: Apache-2.0
"""A worker is killed under traffic: how long until frames come again, each way."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ovs_vhost_plugin.bench.scale.site import ETHERTYPE, PATIENCE, Site
from ovs_vhost_plugin.guest.driver.split import RingFullError
from ovs_vhost_plugin.guest.frontend.connection import BackEndClosedError
from ovs_vhost_plugin.guest.soft import SoftGuest
from ovs_vhost_plugin.lab.process import LabError

_TICK = 0.001  # seconds between two frames of each way


@dataclass(frozen=True, slots=True)
class Return:
    """The times after one kill, in seconds.

    reconnected  from the kill until the front-end was connected to the next worker
    inward       from there until the first frame came to the guest
    outward      from there until the first frame came from it
    """

    reconnected: float
    inward: float
    outward: float


def kills(site: Site, names: Sequence[str]) -> None:
    """Kill the worker of each port, one after the other; there are two ports or more."""
    found = [_kill(site, name, peer) for name, peer in pairwise([*names, names[0]])]
    for what, times, goal in (
        ("worker killed until its front-end is connected", [x.reconnected for x in found], None),
        ("  from there to the first frame to the guest", [x.inward for x in found], 200),
        ("  from there to the first frame from the guest", [x.outward for x in found], 200),
    ):
        of = f"of {len(times)}"
        site.note(f"{what}, median {of}", statistics.median(times) * 1e3, "ms", goal)
        site.note(f"{what}, worst {of}", max(times) * 1e3, "ms", goal)


def _kill(site: Site, name: str, peer: str) -> Return:
    """Kill the worker of `name` with SIGKILL; its guest and that of `peer` send frames."""
    guest, other = site.guests[name], site.guests[peer]
    _until_both_ways(guest, other)
    killed = time.monotonic()
    os.kill(site.host.worker_pid(name), signal.SIGKILL)
    with contextlib.suppress(BackEndClosedError):
        while guest.receive(PATIENCE):
            pass
        raise LabError(f"{name}: its worker does not end")
    assert guest.frontend is not None
    guest.frontend.close()
    frontend = guest.connect()
    connected = time.monotonic()
    guest.run_on(frontend, [vring.queue.base for vring in guest.vrings])
    inward, outward = _until_both_ways(guest, other)
    return Return(connected - killed, inward - connected, outward - connected)


def _until_both_ways(guest: SoftGuest, other: SoftGuest) -> tuple[float, float]:
    """Send each way until a frame has come each way; when they came: to `guest`, from it."""
    came: dict[SoftGuest, float] = {}
    deadline = time.monotonic() + PATIENCE
    while len(came) < 2:
        for sender, receiver in ((guest, other), (other, guest)):
            frame = receiver.config.mac + sender.config.mac + ETHERTYPE
            with contextlib.suppress(RingFullError):
                sender.send(frame.ljust(60, b"\0"))
            if any(one.startswith(frame) for one in receiver.receive(_TICK / 2)):
                came.setdefault(receiver, time.monotonic())
        if time.monotonic() > deadline:
            raise LabError(f"no frame each way within {PATIENCE:g} s")
    return came[guest], came[other]
