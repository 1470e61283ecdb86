# SPDX-License-Identifier: Apache-2.0
"""The session, memory and log that rings use, made into a queue pair's configuration.

They change only while the rings are stopped; the caller sees to that (`rings.py`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.vhost import packed_base
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.memory.inflight import Inflight, make
from ovs_vhost_plugin.vhost.memory.iotlb import Iotlb
from ovs_vhost_plugin.vhost.memory.log import DirtyLog
from ovs_vhost_plugin.vhost.memory.scattered import translated_view
from ovs_vhost_plugin.vhost.memory.table import MemoryTable
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import (
    EVENT_AREA,
    Feature,
    IotlbAccess,
    ProtocolFeature,
    VringAddressFlag,
    used_bytes,
)
from ovs_vhost_plugin.vhost.state import VringState
from ovs_vhost_plugin.worker.device.vringconfig import Bytes, PairConfig, Start, VringConfig
from ovs_vhost_plugin.worker.recovery import journal

View = Callable[[int, int, int, IotlbAccess], Bytes]
"""A view of memory by address, length, alignment and access."""

_BOTH = IotlbAccess.READ | IotlbAccess.WRITE
_DESC_BYTES = 16  # virtio 1.2, 2.7.5
_AVAIL_BYTES = 6  # flags, idx, used_event (2.7.6), beside 2 an entry


class RingResources:
    """The session that is served, if any, and the memory, log and inflight region it gave."""

    def __init__(self, *, finish_offloads: bool, finish_udp: bool = True) -> None:
        self.session: Session | None = None
        self.memory: MemoryTable | None = None
        self.log: DirtyLog | None = None
        self.iotlb = Iotlb()
        self.inflight: Inflight | None = None
        self._inflight_fd = -1  # the fd of the region made last
        self.finish_offloads = finish_offloads
        self.finish_udp = finish_udp
        self.pages_missing = False  # only the loops may touch memory: a touch may have to wait

    @property
    def features(self) -> int:
        """The acknowledged features, 0 without a session."""
        return 0 if self.session is None else self.session.features

    def has(self, bit: Feature) -> bool:
        """Whether a feature was acknowledged."""
        return bool(self.features & bit.mask)

    @property
    def header_size(self) -> int:
        """The bytes of a virtio-net header, with or without num_buffers (virtio 1.2, 5.1.6.1)."""
        return 12 if self.has(Feature.VERSION_1) or self.has(Feature.MRG_RXBUF) else 10

    def replace_memory(self, table: MemoryTable | None) -> None:
        """Use another memory table, and close the previous one."""
        old, self.memory = self.memory, table
        if old is not None:
            old.close()

    def replace_log(self, log: DirtyLog | None) -> None:
        """Use another dirty log, and close the previous one."""
        old, self.log = self.log, log
        if old is not None:
            old.close()

    def replace_inflight(self, inflight: Inflight | None) -> None:
        """Use another inflight region, and close the previous one."""
        old, self.inflight = self.inflight, inflight
        if old is not None:
            old.close()

    def make_inflight(self, queues: int, queue_size: int, *, packed: bool) -> tuple[int, int]:
        """Make an inflight region for the front-end to keep; return its fd and size in bytes.

        The fd stays ours. The last region counts. Raises PeerError.
        """
        self._close_inflight_fd()
        self._inflight_fd, size = make(queues, queue_size, packed=packed)
        return self._inflight_fd, size

    def forget_inflight(self) -> None:
        """Drop the inflight region of a front-end that has gone: the region is its memory."""
        self.replace_inflight(None)
        self._close_inflight_fd()

    def _close_inflight_fd(self) -> None:
        if self._inflight_fd >= 0:
            os.close(self._inflight_fd)
            self._inflight_fd = -1

    @property
    def suspends(self) -> bool:
        """Whether a ring that is handed over may have something in flight."""
        bit = ProtocolFeature.GET_VRING_BASE_INFLIGHT
        return self.session is not None and self.session.negotiated(bit)

    def vring(self, index: int, next_avail: int | None) -> VringConfig | None:
        """The configuration of vring `index`, to resume at `next_avail`; None: it is not ready.

        If `next_avail` is None, the vring starts where the front-end says. Raises PeerError, and
        MissingError if the vring has to wait for a translation.
        """
        if self.session is None or self.memory is None or self.session.bases_pending:
            return None
        vring = self.session.vrings[index]
        if not vring.ready():
            return None
        if self.pages_missing and self._iommu:
            return None  # memory may be mapped anew, where no thread would wait for its pages
        make = self._packed if self.has(Feature.RING_PACKED) else self._split
        start = Start.FRONT_END if next_avail is None else Start.HERE
        config = replace(make(vring, self.memory, next_avail), start=start)
        if self.pages_missing or self._iommu:
            # With pages missing, nothing can be read in the ring: it is named when all pages are
            # here. Behind an IOMMU, a ring has no place of its own to recognise it by.
            return config
        identity = self._identity(vring, self.memory)
        return replace(config, identity=identity)

    def base(self, index: int, next_avail: int) -> int:
        """The answer to GET_VRING_BASE for vring `index`, which is at `next_avail`."""
        if self.session is None or not self.has(Feature.RING_PACKED):
            return next_avail
        return packed_base.encode(next_avail, self.session.vrings[index].size)

    def moved_in(self, vring: VringState) -> bool:
        """Whether the front-end says that this vring has run before."""
        packed = self.has(Feature.RING_PACKED)
        return vring.base not in (0, *(packed_base.BEGINNINGS if packed else ()))

    def _identity(self, vring: VringState, memory: MemoryTable) -> bytes:
        """The identity of a ring, the same in every worker: its place in its files, and its form.

        A front-end keeps its memory's files as long as its guest lives.
        """
        parts = (vring.desc_user, vring.avail_user, vring.used_user)
        places = [memory.file_place(part) for part in parts]
        features = self.features & ~Feature.LOG_ALL.mask
        known = (journal.FORMAT, vring.index, vring.size, features, places)
        return hashlib.blake2b(repr(known).encode(), digest_size=journal.IDENTITY_BYTES).digest()

    def _split(self, vring: VringState, memory: MemoryTable, next_avail: int | None) -> VringConfig:
        if vring.size & (vring.size - 1):  # it was set while packed rings were negotiated
            raise PeerError(PeerErrorName.VRING_SIZE_NOT_POWER_OF_TWO, f"{vring.size}")
        view = self._view(memory)
        used = view(vring.used_user, used_bytes(vring.size), 4, _BOTH)
        self._require_logged(vring, used_bytes(vring.size))
        return self._config(
            vring,
            desc=view(vring.desc_user, _DESC_BYTES * vring.size, 16, IotlbAccess.READ),
            avail=view(vring.avail_user, _AVAIL_BYTES + 2 * vring.size, 2, IotlbAccess.READ),
            used=used,
            next_avail=self._first_avail(vring.base, used) if next_avail is None else next_avail,
        )

    def _packed(
        self, vring: VringState, memory: MemoryTable, next_avail: int | None
    ) -> VringConfig:
        """A packed ring, which starts where the front-end says: only it knows (virtio 1.2, 2.8)."""
        if next_avail is None:
            next_avail = packed_base.decode(vring.base, vring.size) if vring.base_told else 0
        view = self._view(memory)
        self._require_logged(vring, EVENT_AREA)
        return self._config(
            vring,
            desc=view(vring.desc_user, _DESC_BYTES * vring.size, 16, _BOTH),
            avail=view(vring.avail_user, EVENT_AREA, EVENT_AREA, IotlbAccess.READ),
            used=view(vring.used_user, EVENT_AREA, EVENT_AREA, IotlbAccess.WRITE),
            next_avail=next_avail,
            # vhost-user's log address is that of the device event area
            log_desc=vring.desc_user if self._iommu else memory.guest_address(vring.desc_user),
        )

    @property
    def _iommu(self) -> bool:
        return self.has(Feature.ACCESS_PLATFORM)

    def _view(self, memory: MemoryTable) -> View:
        """The function that makes this session's ring addresses views of `memory`."""
        if self._iommu:
            return partial(translated_view, memory, self.iotlb)
        return lambda address, length, align, _access: memory.view(address, length, align)

    def _require_logged(self, vring: VringState, length: int) -> None:
        """Require a translation of the used ring's log address: a guest address, so an IOVA."""
        if self._iommu and vring.flags & VringAddressFlag.LOG:
            self.iotlb.lookup(vring.log_guest, length, IotlbAccess.WRITE)

    def _config(
        self,
        vring: VringState,
        *,
        desc: Bytes,
        avail: Bytes,
        used: Bytes,
        next_avail: int,
        log_desc: int = 0,
    ) -> VringConfig:
        return VringConfig(
            size=vring.size,
            desc=desc,
            avail=avail,
            used=used,
            next_avail=next_avail,
            kick_fd=vring.kick_fd,
            call_fd=vring.call_fd,
            err_fd=vring.err_fd,
            enabled=vring.enabled,
            log_used=bool(vring.flags & VringAddressFlag.LOG),
            log_guest=vring.log_guest,
            log_desc=log_desc,
            inflight=self._kept(vring),
        )

    def _kept(self, vring: VringState) -> Bytes | None:
        if self.inflight is None:
            return None
        packed = self.has(Feature.RING_PACKED)
        return self.inflight.part(vring.index, vring.size, packed=packed)

    def pair(self, rx: VringConfig | None, tx: VringConfig | None) -> PairConfig:
        """The configuration of a queue pair with these vrings. Requires a memory table."""
        assert self.memory is not None
        logging = self.log is not None and self.has(Feature.LOG_ALL)
        return PairConfig(
            rx=rx,
            tx=tx,
            regions=self.iotlb.table(self.memory) if self._iommu else self.memory.regions,
            log=self.log.bitmap if self.log is not None and logging else None,
            header_size=self.header_size,
            features=self.features,
            finish_offloads=self.finish_offloads,
            finish_udp=self.finish_udp,
            pages_missing=self.pages_missing,
        )

    def _first_avail(self, base: int, used: NDArray[np.uint8]) -> int:
        """The index at which a split ring starts: its used index, whatever `base` says.

        Used elements are in the order of the chains, so the used index tells which chains are given
        back: "if virtqueue is processed in order", the chains in flight can be read from the ring
        (vhost-user "Inflight I/O tracking"). GET_VRING_BASE answers the used index as well: in a
        stopped ring nothing is in flight, or an inflight region has it (`tracking.py`). So a
        base that differs is not a back-end's answer, but the guess of a front-end that lost the
        answer. Cloud Hypervisor sends the avail index, which would lose the chains that the guest
        has posted; DPDK's virtio-user sends 0; others send the last answer that they had.

        In postcopy `base` counts: it is a back-end's answer, and the used ring may not be here yet.
        """
        if base > 0xFFFF:  # it was set while packed rings were negotiated
            raise PeerError(PeerErrorName.VRING_BASE_RANGE, f"{base:#x}")
        if self.pages_missing:
            return base
        return int.from_bytes(used[2:4].tobytes(), "little")  # virtio 1.2, 2.7.8: idx
