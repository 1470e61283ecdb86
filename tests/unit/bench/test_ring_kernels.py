# SPDX-License-Identifier: Apache-2.0
"""What bench_rings' back-end writes into receive buffers, whatever was in them before."""

from __future__ import annotations

import numpy as np
import pytest

from ovs_vhost_plugin.bench.rings.kernels import BURST, FIRST, SPACING, new_packets, put
from ovs_vhost_plugin.bench.rings.memory_ring import (
    HEADER,
    MERGEABLE_BUFFER,
    MemoryRing,
    RingKind,
    new_net,
)

BUFFER = HEADER + MERGEABLE_BUFFER
# With headers: the smallest, one that takes two buffers, one that fills its buffer, one too many.
LENGTHS = (HEADER + 60, BUFFER + 100, BUFFER, HEADER + 60)
DATA_VALID = 2  # virtio 1.2, 5.1.6.1
KINDS = [RingKind(), RingKind(indirect=True), RingKind(packed=True, in_order=True)]


@pytest.mark.parametrize("before", [0, 0xFF, 1])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_packet_arrives_whole_in_buffers_that_hold_anything(kind: RingKind, before: int) -> None:
    ring, net = MemoryRing(None, kind), new_net(-1)
    ring.buffers[:] = before
    packets, lengths = new_packets(), np.zeros(BURST, np.int64)
    lengths[: len(LENGTHS)] = LENGTHS
    wanted = []
    for i, length in enumerate(LENGTHS):
        packet = packets[FIRST + SPACING * i :][:length]
        packet[HEADER:] = np.arange(length - HEADER) % 251
        packet[:10] = before
        # The first header differs from what is there in csum_offset alone, the others elsewhere.
        packet[8 if i == 0 else 6] = 7
        packet[0] = DATA_VALID if i > 0 else before  # a guest without GUEST_CSUM is not told
        wanted.append(packet.copy())
        wanted[i][0] = 0
        wanted[i][10:HEADER] = (2 if length > BUFFER else 1, 0)
    if not kind.packed:
        ring.ring.avail[1] = 4
    assert put(ring.ring, ring.queue, ring.memory, net, packets, lengths, len(LENGTHS)) == 3
    got = ring.buffers[:, :BUFFER]
    assert bytes(got[0, : LENGTHS[0]]) == bytes(wanted[0])
    assert bytes(got[1:3].reshape(-1)[: LENGTHS[1]]) == bytes(wanted[1])
    assert bytes(got[3, : LENGTHS[2]]) == bytes(wanted[2])
    assert net.counters[0]["rx_packets"] == 3
    if not kind.packed:
        used = ring.ring.elements[: 2 * 4].reshape(4, 2)
        written = [LENGTHS[0], BUFFER, 100, LENGTHS[2]]
        assert used.tolist() == [[i, n] for i, n in enumerate(written)]
