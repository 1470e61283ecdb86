# SPDX-License-Identifier: Apache-2.0
"""The reference driver's rings and memory as kernels take them."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import numpy as np
from support.jit.packed_reference import PackedDriver
from support.jit.ring_reference import Driver, GuestMemory

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.recovery.journal import WORDS


def kernel_ring(driver: Driver | PackedDriver, **state: int) -> layout.Vring:
    """`driver`'s ring, before the first chain, as a kernel takes it."""
    views = driver.views()
    record = np.zeros(1, layout.RING_DTYPE)
    defaults = {
        "size": driver.size,
        "enabled": 1,
        "next_avail": driver.next_avail,
        "next_pop": driver.next_avail,
        "avail_idx": driver.next_avail,
        "next_used": driver.used_idx,
        "flushed": driver.used_idx,
        "kick_fd": -1,
        "call_fd": -1,
        "err_fd": -1,
    }
    for name, value in (defaults | state).items():
        record[name] = value
    return layout.Vring(
        desc=views["desc"].view(np.uint64),
        avail=views["avail"].view(np.uint16),
        used=views["used"].view(np.uint16),
        # (views end where the ring does: a packed one has no elements)
        elements=views["used"][4 : 4 + 8 * driver.size].view(np.uint32),
        state=record,
        journal=np.zeros(WORDS, np.int64),
    )


def kernel_memory(memory: GuestMemory, log_bytes: int = 0) -> layout.Memory:
    """Regions and an empty log of `log_bytes`."""
    return layout.Memory(fresh.region_table(memory.table()), np.zeros(log_bytes, np.uint8))


def public_functions(module: ModuleType) -> dict[str, list[str]]:
    """Names of a module's public functions in order, and of each the types in its signature."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    return {
        node.name: [ast.unparse(argument.annotation or node) for argument in node.args.args]
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
