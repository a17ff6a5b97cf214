"""The last periods of each key, as windows: what a trained model looks at."""

from __future__ import annotations

import numpy as np

from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import kernel

NONE_YET = -(2**63)


@kernel
def fill_windows(
    slots: Codes, times: Ints, values: Floats, every: int, time_us: Ints, periods: Ints, recent: Floats, steps: Ints,
    lacking: Ints, windows: Floats,
) -> None:  # fmt: skip
    """Take up rows one after the other, and write the window that ends with each.

    ``values`` has the shape (rows, inputs), ``recent`` (keys, window times inputs): a ring by period. Written are
    ``steps``, how many periods after the row before it of its key a row is (below 1: it begins none, and is passed
    over), ``lacking``, how many periods must still come until the window is whole, and ``windows`` (rows, window,
    inputs), NaN where a period is missing.
    """
    size, inputs = windows.shape[1], windows.shape[2]
    for i in range(len(slots)):
        s = slots[i]
        if time_us[s] == NONE_YET:
            step = 1
        elif every == 0:
            step = 1 if times[i] >= time_us[s] else 0
        else:
            step = (times[i] - time_us[s] + every // 2) // every
        steps[i] = step
        ring = recent[s]
        if step >= 1:
            for skipped in range(1, min(step, size + 1)):
                at = (periods[s] + skipped) % size * inputs
                ring[at : at + inputs] = np.nan
            periods[s] += step
            time_us[s] = times[i]
            at = periods[s] % size * inputs
            ring[at : at + inputs] = values[i]
        last_gap = size
        for age in range(size):
            at = (periods[s] - age) % size * inputs
            for j in range(inputs):
                windows[i, size - 1 - age, j] = ring[at + j] if step >= 1 else np.nan
                if np.isnan(ring[at + j]) and last_gap == size:
                    last_gap = age
        lacking[i] = size - last_gap
