# SPDX-License-Identifier: Apache-2.0
"""The result of a kernel: one int64 that tells success, an error and a fault apart.

    >= 0            it worked: a count, an index, or 0 where there is nothing to count
    -1 .. -4095     -errno, as the kernel returns it: of a system call, or one that fits (ENOENT)
    <= -4096        -(4096 + fault): the guest did something wrong, see `faults.py`

So a caller that only asks whether something went wrong asks for `< 0`, and passes the number on
as it is. A kernel that has more to say returns a tuple whose first element is such a number.
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import boolean, int64

ERRNO_MAX = 4095
"""The largest errno (MAX_ERRNO in Linux's err.h)."""
_FIRST_FAULT = ERRNO_MAX + 1


@kernel(int64(int64), inline=True)
def failure(fault: int) -> int:
    """The result that says `fault`, a `Fault`."""
    return -(_FIRST_FAULT + fault)


@kernel(boolean(int64), inline=True)
def is_fault(result: int) -> bool:
    """Whether a result says that the guest did something wrong."""
    return result <= -_FIRST_FAULT


@kernel(int64(int64), inline=True)
def fault_of(result: int) -> int:
    """The `Fault` that a result says, if `is_fault`."""
    return -result - _FIRST_FAULT
