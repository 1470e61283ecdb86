# SPDX-License-Identifier: Apache-2.0
"""Persistent multi-queue taps, one a port, which belong to root.

Persistent, because OVS keeps its receive socket on the interface it opened: a tap that went away
and came back would receive and never send again, while OVSDB shows nothing wrong. Where a tap has
to be made again, `daemon/taps/reopening.py` makes the switch open the new one. A name's first owner
keeps it: a netdev that we did not make is never touched.
"""

import contextlib
import os
import socket
from functools import cached_property
from pathlib import Path

from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.tap import device
from ovs_vhost_plugin.tap.birthplace import Birthplace
from ovs_vhost_plugin.tap.errors import TapError, TapErrorName, foreign, named_errors
from ovs_vhost_plugin.tap.links import Links, TapLink


class Taps:
    """The taps of this network namespace, and the records that tell ours from others'.

    prepare, make and delete  one thread calls these
    """

    def __init__(self, state: StateDir) -> None:
        self._state = state

    @cached_property
    def _birthplace(self) -> Birthplace:
        return Birthplace()

    @cached_property
    def _links(self) -> Links:
        return Links()

    def prepare(self) -> None:
        """Make in advance what the first tap needs; a failure is reported as its error."""
        with contextlib.suppress(OSError):
            _ = self._birthplace, self._links

    # -- there is one or not ---------------------------------------------------------------------

    def owned(self, name: str) -> int | None:
        """The ifindex of our tap `name`; None if it does not exist or is not ours."""
        index = _ifindex(name)
        if index is None or self._recorded(name) != (index, _namespace()):
            return None
        return index

    def create(self, name: str) -> int:
        """Make sure that our tap `name` is there and up, without carrier; return its ifindex."""
        index = self.owned(name)
        if index is None:
            if _ifindex(name) is not None:
                raise foreign(name)
            index = self._make(name)
        with named_errors(name):
            # Not in the birthplace: a moved interface begins with new settings.
            # OVS's bridge should hear the guest, not this host's own stack.
            _disable_ipv6(name)
            _set_up(name)
        return index

    def make(self, name: str) -> int | None:
        """Make sure that our tap is there, as `create`; return the first queue of a new one."""
        new = self.owned(name) is None
        self.create(name)
        return self.open_first(name) if new else None

    def _make(self, name: str) -> int:
        with named_errors(name):
            with self._birthplace.entered():
                queue = device.make(name)
            try:
                self._raise(name, queue)
                index = socket.if_nametoindex(name)
                # Recorded before the tap is persistent: if this process is killed in between, a
                # record without a tap is left, which is harmless, and not a tap without a record.
                self._record(name, index)
                device.make_persistent(queue)
            finally:
                os.close(queue)
        return index

    def _raise(self, name: str, queue: int) -> None:
        """Give the new tap its owner and offloads, and move it to the daemon's namespace."""
        device.give_to_root(queue)
        device.offer_offloads(queue)
        with self._birthplace.entered():
            index = socket.if_nametoindex(name)
        self._birthplace.send_home(index)

    def delete(self, name: str) -> None:
        """Remove our tap even while its queues are open; a tap of others stays.

        TapError `tap-held` when the tap does not go: it is set down, and still ours.
        """
        index = self.owned(name)
        if index is not None:
            try:
                self._links.delete(index)
            except OSError as error:
                raise self._held(name, str(error.strerror)) from error
            if self.owned(name) == index:
                raise self._held(name, "it is still there")
        self._state.tap(name).unlink(missing_ok=True)

    def _held(self, name: str, why: str) -> TapError:
        with contextlib.suppress(OSError):
            device.set_flags(name, device.flags(name) & ~device.IFF_UP)
        return TapError(
            TapErrorName.HELD,
            f"{name} cannot be removed ({why}) and is set down; it is tried again",
        )

    # -- whose it is -----------------------------------------------------------------------------

    def open_first(self, name: str) -> int:
        """Open a queue of our tap for a worker, make it root's and set its carrier down."""
        if self.owned(name) is None:
            raise foreign(name)
        with named_errors(name):
            queue = device.open_queue(name)
            try:
                device.give_to_root(queue)
            except BaseException:
                os.close(queue)
                raise
        return queue

    def open_further(self, name: str) -> int:
        """Open one more queue of our tap, which is in use, and leave its carrier."""
        link = self._link(name)
        if link is None:
            raise foreign(name)
        with named_errors(name):
            return device.join(name, carrier=True) if link.carrier else device.open_queue(name)

    def queues(self, name: str) -> int:
        """The number of open queues of our tap, in any process."""
        link = self._link(name)
        return 0 if link is None else link.queues

    def claim(self, name: str) -> bool:
        """Make our tap root's while it is in use; return whether it was not."""
        link = self._link(name)
        if link is None or link.owner == 0:
            return False
        with named_errors(name):
            # Frames steered to this queue while it is open are lost; so only if need be.
            queue = device.join(name, carrier=link.carrier)
            try:
                device.give_to_root(queue)
            finally:
                os.close(queue)
        return True

    def _link(self, name: str) -> TapLink | None:
        index = self.owned(name)
        if index is None:
            return None
        with named_errors(name):
            return self._links.tap(index)

    # -- the switch's side -----------------------------------------------------------------------

    def is_open_in_switch(self, name: str) -> bool:
        """Whether a userspace bridge has opened this very tap: a bridge sets it promiscuous."""
        try:
            return bool(device.flags(name) & device.IFF_PROMISC)
        except OSError:
            return False

    def set_up(self, name: str) -> None:
        """Set a tap up; raises TapError."""
        with named_errors(name):
            _set_up(name)

    def link_event(self, name: str) -> None:
        """Make a link event without other effect; ovs-vswitchd then checks all its ports."""
        with named_errors(name):
            flags = device.flags(name)
            for now in (flags ^ device.IFF_ALLMULTI, flags):
                device.set_flags(name, now)

    # -- the records -----------------------------------------------------------------------------

    def _record(self, name: str, index: int) -> None:
        path = self._state.tap(name)
        new = path.with_suffix(".new")
        new.write_text(f"{index} {_namespace()}\n")
        new.rename(path)

    def _recorded(self, name: str) -> tuple[int, int] | None:
        try:
            index, namespace = self._state.tap(name).read_text().split()
            return int(index), int(namespace)
        except (FileNotFoundError, ValueError):
            return None


def _ifindex(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _namespace() -> int:
    # Interface numbers are only unique in one network namespace.
    return os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116 - follows the link, as Path.stat


def _disable_ipv6(name: str) -> None:
    setting = Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6")
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        setting.write_text("1")


def _set_up(name: str) -> None:
    flags = device.flags(name)
    if not flags & device.IFF_UP:
        device.set_flags(name, flags | device.IFF_UP)
