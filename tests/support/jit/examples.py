# SPDX-License-Identifier: Apache-2.0
"""How many examples of hypothesis a kernel's test takes."""

from ovs_vhost_plugin.jit.kernel import JIT

_FEWER = 5


def examples(compiled: int) -> int:
    """Return `compiled` for compiled kernels, and a fifth for the same ones as plain Python.

    Those are slow, and only have to do as the compiled ones, which are shown all examples.
    """
    return compiled if JIT else compiled // _FEWER
