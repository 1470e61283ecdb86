# SPDX-License-Identifier: Apache-2.0
"""What the kernels work on, as data: the layouts of all records, and the groups they come in.

Two of them belong to others: IOVEC to the kernel's readv and writev, POLLFD to its poll. All
fields of our own are signed 64-bit numbers, because numba makes a float64 of int64 + uint64:
guest addresses, which may use all 64 bits, are the only unsigned ones. Host addresses of
processes stay far below 2**63.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, types
from numpy.typing import NDArray

Records = NDArray[Any]


def _record(*names: str, unsigned: tuple[str, ...] = ()) -> np.dtype[Any]:
    signed = [(name, "<i8") for name in names]
    return np.dtype(signed + [(name, "<u8") for name in unsigned], align=True)


IOVEC_DTYPE = np.dtype([("base", "<i8"), ("len", "<i8")], align=True)
"""struct iovec of <sys/uio.h>."""

POLLFD_DTYPE = np.dtype([("fd", "<i4"), ("events", "<i2"), ("revents", "<i2")], align=True)
"""struct pollfd of <poll.h>."""

REGION_DTYPE = np.dtype([("guest", "<u8"), ("size", "<u8"), ("host", "<u8")], align=True)
"""A memory region: guest address, bytes, where it is mapped in this process.

Behind an IOMMU a translation, and a table has a part for each use of addresses: see iotlb.py.
"""

RING_DTYPE = _record(
    "size",
    "writes",  # 1: the device writes the buffers (receive ring)
    "enabled",
    "event_idx",
    "indirect",  # RING_INDIRECT_DESC negotiated
    "packed",  # RING_PACKED negotiated: indices are then positions, see packed.py
    "in_order",
    "next_avail",  # index of the oldest chain not yet given back
    "next_pop",  # index of the next chain to parse; chains in between are parsed and held
    "avail_idx",  # the driver's index as last read
    "next_used",
    "flushed",  # used idx as the driver sees it
    "unflushed",  # packed: chains given back since then
    "called",  # used idx at the last decision whether to call
    "called_valid",
    "kicks_on",
    "kick_fd",
    "call_fd",
    "call_first",  # the driver is called when the ring goes on, see loop.py
    "err_fd",
    "log_used",
    "tracked",  # address of its words of inflight*.py, if its front-end keeps what is in flight
    "resumed",  # taken over: whether its driver was called for all that came back, nobody knows
    "fault",  # not 0: the ring is broken
    unsigned=(
        "log_guest",  # guest address of the used ring; packed: of the device event area
        "log_desc",  # packed: guest address of the descriptor ring
    ),
)

CHAIN_DTYPE = _record("head", "iovecs", "length", "slots")
"""A parsed chain: its head, how many iovecs it has, bytes in all.

In a packed ring `head` is its buffer id, and `slots` how many descriptors of the ring it takes.
"""

QUEUE_DTYPE = _record(
    "first",  # held iovecs are [first, end)
    "end",
    "head",  # index of the oldest held CHAIN
    "count",  # of held chains
    "length",  # their bytes in all
    "asked",  # not 0: the worker was told of `missed`, see iotlb.py
    "behind",  # rows of the region table behind those of this ring's buffers
    "tables_before",  # and before and behind those of its indirect tables: see iotlb.py
    "tables_behind",
    unsigned=("missed",),  # the address that was last found to be outside of memory
)
"""What of a Queue is held, and where it looks addresses up."""

NET_DTYPE = _record(
    "tap_fd",
    "wake_fd",
    "fault_fd",
    "header_size",
    "mergeable",
    "guest_csum",
    "csum",
    "gso_types",  # bit n: gso_type n was negotiated
    "ecn",
    "finish_offloads",
    "finish_udp",  # large UDP frames are finished here also where others are not
    "fragment_id",  # of the IPv6 datagram cut into fragments last
    "iommu",  # ACCESS_PLATFORM negotiated: guest addresses are IOVAs, see iotlb.py
    "logged",  # rows at the region table's end that say for what the dirty log has other addresses
    "taken",  # not 0: the header of the chain at work was taken, the rest is at this iovec
    "headers",  # not 0: the chain at work is in `frame`, what each segment repeats of it is so long
    "position",  # payload of that frame already written as segments or fragments
    "tap_full",
    "tap_lost",  # reading failed: tried again a little later
    "pending",  # bytes of a frame that waits in `pending` for more receive buffers
    "pending_until",  # milliseconds of CLOCK_MONOTONIC
    "backlog_at",  # frames in `backlog` that come before the tap's: [backlog_at, backlog_end)
    "backlog_end",
)

COUNTERS_DTYPE = _record(
    "rx_packets",
    "rx_bytes",
    "rx_dropped_too_long",  # for the guest's buffers
    "rx_dropped_no_buffers",  # in time
    "tx_packets",
    "tx_bytes",
    "tx_dropped_faulty",
    "tx_dropped_disabled",
    "tx_dropped_tap_down",
    "tx_dropped_tap_refused",
    "rx_kicks",
    "tx_kicks",
    "rx_calls",
    "tx_calls",
    "wakeups",
)

STATION_DTYPE = _record("version", "key", "router", "seen")
"""A MAC that the guest uses in a VLAN.

