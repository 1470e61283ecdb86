# SPDX-License-Identifier: Apache-2.0
"""The compiled driver's data: two rings, each with a pool of buffers, and the guest's tap.

Every buffer is one piece of memory, and a chain is one descriptor. Its *head* is the buffer's
number: in a split ring the descriptor's index, in a packed one the buffer id.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import from_dtype, types
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.layout import (
    I64_T,
    IOVEC_DTYPE,
    POLLFD_DTYPE,
    U8_T,
    U16_T,
    U32_T,
    U64_T,
    Records,
    record,
)

DRIVER_RING_DTYPE = record(
    # Written by the guest while the loop does not run
    "size",  # entries of the ring; split: a power of two
    "packed",  # 1: RING_PACKED negotiated: indices are then positions, see ring/position.py
    "event_idx",  # 1: RING_EVENT_IDX negotiated
    "writes",  # 1: the device writes the buffers (receive ring)
    "kick_fd",  # eventfd that wakes the device
    "call_fd",  # eventfd that the device writes, non-blocking
    "buffers",  # address of buffer 0 in this process
    "guest",  # its guest address
    "length",  # bytes of a buffer, and to the next one
    "first_page",  # the page of buffer 0 in `written`
    # The ring's place
    "next",  # avail index of the next chain
    "published",  # avail index that the device sees
    "seen",  # used index up to which chains were collected
    "free",  # number of buffers in `DriverRing.free`
    "first_word",  # packed: second word of the chain at `published`, which it does not have yet
)
"""A vring as its driver has it, `DriverRing.state`."""

STACK_DTYPE = record(
    "cfg_tap_fd",  # the guest's tap, non-blocking, with headers of HEADER_BYTES
    "cfg_wake_fd",  # eventfd that ends the loop's sleep
    "fault",  # 1: the device has used a chain that was not offered, or the tap has gone
)
"""The state that both directions share: `TapGuest.state`."""

DRIVER_COUNTERS_DTYPE = record(
    "tx_packets",  # frames from the tap to the device
    "tx_bytes",  # of these frames, with their headers
    "tx_gso",  # of them, those that are still to be segmented
    "tx_kicks",
    "rx_packets",  # frames from the device to the tap
    "rx_bytes",
    "rx_gso",
    "rx_refused",  # frames that the tap did not take
    "rx_kicks",
    "wakeups",  # returns from poll
)
"""Counts since the guest was made: `TapGuest.counters`."""

NONE, BROKEN = -1, -2
"""In the place of a head: there is no used chain; the device broke the rules."""

HEADER_BYTES = 12
"""struct virtio_net_hdr with num_buffers (virtio 1.2, 5.1.6.1)."""


class DriverRing(NamedTuple):
    """A vring: views of its parts as the device's `Vring` has them, and its buffers."""

    desc: NDArray[np.uint64]  # two words a descriptor
    avail: NDArray[np.uint16]  # packed: the driver event area
    used: NDArray[np.uint16]  # packed: the device event area
    elements: NDArray[np.uint32]  # split: the used ring's elements; packed: nothing
    free: NDArray[np.int64]  # heads of the free buffers, of which the last is taken first
    offered: NDArray[np.uint8]  # by head, 1: the device has the buffer
    state: Records  # (1,) DRIVER_RING_DTYPE


class TapGuest(NamedTuple):
    """The loop's data of a queue pair, and of the tap's queue that it has."""

    rx: DriverRing
    tx: DriverRing
    iov: Records  # IOVEC_DTYPE, as many as the receive ring has buffers
    written: NDArray[np.uint8]  # a byte for each page of guest memory, not 0: the guest wrote it
    poll: Records  # (4,) POLLFD_DTYPE
    scratch: NDArray[np.int64]  # see syscalls
    counters: Records  # (1,) DRIVER_COUNTERS_DTYPE
    state: Records  # (1,) STACK_DTYPE
    stop: NDArray[np.int64]  # (1,), not 0: leave the loop


DRIVER_RING_T = types.BaseTuple.from_types(
    (U64_T, U16_T, U16_T, U32_T, I64_T, U8_T, from_dtype(DRIVER_RING_DTYPE)[::1]), DriverRing
)
TAP_GUEST_T = types.BaseTuple.from_types(
    (
        *(DRIVER_RING_T, DRIVER_RING_T, from_dtype(IOVEC_DTYPE)[::1], U8_T),
        *(from_dtype(POLLFD_DTYPE)[::1], I64_T),
        *(from_dtype(DRIVER_COUNTERS_DTYPE)[::1], from_dtype(STACK_DTYPE)[::1], I64_T),
    ),
    TapGuest,
)
