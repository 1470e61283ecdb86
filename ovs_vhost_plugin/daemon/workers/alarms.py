# SPDX-License-Identifier: Apache-2.0
"""The alarms of all workers, polled by one call: see `ipc/vitals.py`."""

import select
from typing import Any

from ovs_vhost_plugin.daemon.workers.link import WorkerLink


class Alarms:
    """Finds the workers that have been busy for long."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._links: dict[int, WorkerLink] = {}

    def add(self, link: WorkerLink) -> None:
        """Watch a worker's alarm."""
        self._links[link.vitals.alarm] = link
        self._epoll.register(link.vitals.alarm, select.EPOLLIN)

    def remove(self, link: WorkerLink) -> None:
        """Stop watching an alarm. Call this before its close: the worker has it open as well."""
        if self._links.pop(link.vitals.alarm, None) is not None:
            self._epoll.unregister(link.vitals.alarm)

    def gone_off(self) -> list[WorkerLink]:
        """The workers whose alarms have gone off."""
        return [self._links[fd] for fd, _ in self._epoll.poll(0) if fd in self._links]

    def wait(self, poller: Any) -> None:
        """Register the fd that `gone_off` has to be called for."""
        poller.fd_wait(self._epoll.fileno(), select.POLLIN)
