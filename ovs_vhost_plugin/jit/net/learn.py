# SPDX-License-Identifier: Apache-2.0
"""MACs, VLANs and IP addresses that the guest uses, learned from the frames it sends.

An address is learned where the guest claims it on the link: as the sender of ARP, or the source
of neighbour discovery with the hop limit that no router lets through (RFC 4861, 7.1). The source
of other IP packets only keeps a claimed address alive. It may belong to a station whose packets the
guest routes, or be shared with others, as behind a load balancer. To announce such an address would
take it from its owner.

A frame like the one before costs a copy of its first bytes and a comparison. Once a second it is
looked at in full, so that ages stay true. Where each frame differs from the one before, as in a
guest that routes or bridges, a sample is looked at. The guest can fill its tables with nonsense:
this replaces the entries that were not seen for longest, and costs no other port anything.

The worker reads the tables while this writes them: `version` tells it what changed meanwhile.
"""

from __future__ import annotations

from errno import ENOENT

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.atomics import copy_in, fence, load_relaxed, store_relaxed
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    ADDRESSES,
    HEAD,
    LEARNED_T,
    QUEUE_T,
    STATIONS,
    U8_T,
    Learned,
    Queue,
    boolean,
    int64,
    void,
)
from ovs_vhost_plugin.jit.net.offload import be16
from ovs_vhost_plugin.jit.syscalls import write_event

Bytes = NDArray[np.uint8]

AGE = 300_000
"""Milliseconds after which an entry that was not seen expires, as in a bridge's MAC table."""
_CACHED = 1000
"""Milliseconds for which a frame like the one before is not looked at."""
_LOOKS = 64
"""Frames without a claim that are looked at in each millisecond of the coarse clock."""
_NEARLY_AGED = AGE - 2 * _CACHED
"""Age from which a sight is news: a reader's clock may be somewhat ahead."""

ETHERNET, TAG = 14, 4
VLAN, QINQ = 0x8100, 0x88A8
_IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
_VLAN_RESERVED = 0xFFF  # IEEE 802.1Q, table 9-2
MAC = (1 << 48) - 1
_GROUP = 1 << 40  # the bit of a MAC that makes it one of a group
_ICMPV6, _HOPS = 58, 255
_ROUTER, _SOLICITATION, ADVERTISEMENT = 134, 135, 136  # RFC 4861, 4.2 to 4.4
_ROUTER_FLAG = 0x80
SOURCE, _CLAIM, _HOSTS, _ROUTERS = 0, 1, 2, 3
"""The claim that a frame makes of its IP address: none; it is mine; mine, a host's; a router's."""


@kernel(int64(LEARNED_T, QUEUE_T, int64, int64), inline=True)
def take_head(learned: Learned, queue: Queue, at: int, end: int) -> int:
    """Copy the first bytes of the frame in iovecs [at, end): how many there are, up to HEAD."""
    if queue.iov[at]["len"] >= HEAD:
        copy_in(learned.head, 0, queue.iov[at]["base"], HEAD)
        return HEAD
    done = 0
    while done < HEAD and at < end:
        part = min(queue.iov[at]["len"], HEAD - done)
        copy_in(learned.head, done, queue.iov[at]["base"], part)
        done += part
        at += 1
    return done


@kernel(int64(U8_T, int64), inline=True)
def be32(frame: Bytes, at: int) -> int:
    """The be32 at `at`."""
    return be16(frame, at) << 16 | be16(frame, at + 2)


@kernel(int64(U8_T, int64), inline=True)
def be64(frame: Bytes, at: int) -> int:
    """The be64 at `at`, as bits and no number: the upper half of all addresses is negative."""
    return be32(frame, at) << 32 | be32(frame, at + 4)


@kernel(int64(U8_T, int64), inline=True)
def mapped(frame: Bytes, at: int) -> int:
    """The lower half of an IPv4 address mapped into IPv6 (RFC 4291, 2.5.5.2); 0: no host's."""
    first = int64(frame[at])
    if first == 0 or first == 127 or first >= 224:  # RFC 1122, 3.2.1.3
        return 0
    return 0xFFFF << 32 | be32(frame, at)


@kernel(int64(U8_T, int64, int64), inline=True)
def discovery(frame: Bytes, at: int, length: int) -> int:
    """The claim that the IPv6 packet at `at` makes of its source."""
    if length < at + 45 or frame[at + 6] != _ICMPV6 or frame[at + 7] != _HOPS:
        return SOURCE
    kind = frame[at + 40]
    if kind == ADVERTISEMENT:
        return _ROUTERS if frame[at + 44] & _ROUTER_FLAG else _HOSTS
    if kind == _ROUTER:
        return _ROUTERS
    return _CLAIM if kind == _SOLICITATION else SOURCE


@kernel(boolean(U8_T, int64, int64), inline=True)
def is_arp(frame: Bytes, at: int, mac: int) -> bool:
    """Whether the ARP packet at `at` is for IPv4 on Ethernet, and from `mac` itself (RFC 826)."""
    # hardware type 1, protocol type IPv4, lengths 6 and 4
    if be32(frame, at) != 0x0001_0800 or be16(frame, at + 4) != 0x0604:
        return False
    return bool(be16(frame, at + 8) << 32 | be32(frame, at + 10) == mac)


@kernel(int64(LEARNED_T, int64))
def find_station(learned: Learned, key: int) -> int:
    """The place of station `key`, or -ENOENT."""
    for at in range(learned.state[0]["stations"]):
        if learned.stations[at]["key"] == key:
            return at
    return -ENOENT


