# SPDX-License-Identifier: Apache-2.0
"""The decorator that compiles kernels: a kernel declares only its types.

An explicit signature compiles at import, never while packets wait, and refuses arrays of another
layout. `nogil` lets the control plane's Python run beside the loops. Division by zero follows
numpy, because raising would need the interpreter.

Compiled code is kept only in the directory that `cache.py` chooses.
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

newly_compiled: set[str] = set()
"""Kernels that this process has compiled, and the next one loads from the cache."""

_CACHE = cache.of_sources(cache.find())
if _CACHE is not None:
    numba.config.CACHE_DIR = str(_CACHE)
# If numba cannot write there, it would use a directory beside the source, then one in $HOME,
# whoever may write to those. Only the first of its locators asks CACHE_DIR.
numba.config.CACHE_LOCATOR_CLASSES = ""
CacheImpl._locator_classes = CacheImpl._locator_classes[:1]


def kernel(signature: object, *, inline: bool = False) -> Callable[[Function], Function]:
    """Compile a function for exactly `signature` (a numba type such as `int64(int64)`).

    `inline`: always into its callers. Passing a group of arrays costs some hundred bytes of
    stack, more than the work of most functions of the packet path. Reference counts would cost
    still more, and no kernel owns an array. Without `_nrt` there are no reference counts, and
    nothing can be allocated.
    """

    def compile_now(function: Function) -> Function:
        if _CACHE is not None:
            # RuntimeError: no locator takes the function. OSError: the disk is full, or another
            # release has just removed the directory as stale.
            with contextlib.suppress(OSError, RuntimeError):
                compiled: Any = _njit(signature, inline, cached=True)(function)
                if JIT and compiled.stats.cache_misses:
                    newly_compiled.add(function.__qualname__)
                return compiled  # type: ignore[no-any-return]
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
