"""What is remembered of one machine, and when a level that it has been at for long is accepted as normal."""

from __future__ import annotations

import numpy as np

from tocsin.batch import Floats
from tocsin.detect._baseline import (
    FIRST_COUNT,
    FIRST_TOTAL,
    LEVEL_SCALE,
    MEAN,
    PER_SIGNAL,
    PLATEAU,
    SCALE,
    SECOND_COUNT,
    SECOND_TOTAL,
    SHOWN,
    speaking,
)
from tocsin.kernels import inlined, kernel

WARMING, NORMAL, ABNORMAL = range(3)
"""States of a machine."""
NOTHING, JUMPED, CLIMBED, SETTLED_THERE, TOLD_TO, MAINTAINED, STUCK, MISSING, SILENT = range(9)
"""Why a row is as it is: nothing to say; a reading, or the level, left its band; learnt anew by itself; or asked to;
maintained; a signal that does not move, or does not come; a machine that does not report."""
BACK = 0.7
"""An episode ends when the level is back within this share of its band."""
SETTLED = 0.5
"""A level has moved if its mean in the second half of a time lies further than this from the first, in standard
deviations of the level."""
SLOWER = 0.5
"""A level has settled if it moved by no more than this share of what it would have, going on as since the onset."""

# Where things stand in the numbers of a machine.
(
    READINGS, LAST_US, USUAL_US, STATE, SINCE, SIGNAL, SIDE, REASON, LOWER, UPPER, PLATEAU_SINCE, PLATEAU_HALF,
    RELEARN_FROM, MAINTAINED_FROM, MUTE_FROM, MUTE_UNTIL,
) = range(16)  # fmt: skip
PER_MACHINE = 16

# The settings, as the loop takes them.
(LEARN, SPAN, WIDTH, RELEARN, UPWARDS, DOWNWARDS, DEVIATION, PERCENT, FROZEN) = range(9)

# What is worked out of each signal for one row.
(RESIDUAL, TAKEN_OFF, JUMP, LEVEL_OFF, STILL, PER_ROW) = range(6)


@inlined
def varies(k: Floats, at: int) -> bool:
    """Whether a signal was ever anything but constant (up to rounding)."""
    return bool(k[at + SCALE] > 2e-9 * np.abs(k[at + MEAN]))


@kernel
def begin_plateau(m: Floats, b: int, k: Floats, own: int, count: int, time_us: int, settings: Floats) -> None:
    """From now on it is noted whether the levels stay where they are."""
    m[b + PLATEAU_SINCE], m[b + PLATEAU_HALF] = time_us, settings[RELEARN] / 2
    for j in range(count):
        of = own + j * PER_SIGNAL
        k[of + PLATEAU] = k[speaking(k, of) + SHOWN]
        k[of + FIRST_TOTAL : of + SECOND_COUNT + 1] = 0.0


@kernel
def watch_plateau(
    m: Floats, b: int, k: Floats, own: int, count: int, row: Floats, time_us: int, settings: Floats
) -> None:
    """Note since when an episode has stayed at one level: what goes on moving is not taken for a new normal."""
    second = time_us - m[b + PLATEAU_SINCE] >= m[b + PLATEAU_HALF]
    for j in range(count):
        of = own + j * PER_SIGNAL
        at = speaking(k, of)
        if np.isnan(row[j * PER_ROW + JUMP]) or (count > 1 and not varies(k, at)):
            continue
        if np.abs(k[at + SHOWN] - k[of + PLATEAU]) > settings[WIDTH] * k[at + SCALE]:
            begin_plateau(m, b, k, own, count, time_us, settings)
            return
        half = of + (SECOND_TOTAL if second else FIRST_TOTAL)
        k[half] += row[j * PER_ROW + RESIDUAL]
        k[half + 1] += 1


@kernel
def settled(m: Floats, b: int, k: Floats, own: int, count: int, time_us: int, settings: Floats) -> bool:
    """Whether all levels that are away have settled: they neither moved, nor climb as slowly as before.

    Where noise hides whether one still climbs, twice as long a time is looked at next.
    """
    unsure = False
    for j in range(count):
        of = own + j * PER_SIGNAL
        at = speaking(k, of)
        first, second = k[of + FIRST_COUNT], k[of + SECOND_COUNT]
        if first == 0 or second == 0 or (count > 1 and not varies(k, at)):
            continue
        before, after, deviation = k[of + FIRST_TOTAL] / first, k[of + SECOND_TOTAL] / second, k[at + LEVEL_SCALE]
        noise = deviation * np.sqrt(2 * settings[SPAN] / min(first, second))
        moved, away = np.abs(after - before), np.abs(before - k[at + MEAN])
        if moved > SETTLED * deviation + noise:
            begin_plateau(m, b, k, own, count, time_us, settings)
            return False
        rate = away / max(m[b + PLATEAU_SINCE] + m[b + PLATEAU_HALF] / 2 - m[b + SINCE], 1.0)
        if away > BACK * settings[WIDTH] * deviation and moved + noise > SLOWER * rate * m[b + PLATEAU_HALF]:
            unsure = True
    if unsure:
        m[b + PLATEAU_HALF] *= 2
        for j in range(count):
            of = own + j * PER_SIGNAL
            k[of + FIRST_TOTAL] += k[of + SECOND_TOTAL]
            k[of + FIRST_COUNT] += k[of + SECOND_COUNT]
            k[of + SECOND_TOTAL] = k[of + SECOND_COUNT] = 0.0
    return not unsure


@kernel
def accepted(m: Floats, b: int, k: Floats, own: int, count: int, time_us: int, settings: Floats) -> int:
    """Whether all is to be learnt anew from this reading on, and why."""
    if m[b + RELEARN_FROM] > 0 and time_us >= m[b + RELEARN_FROM]:
        m[b + RELEARN_FROM] = 0.0
        return TOLD_TO
    lasted = time_us - m[b + PLATEAU_SINCE]
    if settings[RELEARN] > 0 and m[b + STATE] == ABNORMAL and lasted >= 2 * m[b + PLATEAU_HALF]:
        return SETTLED_THERE if settled(m, b, k, own, count, time_us, settings) else NOTHING
    return NOTHING