@kernel(int64(LEARNED_T, int64, int64))
def place_station(learned: Learned, key: int, now: int) -> int:
    """Put a new station in a free place, or in that of the one not seen for longest."""
    state = learned.state[0]
    at: int = state["stations"]
    if at < STATIONS:
        state["stations"] += 1
    else:
        at = 0
        for other in range(STATIONS):
            if learned.stations[other]["seen"] < learned.stations[at]["seen"]:
                at = other
        if now - learned.stations[at]["seen"] <= AGE:
            state["replaced"] += 1
    station = learned.stations[at]
    station["version"] += 1
    fence()
    station["key"] = key
    station["router"] = 0
    station["seen"] = now
    for i in range(at * ADDRESSES, (at + 1) * ADDRESSES):
        learned.addresses[i]["seen"] = 0
    fence()
    station["version"] += 1
    return at


@kernel(boolean(LEARNED_T, int64, int64, int64, boolean, int64))
def note_address(
    learned: Learned, station: int, high: int, low: int, claims: bool, now: int
) -> bool:
    """Keep an address of the station at place `station`. Returns whether that is news."""
    oldest = station * ADDRESSES
    for i in range(oldest, oldest + ADDRESSES):
        entry = learned.addresses[i]
        if entry["seen"] != 0 and entry["low"] == low and entry["high"] == high:
            unseen = now - entry["seen"]
            if unseen > AGE and not claims:
                return False
            entry["seen"] = now
            if claims:
                entry["claimed"] = now
            return bool(unseen > _NEARLY_AGED)
        if entry["seen"] < learned.addresses[oldest]["seen"]:
            oldest = i
    if not claims:
        return False
    entry = learned.addresses[oldest]
    if entry["seen"] != 0 and now - entry["seen"] <= AGE:
        learned.state[0]["replaced"] += 1
    learned.stations[station]["version"] += 1
    fence()
    entry["high"] = high
    entry["low"] = low
    entry["seen"] = now
    entry["claimed"] = now
    fence()
    learned.stations[station]["version"] += 1
    return True


@kernel(void(LEARNED_T))
def tell_worker(learned: Learned) -> None:
    """Tell the worker that there is news, unless it was told and has not looked since."""
    fence()
    if load_relaxed(learned.told, 0) == 0:
        store_relaxed(learned.told, 0, 1)
        if learned.state[0]["cfg_fd"] >= 0:
            write_event(learned.state[0]["cfg_fd"], learned.scratch)


@kernel(void(LEARNED_T))
def look_again(learned: Learned) -> None:
    """Ask to be told of changes from now on; the tables can be read afterwards."""
    store_relaxed(learned.told, 0, 0)
    fence()


@kernel(void(LEARNED_T, int64, int64, int64, int64, int64))
def note(learned: Learned, key: int, high: int, low: int, claim: int, now: int) -> None:
    """Keep station `key`, and its address if it is a unicast one and claimed or known."""
    mac = key & MAC
    if mac == 0 or mac & _GROUP or key >> 48 == _VLAN_RESERVED:
        return
    at = find_station(learned, key)
    news = at < 0
    if news:
        at = place_station(learned, key, now)
    elif now - learned.stations[at]["seen"] > _NEARLY_AGED:
        news = True
    learned.stations[at]["seen"] = now
    if claim >= _HOSTS and learned.stations[at]["router"] != (claim == _ROUTERS):
        learned.stations[at]["router"] = int64(claim == _ROUTERS)
        news = True
    unicast = low != 0 if high == 0 else high >> 56 & 0xFF != 0xFF
    if unicast and note_address(learned, at, high, low, claim != SOURCE, now):
        news = True
    if news or (claim != SOURCE and learned.state[0]["cfg_every_claim"] != 0):
        tell_worker(learned)


@kernel(void(LEARNED_T, U8_T, int64, int64), inline=True)
def learn(learned: Learned, frame: Bytes, length: int, now: int) -> None:
    """Learn from the first `length` bytes, private ones, of a frame sent at `now` ms.

    There are at least an Ethernet header's. Of a frame with two tags the outer VLAN is learned,
    which is where a switch learns the MAC; addresses inside of the inner one are not.
    """
    mac = be16(frame, 6) << 32 | be32(frame, 8)
    kind = be16(frame, 12)
    at = ETHERNET
    vlan = int64(0)
    if kind in (VLAN, QINQ) and length >= ETHERNET + TAG:
        vlan = be16(frame, 14) & 0xFFF
        kind = be16(frame, 16)
        at = ETHERNET + TAG
    key = vlan << 48 | mac
    high, low, claim = int64(0), int64(0), int64(SOURCE)
    if kind == _IPV4:
        if length >= at + 20:
            low = mapped(frame, at + 12)
    elif kind == IPV6:
        if length >= at + 40:
            high, low = be64(frame, at + 8), be64(frame, at + 16)
            if high == 0:
                low = 0  # no host's (RFC 4291, 2.4); here it would be taken for IPv4
            claim = discovery(frame, at, length)
    elif kind == ARP and length >= at + 28 and is_arp(frame, at, mac):
        low = mapped(frame, at + 14)
        claim = int64(_CLAIM)
    state = learned.state[0]
    if claim == SOURCE:
        same = key == state["last_key"] and low == state["last_low"] and high == state["last_high"]
        if same and now <= state["last_until"]:
            return
        if now != state["sample_tick"]:
            state["sample_tick"] = now
            state["sample_looks"] = 0
        elif state["sample_looks"] == _LOOKS:
            return
        state["sample_looks"] += 1
    state["last_key"] = key
    state["last_high"] = high
    state["last_low"] = low
    state["last_until"] = now + _CACHED
    note(learned, key, high, low, claim, now)