version  odd while it changes, also its addresses; another one afterwards
key      VLAN << 48 | MAC
router   1: it calls itself an IPv6 router
seen     milliseconds of CLOCK_MONOTONIC; 0: a free place
"""

ADDRESS_DTYPE = _record("high", "low", "seen", "claimed")
"""An IPv6 address of a station in two halves, or an IPv4 address mapped into one.

seen     as above, where it is still used
claimed  when the station last said by ARP or neighbour discovery that it has it
"""

WATCHED_DTYPE = _record("key", "high", "low", "claimed")
"""An address of a station (as above; 0: a free place), and when another one claimed it last."""

LEARNING_DTYPE = _record(
    "fd",  # an eventfd, written when something new was learned; -1: nobody waits
    "stations",  # places in use or used before
    "replaced",  # count of what made room while it was still in use
    "key",  # of the frame before: nothing new in one like it,
    "high",
    "low",
    "until",  # up to this millisecond
    "tick",  # a millisecond, and how many frames were looked at in it
    "looks",
    "claims",  # not 0: each claim is news, as some that were lost may be made again
)

assert IOVEC_DTYPE.itemsize == 16
assert POLLFD_DTYPE.itemsize == 8
assert [POLLFD_DTYPE[name].itemsize for name in ("fd", "events", "revents")] == [4, 2, 2]
assert REGION_DTYPE.itemsize == 24

HELD_IOVECS_MAX = 1022
"""Iovecs held at once: IOV_MAX of Linux (1024), less a private header and a spill buffer."""
IOVEC_ROOM = 4 * 1024
"""Room for iovecs: held ones move to the front when they reach the end."""
CHAINS = 1024
"""Room for held chains, a power of two; each has at least one iovec."""
FRAME_MAX = 65535 + 14 + 2 * 4
"""A full IP packet, an Ethernet header, two VLAN tags."""
FRAGMENT_HEADER = 8
"""IPv6's (RFC 8200, 4.5), by which a fragment may be longer than the frame that it is of."""
BACKLOG_LENGTH = 3
"""Bytes of the length before each frame of the backlog."""
HEADER_MAX = 12
"""struct virtio_net_hdr with num_buffers (virtio 1.2, 5.1.6.1)."""

STATIONS = 64
"""MACs and VLANs of one guest that are remembered."""
ADDRESSES = 8
"""IP addresses that are remembered of each."""
HEAD = 63
"""Bytes of a frame that are learned from: Ethernet, a VLAN tag, IPv6, an advertisement's flags."""
HEARD = 82
"""Bytes of a frame that others' claims are in: to the end of an advertisement's target."""


class Vring(NamedTuple):
    """A vring: views of its parts in guest memory, and its state."""

    desc: NDArray[np.uint64]  # two words a descriptor
    avail: NDArray[np.uint16]  # packed: the driver event area
    used: NDArray[np.uint16]  # packed: the device event area
    elements: NDArray[np.uint32]  # the used ring's elements: id, len; packed: empty
    state: Records  # (1,) RING_DTYPE
    journal: NDArray[np.int64]  # what outlives this process, see journal.py


class Memory(NamedTuple):
    """The guest's memory regions, and the dirty log (empty when nothing is logged)."""

    regions: Records  # REGION_DTYPE
    log: NDArray[np.uint8]


