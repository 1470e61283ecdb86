# SPDX-License-Identifier: Apache-2.0
"""A queue pair's life: bursts in both directions while there is work, then sleep in poll().

Before it sleeps, the loop lets the driver kick again and looks once more. The loop then polls,
without a timeout, the fds that can give it work, so an idle pair costs nothing. The fds are the
transmit ring's kick; the tap while there are receive buffers, else the receive ring's kick; and the
worker's wake, which alone wakes a ring that waits for a translation (`ring/iotlb.py`). All of these
belong to others: each wait ends on the stop flag, and an fd that fails is not polled again.
"""

from __future__ import annotations

from errno import EAGAIN
from select import POLLIN, POLLOUT

from ovs_vhost_plugin.jit.atomics import address_of, load_acquire
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    NET_T,
    PAIR_T,
    VRING_T,
    Net,
    Pair,
    Vring,
    boolean,
    int64,
    void,
)
from ovs_vhost_plugin.jit.net.receive import receive
from ovs_vhost_plugin.jit.net.transmit import transmit
from ovs_vhost_plugin.jit.ring.iotlb import waits_for_translation
from ovs_vhost_plugin.jit.ring.notify import break_ring, call
from ovs_vhost_plugin.jit.ring.ring import enable_notification
from ovs_vhost_plugin.jit.syscalls import (
    milliseconds,
    poll,
    read_event,
    write_event,
)

WAKE, RX_KICK, TX_KICK, TAP = 0, 1, 2, 3
"""Indices in the array of pollfds."""
_RETRY = 100
"""Milliseconds until the next try of a tap that failed, or takes no frames."""
_POLLING = 1
"""Milliseconds between looks at a ring whose driver has no way to kick."""


@kernel(boolean(VRING_T))
def alive(ring: Vring) -> bool:
    """Whether the ring was started and is not broken."""
    return bool(ring.state[0]["size"] > 0 and ring.state[0]["fault"] == 0)


@kernel(boolean(PAIR_T))
def receives(pair: Pair) -> bool:
    """Whether frames may be put into the receive ring."""
    return bool(alive(pair.rx) and pair.rx.state[0]["enabled"] != 0)


@kernel(boolean(PAIR_T))
def starves(pair: Pair) -> bool:
    """Whether the receive ring waits for the driver rather than for frames."""
    if not receives(pair) or pair.net.state[0]["rx_tap_lost"]:
        return False
    return bool(pair.rx_queue.state[0]["count"] == 0 or pair.net.state[0]["rx_pending"] != 0)


@kernel(void(PAIR_T, int64, int64, int64))
def _wait_for(pair: Pair, place: int, fd: int, events: int) -> None:
    pair.poll[place]["fd"] = fd
    pair.poll[place]["events"] = events
    pair.poll[place]["revents"] = 0


@kernel(int64(PAIR_T, boolean, boolean))
def prepare(pair: Pair, kicks: bool, starving: bool) -> int:
    """Fill in the pollfds; return the timeout in ms, -1 for none."""
    state = pair.net.state[0]
    tap = POLLOUT if state["tx_tap_full"] else 0
    if receives(pair) and not starves(pair):
        tap |= POLLIN
    timeout = -1
    if state["rx_pending"] and receives(pair):
        timeout = max(0, state["rx_pending_until"] - milliseconds(pair.net.scratch))
    if state["rx_tap_lost"] or state["tx_tap_full"]:
        timeout = _RETRY if timeout < 0 else min(timeout, _RETRY)
    rx_kick = pair.rx.state[0]["kick_fd"] if starving else -1
    tx_kick = pair.tx.state[0]["kick_fd"] if kicks else -1
    if (starving and rx_kick < 0) or (kicks and tx_kick < 0):
        timeout = _POLLING
    tap_waits = tap != 0 and state["rx_tap_lost"] == 0
    _wait_for(pair, WAKE, state["cfg_wake_fd"], POLLIN)
    _wait_for(pair, RX_KICK, rx_kick, POLLIN)
    _wait_for(pair, TX_KICK, tx_kick, POLLIN)
    _wait_for(pair, TAP, state["cfg_tap_fd"] if tap_waits else -1, tap)
    return timeout


