# SPDX-License-Identifier: Apache-2.0
"""The news of workers: reports, ends and handovers."""

from __future__ import annotations

from dataclasses import dataclass

from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.ipc.reports import Report


@dataclass(frozen=True, slots=True)
class Heard:
    """A worker has sent a report."""

    name: str
    report: Report


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker has ended, or was never born; `fault` is "" if it was told to end."""

    name: str
    fault: str
    lived: float


@dataclass(frozen=True, slots=True)
class HandoverEnded:
    """A worker was asked to hand its port over: see `HandedOver` for `outcome` and `why`.

    took  seconds, of which the rings stood still for a small part
    """

    name: str
    outcome: str
    why: str
    took: float


Event = Heard | Ended | HandoverEnded


@dataclass(frozen=True, slots=True)
class Stuck:
    """A killed worker has not ended: it waits in the kernel for its peer."""

    name: str
    link: WorkerLink
