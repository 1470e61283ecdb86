# SPDX-License-Identifier: Apache-2.0
"""How workers write frames to their taps: each by writev, or several at once by an io_uring."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from ovs_vhost_plugin.common.uring import SLOTS, WRITEV, Uring

_FEW = 8  # queue pairs
VARIABLE = "OVS_VHOST_IO_URING"
"""The environment variable with the wish: "on", "off", or anything else to measure."""


@dataclass(frozen=True, slots=True)
class TapIo:
    """Whether frames go together, and why, in words."""

    together: bool
    words: str

    def make_urings(self, queues: int) -> tuple[Uring, ...]:
        """The io_urings of a worker with `queues` queue pairs, the first pair's first.

        Each takes the kernel memory. So only a port that says how few pairs it has gets one for
        each, as most guests use the first pair alone.
        """
        if not self.together:
            return ()
        urings: list[Uring] = []
        with contextlib.suppress(OSError):  # no memory: each frame goes by itself
            for _ in range(queues if queues <= _FEW else 1):
                urings.append(Uring(SLOTS, WRITEV))
        return tuple(urings)
