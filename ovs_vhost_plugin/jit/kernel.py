# SPDX-License-Identifier: Apache-2.0
"""One decorator that fixes how kernels are compiled, so that each kernel only says its types.

An explicit signature compiles at import, never while packets wait, and refuses arrays of another
layout. `nogil` lets the control plane's Python run beside the loops. Division by zero follows
numpy, because raising would need the interpreter.

Compiled code is kept where `cache.py` says, and nowhere else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core.caching import CacheImpl

from ovs_vhost_plugin.jit import cache

Function = TypeVar("Function", bound=Callable[..., Any])

JIT = not numba.config.DISABLE_JIT
"""False under NUMBA_DISABLE_JIT=1: kernels are then plain Python, seen by coverage tools."""


_CACHE = cache.of_sources(cache.find())
if _CACHE is not None:
    numba.config.CACHE_DIR = str(_CACHE)
# Where numba cannot write there it would turn to a directory beside the source, then to one in
# $HOME, whoever may write to those. The first of its locators is the one that asks CACHE_DIR.
numba.config.CACHE_LOCATOR_CLASSES = ""
CacheImpl._locator_classes = CacheImpl._locator_classes[:1]


def kernel(signature: object, *, inline: bool = False) -> Callable[[Function], Function]:
    """Compile a function for exactly `signature` (a numba type such as `int64(int64)`).

    `inline`: always into its callers. Passing a group of arrays costs some hundred bytes of
    stack, which is more than most functions of the packet path do. Reference counts would cost
    more still, and nothing here owns an array: without `_nrt` there are none, and nothing can be
    allocated.
    """

    def compile_now(function: Function) -> Function:
        if _CACHE is not None:
            # RuntimeError: no locator takes the function; OSError: the disk is full, or another
            # release has just removed what it took for stale.
            with contextlib.suppress(OSError, RuntimeError):
                return _njit(signature, inline, cached=True)(function)
        return _njit(signature, inline, cached=False)(function)

    return compile_now


def _njit(signature: object, inline: bool, *, cached: bool) -> Callable[[Function], Function]:
    return numba.njit(  # type: ignore[no-any-return]
        signature,
        nogil=True,
        cache=cached,
        error_model="numpy",
        boundscheck=False,
        forceinline=inline,
        _nrt=False,
    )
