# SPDX-License-Identifier: Apache-2.0
"""The kernels' data: the layouts of all records, and the groups that are passed together.

`*_DTYPE` are numpy dtypes of records, `*_T` numba types for signatures. A record's fields are
grouped by their writers. IOVEC_DTYPE and POLLFD_DTYPE are Linux's. All fields of our own are signed
64-bit numbers, because numba makes a float64 of int64 + uint64. Only guest addresses, which may use
all 64 bits, are unsigned. Host addresses of processes stay far below 2**63.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, types
from numpy.typing import NDArray

Records = NDArray[Any]


def record(*fields: str) -> np.dtype[Any]:
    """Fields of 64 bits: "name", or "name <u8" for a guest address."""
    kinds = [(name, kind[0] if kind else "<i8") for name, *kind in map(str.split, fields)]
    return np.dtype(kinds, align=True)


def offsets(dtype: np.dtype[Any], *names: str) -> list[int]:
    """The bytes of a record at which its fields `names` begin, for kernels with its address."""
    assert dtype.fields is not None
    return [dtype.fields[name][1] for name in names]


IOVEC_DTYPE = np.dtype([("base", "<i8"), ("len", "<i8")], align=True)
"""struct iovec of <sys/uio.h>."""

POLLFD_DTYPE = np.dtype([("fd", "<i4"), ("events", "<i2"), ("revents", "<i2")], align=True)
"""struct pollfd of <poll.h>."""

REGION_DTYPE = np.dtype([("guest", "<u8"), ("size", "<u8"), ("host", "<u8")], align=True)
"""A memory region: guest address, bytes, and the address of its mapping in this process.

Behind an IOMMU it is a translation, and a table has a part for each use of addresses: see iotlb.py.
"""

RING_DTYPE = record(
    # Written by the worker while the loop does not run
    "size",  # entries of the ring; 0: there is none
    "writes",  # 1: the device writes the buffers (receive ring)
    "enabled",  # 1: vhost-user "Ring states"
    "event_idx",  # 1: RING_EVENT_IDX negotiated
    "indirect",  # 1: RING_INDIRECT_DESC negotiated
    "packed",  # 1: RING_PACKED negotiated: indices are then positions, see ring/position.py
    "in_order",  # 1: IN_ORDER negotiated
    "kick_fd",  # eventfd that the driver writes; -1: it does not, and the ring is polled every ms
    "call_fd",  # eventfd that the device writes; -1: the driver polls
    "call_first",  # 1: the driver is called when the ring resumes, see loop.py
    "err_fd",  # eventfd that the device writes when the ring breaks, or -1
    "log_used",  # 1: writes into the ring are logged
    "log_guest <u8",  # guest address of the used ring; packed: of the device event area
    "log_desc <u8",  # packed: guest address of the descriptor ring
    "tracked",  # address of a TRACKER, see recovery/inflight_*.py; 0: there is no inflight region
    "resumed",  # 1: taken over from a dead worker, whose last call may be missing
    # The ring's place: avail and used indices, or positions
    "next_avail",  # of the oldest chain not yet given back
    "next_pop",  # of the next chain to parse; those from next_avail on are held
    "avail_idx",  # split: the driver's index as last read
    "next_used",  # of the next used element
    "flushed",  # of the first used element that the driver does not see yet
    "unflushed",  # packed: chains given back since the last flush
    # Notifications
    "called",  # `flushed` at the last decision whether to call
    "called_valid",  # 1: there was such a decision
    "kicks_on",  # 1: the driver was told to kick
    # The end
    "fault",  # a Fault: the ring is broken; 0: it is not
)
"""A vring, `Vring.state`."""

CHAIN_DTYPE = record(
    "head",  # index of its first descriptor; packed: its buffer id
    "iovecs",  # number of its iovecs in `Queue.iov`
    "length",  # bytes of its buffers
    "slots",  # slots of the ring that it takes: 1; packed: its descriptors
)
"""A parsed chain."""

QUEUE_DTYPE = record(
    # The held chains, see ring/held.py
    "first",  # held iovecs are [first, end)
    "end",
    "head",  # place in `Queue.chains` of the oldest held chain
    "count",  # of held chains
    "length",  # bytes of their buffers
    # The rows to look guest addresses up in, see ring/iotlb.py. Written by the worker, as above
    "iotlb_behind",  # last rows of the region table that are not for buffers
    "iotlb_tables_before",  # first rows that are not for indirect tables
    "iotlb_tables_behind",  # last rows that are not for indirect tables
    # An address that is awaited
    "iotlb_asked",  # BUFFER or TABLE: the worker was told of `iotlb_missed`; 0: nothing is awaited
    "iotlb_missed <u8",  # the guest address that was last found to be outside of memory
)
"""A ring's held chains, and the rows to look addresses up in: `Queue.state`."""

