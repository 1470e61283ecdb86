# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a tap, by name."""

import contextlib
import errno
from collections.abc import Iterator
from enum import StrEnum

from ovs_vhost_plugin.common.named import NamedError


class TapErrorName(StrEnum):
    """Why there is no tap, or still one."""

    FOREIGN = "tap-foreign"
    DENIED = "tap-denied"
    FAILED = "tap-failed"
    HELD = "tap-held"


class TapError(NamedError):
    """A tap could not be made, opened or removed; the text says what to do."""


def foreign(name: str) -> TapError:
    """The name is taken by an interface that we did not make."""
    return TapError(
        TapErrorName.FOREIGN,
        f"a network interface {name} that is not ours exists; remove it or rename the port",
    )


@contextlib.contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Have what the kernel refuses raised as TapError."""
    try:
        yield
    except OSError as error:
        # IFF_TUN_EXCL, and what moves to where the name is taken: somebody was faster.
        if error.errno in (errno.EBUSY, errno.EEXIST):
            raise foreign(name) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise TapError(
                TapErrorName.DENIED,
                "the daemon needs CAP_NET_ADMIN, CAP_SYS_ADMIN and /dev/net/tun",
            ) from error
        raise TapError(TapErrorName.FAILED, f"{name}: {error.strerror}") from error
