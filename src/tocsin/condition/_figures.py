"""Figures of groups of readings: sums, means, percentiles, first and last; missing readings count for none of them."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.batch import Floats, Ints
from tocsin.condition._groups import group_figures, group_integers, group_quantile

OF_INTEGERS = ("count", "sum", "min", "max")
"""Figures of integers that are worked out without floats."""


def is_number(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind))


def finite(values: Floats) -> Floats:
    """Without infinities, which one bad reading would bring into every sum."""
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.nan)


def figure(
    function: str, values: Floats, starts: Ints, figures: dict[str, Floats], of: str, *, integers: bool
) -> pa.Array:  # fmt: skip
    """One number for each group, null where there is none."""
    share = {"median": 50.0}.get(function, float(function[1:]) if re.fullmatch(r"p[\d.]+", function) else None)
    if share is not None:
        return _or_null(group_quantile(values, starts, share / 100, integers=integers))
    if of not in figures:
        figures[of] = np.empty((6, len(starts) - 1))
        group_figures(values, starts, figures[of])
    count, total, mean, squares, low, high = figures[of]
    match function:
        case "count":
            return pa.array(count)
        case "sum":
            return pa.array(total, mask=count == 0)
        case "mean":
            return _or_null(mean)
        case "min":
            return pa.array(low, mask=count == 0)
        case "max":
            return pa.array(high, mask=count == 0)
        case "std":
            return _or_null(np.sqrt(squares / np.where(count > 1, count - 1, np.nan)))
        case _:
            return _or_null(np.sqrt(squares / np.where(count > 0, count, np.nan)))


def _or_null(values: Floats) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _known(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Which readings there are: not null and, if they are numbers, not NaN and not infinite."""
    known = column.is_valid()
    if pt.is_floating(column.type):
        known = pc.and_(known, pc.is_finite(column).fill_null(False))
    return np.asarray(known.to_numpy(zero_copy_only=False), bool)


def first_or_last(function: str, column: pa.Array, starts: Ints) -> pa.Array:
    """The first or last reading of each group that is not missing."""
    at = np.append(np.flatnonzero(_known(column)), len(column))
    begins, ends = np.searchsorted(at, starts[:-1]), np.searchsorted(at, starts[1:])
    chosen = begins if function == "first" else np.maximum(ends - 1, 0)
    return column.take(pa.array(np.where(begins < ends, at[chosen], 0), mask=begins == ends))


def integer_figure(function: str, column: pa.Array, starts: Ints) -> pa.Array:
    """Count, sum, min or max of each group of integers, exactly: null where the sum does not fit 64 bits."""
    if pt.is_uint64(column.type):  # what does not fit is no reading
        column = pc.if_else(pc.less(column, pa.scalar(2**63, pa.uint64())), column, None)
    known = _known(column)
    values = column.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
    counts, sums, lows, highs = np.empty((4, len(starts) - 1), np.int64)
    fits = np.empty(len(starts) - 1, bool)
    group_integers(values, known, starts, counts, sums, lows, highs, fits)
    match function:
        case "count":
            return pa.array(counts)
        case "sum":
            return pa.array(sums, mask=(counts == 0) | ~fits)
        case _:
            return pa.array(lows if function == "min" else highs, mask=counts == 0)
