# SPDX-License-Identifier: Apache-2.0
"""Loads, stores and copies that the compiler may neither move nor repeat.

Guest memory changes while it is read. LLVM assumes that memory does not change: it turned a loop
that waits on `avail[1]` into one read. So ring indices, flags and descriptors are read and written
only by these functions, each exactly once. Everything else is copied out whole by `copy_in` before
it is read. Nothing else in the project dereferences an address.

Views are one-dimensional numpy arrays of unsigned numbers. Orderings are those of LLVM
("monotonic" is C11's relaxed). Under NUMBA_DISABLE_JIT=1 each function has an equivalent in plain
Python, which the interpreter's own locks make sequentially consistent.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ovs_vhost_plugin.jit.kernel import JIT

_python_lock = threading.Lock()


def _element(context: Any, builder: Any, view_type: Any, view: Any, index: Any) -> Any:
    array = context.make_array(view_type)(context, builder, view)
    return cgutils.gep(builder, array.data, index)


def _index(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return context.cast(builder, args[1], signature.args[1], types.intp)


def _python_load(view: Any, index: int) -> int:
    return int(view[index])


def _load(ordering: str) -> Any:
    if not JIT:
        return _python_load

    @intrinsic
    def load(_typing: Any, view: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            index = _index(context, builder, signature, args)
            pointer = _element(context, builder, signature.args[0], args[0], index)
            kind = context.get_value_type(view.dtype)
            return builder.load_atomic(pointer, ordering, view.dtype.bitwidth // 8, typ=kind)

        return view.dtype(view, index), generate

    return load


def _python_store(view: Any, index: int, value: int) -> None:
    view[index] = int(value) & ((1 << 8 * view.itemsize) - 1)


def _store(ordering: str) -> Any:
    if not JIT:
        return _python_store

    @intrinsic
    def store(_typing: Any, view: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            index = _index(context, builder, signature, args)
            pointer = _element(context, builder, signature.args[0], args[0], index)
            number = context.cast(builder, args[2], signature.args[2], view.dtype)
            builder.store_atomic(number, pointer, ordering, view.dtype.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(view, index, value), generate

    return store


load_relaxed = _load("monotonic")
"""(view, index) → element."""
load_acquire = _load("acquire")
"""(view, index) → element; nothing after it is read or written before it."""
store_relaxed = _store("monotonic")
"""(view, index, value), which is truncated to the element's size."""
store_release = _store("release")
"""(view, index, value); a reader that sees the value sees all earlier writes."""


def _python_fence() -> None:
    with _python_lock:
        pass


