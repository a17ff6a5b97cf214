"""Blocks of samples: from lists that hold a waveform each, or collected from one sample a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.batch import Codes, Floats, Ints, floats, times_us
from tocsin.kernels import kernel
from tocsin.state import Columns, Field

SAMPLES_MIN = 64
"""Of fewer samples nothing can be said."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of one length and sample rate."""

    rows: Ints
    """The row that each block came with, or was completed by, shape (blocks,)."""
    samples: Floats
    """As they came, shape (blocks, samples)."""
    rate_hz: float
    speed_rpm: Floats
    """Speed of the shaft, shape (blocks,); NaN where it is not known."""


@dataclass(frozen=True, slots=True)
class Waveforms:
    """The lists of a column, one after the other."""

    values: Floats
    starts: Ints
    lengths: Ints
    missing: Flags
    """Which rows have no waveform."""
    whole: Flags
    """Whose samples are all finite numbers."""

    @classmethod
    def of(cls, column: pa.Array) -> Waveforms:
        missing = np.asarray(column.is_null().to_numpy(zero_copy_only=False), bool)
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        lengths = np.where(missing, 0, lengths)
        values = floats(column.flatten())
        ends = np.cumsum(lengths)
        whole = np.ones(len(lengths), bool)
        if not np.isfinite(values).all():
            bad = np.concatenate([[0], np.cumsum(~np.isfinite(values))])
            whole = bad[ends] == bad[ends - lengths]
        return cls(values, ends - lengths, lengths, missing, whole)

    def blocks(self, usable: Flags, rate_hz: Floats, speed_rpm: Floats) -> Iterator[Blocks]:
        """Returns the usable waveforms by length and rate."""
        if not usable.any():
            return
        kinds = np.column_stack([self.lengths, rate_hz])[usable]
        rows = np.flatnonzero(usable)
        if len(rows) == len(usable) and (kinds == kinds[0]).all():  # as nearly always: nothing need be copied
            yield Blocks(rows, self.values.reshape(len(rows), -1), float(rate_hz[0]), speed_rpm)
            return
        for length, rate in np.unique(kinds, axis=0):
            here = rows[(kinds[:, 0] == length) & (kinds[:, 1] == rate)]
            places = self.starts[here][:, None] + np.arange(int(length))
            yield Blocks(here, self.values[places], float(rate), speed_rpm[here])


def collected_fields(size: int) -> dict[str, Field]:
    """Returns what is remembered of each key whose samples are collected."""
    return {
        "samples": Field(width=size), "count": Field(np.int64), "last_us": Field(np.int64), "speed_sum": Field(),
        "speed_count": Field(np.int64), "missing": Field(np.int64), "gaps": Field(np.int64),
    }  # fmt: skip


def collect(
    state: Columns, rows: pa.RecordBatch, slots: Codes, values: Floats, speed_rpm: Floats, rate_hz: float, gap_us: int
) -> tuple[Blocks, Flags]:
    """Add samples to those of their key; returns the blocks that are full, and which samples came out of order.

    A sample that is missing, or more than ``gap_us`` after the one before, begins a new block: what is left of the
    old one is no waveform.
    """
    size = state["samples"].shape[1]
    backwards = np.zeros(len(slots), bool)
    ends: list[int] = []
    samples, speeds = [], []
    at, times = 0, times_us(rows)
    while at < len(slots):
        at = _collect(
            at, slots, times, values, speed_rpm, gap_us, state["samples"], state["count"], state["last_us"],
            state["speed_sum"], state["speed_count"], state["missing"], state["gaps"], backwards,
        )  # fmt: skip
        if at < len(slots):
            slot = slots[at]
            known = state["speed_count"][slot]
            samples.append(state["samples"][slot].copy())
            speeds.append(state["speed_sum"][slot] / known if known else np.nan)
            ends.append(at)
            at += 1
    block = np.array(samples).reshape(-1, size)
    return Blocks(np.array(ends, np.int64), block, rate_hz, np.array(speeds, np.float64)), backwards


@kernel
def _collect(
    begin: int, slots: Codes, times: Ints, values: Floats, speeds: Floats, gap_us: int, samples: Floats, count: Ints,
    last_us: Ints, speed_sum: Floats, speed_count: Ints, missing: Ints, gaps: Ints, backwards: Flags,
) -> int:  # fmt: skip
    """Takes samples until one completes a block; returns its row, or the number of rows."""
    for i in range(begin, len(slots)):
        s = slots[i]
        if times[i] < last_us[s]:
            backwards[i] = True
            continue
        late = count[s] > 0 and times[i] - last_us[s] > gap_us
        last_us[s] = times[i]
        if not np.isfinite(values[i]):
            missing[s] += 1
            count[s] = 0
            continue
        if late:
            gaps[s] += 1
            count[s] = 0
        if count[s] == 0:
            speed_sum[s], speed_count[s] = 0.0, 0
        samples[s, count[s]] = values[i]
        count[s] += 1
        if np.isfinite(speeds[i]):
            speed_sum[s] += speeds[i]
            speed_count[s] += 1
        if count[s] == samples.shape[1]:
            count[s] = 0
            return i
    return len(slots)
