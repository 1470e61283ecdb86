# SPDX-License-Identifier: Apache-2.0
"""Gives workers /dev/userfaultfd, which they cannot open, only if the port's row says so.

A userfaultfd in a front-end's hands reaches all memory of its worker (docs/conformance.md,
"Postcopy"), so the administrator decides for each port.
"""

import os

from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.settings_rows import POSTCOPY_KEY
from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.ipc.commands import GiveUserfaultfd, RefuseUserfaultfd
from ovs_vhost_plugin.vhost.memory import userfault

vlog = Vlog("vhost_postcopy")

_APART = 1.0
"""Seconds between two fds for a port; an honest worker needs one a migration."""


class Userfaultfds:
    """Answers workers that ask for the device."""

    def __init__(self) -> None:
        self._given: dict[str, float] = {}
        self._complaint = ""

    def answer(self, link: WorkerLink, port: PortSpec | None, now: float) -> None:
        """Answer a worker's request; `port` is its row's, None if there is no row."""
        self._given = {name: at for name, at in self._given.items() if now - at < _APART}
        if port is None or not port.settings.postcopy:
            self._refuse(link, f"external_ids:{POSTCOPY_KEY} is not true", now)
        elif link.name in self._given:
            self._refuse(link, "asked for too often", now)
        else:
            self._given[link.name] = now
            self._give(link, now)

    def _give(self, link: WorkerLink, now: float) -> None:
        try:
            device = userfault.open_device()
        except OSError as error:
            complaint = f"{userfault.DEVICE}: {error.strerror}"
            if complaint != self._complaint:
                vlog.warn(f"no postcopy on this machine, for want of {complaint}")
            self._complaint = complaint
            self._refuse(link, complaint, now)
            return
        self._complaint = ""
        try:
            link.send(GiveUserfaultfd(), now, (device,))
        finally:
            os.close(device)

    def _refuse(self, link: WorkerLink, why: str, now: float) -> None:
        link.send(RefuseUserfaultfd(why), now)
