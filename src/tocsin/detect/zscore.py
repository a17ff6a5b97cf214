"""Z-score: the distance of a reading from the mean, in standard deviations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from pydantic import Field as Setting

from tocsin.bases import Detector, Judgement, Tells, added, require
from tocsin.batch import Codes, Floats, Ints, floats
from tocsin.kernels import at_least, kernel, score_of
from tocsin.state import Columns, Field

Z = pa.field("z", pa.float64())
Z_LIST = pa.field("z", pa.list_(pa.float64()))


class Zscore(Detector):
    """How many standard deviations a reading lies from the mean: of its window, or of all readings before it.

    Over a column of lists (as `window` collects them) it adds ``z``, a list with the score of each element among the
    others of its list (0 where all are equal). Over a column of numbers it is a detector: each reading is judged
    against the mean and standard deviation of all readings of its key before it, then learnt; beside the verdict
    it adds ``z``. For values that drift take `ewma`; for anything that is not a bell curve, `novelty`.

    Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4 (1962).

    Examples
    --------
    >>> lists = rows({"value": [[1.0, 1.0, 1.0, 5.0], [2.0, 2.0]]})
    >>> [[round(z, 2) for z in row] for row in feed(Zscore(), lists)["z"].to_pylist()]
    [[-0.58, -0.58, -0.58, 1.73], [0.0, 0.0]]
    >>> feed(Zscore(learn=4), rows({"value": [1.0, 3.0, 1.0, 3.0, 12.0]}))["z"].to_pylist()
    [None, None, None, None, 10.0]
    """

    SHORTHAND: ClassVar[str | None] = "of"
    EXTRA: ClassVar[Sequence[pa.Field]] = (Z,)
    TELLS: ClassVar[Tells] = "surprise"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({}, {"learn": 10, "direction": "above", "deviation_min": 0.5})
    KEEPS_STATE: ClassVar[Collection[str]] = ("width",)

    learn: int = Setting(30, ge=2)
    """How many readings of a key are learnt before one is judged."""
    width: float = Setting(5.0, gt=0)
    """Half the width of the usual band, in standard deviations; at its edge the score is 75."""

    def fields(self) -> Mapping[str, Field]:
        return {"count": Field(), "mean": Field(), "squares": Field()}

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        kind = require(input, self.of, self.name()).type
        if not pt.is_list(kind):
            return super().output_schema(input)
        require(pa.schema([pa.field(self.of, kind.value_type)]), self.of, self.name(), number=True)
        return added(input, [Z_LIST], self.name())

    def update(self, state: Columns, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        lists = rows.column(self.of)
        if not pt.is_list(lists.type):
            return super().update(state, rows, slots)
        return rows.append_column(Z_LIST, _within(lists))

    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Judgement:
        out = np.empty((5, len(values)))
        _judge(slots, values, state["count"], state["mean"], state["squares"], self.learn, self.width, out)
        return out[0], out[1], out[2], out[3], pa.array(out[4], mask=np.isnan(out[4]))


def _within(lists: pa.Array) -> pa.Array:
    """The score of each element among those of its list."""
    values = floats(lists.flatten())
    sizes = pa.compute.fill_null(pa.compute.list_value_length(lists), 0).to_numpy()
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    scores = np.empty(len(values))
    _list_scores(np.ascontiguousarray(values), starts, scores)
    known = pa.array(scores, mask=np.isnan(scores) if np.isnan(scores).any() else None)
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), known)


@kernel
def _list_scores(values: Floats, starts: Ints, scores: Floats) -> None:
    for g in range(len(starts) - 1):
        begin, end = starts[g], starts[g + 1]
        count, total = 0, 0.0
        for i in range(begin, end):
            if np.isfinite(values[i]):
                count += 1
                total += values[i]
        mean = total / count if count else np.nan
        squares = 0.0
        for i in range(begin, end):
            if np.isfinite(values[i]):
                squares += (values[i] - mean) ** 2
        deviation = np.sqrt(squares / count) if count else np.nan
        flat = not deviation > 1e-12 * np.abs(mean)  # equal values leave a rest of rounding, not of scatter
        for i in range(begin, end):
            scores[i] = np.nan if not np.isfinite(values[i]) else 0.0 if flat else (values[i] - mean) / deviation


@kernel
def _judge(
    slots: Codes, values: Floats, count: Floats, mean: Floats, squares: Floats, learn: int, width: float, out: Floats
) -> None:
    for i in range(len(slots)):
        s, x = slots[i], values[i]
        for j in range(5):
            out[j, i] = np.nan
        if np.isnan(x):
            continue
        if count[s] >= learn:
            deviation = at_least(np.sqrt(squares[s] / count[s]), mean[s])
            z = (x - mean[s]) / deviation
            out[0, i] = mean[s]
            out[1, i] = mean[s] - width * deviation
            out[2, i] = mean[s] + width * deviation
            share = np.abs(z) / width
            out[3, i] = score_of(share)
            out[4, i] = z
        count[s] += 1
        delta = x - mean[s]
        mean[s] += delta / count[s]
        squares[s] += delta * (x - mean[s])
