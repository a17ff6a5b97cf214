"""Eight bytes at a time: what compiled loops over text are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tocsin.kernels import kernel

Bytes = npt.NDArray[np.uint8]


@intrinsic  # type: ignore[untyped-decorator]
def _load(typing_context: Any, data: Any, at: Any) -> Any:
    """The little-endian word at byte ``at``; the caller knows that it lies within the array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        word = ir.IntType(64)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), word.as_pointer())
        return builder.load(address, align=1)

    return types.uint64(data, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Number of zero bits below the lowest set bit."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@kernel
def word_at(data: Bytes, at: int) -> np.uint64:
    """The eight bytes from ``at``; zeros stand for those behind the end."""
    if at + 8 <= len(data):
        return _load(data, at)  # type: ignore[no-any-return]
    word = np.uint64(0)
    for i in range(max(len(data) - at, 0)):
        word |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return word
