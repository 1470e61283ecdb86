# SPDX-License-Identifier: Apache-2.0
"""A kernel's result: one int64 that is a success, an error or a fault, by its sign and size.

    >= 0            success: a count, an index, or 0 if there is nothing to count
    -1 .. -4095     -errno, as Linux returns it: of a system call, or one that fits (ENOENT)
    <= -4096        -(4096 + fault): a fault of the guest, see `faults.py`

So a caller that only needs to know of a failure compares with `< 0`, and passes the number on. A
kernel with several results returns a tuple whose first element is such a number.
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import boolean, int64

ERRNO_MAX = 4095
"""The largest errno (MAX_ERRNO in Linux's err.h)."""
_FIRST_FAULT = ERRNO_MAX + 1


@kernel(int64(int64), inline=True)
def failure(fault: int) -> int:
    """The result for `fault`, a `Fault`."""
    return -(_FIRST_FAULT + fault)


@kernel(boolean(int64), inline=True)
def is_fault(result: int) -> bool:
    """Whether a result is a fault of the guest."""
    return result <= -_FIRST_FAULT


@kernel(int64(int64), inline=True)
def fault_of(result: int) -> int:
    """The `Fault` in a result, if `is_fault`."""
    return -result - _FIRST_FAULT
