# SPDX-License-Identifier: Apache-2.0
"""The dirty log as the front-end reads it (vhost-user "Migration").

A bitmap in shared memory, one bit for each page of guest memory. The back-end sets a bit with an
atomic OR, after the write that the bit stands for. QEMU takes bits with an atomic exchange. Python
has none: between reading a byte and clearing it a bit could be set and then cleared unseen. So all
eight pages of a cleared byte count as dirty, and are copied after clearing: a write whose bit was
lost that way came before the copy, and is in it.
"""

from __future__ import annotations

import mmap
import os

import numpy as np

from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory
from ovs_vhost_plugin.guest.driver.split import full_barrier


class DirtyBitmap:
    """A log that covers all of `memory`."""

    def __init__(self, memory: GuestMemory) -> None:
        words = -(-memory.end // (PAGE_SIZE * 64))
        self.size = words * 8
        self.fd = os.memfd_create("dirty-log")
        os.ftruncate(self.fd, self.size)
        self._bytes = np.frombuffer(mmap.mmap(self.fd, self.size), np.uint8)

    def logged(self) -> set[int]:
        """The numbers of the pages whose bits are set; the bits stay set."""
        seen = self._bytes.copy()
        bytes_set = np.flatnonzero(seen)
        bits = np.unpackbits(seen[bytes_set], bitorder="little").reshape(-1, 8)
        which, bit = np.nonzero(bits)
        return set((bytes_set[which] * 8 + bit).tolist())

    def harvest(self) -> set[int]:
        """Clear the log while the back-end writes on; return the pages to copy *after* this call.

        They are rounded up to groups of eight, see above.
        """
        bytes_set = np.flatnonzero(self._bytes.copy())  # numpy counts first, then looks again
        self._bytes[bytes_set] = 0
        full_barrier()
        return {int(byte) * 8 + bit for byte in bytes_set for bit in range(8)}

    def close(self) -> None:
        """Close the file; the back-end may have it mapped still."""
        os.close(self.fd)
