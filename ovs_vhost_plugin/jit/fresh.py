# SPDX-License-Identifier: Apache-2.0
"""Makes and empties the records and buffers that a queue pair's kernels work on."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ovs_vhost_plugin.jit.faults import FAULTS
from ovs_vhost_plugin.jit.layout import (
    ADDRESS_DTYPE,
    ADDRESSES,
    CHAIN_DTYPE,
    CHAINS,
    COUNTERS_DTYPE,
    FRAGMENT_HEADER,
    FRAME_MAX,
    HEAD,
    HEADER_MAX,
    HEARD,
    IOVEC_DTYPE,
    IOVEC_ROOM,
    LEARNING_DTYPE,
    NET_DTYPE,
    QUEUE_DTYPE,
    REGION_DTYPE,
    STATION_DTYPE,
    STATIONS,
    WATCHED_DTYPE,
    Learned,
    Net,
    Queue,
    Records,
)

Watch = tuple[Records, NDArray[np.int64]]
"""`watched` and `watching` of a Learned."""

_LARGE = mmap.PAGESIZE
"""Bytes from which an array has pages of its own."""


def _zeros(count: int, dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros; a large array takes memory page by page, as it is used.

    numpy would fill it in advance, and a port has 128 queue pairs, most of them never used.
    """
    size = count * np.dtype(dtype).itemsize
    if size < _LARGE:
        return np.zeros(count, dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype, count)


def region_table(regions: Records) -> Records:
    """A copy of (guest, size, host) rows for kernels, as numba checks alignment flags."""
    table = np.zeros(len(regions), REGION_DTYPE)
    table[:] = regions
    return table


def new_queue() -> Queue:
    """An empty queue of held chains."""
    queue = Queue(
        iov=_zeros(IOVEC_ROOM, IOVEC_DTYPE),
        guest=_zeros(IOVEC_ROOM, np.uint64),
        chains=_zeros(CHAINS, CHAIN_DTYPE),
        table=_zeros(2 * CHAINS, np.uint64),
        state=np.zeros(1, QUEUE_DTYPE),
    )
    empty(queue)
    return queue


def empty(queue: Queue) -> None:
    """Forget held chains. Room for a private header stays before the first iovec."""
    queue.state[:] = 0
    queue.state["first"] = queue.state["end"] = 1


def new_net() -> Net:
    """State, private buffers and counters of a queue pair, all zero."""
    return Net(
        state=np.zeros(1, NET_DTYPE),
        header=np.zeros(HEADER_MAX, np.uint8),
        frame=_zeros(FRAME_MAX, np.uint8),
        gso_segment=_zeros(HEADER_MAX + FRAME_MAX + FRAGMENT_HEADER, np.uint8),
        pending=_zeros(HEADER_MAX + FRAME_MAX, np.uint8),
        backlog=np.zeros(0, np.uint8),
        patch=np.zeros(3, np.uint8),
        scratch=np.zeros(6, np.int64),
        counters=np.zeros(1, COUNTERS_DTYPE),
        faults=np.zeros(FAULTS, np.int64),
    )


def new_watch() -> Watch:
    """A watch of no addresses."""
    return _zeros(STATIONS * ADDRESSES, WATCHED_DTYPE), np.zeros(1, np.int64)


def new_learned(fd: int, watch: Watch | None = None) -> Learned:
    """An empty table of stations; `fd` is an eventfd to write when it changes, or -1.

    `watch` is the port's, which all its pairs share.
    """
    watched, watching = watch or new_watch()
    learned = Learned(
        state=np.zeros(1, LEARNING_DTYPE),
        stations=np.zeros(STATIONS, STATION_DTYPE),
        addresses=_zeros(STATIONS * ADDRESSES, ADDRESS_DTYPE),
        told=np.zeros(1, np.int64),
        head=np.zeros(HEAD, np.uint8),
        scratch=np.zeros(6, np.int64),
        watched=watched,
        watching=watching,
        heard=np.zeros(HEADER_MAX + HEARD, np.uint8),
    )
    learned.state["cfg_fd"] = fd
    return learned


def empty_learned(learned: Learned) -> None:
    """Forget the stations and the last frame; the counters stay."""
    learned.stations[:] = 0
    learned.addresses[:] = 0
    for name in (
        "stations",
        *("last_key", "last_high", "last_low", "last_until", "sample_tick", "sample_looks"),
    ):
        learned.state[name] = 0
