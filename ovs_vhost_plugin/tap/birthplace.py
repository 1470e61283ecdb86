# SPDX-License-Identifier: Apache-2.0
"""The network namespace in which taps are made, before anybody else can see them.

A new tap belongs to nobody until its owner is set, and any user may attach to it meanwhile. So a
tap is made in a namespace without other users, gets its owner there, and then moves to the
switch's namespace. The birthplace has no name and no process: a file descriptor of the daemon
keeps it, and when the daemon dies, the kernel removes it with every tap still in it.
Source: network_namespaces(7), setns(2), net/core/dev.c (__dev_change_net_namespace).
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ovs_vhost_plugin.common import process


class Birthplace:
    """A private network namespace. The thread that made it enters and leaves it."""

    def __init__(self) -> None:
        """Make the namespace; OSError where that is not allowed."""
        # Imported late: fork server and workers do not need it.
        from pyroute2 import IPRoute

        self._home = _here()
        try:
            process.unshare(process.NEW_NET)
            try:
                self._place = _here()
                self._links: Any = IPRoute()
            finally:
                self._return()
        except OSError:
            os.close(self._home)
            raise

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Enter the namespace for the length of the context."""
        process.enter(self._place, process.NEW_NET)
        try:
            yield
        finally:
            self._return()

    def _return(self) -> None:
        try:
            process.enter(self._home, process.NEW_NET)
        except OSError as error:
            # Not a port's error: a daemon that is stuck in this namespace can do nothing right.
            raise RuntimeError(f"cannot return to the daemon's namespace: {error}") from error

    def send_home(self, index: int) -> None:
        """Move an interface from the birthplace to the daemon's own namespace.

        OSError EEXIST when an interface of that name is there. A moved interface is down, and its
        settings (sysctl) are those of a new one; owner, offloads and carrier stay.
        """
        from pyroute2 import NetlinkError

        try:
            self._links.link("set", index=index, net_ns_fd=self._home)
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from error

    def close(self) -> None:
        """Drop the namespace, with all that is in it."""
        self._links.close()
        os.close(self._place)
        os.close(self._home)


def _here() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
