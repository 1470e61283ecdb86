# SPDX-License-Identifier: Apache-2.0
"""Persistent multi-queue taps, one a port.

Persistent, because OVS keeps its receive socket on the interface it opened: a tap that went away
and came back would receive and never send again, while OVSDB shows nothing wrong; where that
cannot be helped, `daemon/reopening.py` has the switch open the new one. Whoever owns a name first
keeps it: a netdev that we did not make is never touched.
Source: linux/if_tun.h, Documentation/networking/tuntap.rst, netdevice(7).
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from ovs_vhost_plugin.dirs import StateDir
from ovs_vhost_plugin.named import NamedError

_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_TUNSETCARRIER = 0x400454E2
_IFF_TAP = 0x0002
_IFF_NO_CARRIER = 0x0040  # Linux 6.0; earlier kernels ignore it, and TUNSETCARRIER follows
_IFF_MULTI_QUEUE = 0x0100
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
_FLAGS = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_MULTI_QUEUE | _IFF_NO_CARRIER

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFF_PROMISC = 0x100
_IFF_ALLMULTI = 0x200

_IFREQ = struct.Struct("=16sH22x")  # name, flags (short, seen here as unsigned)
assert _IFREQ.size == 40


class TapErrorName(StrEnum):
    """Why there is no tap."""

    FOREIGN = "tap-foreign"
    DENIED = "tap-denied"
    FAILED = "tap-failed"


class TapError(NamedError):
    """A tap could not be made or opened; the text says what to do."""


class Taps:
    """The taps of this network namespace, with the records of which are ours."""

    def __init__(self, state: StateDir) -> None:
        self._state = state

    def owned(self, name: str) -> int | None:
        """The ifindex of our tap `name`; None if there is none, or one that is not ours."""
        index = _ifindex(name)
        if index is None or self._recorded(name) != (index, _namespace()):
            return None
        return index

    def create(self, name: str) -> int:
        """Make sure that our tap `name` is there and up, without carrier; return its ifindex."""
        index = self.owned(name)
        if index is None:
            if _ifindex(name) is not None:
                raise _foreign(name)
            index = self._make(name)
        with _named_errors(name):
            # OVS's bridge is to hear the guest, not what this host's own stack would say.
            _disable_ipv6(name)
            _set_up(name)
        return index

    def _make(self, name: str) -> int:
        with _named_errors(name):
            fd = _attach(name, _FLAGS | _IFF_TUN_EXCL)
            try:
                index = socket.if_nametoindex(name)
                # Recorded before it persists: whoever kills us in between leaves a record without
                # a tap, which means nothing, and not a tap without an owner.
                self._record(name, index)
                fcntl.ioctl(fd, _TUNSETPERSIST, 1)
            finally:
                os.close(fd)
        return index

    def open_queues(self, name: str, queues: int) -> list[int]:
        """Open `queues` queues of our tap, carrier down."""
        if self.owned(name) is None:
            raise _foreign(name)
        fds: list[int] = []
        try:
            with _named_errors(name):
                for _ in range(queues):
                    fds.append(_attach(name, _FLAGS))
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def remove(self, name: str) -> None:
        """Remove our tap; it goes when the last of its queues is closed. Others' stay."""
        if self.owned(name) is not None:
            with _named_errors(name):
                fd = _attach(name, _FLAGS)
                try:
                    fcntl.ioctl(fd, _TUNSETPERSIST, 0)
                finally:
                    os.close(fd)
        self._state.tap(name).unlink(missing_ok=True)

    def heard(self, name: str) -> bool:
        """Whether a userspace bridge has opened this very tap: it sets those promiscuous."""
        try:
            return bool(_flags(name) & _IFF_PROMISC)
        except OSError:
            return False

    def set_up(self, name: str) -> None:
        """Have a tap up; raises TapError."""
        with _named_errors(name):
            _set_up(name)

    def nudge(self, name: str) -> None:
        """Make a link event without an effect, at which ovs-vswitchd looks at all its ports."""
        with _named_errors(name):
            flags = _flags(name)
            for now in (flags ^ _IFF_ALLMULTI, flags):
                _set_flags(name, now)

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


def _attach(name: str, flags: int) -> int:
    fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
        fcntl.ioctl(fd, _TUNSETCARRIER, struct.pack("=i", 0))
    except OSError:
        os.close(fd)
        raise
    return fd


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
    flags = _flags(name)
    if not flags & _IFF_UP:
        _set_flags(name, flags | _IFF_UP)


def _flags(name: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
    return int(_IFREQ.unpack(answer)[1])


def _set_flags(name: str, flags: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(name.encode(), flags))


def _foreign(name: str) -> TapError:
    return TapError(
        TapErrorName.FOREIGN,
        f"a network interface {name} that is not ours exists; remove it or rename the port",
    )


@contextlib.contextmanager
def _named_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EBUSY:  # IFF_TUN_EXCL: somebody was faster
            raise _foreign(name) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise TapError(
                TapErrorName.DENIED, "the daemon needs CAP_NET_ADMIN and /dev/net/tun"
            ) from error
        raise TapError(TapErrorName.FAILED, f"{name}: {error.strerror}") from error
