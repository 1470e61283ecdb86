# SPDX-License-Identifier: Apache-2.0
"""Whether the front-end shares its guest's memory: if not, nothing passes and no message says why.

QEMU without a file behind its memory sets rings up and sends no memory. With a private copy of the
file (`share=off`), the guest writes its rings into the copy and we see zeros: it kicks, and the
ring is empty. A driver does not kick a ring that it has never used; QEMU kicks once whenever it
starts a ring. So two kicks of a ring whose memory is all zero are proof, as long as no ring has
anything in it. A guest that has not used its NIC yet proves nothing.
"""

from __future__ import annotations

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.memory.iotlb import MissingError
from ovs_vhost_plugin.worker.device.resources import RingResources
from ovs_vhost_plugin.worker.device.rings import Rings

_PATIENCE = 2.0
"""Seconds from the rings' set-up to the first verdict: memory may be on its way."""
_WHILE_WRONG = 8.0
"""Seconds between looks at a guest that kicks on while an error is told, which may be over."""
_ADVICE = "give QEMU a memory-backend-memfd with share=on (libvirt: <access mode='shared'/>)"


class Sharing:
    """Looks at the rings that are set up, until one of them has something in it.

    Only a kick or a message can change what there is to see, so there is one look after the rings'
    set-up, and then one after each kick. A guest that is silent wakes nobody.
    """

    def __init__(self, resources: RingResources, rings: Rings) -> None:
        self._resources = resources
        self._rings = rings
        self._settled = True
        self._error: PeerError | None = None
        self._set_up = False
        self._look_at: float | None = None
        self._kicks = 0  # at the last look that found an error

    def begin(self) -> None:
        """Begin to look: a front-end has come, or has started its rings anew."""
        self._settled, self._error = False, None
        self._set_up, self._look_at, self._kicks = False, None, 0

    def end(self) -> None:
        """Stop looking: the front-end has gone, or its memory is shared."""
        self._settled, self._look_at = True, None
        self._rings.tell_of_kicks(False)

    @property
    def error(self) -> PeerError | None:
        """The error that is known; None: none so far."""
        return self._error

    def get_timer(self) -> float | None:
        """The time of the next look; None: not before something happens."""
        return self._look_at

    def handle_timer(self, now: float) -> None:
        """Look. To be called after any message that may have set rings up, and after a kick."""
        if self._settled:
            return
        started = self._started()
        if not started or self._resources.pages_missing:
            self._set_up, self._look_at = False, None
            self._rings.tell_of_kicks(False)
            return
        if not self._set_up:
            self._set_up, self._look_at = True, now + _PATIENCE
            self._rings.tell_of_kicks(True)
        if any(self._written(index) for index in started):
            self._error = None
            self.end()
        elif self._look_at is None or now >= self._look_at:
            self._judge(started, now)

    def _judge(self, started: list[int], now: float) -> None:
        kicks = [self._rings.kicks(index) for index in started]
        wrong = self._wrong(kicks)
        if wrong and self._error is None:
            self._error = PeerError(PeerErrorName.MEMORY_NOT_SHARED, f"{wrong}: {_ADVICE}")
        elif not wrong:
            self._error = None
        # A guest whose memory is not shared may kick with each frame.
        pause = bool(wrong) and sum(kicks) != self._kicks
        self._kicks = sum(kicks)
        self._look_at = now + _WHILE_WRONG if pause else None
        self._rings.tell_of_kicks(not pause)

    def _started(self) -> list[int]:
        session = self._resources.session
        return [] if session is None else [v.index for v in session.vrings if v.ready()]

    def _wrong(self, kicks: list[int]) -> str:
        """The fault as text; "" if there is none or it is unknown. No ring has been written."""
        if self._resources.memory is None:
            return "rings are set up and there is no memory"
        return "the guest kicks and its rings are empty here" if max(kicks) >= 2 else ""

    def _written(self, index: int) -> bool:
        """Whether the driver has written into this ring."""
        try:
            ring = self._resources.vring(index, 0)
        except (PeerError, MissingError):
            return False
        return ring is not None and bool(ring.desc.any() or ring.avail.any())