@intrinsic
def _fence(_typing: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _python_or(view: Any, index: int, bits: int) -> None:
    with _python_lock:
        view[index] |= bits


@intrinsic
def _or_u8(_typing: Any, view: Any, index: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        index = _index(context, builder, signature, args)
        pointer = _element(context, builder, signature.args[0], args[0], index)
        number = context.cast(builder, args[2], signature.args[2], types.uint8)
        builder.atomic_rmw("or", pointer, number, "monotonic")
        return context.get_dummy_value()

    return types.void(view, index, bits), generate


def _python_address(view: Any, index: int) -> int:
    return int(view.ctypes.data) + int(index) * int(view.itemsize)


@intrinsic
def _address_of(_typing: Any, view: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        index = _index(context, builder, signature, args)
        pointer = _element(context, builder, signature.args[0], args[0], index)
        return builder.ptrtoint(pointer, context.get_value_type(types.int64))

    return types.int64(view, index), generate


def _python_copy_in(view: Any, index: int, address: int, length: int) -> None:
    ctypes.memmove(_python_address(view, index), int(address), int(length))


def _python_copy_out(address: int, view: Any, index: int, length: int) -> None:
    ctypes.memmove(int(address), _python_address(view, index), int(length))


def _emit_copy(context: Any, builder: Any, target: Any, source: Any, length: Any) -> Any:
    # Volatile: the copy is made once, and reads of the copy never become reads of guest memory.
    byte = context.get_value_type(types.voidptr)
    size = ir.IntType(64)
    function = builder.module.declare_intrinsic("llvm.memcpy", [byte, byte, size])
    builder.call(function, [target, source, length, ir.Constant(ir.IntType(1), 1)])
    return context.get_dummy_value()


def _byte_pointer(context: Any, builder: Any, signature: Any, args: Any, view_at: int) -> Any:
    index = context.cast(builder, args[view_at + 1], signature.args[view_at + 1], types.intp)
    pointer = _element(context, builder, signature.args[view_at], args[view_at], index)
    return builder.bitcast(pointer, context.get_value_type(types.voidptr))


def _raw_pointer(context: Any, builder: Any, signature: Any, args: Any, at: int) -> Any:
    address = context.cast(builder, args[at], signature.args[at], types.int64)
    return builder.inttoptr(address, context.get_value_type(types.voidptr))


@intrinsic
def _copy_in(_typing: Any, view: Any, index: Any, address: Any, length: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = _byte_pointer(context, builder, signature, args, 0)
        source = _raw_pointer(context, builder, signature, args, 2)
        size = context.cast(builder, args[3], signature.args[3], types.int64)
        return _emit_copy(context, builder, target, source, size)

    return types.void(view, index, address, length), generate


@intrinsic
def _copy_out(_typing: Any, address: Any, view: Any, index: Any, length: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = _raw_pointer(context, builder, signature, args, 0)
        source = _byte_pointer(context, builder, signature, args, 1)
        size = context.cast(builder, args[3], signature.args[3], types.int64)
        return _emit_copy(context, builder, target, source, size)

    return types.void(address, view, index, length), generate


def _python_copy_across(target: int, source: int, length: int) -> None:
    ctypes.memmove(int(target), int(source), int(length))


@intrinsic
def _copy_across(_typing: Any, target: Any, source: Any, length: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target_at = _raw_pointer(context, builder, signature, args, 0)
        source_at = _raw_pointer(context, builder, signature, args, 1)
        size = context.cast(builder, args[2], signature.args[2], types.int64)
        return _emit_copy(context, builder, target_at, source_at, size)

    return types.void(target, source, length), generate


def _python_prefetch(address: int) -> None:
    pass


def _prefetch(write: int) -> Any:
    if not JIT:
        return _python_prefetch

    @intrinsic
    def prefetch(_typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _raw_pointer(context, builder, signature, args, 0)
            number = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
            function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
            keep, data = 3, 1  # in all caches; not instructions
            options = [ir.Constant(number, value) for value in (write, keep, data)]
            builder.call(function, [pointer, *options])
            return context.get_dummy_value()

        return types.void(address), generate

    return prefetch


def _load_at(kind: Any, python_kind: Any) -> Any:
    if not JIT:
        return lambda address: python_kind.from_address(int(address)).value

    @intrinsic
    def load_at(_typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _raw_pointer(context, builder, signature, args, 0)
            number = context.get_value_type(kind)
            typed = builder.bitcast(
                pointer, number.as_pointer()
            )  # before LLVM 16 pointers have types
            return builder.load_atomic(typed, "monotonic", kind.bitwidth // 8, typ=number)

        return kind(address), generate

    return load_at


def _store_at(kind: Any, python_kind: Any) -> Any:
    def python_store_at(address: int, value: int) -> None:
        python_kind.from_address(int(address)).value = int(value)

    if not JIT:
        return python_store_at

    @intrinsic
    def store_at(_typing: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _raw_pointer(context, builder, signature, args, 0)
            number = context.cast(builder, args[1], signature.args[1], kind)
            typed = builder.bitcast(pointer, number.type.as_pointer())
            builder.store_atomic(number, typed, "release", kind.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(address, value), generate

    return store_at


fence = _fence if JIT else _python_fence
"""A full barrier, also between a store and a later load."""
or_u8 = _or_u8 if JIT else _python_or
"""(view, index, bits): another process may set bits of the same byte."""
address_of = _address_of if JIT else _python_address
"""(view, index) → address of that element."""
copy_in = _copy_in if JIT else _python_copy_in
"""(view, index, address, length): bytes at an address into a private array."""
copy_out = _copy_out if JIT else _python_copy_out
"""(address, view, index, length): bytes of a private array to an address."""
copy_across = _copy_across if JIT else _python_copy_across
"""(target, source, length): bytes from an address to another; neither is read again here."""
prefetch = _prefetch(0)
"""(address): ask the processor for its cache line; no address is an error."""
prefetch_write = _prefetch(1)
"""(address): the same for a line that will be written."""
load_i32_at = _load_at(types.int32, ctypes.c_int32)
"""(address) → the int32 there."""
load_i64_at = _load_at(types.int64, ctypes.c_int64)
"""(address) → the int64 there."""
load_u16_at = _load_at(types.uint16, ctypes.c_uint16)
"""(address) → the uint16 there."""
store_i32_at = _store_at(types.int32, ctypes.c_int32)
"""(address, value); a reader that sees the value sees all earlier writes."""
store_u16_at = _store_at(types.uint16, ctypes.c_uint16)
"""(address, value), which is truncated; a reader that sees the value sees all earlier writes."""
store_i64_at = _store_at(types.int64, ctypes.c_int64)
"""(address, value), likewise."""