NET_DTYPE = record(
    # cfg_: written by the worker while the loop does not run
    "cfg_tap_fd",  # queue of the tap, non-blocking
    "cfg_batch",  # address of a BATCH_DTYPE, see uring.py; 0: each frame is written by itself
    "cfg_wake_fd",  # eventfd that ends the loop's sleep
    "cfg_fault_fd",  # eventfd that tells the worker of faults, missing translations and kicks
    "cfg_tell_kicks",  # 1: the worker is told of each kick; written while the loop runs as well
    "tell_received",  # 1: the worker is told once frames were received; it sets, the loop clears it
    "cfg_header_size",  # bytes of the virtio-net header, here and on the tap: 10 or 12
    "cfg_mergeable",  # 1: MRG_RXBUF negotiated
    "cfg_guest_csum",  # 1: GUEST_CSUM negotiated
    "cfg_csum",  # 1: CSUM negotiated
    "cfg_gso_types",  # bit n: gso_type n was negotiated
    "cfg_ecn",  # 1: HOST_ECN negotiated
    "cfg_finish_offloads",  # 1: checksums and segments are finished before the tap
    "cfg_finish_udp",  # 1: large UDP frames are finished, even if others are not
    "cfg_iommu",  # 1: ACCESS_PLATFORM negotiated: guest addresses are IOVAs, see ring/iotlb.py
    "cfg_capture",  # address of a CAPTURE_DTYPE; 0: nothing is captured
    "cfg_log_rows",  # last rows of the region table, which have the dirty log's addresses
    # tx_: of the frame being sent
    "tx_iovec",  # place in `Queue.iov` of its first byte behind the header; 0: not begun
    "tx_headers",  # bytes of `frame` that each of its segments repeats; 0: it has none
    "tx_position",  # bytes of its payload already written as segments or fragments
    "tx_fragment_id",  # identification of the IPv6 datagram cut into fragments last
    "tx_tap_full",  # 1: the tap takes no frames now
    # rx_: of frames for the guest
    "rx_tap_lost",  # 1: reading failed: tried again a little later
    "rx_pending",  # bytes in `pending` that wait for more receive buffers; 0: none
    "rx_pending_until",  # when they are given up, in ms of CLOCK_MONOTONIC
    "rx_backlog_at",  # bytes [rx_backlog_at, rx_backlog_end) of `backlog` are not received yet
    "rx_backlog_end",
)
"""The state that both directions of a queue pair share: `Net.state`."""

CAPTURE_DTYPE = record(
    "part",  # address of the pair's part of a capture's memory, see net/capture.py
    "directions",  # RX, TX or both
    "snap",  # the most bytes of a frame
    "head",  # bytes of records written
    "seconds",  # a timespec
    "nanoseconds",
)
"""A capture, whose address `Net.state` has. The loop writes it from the head on."""

COUNTERS_DTYPE = record(
    "rx_packets",  # frames that the guest has received
    "rx_bytes",  # of these frames, without virtio-net headers
    "rx_dropped_too_long",  # frames for which the guest's buffers were too small
    "rx_dropped_no_buffers",  # frames for which there were too few buffers in time
    "tx_packets",  # frames that the tap took
    "tx_bytes",  # of these frames, without virtio-net headers
    "tx_batched",  # of these, frames that several of went in one system call
    "tx_dropped_faulty",  # frames with a fault of their own, see faults.py
    "tx_dropped_disabled",  # chains of a ring that is not enabled
    "tx_dropped_tap_down",  # frames that a tap without carrier refused
    "tx_dropped_tap_refused",  # frames that the tap refused otherwise
    "tx_dropped_unserved",  # frames left over from a time without a worker, see recovery/resume.py
    "rx_kicks",  # kicks taken
    "tx_kicks",
    "rx_calls",  # calls made
    "tx_calls",
    "wakeups",  # returns from poll
)
"""Counts since the pair was made: `Net.counters`."""

