# SPDX-License-Identifier: Apache-2.0
"""Frames that wait in a pipe, and frames of a ring's heads."""

from __future__ import annotations

import fcntl
import struct
import termios

from support.jit.killing import HEADER as NET_HEADER
from support.jit.killing import LENGTH
from support.jit.pair_rig import frame


def waiting(pipe: int) -> int:
    """Frames in it."""
    count = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
    return int(count) // (NET_HEADER + LENGTH)


def frames(*heads: int) -> list[bytes]:
    return [bytes(NET_HEADER) + frame(LENGTH, head) for head in heads]
