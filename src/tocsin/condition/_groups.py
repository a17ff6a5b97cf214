"""Compiled loops over groups of readings: put them side by side, in time order, and work out each group's figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import kernel

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
EXACT_FLOAT = 2.0**53 - 1
"""Integers up to here are floats exactly."""


@kernel
def leaving(
    times: Ints, every: int, length: int, before: int, watermark: int, last: Ints, keep: npt.NDArray[np.bool_]
) -> tuple[int, int, int]:
    """The number of the last window of each reading, and whether a later window than those that leave needs it.

    Windows that end after ``before`` and up to the watermark leave. Returns how many readings are in them (one in
    several windows counts several times), and the least and greatest of their numbers.
    """
    total, low, high = 0, 2**62, -(2**62)
    for i in range(len(times)):
        number = times[i] // every
        last[i] = number
        keep[i] = number * every + length > watermark
        while number * every + length > times[i]:
            end = number * every + length
            if end <= before:
                break
            if end <= watermark:
                total += 1
                low = min(low, number)
                high = max(high, number)
            number -= 1
    return total, low, high


@kernel
def group_order(
    times: Ints, slots: Codes, last: Ints, every: int, length: int, before: int, watermark: int,
    low: int, key_count: int, ends: Ints, order: Ints,
) -> None:  # fmt: skip
    """Counting sort of the readings that leave by (window, key); those of a group stay in their order.

    ``ends`` has one cell for each (window, key), zero at first; after it, cell g holds where group g ends in ``order``.
    """
    for scatter in range(2):
        for i in range(len(times)):
            number = last[i]
            while number * every + length > times[i]:
                end = number * every + length
                if end <= before:
                    break
                if end <= watermark:
                    g = (number - low) * key_count + slots[i]
                    if scatter:
                        order[ends[g]] = i
                    ends[g] += 1
                number -= 1
        if not scatter:
            total = 0
            for g in range(len(ends)):
                count = ends[g]
                ends[g] = total
                total += count


@kernel
def sort_by_time(times: Ints, starts: Ints, order: Ints, unsorted: Ints) -> int:
    """Order each group by time, equal times as they came; by insertion, which is fast where little is out of order.

    Groups that would cost more than 16 shifts a row are left, named in ``unsorted``; returns how many.
    """
    left = 0
    for g in range(len(starts) - 1):
        begin, end = starts[g], starts[g + 1]
        budget = 16 * (end - begin)
        for i in range(begin + 1, end):
            row = order[i]
            time = times[row]
            j = i - 1
            while j >= begin and times[order[j]] > time:
                order[j + 1] = order[j]
                j -= 1
            order[j + 1] = row
            budget -= i - 1 - j
            if budget < 0:
                unsorted[left] = g
                left += 1
                break
    return left


@kernel
def group_figures(values: Floats, starts: Ints, figures: Floats) -> None:
    """Count, sum, mean, sum of squared differences, min and max of each group; NaN is no value (shape (6, groups))."""
    for g in range(len(starts) - 1):
        count, total, low, high = 0, 0.0, np.inf, -np.inf
        for i in range(starts[g], starts[g + 1]):
            x = values[i]
            if not np.isnan(x):
                count += 1
                total += x
                low = min(low, x)
                high = max(high, x)
        mean = total / count if count else np.nan
        squares = 0.0
        for i in range(starts[g], starts[g + 1]):
            if not np.isnan(values[i]):
                squares += (values[i] - mean) ** 2
        figures[0, g], figures[1, g], figures[2, g], figures[3, g] = count, total, mean, squares
        figures[4, g], figures[5, g] = low, high


@kernel
def group_integers(
    values: Ints, known: npt.NDArray[np.bool_], starts: Ints, counts: Ints, sums: Ints, lows: Ints, highs: Ints,
    fits: npt.NDArray[np.bool_],
) -> None:  # fmt: skip
    """Count, sum, min and max of each group, exactly; ``fits`` says where 64 bits hold the sum."""
    for g in range(len(starts) - 1):
        count, total, low, high, wraps = 0, 0, INT_MAX, INT_MIN, 0
        for i in range(starts[g], starts[g + 1]):
            if known[i]:
                x = values[i]
                count += 1
                after = total + x
                if (total ^ after) & (x ^ after) < 0:  # both have the other sign than their sum
                    wraps += 1 if x > 0 else -1
                total = after
                low = min(low, x)
                high = max(high, x)
        counts[g], sums[g], lows[g], highs[g], fits[g] = count, total, low, high, wraps == 0


def group_quantile(values: Floats, starts: Ints, share: float, *, integers: bool = False) -> Floats:
    """A quantile of each group, between the two values next to it; NaN is no value, and where there is none.

    Of ``integers`` it is also NaN where those two are so large that a float does not hold them exactly.

    By numpy's sort: one compiled by numba takes 1.5 s at the first call.
    """
    group = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    ranked = values[np.lexsort((values, group))]  # NaN comes last in its group
    known = np.concatenate([[0], np.cumsum(~np.isnan(values))])
    count = known[starts[1:]] - known[starts[:-1]]
    at = share * np.maximum(count - 1, 0)
    low = at.astype(np.int64)
    below = ranked[starts[:-1] + low]
    above = ranked[starts[:-1] + np.minimum(low + 1, np.maximum(count - 1, 0))]
    # Written so that two equal infinities give themselves.
    with np.errstate(invalid="ignore"):
        between = below + (at - low) * (above - below)
    none = count == 0
    if integers:
        none |= (np.abs(below) > EXACT_FLOAT) | ((at > low) & (np.abs(above) > EXACT_FLOAT))
    return np.where(none, np.nan, np.where(at > low, between, below))
