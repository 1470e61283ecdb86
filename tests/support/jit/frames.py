# SPDX-License-Identifier: Apache-2.0
"""Frames that wait in a pipe, and frames of a ring's heads."""

from __future__ import annotations

import os
from typing import Any

from support.jit.killing import HEADER as NET_HEADER
from support.jit.killing import LENGTH, new_net, run_transmit, states_of
from support.jit.pair_rig import frame

from ovs_vhost_plugin.jit import fresh, layout


def frames(*heads: int) -> list[bytes]:
    return [bytes(NET_HEADER) + frame(LENGTH, head) for head in heads]


def sent_in_each_state(case: Any, ring: layout.Vring) -> dict[bytes, set[int]]:
    """Step through a transmission: each state on the way, with the numbers of frames sent in it."""
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    net, learned = new_net(writer), fresh.new_learned(-1)

    def run() -> None:
        run_transmit(ring, case.queue, case.memory, net, learned)

    states = states_of(case, run, reader)
    for fd in (reader, writer):
        os.close(fd)
    return states
