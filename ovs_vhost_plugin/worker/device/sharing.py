# SPDX-License-Identifier: Apache-2.0
"""Whether the front-end shares its guest's memory: if not, nothing passes and no message says why.

QEMU without a file behind its memory sets rings up and sends no memory. With a private copy of the
file (`share=off`), the guest writes its rings into the copy and we see zeros: it kicks, and the
ring is empty. A driver does not kick a ring that it has never used; QEMU kicks once whenever it
starts a ring. So two kicks of a ring whose memory is all zero are proof, as long as no ring has
anything in it. A guest that has not used its NIC yet proves nothing.
"""

from __future__ import annotations

import math

from ovs_vhost_plugin.common.backoff import Backoff
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.memory.iotlb import MissingError
from ovs_vhost_plugin.worker.device.resources import RingResources
from ovs_vhost_plugin.worker.device.rings import Rings

_FIRST = 2.0
"""Seconds from the rings' set-up to the first look. Pauses double without end.

A guest that never uses its NIC then wakes its worker a dozen times in the first hours.
"""
_WHILE_WRONG = 8.0
"""The longest pause, in seconds, while an error is told that may be over."""
_ADVICE = "give QEMU a memory-backend-memfd with share=on (libvirt: <access mode='shared'/>)"


class Sharing:
    """Looks at the rings that are set up, until one of them has something in it."""

    def __init__(self, resources: RingResources, rings: Rings) -> None:
        self._resources = resources
        self._rings = rings
        self._settled = True
        self._error: PeerError | None = None
        self._look_at: float | None = None
        self._looks = Backoff(_FIRST, math.inf)

    def begin(self) -> None:
        """Begin to look: a front-end has come, or has started its rings anew."""
        self._settled, self._error = False, None
        self._look_at, self._looks = None, self._looks.worked()

    def end(self) -> None:
        """Stop looking: the front-end has gone."""
        self._settled = True

    @property
    def error(self) -> PeerError | None:
        """The error that is known; None: none so far."""
        return self._error

    def get_timer(self) -> float | None:
        """The time of the next look; None: not before something happens."""
        return None if self._settled else self._look_at

    def handle_timer(self, now: float) -> None:
        """Look if it is time. To be called after any message that may have set rings up."""
        if not self._settled and (self._look_at is None or now >= self._look_at):
            self._look(now)

    def _look(self, now: float) -> None:
        started = self._started()
        if not started or self._resources.pages_missing:
            self._look_at = None
            return
        first = self._look_at is None
        self._looks = self._looks.failed(now)
        self._look_at = self._looks.retry_at
        if first:
            return
        wrong = self._wrong(started)
        if not wrong:
            self._error = None
            return
        self._look_at = min(self._look_at, now + _WHILE_WRONG)
        if self._error is None:
            self._error = PeerError(PeerErrorName.MEMORY_NOT_SHARED, f"{wrong}: {_ADVICE}")

    def _started(self) -> list[int]:
        session = self._resources.session
        return [] if session is None else [v.index for v in session.vrings if v.ready()]

    def _wrong(self, started: list[int]) -> str:
        """The fault as text; "" if there is none or it is unknown."""
        if self._resources.memory is None:
            return "rings are set up and there is no memory"
        if any(self._written(index) for index in started):
            self._settled = True
            return ""
        if max(map(self._rings.kicks, started)) < 2:
            return ""
        return "the guest kicks and its rings are empty here"

    def _written(self, index: int) -> bool:
        """Whether the driver has written into this ring."""
        try:
            ring = self._resources.vring(index, 0)
        except (PeerError, MissingError):
            return False
        return ring is not None and bool(ring.desc.any() or ring.avail.any())
