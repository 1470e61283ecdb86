# SPDX-License-Identifier: Apache-2.0
"""Claims that the guest receives: an address that it had belongs to another station now.

An address that another station claims, by ARP or neighbour discovery, has moved on. It must not be
announced for this guest any more. A station that takes an address over tells everybody. So of each
frame one bit is looked at, whether it is to a group, and of those frames the EtherType. A claim can
only end something that is known: it is compared with the addresses of the port (`watched`),
whichever queue pair has learned them. A probe asks whether an address is free (RFC 5227, 1.1;
RFC 4862, 5.4.2) and claims none. A station's own claim that comes back to it changes nothing.

The worker writes `watched` while this reads it, and believes no claim that is older than the place.
A half-written place has half of an old address and half of a new one. Nobody claims such an address
in that time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.atomics import copy_in, load_acquire
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    HEADER_MAX,
    HEARD,
    LEARNED_T,
    NET_T,
    QUEUE_T,
    U8_T,
    Learned,
    Net,
    Queue,
    boolean,
    int64,
    uint64,
    void,
)
from ovs_vhost_plugin.jit.net.learn import (
    ADVERTISEMENT,
    ARP,
    ETHERNET,
    IPV6,
    MAC,
    QINQ,
    SOURCE,
    TAG,
    VLAN,
    be32,
    be64,
    discovery,
    is_arp,
    mapped,
    tell_worker,
)
from ovs_vhost_plugin.jit.net.offload import be16
from ovs_vhost_plugin.jit.ring.held import gather
from ovs_vhost_plugin.jit.syscalls import coarse_milliseconds

Bytes = NDArray[np.uint8]

_QUIET = 1000
"""Milliseconds in which the worker is told of the same address once."""
_TARGET = 48  # of an advertisement, in its IPv6 packet (RFC 4861, 4.4)


@kernel(void(LEARNED_T, int64, int64, int64, int64, int64))
def note_claim(learned: Learned, mac: int, vlan: int, high: int, low: int, now: int) -> None:
    """Note that `mac` claims an address, if it is another station's of the port."""
    for at in range(load_acquire(learned.watching, 0)):
        row = learned.watched[at]
        if row["low"] != low or row["high"] != high:
            continue
        key = row["key"]
        if key >> 48 == vlan and key & MAC != mac:
            news = now - row["claimed"] > _QUIET
            row["claimed"] = now
            if news:
                tell_worker(learned)


@kernel(void(LEARNED_T, U8_T, int64, int64))
def hear(learned: Learned, frame: Bytes, start: int, end: int) -> None:
    """Look for a claim in a frame to a group, whose first bytes are [start, end) of `frame`."""
    if learned.watching[0] == 0 or end < start + ETHERNET:
        return
    kind = be16(frame, start + 12)
    at = start + ETHERNET
    vlan = int64(0)
    if kind in (VLAN, QINQ) and end >= at + TAG:
        vlan = be16(frame, at) & 0xFFF
        kind = be16(frame, at + 2)
        at += TAG
    mac = be16(frame, start + 6) << 32 | be32(frame, start + 8)
    high, low = int64(0), int64(0)
    if kind == ARP:
        if end >= at + 28 and is_arp(frame, at, mac):
            low = mapped(frame, at + 14)
    elif kind == IPV6 and end >= at + 45 and discovery(frame, at, end) != SOURCE:
        ip = at + 8
        if frame[at + 40] == ADVERTISEMENT:
            ip = at + _TARGET
        if end >= ip + 16:
            high, low = be64(frame, ip), be64(frame, ip + 8)
            if high == 0:
                low = int64(0)  # no host's: a probe's, from ::
    if low != 0 or high != 0:
        note_claim(learned, mac, vlan, high, low, coarse_milliseconds(learned.scratch))


@kernel(boolean(QUEUE_T, NET_T, LEARNED_T), inline=True)
def to_group(queue: Queue, net: Net, learned: Learned) -> bool:
    """Whether the frame that was read into the oldest iovecs is to a group; it is not empty."""
    first = queue.state[0]["first"]
    header = net.state[0]["cfg_header_size"]
    iovec = queue.iov[uint64(first)]
    if iovec["len"] > header:
        copy_in(learned.heard, 0, iovec["base"] + header, 1)
    else:
        # the header has a buffer of its own, or several
        gather(queue, first, learned.heard, HEADER_MAX - header, header + 1)
        learned.heard[0] = learned.heard[HEADER_MAX]
    return bool(learned.heard[0] & 1)


@kernel(void(QUEUE_T, NET_T, LEARNED_T, int64))
def overhear(queue: Queue, net: Net, learned: Learned, length: int) -> None:
    """Look for a claim in the frame in the oldest iovecs, `length` bytes with its header."""
    header = net.state[0]["cfg_header_size"]
    first = queue.state[0]["first"]
    iovec = queue.iov[uint64(first)]
    if iovec["len"] >= header + ETHERNET:
        # most have an EtherType without claims
        copy_in(learned.heard, 0, iovec["base"] + header + 12, 2)
        if be16(learned.heard, 0) not in (ARP, IPV6, VLAN, QINQ):
            return
    end = min(length, header + HEARD)
    gather(queue, first, learned.heard, 0, end)
    hear(learned, learned.heard, header, end)
