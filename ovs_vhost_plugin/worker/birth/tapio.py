# SPDX-License-Identifier: Apache-2.0
"""How workers write frames to their taps: each by writev, or several at once by an io_uring."""

from __future__ import annotations

from dataclasses import dataclass

from ovs_vhost_plugin.common.uring import SLOTS, WRITEV, Uring

VARIABLE = "OVS_VHOST_IO_URING"
"""The environment variable with the wish: "on", "off", or anything else to measure."""


@dataclass(frozen=True, slots=True)
class TapIo:
    """Whether frames go together, and why, in words."""

    together: bool
    words: str

    def make_uring(self) -> Uring | None:
        """An io_uring for a process that is about to be a worker, if it is to have one."""
        if not self.together:
            return None
        try:
            return Uring(SLOTS, WRITEV)
        except OSError:
            return None  # no memory: each frame goes by itself
