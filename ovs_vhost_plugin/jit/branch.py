# SPDX-License-Identifier: Apache-2.0
"""Tells the compiler which way a branch nearly always goes.

What a rare way needs in registers is then saved on that way alone, and costs the other nothing.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ovs_vhost_plugin.jit.kernel import JIT


def _python_unlikely(condition: bool) -> bool:
    return condition


@intrinsic
def _unlikely(_typing: Any, condition: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bit = context.get_value_type(types.boolean)
        kind = ir.FunctionType(bit, [bit, bit])
        function = builder.module.declare_intrinsic("llvm.expect", [bit], kind)
        return builder.call(function, [args[0], ir.Constant(bit, 0)])

    return types.boolean(types.boolean), generate


unlikely = _unlikely if JIT else _python_unlikely
"""(condition) → condition, which is nearly always false."""
