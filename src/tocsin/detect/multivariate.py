"""Multivariate: signals of one machine that no longer vary together (T2 and SPE)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field as Setting

from tocsin.bases import Keyed, added, explaining, promised, require
from tocsin.batch import Codes, Floats, floats
from tocsin.kernels import kernel
from tocsin.state import Columns, Field

ADDED = (
    pa.field("t2", pa.float64()),
    pa.field("spe", pa.float64()),
    pa.field("score", pa.float64()),
    pa.field("abnormal", pa.bool_()),
    pa.field("cause", pa.string()),
)
EXPLAINED = ("t2", "spe", "score", "abnormal")
SINGLE = ("count", "dimensions", "limit_t2", "limit_spe", "on")
COUNT, DIMENSIONS, LIMIT_T2, LIMIT_SPE, ON = range(len(SINGLE))
CLIP = 50.0  # scaled readings beyond this say no more
QUANTILE = 0.99  # of the learned part, that the limits are multiples of


class Multivariate(Keyed):
    """Says when several signals of one machine are no longer together as they were while it learned.

    The first ``learn`` rows teach, for each machine: the scale of each signal (median and MAD), and the directions in
    which the smoothed signals vary together. After that each row gets Hotelling's T2 (how far along those
    directions), SPE (how far off them), both as multiples of their 99 % quantile while learning, and how much each
    signal contributes. A row is ``abnormal`` from ``limit`` times that quantile on, until it is back under half of
    it. The score is 75 at the limit.

    Use it for a machine with a handful of signals that depend on each other: pressure, flow, current. Not for signals
    on their own (`novelty`), nor while the machine changes between states (give ``when``). A row without one of the
    numbers gets no verdict and teaches nothing.

    Hotelling 1947; Jackson & Mudholkar 1979 (SPE); contributions after Miller et al. 1998.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.random.default_rng(1).normal(size=900)
    >>> b = 2 * a + np.random.default_rng(2).normal(size=900) / 10
    >>> b[700:] += 3   # each is as usual, the two together are not
    >>> verdict = feed(Multivariate(of=["a", "b"]), rows({"a": a, "b": b}))
    >>> at = verdict["abnormal"].to_pylist().index(True)
    >>> 700 <= at < 715, verdict["abnormal"].to_pylist().count(True) > 150
    (True, True)
    """

    EXAMPLES: ClassVar[tuple[Mapping[str, Any], ...]] = ({"of": ["value", "count"], "learn": 20},)
    KEEPS_STATE: ClassVar[Collection[str]] = ("limit",)

    of: tuple[str, ...] = Setting(min_length=2)
    """Columns with the signals."""
    learn: int = Setting(400, ge=20, le=5000)
    """From how many rows to learn."""
    span: int = Setting(20, ge=1)
    """Over how many rows to smooth (exponentially)."""
    variance: float = Setting(0.97, gt=0, lt=1)
    """How much of the variance the directions of T2 explain; the rest is left to SPE."""
    limit: float = Setting(8.0, gt=0)
    """From how many times its 99 % quantile on T2 or SPE is abnormal."""
    when: str | None = None
    """A true-or-false column that says when the machine is in the state to judge."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for column in self.of:
            require(input, column, self.name(), number=True)
        if self.when is not None:
            require(input, self.when, self.name())
        return added(input, (*ADDED, explaining(EXPLAINED, self.of)), self.name())

    def fields(self) -> Mapping[str, Field]:
        p = len(self.of)
        return {
            "single": Field(width=len(SINGLE)),
            "learned": Field(width=self.learn * p),
            "center": Field(width=p),
            "scale": Field(width=p, initial=1.0),
            "smooth": Field(width=p),
            "mean": Field(width=p),
            "variances": Field(width=p, initial=1.0),
            "directions": Field(width=p * p),
        }

    def update(self, state: Columns, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        p = len(self.of)
        values = np.column_stack([floats(rows.column(column)) for column in self.of])
        usable = np.asarray(np.isfinite(values).all(axis=1))
        if self.when is not None:
            usable &= rows.column(self.when).fill_null(False).to_numpy(zero_copy_only=False)
        out = np.full((len(slots), 4 + p), np.nan)
        gain, row = 2.0 / (self.span + 1.0), 0
        while row < len(slots):
            row = _judge(
                row, slots, values, usable, state["single"], state["learned"], state["center"], state["scale"],
                state["smooth"], state["mean"], state["variances"], state["directions"], self.learn, gain, self.limit,
                out,
            )  # fmt: skip
            if row < len(slots):
                self._finish_learning(state, slots[row], gain)
                row += 1
        return pa.RecordBatch.from_arrays([*rows.columns, *self._verdict(out)], schema=promised(self, rows.schema))

    def _finish_learning(self, state: Columns, slot: int, gain: float) -> None:
        """Once for each key: scale, directions and limits from the rows it has learned."""
        p = len(self.of)
        raw = state["learned"][slot].reshape(self.learn, p)
        center = np.median(raw, axis=0)
        scale = 1.4826 * np.median(np.abs(raw - center), axis=0)
        deviation = raw.std(axis=0)
        scale = np.where(scale > 0, scale, np.where(deviation > 0, deviation, 1.0))
        smooth = np.empty_like(raw)
        scaled = np.clip((raw - center) / scale, -CLIP, CLIP)
        last = scaled[0]
        for i, row in enumerate(scaled):  # once in a key's life: 1 ms
            last = last + gain * (row - last)
            smooth[i] = last
        mean = smooth.mean(axis=0)
        variances, directions = np.linalg.eigh(np.cov(smooth.T))
        variances, directions = np.maximum(variances[::-1], 1e-12), directions[:, ::-1]
        explained = np.cumsum(variances) / variances.sum()
        dimensions = min(int(np.searchsorted(explained, self.variance)) + 1, p - 1)
        along = ((smooth - mean) @ directions) ** 2
        t2 = (along[:, :dimensions] / variances[:dimensions]).sum(axis=1)
        spe = along[:, dimensions:].sum(axis=1)
        state["single"][slot, DIMENSIONS] = dimensions
        state["single"][slot, LIMIT_T2] = max(np.quantile(t2, QUANTILE), 1e-12)
        state["single"][slot, LIMIT_SPE] = max(np.quantile(spe, QUANTILE), 1e-12)
        state["center"][slot], state["scale"][slot], state["smooth"][slot] = center, scale, last
        state["mean"][slot], state["variances"][slot] = mean, variances
        state["directions"][slot] = np.ascontiguousarray(directions).reshape(-1)

    def _verdict(self, out: Floats) -> list[pa.Array]:
        known = ~np.isnan(out[:, 0])
        worst = np.maximum(out[:, 0], out[:, 1])
        score = 100.0 * worst / (worst + self.limit / 3.0)
        parts = out[:, 4:]
        cause = np.array(self.of)[np.argmax(np.where(np.isnan(parts), 0.0, parts), axis=1)]
        offsets = np.arange(len(out) + 1, dtype=np.int32) * len(self.of)
        missing = pa.array(~known)
        return [
            pa.array(out[:, 0], mask=~known),
            pa.array(out[:, 1], mask=~known),
            pa.array(score, mask=~known),
            pa.array(out[:, 2] > 0, mask=~known),
            pa.array(cause.tolist(), pa.string(), mask=~known),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(parts.reshape(-1)), mask=missing),
        ]


