# SPDX-License-Identifier: Apache-2.0
"""A queue pair's configuration, and the records of its vrings for the compiled loop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.ring import iotlb
from ovs_vhost_plugin.jit.ring.descriptor import DESCRIPTOR_BYTES
from ovs_vhost_plugin.jit.ring.offsets import USED_IDX, element_byte
from ovs_vhost_plugin.vhost.spec import Feature

Kind = Literal["rx", "tx"]
Bytes = NDArray[np.uint8]
Words = NDArray[np.int64]


class Start(Enum):
    """Whence a ring's `next_avail` is known."""

    FRONT_END = auto()
    """From the front-end's base, or the used index; a journal that names the ring knows better."""
    JOURNAL = auto()
    """From the journal of a worker that has ended."""
    HERE = auto()
    """This worker ran the ring before."""


@dataclass(frozen=True, slots=True)
class VringConfig:
    """A vring to run: its memory, where it resumes, and its fds, which stay the caller's."""

    size: int
    desc: Bytes  # 16 bytes an entry, aligned to 16
    avail: Bytes  # 6 + 2 bytes an entry, aligned to 2; packed: driver event area, 4 and 4
    used: Bytes  # 6 + 8 bytes an entry, aligned to 4; packed: device event area, 4 and 4
    next_avail: int  # packed: a position, see vhost/packed_base.py
    kick_fd: int = -1  # an eventfd; -1: the driver does not kick, and the ring is polled every ms
    call_fd: int = -1  # an eventfd; -1: the driver polls
    err_fd: int = -1
    enabled: bool = True
    log_used: bool = False
    log_guest: int = 0  # guest address of `used` in the dirty log
    log_desc: int = 0  # packed: of `desc`
    identity: bytes = b""  # names the ring (16 bytes); empty: unknown
    start: Start = Start.FRONT_END
    inflight: Bytes | None = None  # the ring's part of the front-end's inflight region


@dataclass(frozen=True, slots=True)
class PairCapture:
    """A pair's part of a capture's memory (`jit/capture_ring.py`), and what it gets.

    directions  capture_ring.RX, TX or both
    snap        the most bytes of a frame
    """

    part: Bytes
    directions: int
    snap: int

    def record(self) -> layout.Records:
        """A (1,) CAPTURE_DTYPE of it."""
        made = np.zeros(1, layout.CAPTURE_DTYPE)
        made["part"] = self.part.ctypes.data
        made["directions"], made["snap"] = self.directions, self.snap
        return made


@dataclass(frozen=True, slots=True)
class PairConfig:
    """Everything that a queue pair depends on while it runs."""

    rx: VringConfig | None  # the guest receives: vring 2i
    tx: VringConfig | None  # the guest transmits: vring 2i + 1
    regions: NDArray[Any]  # fields guest, size, host; behind an IOMMU also logged, access
    log: Bytes | None  # dirty log; None: nothing is logged
    header_size: int  # of the virtio-net header, here and on the tap: 10 or 12
    features: int  # negotiated
    finish_offloads: bool  # whether checksums and segments are finished before the tap
    finish_udp: bool = True  # whether large UDP frames are finished, even if others are not
    pages_missing: bool = False  # whether touching guest memory may have to wait for a page

    def has(self, bit: Feature) -> bool:
        """Whether a feature was negotiated."""
        return bool(self.features & bit.mask)

    @property
    def iommu(self) -> bool:
        """Whether guest addresses are IOVAs, and `regions` translations."""
        return self.has(Feature.ACCESS_PLATFORM)

    def memory(self, kind: Kind) -> layout.Memory:
        """The kernels' record of regions and log for one of the rings."""
        log = np.zeros(0, np.uint8) if self.log is None else self.log
        if self.iommu:
            return layout.Memory(iotlb.translated_table(self.regions, writes=kind == "rx"), log)
        return layout.Memory(fresh.region_table(self.regions), log)


def ring_record(
    kind: Kind, vring: VringConfig, config: PairConfig, state: layout.Records, journal: Words
) -> layout.Vring:
    """The record of a vring that is about to begin. Fills `state`, (1,) RING_DTYPE."""
    packed = config.has(Feature.RING_PACKED)
    used = vring.used.view(np.uint16)
    # Chains are given back in order, so a stopped ring's used index is this too.
    known = packed or config.pages_missing
    next_used = vring.next_avail if known else int(used[USED_IDX])
    values = {
        "size": vring.size,
        "writes": kind == "rx",
        "enabled": vring.enabled,
        "event_idx": config.has(Feature.RING_EVENT_IDX),
        "indirect": config.has(Feature.RING_INDIRECT_DESC),
        "packed": packed,
        "in_order": config.has(Feature.IN_ORDER),
        "next_avail": vring.next_avail,
        "next_pop": vring.next_avail,
        "avail_idx": vring.next_avail,
        "next_used": next_used,
        "flushed": next_used,
        "kick_fd": vring.kick_fd,
        "call_fd": vring.call_fd,
        "err_fd": vring.err_fd,
        "log_used": vring.log_used and config.log is not None,
        # An address that would wrap around is as far outside of any log.
        "log_guest": min(vring.log_guest, 2**64 - 2**20),
        "log_desc": vring.log_desc,
        "resumed": vring.start is Start.JOURNAL,
    }
    state[:] = 0
    for name, value in values.items():
        state[name] = value
    begin = element_byte(0)
    elements = vring.used[begin : begin if packed else element_byte(vring.size)]
    return layout.Vring(
        desc=vring.desc[: DESCRIPTOR_BYTES * vring.size].view(np.uint64),
        avail=vring.avail.view(np.uint16),
        used=used,
        elements=elements.view(np.uint32),
        state=state,
        journal=journal,
    )


def empty_record(state: layout.Records, journal: Words) -> layout.Vring:
    """The record of a missing vring: without entries."""
    stands_at = int(state["next_avail"][0])
    state[:] = 0
    state["next_avail"] = stands_at  # GET_VRING_BASE asks a broken ring for it later
    nothing = np.zeros(0, np.uint16)
    desc, elements = np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    return layout.Vring(desc, nothing, nothing, elements, state, journal)
