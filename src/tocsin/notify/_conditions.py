"""The compiled loop of `alarm`: limits, rates and counts over readings, and where a condition changes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import kernel


@kernel
def find_changes(
    slots: Codes,
    times: Ints,
    signals: Floats,
    hide: Floats,
    column: Ints,
    sign: Floats,
    limit: Floats,
    deadband: Floats,
    rate: int,
    counting: Ints,
    bits: Ints,
    level: Ints,
    suppressed: Ints,
    clock: Ints,
    last: Floats,
    last_time: Ints,
    history: Ints,
    broken: Ints,
    worst: Ints,
    new_level: Ints,
    new_time: Ints,
    hidden: Ints,
    changed: npt.NDArray[np.bool_],
) -> None:
    """For each row: the level it leaves its key at, the key's time, whether it is suppressed, and whether that is new.

    ``counting`` is count, of_last, within. ``history`` holds the last 64 readings as bits, ``broken`` the times of the
    last ``count`` readings beyond a limit.
    """
    count, of_last, within = counting[0], counting[1], counting[2]
    for i in range(len(slots)):
        s = slots[i]
        t = max(times[i], clock[s])
        clock[s] = t
        b, judged = bits[s], False
        for k in range(len(column)):
            x = signals[column[k], i]
            if k == rate:
                dt = times[i] - last_time[s]
                v = abs(x - last[s]) / (dt * 1e-6) if dt > 0 else np.nan
                if np.isfinite(x) and dt > 0:
                    last[s], last_time[s] = x, times[i]
                if not np.isfinite(v):
                    continue
                x = v
            if not np.isfinite(x):
                continue
            judged = True
            if sign[k] * x > sign[k] * limit[k]:
                b |= np.int64(1) << k
            elif sign[k] * x <= sign[k] * limit[k] - deadband[k]:
                b &= ~(np.int64(1) << k)
        bits[s] = b
        now = level[s]
        if judged:
            now = 0
            for k in range(len(column)):
                if b >> k & 1:
                    now = k + 1
                    break
            if of_last > 0 or within > 0:
                hit = now > 0
                if hit:
                    worst[s] = now
                if of_last > 0:
                    history[s] = history[s] << 1 | np.int64(hit)
                    seen = 0
                    for k in range(of_last):
                        seen += history[s] >> k & 1
                    enough = seen >= count
                else:
                    if hit:
                        for k in range(count - 1):
                            broken[s, k] = broken[s, k + 1]
                        broken[s, count - 1] = t
                    enough = broken[s, 0] >= t - within
                now = worst[s] if enough else 0
        hidden[i] = suppressed[s] if np.isnan(hide[i]) else np.int64(hide[i] > 0.5)
        changed[i] = now != level[s] or hidden[i] != suppressed[s]
        level[s], suppressed[s] = now, hidden[i]
        new_level[i], new_time[i] = now, t
