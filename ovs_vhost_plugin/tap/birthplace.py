# SPDX-License-Identifier: Apache-2.0
"""The network namespace in which taps are made, before anybody else can see them.

A new tap belongs to nobody until it is told its owner, and any user may attach to it meanwhile. So
it is made where there is no other user, is given its owner there, and then moves to where the
switch is. The namespace has no name and no process: it lives by a file descriptor of the daemon,
and what is still in it when the daemon dies goes with it.
Source: network_namespaces(7), setns(2), net/core/dev.c (__dev_change_net_namespace).
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ovs_vhost_plugin.common import process


class Birthplace:
    """A private network namespace. The process has one thread, which visits it."""

    def __init__(self) -> None:
        """Make it; OSError where that is not allowed."""
        # Late, and so not in the nursery nor in any worker, which have no use for it.
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
        """Be in it for the length of the context."""
        process.enter(self._place, process.NEW_NET)
        try:
            yield
        finally:
            self._return()

    def _return(self) -> None:
        try:
            process.enter(self._home, process.NEW_NET)
        except OSError as error:
            # One that is no port's: whoever is lost here can do nothing right.
            raise RuntimeError(f"cannot return to the daemon's namespace: {error}") from error

    def send_home(self, index: int) -> None:
        """Move an interface from here to the daemon's own namespace.

        OSError EEXIST when there is one of that name. It is down then, and its settings (sysctl)
        are those of a new one; owner, offloads and carrier stay.
        """
        from pyroute2 import NetlinkError

        try:
            self._links.link("set", index=index, net_ns_fd=self._home)
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from error

    def close(self) -> None:
        """Leave it, with all that is in it."""
        self._links.close()
        os.close(self._place)
        os.close(self._home)


def _here() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