class Queue(NamedTuple):
    """Chains parsed and not yet given back, oldest first, each exactly once."""

    iov: Records  # IOVEC_DTYPE
    guest: NDArray[np.uint64]  # the guest address of each iovec
    chains: Records  # CHAIN_DTYPE, a ring
    table: NDArray[np.uint64]  # private copy of an indirect table
    state: Records  # (1,) QUEUE_DTYPE


class Net(NamedTuple):
    """What both directions share: the tap, negotiated offloads, private buffers, counters."""

    state: Records  # (1,) NET_DTYPE
    header: NDArray[np.uint8]  # private copy of a transmit header
    frame: NDArray[np.uint8]  # private copy of a transmit frame whose offloads are finished
    gso_segment: NDArray[np.uint8]  # an empty header, and one segment or fragment of that frame
    pending: NDArray[np.uint8]  # header and frame that wait for receive buffers
    backlog: NDArray[np.uint8]  # frames without headers, a 24-bit little-endian length before each
    patch: NDArray[np.uint8]  # num_buffers, and an empty flags field
    scratch: NDArray[np.int64]  # see syscalls
    counters: Records  # (1,) COUNTERS_DTYPE
    faults: NDArray[np.int64]  # count by fault


class Learned(NamedTuple):
    """What the guest uses, learned from the frames it sends."""

    state: Records  # (1,) LEARNING_DTYPE
    stations: Records  # STATION_DTYPE
    addresses: Records  # ADDRESS_DTYPE; those of station i from i * ADDRESSES on
    told: NDArray[np.int64]  # (1,), not 0: the eventfd was written, nobody has looked since
    head: NDArray[np.uint8]  # private copy of a frame's first bytes
    scratch: NDArray[np.int64]  # see syscalls
    watched: Records  # WATCHED_DTYPE, of all pairs of the port together, written by the worker
    watching: NDArray[np.int64]  # (1,): how many of its places to look at
    heard: NDArray[np.uint8]  # private copy of a received frame's header and first bytes


class Pair(NamedTuple):
    """A queue pair as the loop takes it."""

    rx: Vring
    tx: Vring
    rx_queue: Queue
    tx_queue: Queue
    rx_memory: Memory
    tx_memory: Memory
    net: Net
    learned: Learned
    poll: Records  # (4,) POLLFD_DTYPE
    stop: NDArray[np.int64]  # (1,), not 0: leave the loop


def _records(dtype: np.dtype[Any]) -> Any:
    return from_dtype(dtype)[::1]


def _group(cls: type, *members: Any) -> Any:
    return types.BaseTuple.from_types(members, cls)


# Results of kernels that have more to say than one number; the first is as in result.py.
TWO_T = types.UniTuple(types.int64, 2)
THREE_T = types.UniTuple(types.int64, 3)
FOUR_T = types.UniTuple(types.int64, 4)
U8_T = types.uint8[::1]
U16_T = types.uint16[::1]
U32_T = types.uint32[::1]
U64_T = types.uint64[::1]
I64_T = types.int64[::1]
# Both a type in a signature and a conversion in a kernel.
int64: Callable[..., int] = types.int64
uint64: Any = types.uint64
boolean = types.boolean
void = types.void
REGIONS_T = _records(REGION_DTYPE)
VRING_T = _group(Vring, U64_T, U16_T, U16_T, U32_T, _records(RING_DTYPE), I64_T)
MEMORY_T = _group(Memory, REGIONS_T, U8_T)
QUEUE_T = _group(
    Queue,
    *(_records(IOVEC_DTYPE), U64_T, _records(CHAIN_DTYPE), U64_T),
    _records(QUEUE_DTYPE),
)
NET_STATE_T = _records(NET_DTYPE)
NET_T = _group(
    Net,
    NET_STATE_T,
    *(U8_T, U8_T, U8_T, U8_T, U8_T, U8_T, I64_T),
    *(_records(COUNTERS_DTYPE), I64_T),
)
LEARNED_T = _group(
    Learned,
    *(_records(LEARNING_DTYPE), _records(STATION_DTYPE), _records(ADDRESS_DTYPE)),
    *(I64_T, U8_T, I64_T),
    *(_records(WATCHED_DTYPE), I64_T, U8_T),
)
PAIR_T = _group(
    Pair,
    *(VRING_T, VRING_T, QUEUE_T, QUEUE_T, MEMORY_T, MEMORY_T),
    *(NET_T, LEARNED_T, _records(POLLFD_DTYPE), I64_T),
)
