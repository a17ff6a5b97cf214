"""Compiled loops over groups of readings: put them side by side, in time order, and work out each group's figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import kernel


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
def group_quantiles(values: Floats, starts: Ints, shares: Floats, quantiles: Floats) -> None:
    """Quantiles of each group between the two values next to it (shape (shares, groups)); NaN is no value."""
    scratch = np.empty(len(values))
    for g in range(len(starts) - 1):
        count = 0
        for i in range(starts[g], starts[g + 1]):
            if not np.isnan(values[i]):
                scratch[count] = values[i]
                count += 1
        ranked = np.sort(scratch[:count])
        for q in range(len(shares)):
            if count == 0:
                quantiles[q, g] = np.nan
                continue
            at = shares[q] * (count - 1)
            low = int(at)
            high = min(low + 1, count - 1)
            # Written so that two equal infinities give themselves.
            quantiles[q, g] = ranked[low] + (at - low) * (ranked[high] - ranked[low]) if at > low else ranked[low]