@kernel
def _distances(
    z: Floats, single: Floats, variances: Floats, directions: Floats, contributions: Floats
) -> tuple[float, float]:
    """T2 and SPE of smoothed signals, as multiples of their limits; adds what each signal has contributed."""
    p, dimensions = len(z), int(single[DIMENSIONS])
    t2 = spe = 0.0
    for k in range(p):
        along = 0.0
        for j in range(p):
            along += directions[j * p + k] * z[j]
        weight = 1.0 / (variances[k] * single[LIMIT_T2]) if k < dimensions else 1.0
        if k < dimensions:
            t2 += along * along * weight
        else:
            weight = 1.0 / single[LIMIT_SPE]
            spe += along * along * weight
        for j in range(p):
            contributions[j] += directions[j * p + k] * z[j] * along * weight
    return t2, spe


@kernel
def _judge(
    row: int,
    slots: Codes,
    values: Floats,
    usable: npt.NDArray[np.bool_],
    single: Floats,
    learned: Floats,
    centers: Floats,
    scales: Floats,
    smooths: Floats,
    means: Floats,
    variances: Floats,
    directions: Floats,
    learn: int,
    gain: float,
    limit: float,
    out: Floats,
) -> int:
    """Judge rows from ``row`` on; stops at the row with which a key has learned enough, and returns it.

    ``out`` is (rows, 4 + signals): T2, SPE, whether abnormal, unused, contributions.
    """
    p = values.shape[1]
    z = np.empty(p)
    while row < len(slots):
        if not usable[row]:
            row += 1
            continue
        slot = slots[row]
        count = int(single[slot, COUNT])
        if count < learn:
            for j in range(p):
                learned[slot, count * p + j] = values[row, j]
            single[slot, COUNT] = count + 1
            if count + 1 == learn:
                return row
            row += 1
            continue
        for j in range(p):
            scaled = (values[row, j] - centers[slot, j]) / scales[slot, j]
            scaled = min(max(scaled, -CLIP), CLIP)
            smooths[slot, j] += gain * (scaled - smooths[slot, j])
            z[j] = smooths[slot, j] - means[slot, j]
            out[row, 4 + j] = 0.0
        t2, spe = _distances(z, single[slot], variances[slot], directions[slot], out[row, 4:])
        out[row, 0], out[row, 1] = t2, spe
        worst = max(t2, spe)
        on = worst > (0.5 * limit if single[slot, ON] > 0.0 else limit)
        single[slot, ON] = out[row, 2] = 1.0 if on else 0.0
        row += 1
    return row
