# SPDX-License-Identifier: Apache-2.0
"""Frames for the guest that go before the tap's, in the compiled loop's form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovs_vhost_plugin.jit.layout import BACKLOG_LENGTH, Net


def frames(net: Net) -> list[bytes]:
    """The frames that the loop has not taken yet, oldest first."""
    data, found = net.backlog, []
    at, end = int(net.state["rx_backlog_at"][0]), int(net.state["rx_backlog_end"][0])
    while at < end:
        begin = at + BACKLOG_LENGTH
        at = begin + int.from_bytes(data[at:begin].tobytes(), "little")
        found.append(data[begin:at].tobytes())
    return found


def filled(net: Net, frames: Sequence[bytes]) -> Net:
    """`net` with `frames` as its backlog."""
    parts = (len(frame).to_bytes(BACKLOG_LENGTH, "little") + frame for frame in frames)
    backlog = np.frombuffer(bytearray(b"".join(parts)), np.uint8)
    net.state["rx_backlog_at"] = 0
    net.state["rx_backlog_end"] = len(backlog)
    return net._replace(backlog=backlog)
