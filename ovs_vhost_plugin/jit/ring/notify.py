# SPDX-License-Identifier: Apache-2.0
"""Flushes used chains, calls the driver if it wants a call, and ends a broken ring."""

from __future__ import annotations

from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    MEMORY_T,
    NET_T,
    VRING_T,
    Memory,
    Net,
    Vring,
    int64,
    void,
)
from ovs_vhost_plugin.jit.ring.ring import flush_used, needs_notification
from ovs_vhost_plugin.jit.syscalls import write_event


@kernel(void(VRING_T, NET_T))
def call(ring: Vring, net: Net) -> None:
    """Call the driver, if it has a call eventfd."""
    if ring.state[0]["call_fd"] < 0:
        return
    # An eventfd too full to count this call delivers an earlier call anyway.
    write_event(ring.state[0]["call_fd"], net.scratch)
    if ring.state[0]["writes"]:
        net.counters[0]["rx_calls"] += 1
    else:
        net.counters[0]["tx_calls"] += 1


@kernel(void(VRING_T, MEMORY_T, NET_T))
def flush_and_call(ring: Vring, memory: Memory, net: Net) -> None:
    """Flush used chains, and call the driver if it wants a call."""
    if flush_used(ring, memory, net) and needs_notification(ring):
        call(ring, net)


@kernel(void(VRING_T, NET_T, int64))
def break_ring(ring: Vring, net: Net, fault: int) -> None:
    """End a ring by `fault`; tell the front-end (vhost-user SET_VRING_ERR) and the worker."""
    ring.state[0]["fault"] = fault
    net.faults[fault] += 1
    if ring.state[0]["err_fd"] >= 0:
        write_event(ring.state[0]["err_fd"], net.scratch)
    write_event(net.state[0]["cfg_fault_fd"], net.scratch)
