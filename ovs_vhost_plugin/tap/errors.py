# SPDX-License-Identifier: Apache-2.0
"""Errors of a tap, by name."""

import contextlib
import errno
from collections.abc import Iterator
from enum import StrEnum

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.common.named import NamedError


class TapErrorName(StrEnum):
    """Reasons why a tap is missing, or cannot be removed."""

    FOREIGN = "tap-foreign"
    DENIED = "tap-denied"
    FAILED = "tap-failed"
    HELD = "tap-held"
    NO_FDS = "fds-exhausted"


class TapError(NamedError):
    """A tap could not be made, opened or removed; the text says what to do."""


def foreign(name: str) -> TapError:
    """The error for a name that belongs to an interface we did not make."""
    return TapError(
        TapErrorName.FOREIGN,
        f"a network interface {name} that is not ours exists; remove it or rename the port",
    )


@contextlib.contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Raise the kernel's refusals as TapError."""
    try:
        yield
    except OSError as error:
        # By IFF_TUN_EXCL, or by a move to a namespace that has the name: somebody was faster.
        if error.errno in (errno.EBUSY, errno.EEXIST):
            raise foreign(name) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise TapError(
                TapErrorName.DENIED,
                "the daemon needs CAP_NET_ADMIN, CAP_SYS_ADMIN and /dev/net/tun",
            ) from error
        if advice := process.fds_exhausted(error):
            raise TapError(TapErrorName.NO_FDS, advice.partition(": ")[2]) from error
        raise TapError(TapErrorName.FAILED, f"{name}: {error.strerror}") from error
