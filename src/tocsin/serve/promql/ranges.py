"""Functions of a range: what a metric did in the time before each point.

Prometheus, "Query functions"; rates are extrapolated to the ends of the range as Prometheus does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tocsin.batch import Floats, Ints
from tocsin.serve.promql.series import Bools, Line, Samples, windows

RangeFunction = Callable[[Samples, Ints, Ints, Ints, int], tuple[Floats, Bools]]
"""Samples, the grid, first and last of each window, and the range in ms; to values and where they are."""


def over_range(name: str, samples: Samples, grid_ms: Ints, range_ms: int) -> Line:
    """Returns a function of the range that ends at each point."""
    first, last = windows(samples, grid_ms, range_ms)
    values, present = FUNCTIONS[name](samples, grid_ms, first, last, range_ms)
    line = Line(samples.labels, np.where(present, values, np.nan), present)
    return line if name == "last_over_time" else line.with_values(line.values)


def _each(reduce: Callable[[Floats], float]) -> RangeFunction:
    def function(samples: Samples, grid: Ints, first: Ints, last: Ints, range_ms: int) -> tuple[Floats, Bools]:
        values = np.full(len(grid), np.nan)
        for i in np.flatnonzero(last > first).tolist():
            values[i] = reduce(samples.values[first[i] : last[i]])
        return values, last > first

    return function


def _sum(samples: Samples, grid: Ints, first: Ints, last: Ints, range_ms: int) -> tuple[Floats, Bools]:
    total = np.concatenate([[0.0], np.cumsum(samples.values)])
    return total[last] - total[first], last > first


def _count(samples: Samples, grid: Ints, first: Ints, last: Ints, range_ms: int) -> tuple[Floats, Bools]:
    return (last - first).astype(np.float64), last > first


def _average(samples: Samples, grid: Ints, first: Ints, last: Ints, range_ms: int) -> tuple[Floats, Bools]:
    total, present = _sum(samples, grid, first, last, range_ms)
    return total / np.maximum(last - first, 1), present


def _last(samples: Samples, grid: Ints, first: Ints, last: Ints, range_ms: int) -> tuple[Floats, Bools]:
    present = last > first
    return samples.values[np.maximum(last - 1, 0)] if len(samples.values) else np.zeros(len(grid)), present


def _changes(counts: Callable[[Floats], Bools]) -> RangeFunction:
    def function(samples: Samples, grid: Ints, first: Ints, last: Ints, range_ms: int) -> tuple[Floats, Bools]:
        steps = counts(np.diff(samples.values)) if len(samples.values) > 1 else np.zeros(0, bool)
        total = np.concatenate([[0, 0], np.cumsum(steps)]).astype(np.float64)
        present = last > first
        return total[np.maximum(last, 1)] - total[np.minimum(first + 1, len(total) - 1)], present

    return function


def _extrapolated(*, is_counter: bool, is_rate: bool) -> RangeFunction:
    def function(samples: Samples, grid: Ints, first: Ints, last: Ints, range_ms: int) -> tuple[Floats, Bools]:
        times, values = samples.times_ms, samples.values
        present = last - first >= 2
        out = np.full(len(grid), np.nan)
        if not present.any():
            return out, present
        falls = np.diff(values) < 0
        resets = np.concatenate([[0.0, 0.0], np.cumsum(np.where(falls, values[:-1], 0.0))])
        a, b = first[present], last[present] - 1
        result = values[b] - values[a] + ((resets[b + 1] - resets[a + 1]) if is_counter else 0.0)
        begin, end = grid[present] - range_ms, grid[present]
        sampled = (times[b] - times[a]) / 1000
        average = sampled / (b - a)
        to_start, to_end = (times[a] - begin) / 1000, (end - times[b]) / 1000
        to_start = np.where(to_start >= 1.1 * average, average / 2, to_start)
        to_end = np.where(to_end >= 1.1 * average, average / 2, to_end)
        if is_counter:
            with np.errstate(divide="ignore", invalid="ignore"):
                to_zero = sampled * (values[a] / result)
            limited = (result > 0) & (values[a] >= 0) & (to_zero < to_start)
            to_start = np.where(limited, to_zero, to_start)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = (sampled + to_start + to_end) / sampled
        out[present] = result * factor / (range_ms / 1000 if is_rate else 1.0)
        return out, present

    return function


def _instant_rate(samples: Samples, grid: Ints, first: Ints, last: Ints, range_ms: int) -> tuple[Floats, Bools]:
    present = last - first >= 2
    out = np.full(len(grid), np.nan)
    b = last[present] - 1
    newer, older = samples.values[b], samples.values[b - 1]
    step = np.where(newer < older, newer, newer - older)
    out[present] = step / ((samples.times_ms[b] - samples.times_ms[b - 1]) / 1000)
    return out, present


FUNCTIONS: Mapping[str, RangeFunction] = {
    "avg_over_time": _average,
    "sum_over_time": _sum,
    "count_over_time": _count,
    "last_over_time": _last,
    "min_over_time": _each(lambda values: float(values.min())),
    "max_over_time": _each(lambda values: float(values.max())),
    "stddev_over_time": _each(lambda values: float(values.std())),
    "stdvar_over_time": _each(lambda values: float(values.var())),
    "changes": _changes(lambda steps: steps != 0),
    "resets": _changes(lambda steps: steps < 0),
    "rate": _extrapolated(is_counter=True, is_rate=True),
    "increase": _extrapolated(is_counter=True, is_rate=False),
    "delta": _extrapolated(is_counter=False, is_rate=False),
    "irate": _instant_rate,
}
"""By name, as Prometheus calls them."""
