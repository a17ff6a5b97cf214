"""Bytes and words at an address: what compiled loops over text are made of.

They take addresses, not arrays: an array handed to a compiled function costs two atomic reference counts and a check
for negative indices on each access, which is more than the work itself. Whoever calls keeps the memory alive, and
keeps eight readable bytes behind its end (`padded`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LOW_BYTES = np.array([(1 << (8 * n)) - 1 for n in range(8)], np.uint64)
"""Masks that keep the first n bytes of a word."""
WIDE_BYTES = 64
"""How many bytes `equal_bytes` looks at."""


@intrinsic  # type: ignore[untyped-decorator]
def byte_at(typing_context: Any, address: Any) -> Any:
    """The byte at an address, as a number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def word_at(typing_context: Any, address: Any) -> Any:
    """The eight bytes from an address on, the first one lowest."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def equal_bytes(typing_context: Any, address: Any, byte: Any) -> Any:
    """Which of the `WIDE_BYTES` bytes from an address on are this one, as bits, the first one lowest."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.VectorType(ir.IntType(8), WIDE_BYTES)
        text = builder.load(builder.inttoptr(arguments[0], wide.as_pointer()), align=1)
        one = builder.insert_element(
            ir.Constant(wide, ir.Undefined), builder.trunc(arguments[1], ir.IntType(8)), ir.Constant(ir.IntType(32), 0)
        )
        places = ir.Constant(ir.VectorType(ir.IntType(32), WIDE_BYTES), [0] * WIDE_BYTES)
        wanted = builder.shuffle_vector(one, ir.Constant(wide, ir.Undefined), places)
        return builder.bitcast(builder.icmp_unsigned("==", text, wanted), ir.IntType(WIDE_BYTES))

    return types.uint64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Number of zero bits below the lowest set bit."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


def padded(data: pa.Buffer | None, end: int) -> pa.Buffer:
    """A buffer with eight readable bytes from anywhere before ``end``: itself if it is long enough, or a copy."""
    if data is not None and data.size >= end + 8:
        return data
    return pa.py_buffer((b"" if data is None else data[:end].to_pybytes()) + bytes(8))
