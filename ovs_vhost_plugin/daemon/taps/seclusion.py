# SPDX-License-Identifier: Apache-2.0
"""Keeps this host's own network stack away from ports, and shows for which ports it does.

Where the kernel cannot keep it away, ports work all the same; this is logged once and shown for
each port.
"""

import select
from typing import Any, Protocol

from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.tap import HostStackError

vlog = Vlog("vhost_seclusion")

OPEN = "host-stack-open"
"""The name for a port whose guest this host's stack hears."""


class Stack(Protocol):
    """The part of tap/host_stack.py that is used here."""

    def shut(self, name: str, index: int) -> None:
        """Keep the host's stack away from a tap; raises HostStackError."""

    def open(self, name: str) -> None:
        """Give the tap the kernel's defaults back."""

    def forget(self, name: str) -> None:
        """Remove the table of a tap that has gone."""

    def let_go(self) -> None:
        """Leave all chains to another daemon."""

    def hear(self) -> list[str]:
        """The taps that somebody else has let the host's stack hear again."""

    def fileno(self) -> int | None:
        """The socket that is readable when `hear` has something; None: there is none."""


class Seclusion:
    """The taps by the name of their port, each with the last try: ifindex, and whether secluded.

    open  ports whose guest the host's stack may hear → the reason
    """

    def __init__(self, stack: Stack) -> None:
        self.open: dict[str, str] = {}
        self._stack = stack
        self._tried: dict[str, tuple[int, bool]] = {}
        self._complained = ""

    def of(self, name: str, index: int) -> bool | None:
        """Whether this very tap was secluded when last tried; None: nothing was tried."""
        tried = self._tried.get(name)
        return tried[1] if tried is not None and tried[0] == index else None

    def apply(self, name: str, index: int, wanted: bool) -> None:
        """Keep the host's stack away from a tap, or let it in. A failure is noted in `open`.

        It is not tried again for the same tap, as the kernel will not gain the missing feature.
        """
        self._tried[name] = index, wanted
        self.open.pop(name, None)
        if not wanted:
            self._stack.open(name)
            return
        try:
            self._stack.shut(name, index)
        except HostStackError as error:
            self.open[name] = f"{OPEN}: {error}"
            if self._complained != str(error):
                vlog.warn(
                    f"{name}: {OPEN}: this host's own network stack hears what guests send to "
                    f"userspace bridges, and may answer: {error}"
                )
            self._complained = str(error)

    def forget(self, name: str) -> None:
        """Forget a port whose tap has gone."""
        if self._tried.pop(name, None) is not None:
            self._stack.forget(name)
        self.open.pop(name, None)

    def let_go(self) -> None:
        """Leave everything to another daemon."""
        self._tried.clear()
        self.open.clear()
        self._stack.let_go()

    def run(self) -> None:
        """Put chains that somebody else removed back at once."""
        for name in self._stack.hear():
            vlog.warn(f"{name}: somebody removed the table ovs-vhost-{name} of nftables: put back")
            index, _ = self._tried[name]
            self.apply(name, index, True)

    def wait(self, poller: Any) -> None:
        """Register the fd for which `run` has to be called."""
        fd = self._stack.fileno()
        if fd is not None:
            poller.fd_wait(fd, select.POLLIN)

    def shown(self, name: str) -> str:
        """Text for people: whether the host's stack hears the port's guest."""
        secluded = self._tried.get(name, (0, False))[1]
        return self.open.get(name) or ("shut out" if secluded else "")
