# SPDX-License-Identifier: Apache-2.0
"""The base of a packed ring in SET_VRING_BASE and GET_VRING_BASE, to and from a position.

vhost-user "A vring descriptor index for packed virtqueues": bits 0-14 are the next available
descriptor, bit 15 is its wrap counter (virtio 1.2, 2.8.1), bits 16-31 are the same for the next
used one. A stopped ring has used every chain it took, so both halves are equal; DPDK, as either
side, leaves the upper one 0. A front-end that lost its back-end may know chains that were taken
and never used. No back-end has them any more, so the ring resumes at the used half.

The rest of the program uses a *position*: it counts modulo twice the ring's size, and the wrap
counter is 1 in the lower half. So a packed ring begins at position 0, as a split one at index 0.
"""

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName

_WRAP = 0x8000
_HALF = 0xFFFF
BEGINNINGS = (_WRAP, _WRAP | _WRAP << 16)
"""Bases of a ring that has never run."""


def encode(position: int, size: int) -> int:
    """The base of a ring of `size` descriptors at `position`."""
    half = position | _WRAP if position < size else position - size
    return half | half << 16


def decode(base: int, size: int) -> int:
    """The position that `base` stands for. Raises PeerError."""
    avail = _position(base & _HALF, size)
    if base >> 16 in (0, base & _HALF):
        return avail
    used = _position(base >> 16, size)
    if (avail - used) % (2 * size) > size:
        detail = f"avail {base & _HALF:#x}, used {base >> 16:#x} of {size}"
        raise PeerError(PeerErrorName.VRING_BASE_RANGE, detail)
    return used


def _position(half: int, size: int) -> int:
    slot = half & ~_WRAP
    if slot >= size:
        raise PeerError(PeerErrorName.VRING_BASE_RANGE, f"descriptor {slot} of {size}")
    return slot if half & _WRAP else slot + size