STATION_DTYPE = record(
    "version",  # odd while the row or its addresses change; another number afterwards
    "key",  # VLAN << 48 | MAC
    "router",  # 1: the station calls itself an IPv6 router
    "seen",  # ms of CLOCK_MONOTONIC; 0: a free place
)
"""A MAC that the guest uses in a VLAN."""

ADDRESS_DTYPE = record(
    "high",  # upper 64 bits
    "low",  # lower 64 bits
    "seen",  # when it was last in use, in ms of CLOCK_MONOTONIC; 0: a free place
    "claimed",  # when the station last claimed it, by ARP or neighbour discovery, in ms
)
"""An IPv6 address of a station, or an IPv4 address mapped into one."""

WATCHED_DTYPE = record(
    "key",  # of the station that has it
    "high",  # upper 64 bits of the address
    "low",  # lower 64 bits; 0 in both: a free place
    "claimed",  # when another station claimed it last, in ms of CLOCK_MONOTONIC
)
"""An address of a station, to compare others' claims with."""

LEARNING_DTYPE = record(
    # cfg_: written by the worker
    "cfg_fd",  # eventfd, written when something new was learned; -1: nobody waits
    "cfg_every_claim",  # 1: each claim is news, as some that were lost may be made again
    # The table
    "stations",  # places in use or used before
    "replaced",  # count of stations and addresses that made room while still in use
    # The last frame: the next one like it has nothing new
    "last_key",  # of its station
    "last_high",  # and its address
    "last_low",
    "last_until",  # in ms of CLOCK_MONOTONIC; a frame like it is looked at again after that
    # The sample of frames that differ from their predecessors
    "sample_tick",  # ms of CLOCK_MONOTONIC
    "sample_looks",  # frames looked at in that millisecond
)
"""The state of learning: `Learned.state`."""

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
"""IPv6's (RFC 8200, 4.5), which may make a fragment longer than its frame."""
BACKLOG_LENGTH = 3
"""Bytes of the length before each frame of the backlog."""
HEADER_MAX = 12
"""struct virtio_net_hdr with num_buffers (virtio 1.2, 5.1.6.1)."""

STATIONS = 64
"""The most MACs with VLANs remembered of one guest."""
ADDRESSES = 8
"""The most IP addresses remembered of each."""
HEAD = 63
"""Bytes of a frame that are learned from: Ethernet, a VLAN tag, IPv6, an advertisement's flags."""
HEARD = 82
"""Bytes of a frame that can have a claim: to the end of an advertisement's target."""


class Vring(NamedTuple):
    """A vring: views of its parts in guest memory, and its state."""

    desc: NDArray[np.uint64]  # two words a descriptor
    avail: NDArray[np.uint16]  # packed: the driver event area
    used: NDArray[np.uint16]  # packed: the device event area
    elements: NDArray[np.uint32]  # the used ring's elements: id, len; packed: empty
    state: Records  # (1,) RING_DTYPE
    journal: NDArray[np.int64]  # outlives this process, see journal.py


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
    """The data that both directions share: tap, negotiated offloads, private buffers, counters."""

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
    """The guest's stations, learned from the frames that it sends."""

    state: Records  # (1,) LEARNING_DTYPE
    stations: Records  # STATION_DTYPE
    addresses: Records  # ADDRESS_DTYPE; those of station i from i * ADDRESSES on
    told: NDArray[np.int64]  # (1,), not 0: the eventfd was written, nobody has looked since
    head: NDArray[np.uint8]  # private copy of a frame's first bytes
    scratch: NDArray[np.int64]  # see syscalls
    watched: Records  # WATCHED_DTYPE, of all pairs of the port together, written by the worker
    watching: NDArray[np.int64]  # (1,): the number of places in `watched` to look at
    heard: NDArray[np.uint8]  # private copy of a received frame's header and first bytes


class Pair(NamedTuple):
    """The loop's data of a queue pair."""

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


# Results of kernels that return several numbers; the first is as in result.py.
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