@kernel(boolean(VRING_T, NET_T, int64))
def take_kick(ring: Vring, net: Net, revents: int) -> bool:
    """Take the kick, if poll() reported one; a kick fd that fails breaks its ring."""
    if revents == 0:
        return False
    if revents == POLLIN:
        result = read_event(ring.state[0]["kick_fd"], net.scratch)
        if result == 8 or result == -EAGAIN:
            return True
    break_ring(ring, net, Fault.KICK_FAILED)
    return False


@kernel(void(PAIR_T))
def sleep(pair: Pair) -> None:
    """Wait until there may be work again."""
    state = pair.net.state[0]
    kicks = alive(pair.tx) and not state["tx_tap_full"] and not waits_for_translation(pair.tx_queue)
    starving = starves(pair) and not waits_for_translation(pair.rx_queue)
    more = False
    if kicks:
        more = enable_notification(pair.tx, pair.tx_memory, pair.net)
    if starving:
        more |= enable_notification(pair.rx, pair.rx_memory, pair.net)
    if more:
        return
    timeout = prepare(pair, kicks, starving)
    poll(address_of(pair.poll, 0), len(pair.poll), timeout)
    counters = pair.net.counters[0]
    counters["wakeups"] += 1
    tap = pair.poll[TAP]["revents"]
    state["tx_tap_full"] = 0
    state["rx_tap_lost"] = 1 if tap & ~(POLLIN | POLLOUT) else 0
    if pair.poll[WAKE]["revents"]:
        read_event(state["cfg_wake_fd"], pair.net.scratch)
    rx_kicked = take_kick(pair.rx, pair.net, pair.poll[RX_KICK]["revents"])
    tx_kicked = take_kick(pair.tx, pair.net, pair.poll[TX_KICK]["revents"])
    counters["rx_kicks"] += 1 if rx_kicked else 0
    counters["tx_kicks"] += 1 if tx_kicked else 0
    if state["cfg_tell_kicks"] and (rx_kicked or tx_kicked):
        write_event(state["cfg_fault_fd"], pair.net.scratch)


@kernel(void(VRING_T, NET_T))
def call_again(ring: Vring, net: Net) -> None:
    """Call the driver of a ring that resumes: calls before now may have gone to another fd.

    QEMU 7.2 starts a ring first, with a call eventfd that it does not read, and then sends the
    eventfd that calls its guest (a NIC without MSI-X). If all buffers were given back in between,
    no later chain would cause a call. A call too many does no harm (virtio 1.2, 2.7.7.1). If only
    translations changed there is no call, as they may change with each frame.
    """
    state = ring.state[0]
    if alive(ring) and state["call_first"] and (state["next_avail"] != 0 or state["resumed"]):
        call(ring, net)


@kernel(void(PAIR_T))
def run(pair: Pair) -> None:
    """Serve a queue pair until `pair.stop` is set and its wake eventfd is written."""
    state = pair.net.state[0]
    call_again(pair.rx, pair.net)
    call_again(pair.tx, pair.net)
    while load_acquire(pair.stop, 0) == 0:
        done = 0
        if alive(pair.tx) and not state["tx_tap_full"]:
            done += transmit(pair.tx, pair.tx_queue, pair.tx_memory, pair.net, pair.learned)
        if receives(pair) and not state["rx_tap_lost"]:
            received = receive(pair.rx, pair.rx_queue, pair.rx_memory, pair.net, pair.learned)
            done += received
            if received and state["tell_received"]:
                state["tell_received"] = 0
                write_event(state["cfg_fault_fd"], pair.net.scratch)
        if done == 0:
            sleep(pair)
