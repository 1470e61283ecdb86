# SPDX-License-Identifier: Apache-2.0
"""An io_uring for a test's queue pair: the kernel's own, or one that does as a test says."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EAGAIN

import pytest

from ovs_vhost_plugin.common import uring
from ovs_vhost_plugin.common.uring import SLOTS
from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.uring import BATCH_DTYPE, new_batch


@contextmanager
def batches(net: layout.Net, tap_fd: int) -> Iterator[None]:
    """Let the frames of `net` go to `tap_fd` together; skips where there is no io_uring."""
    try:
        ring = uring.Uring(SLOTS, uring.WRITEV)
    except OSError as error:
        pytest.skip(f"io_uring: {error}")
    batch, _memory = new_batch(ring, tap_fd)
    net.state["cfg_batch"] = batch.ctypes.data
    yield
    net.state["cfg_batch"] = 0
    ring.close()


class FakeUring:
    """In the place of `io_uring_enter`, for kernels as plain Python: it writes nothing.

    results  what becomes of the frames of the next calls, in order
    late     of these, the ones whose completions come with the next call
    refusal  the calls' -errno; 0: they take what `results` has
    """

    def __init__(self, net: layout.Net) -> None:
        self.entries = self.most_completions = SLOTS
        self.fd = -1
        self._words = (ctypes.c_int32 * 3)(*[-2] * 3)  # indices that pass 2**32
        self._order = (ctypes.c_uint32 * SLOTS)()
        self._requests = (ctypes.c_char * (uring.REQUEST_BYTES * SLOTS))()
        self._completions = (ctypes.c_int64 * (2 * SLOTS))()
        first = ctypes.addressof(self._words)
        self.sq_tail, self.cq_head, self.cq_tail = first, first + 4, first + 8
        self.order = ctypes.addressof(self._order)
        self.requests = ctypes.addressof(self._requests)
        self.completions = ctypes.addressof(self._completions)
        self.results: list[int] = []
        self.late: Sequence[int] = ()
        self.refusal = 0
        self._taken = -2 & 0xFFFF_FFFF
        self._owed: list[tuple[int, int]] = []
        self._batch, self._memory = new_batch(self, -1)  # type: ignore[arg-type]
        assert self._batch.dtype == BATCH_DTYPE
        net.state["cfg_batch"] = self._batch.ctypes.data

    def enter(self, _fd: int, count: int, wait: int, _flags: int) -> int:
        """As `io_uring_enter`."""
        for slot, result in self._owed[: wait or None]:
            self._complete(slot, result)
        self._owed = []
        if self.refusal and count:
            return self.refusal
        assert (self._words[0] - self._taken) & 0xFFFF_FFFF == count
        taken, self.results = self.results[:count], self.results[count:]
        for number, result in enumerate(taken):
            slot = self._order[self._taken % SLOTS]
            assert slot == number
            self._taken += 1
            if number in self.late:
                self._owed.append((slot, result))
            else:
                self._complete(slot, result)
        return len(taken)

    def _complete(self, slot: int, result: int) -> None:
        at = 2 * (self._words[2] % SLOTS)
        self._completions[at : at + 2] = slot, result & 0xFFFF_FFFF
        self._words[2] += 1


NOT_NOW = -EAGAIN
