# SPDX-License-Identifier: Apache-2.0
"""What rings stand on: session, memory and log, turned into what a queue pair is given.

It changes only while the rings are stopped; who changes it sees to that (`rings.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.vhost.log import DirtyLog
from ovs_vhost_plugin.vhost.memory import MemoryTable
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import Feature, VringAddressFlag, used_bytes
from ovs_vhost_plugin.worker.queuepair import PairConfig, VringConfig

_DESC_BYTES = 16  # virtio 1.2, 2.7.5
_AVAIL_BYTES = 6  # flags, idx, used_event (2.7.6), beside 2 an entry


class Basis:
    """The session that is served, if there is one, and what it has given."""

    def __init__(self, *, finish_offloads: bool) -> None:
        self.session: Session | None = None
        self.memory: MemoryTable | None = None
        self.log: DirtyLog | None = None
        self.finish_offloads = finish_offloads

    @property
    def features(self) -> int:
        """The acknowledged features, 0 without a session."""
        return 0 if self.session is None else self.session.features

    def has(self, bit: Feature) -> bool:
        """Whether a feature was acknowledged."""
        return bool(self.features & bit.mask)

    @property
    def header_size(self) -> int:
        """Bytes of a virtio-net header: num_buffers is there or not (virtio 1.2, 5.1.6.1)."""
        return 12 if self.has(Feature.VERSION_1) or self.has(Feature.MRG_RXBUF) else 10

    def replace_memory(self, table: MemoryTable | None) -> None:
        """Take another memory table, and let the one before go."""
        old, self.memory = self.memory, table
        if old is not None:
            old.close()

    def replace_log(self, log: DirtyLog | None) -> None:
        """Take another dirty log, and let the one before go."""
        old, self.log = self.log, log
        if old is not None:
            old.close()

    def vring(self, index: int, next_avail: int | None) -> VringConfig | None:
        """Vring `index`, to go on at `next_avail`; None: not ready. Raises PeerError.

        With None for `next_avail` it starts where the front-end says.
        """
        if self.session is None or self.memory is None:
            return None
        vring = self.session.vrings[index]
        if not vring.ready():
            return None
        view = self.memory.view
        used = view(vring.used_user, used_bytes(vring.size), 4)
        return VringConfig(
            size=vring.size,
            desc=view(vring.desc_user, _DESC_BYTES * vring.size, 16),
            avail=view(vring.avail_user, _AVAIL_BYTES + 2 * vring.size, 2),
            used=used,
            next_avail=_first_avail(vring.base, used) if next_avail is None else next_avail,
            kick_fd=vring.kick_fd,
            call_fd=vring.call_fd,
            err_fd=vring.err_fd,
            enabled=vring.enabled,
            log_used=bool(vring.flags & VringAddressFlag.LOG),
            log_guest=vring.log_guest,
        )

    def pair(self, rx: VringConfig | None, tx: VringConfig | None) -> PairConfig:
        """A queue pair with these vrings, which there are only when there is memory."""
        assert self.memory is not None
        logging = self.log is not None and self.has(Feature.LOG_ALL)
        return PairConfig(
            rx=rx,
            tx=tx,
            regions=self.memory.regions,
            log=self.log.bitmap if self.log is not None and logging else None,
            header_size=self.header_size,
            features=self.features,
            finish_offloads=self.finish_offloads,
        )


def _first_avail(base: int, used: NDArray[np.uint8]) -> int:
    """Where a ring that starts goes on: at the base its front-end gives.

    A front-end whose back-end died was not told a base. QEMU then takes the used index, as a
    split ring gives chains back in order; DPDK's virtio-user says 0 and leaves that to us.
    """
    return base or int.from_bytes(used[2:4].tobytes(), "little")  # virtio 1.2, 2.7.8: idx
