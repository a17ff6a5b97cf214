"""The episodes of one machine: its signals judged together against their baselines, begun, kept and ended."""

from __future__ import annotations

import numpy as np

from tocsin.batch import Codes, Floats, Ints
from tocsin.detect._baseline import (
    ABOVE,
    ABOVE_SINCE,
    BELOW,
    BELOW_SINCE,
    COUNT,
    FIRST_COUNT,
    FIRST_TOTAL,
    LEVEL,
    LEVEL_SCALE,
    MEAN,
    MEAN_SLOPE,
    OWN,
    PER_SIGNAL,
    PER_VIEW,
    PLATEAU,
    PROFILE,
    RESCALE,
    SCALE,
    SECOND_COUNT,
    SECOND_TOTAL,
    SHOWN,
    SLOPE,
    SPEAKS,
    TREND,
    VIEWS,
    Singles,
    choose,
    follow_line,
    follow_onset,
    forget,
    learn,
    learn_rhythm,
    level_reach,
    move_level,
    reach,
    settle,
    speaking,
    taken_off,
)
from tocsin.kernels import inlined, kernel, score_of

WARMING, NORMAL, ABNORMAL = range(3)
"""States of a machine."""
NOTHING, JUMPED, CLIMBED, SETTLED_THERE, TOLD_TO, MAINTAINED = range(6)
"""Why a row is as it is: nothing to say; a reading, or the level, left its band; learnt anew by itself; or asked to."""
BACK = 0.7
"""An episode ends when the level is back within this share of its band."""
SETTLED = 0.5
"""A level has moved if its mean in the second half of a time lies further than this from the first, in standard
deviations of the level."""
SLOWER = 0.5
"""A level has settled if it moved by no more than this share of what it would have, going on as since the onset."""
STEP_MAX = 8.0
"""The level moves on after a gap as it does after this many readings."""
STEP_MIN = 0.1
"""Readings closer together than this share of the usual distance are judged, but not learnt."""
USUAL_READINGS = 100.0
"""Over how many readings their usual distance in time is averaged."""

# Where things stand in the numbers of a machine.
(
    READINGS, LAST_US, USUAL_US, STATE, SINCE, SIGNAL, SIDE, REASON, LOWER, UPPER, PLATEAU_SINCE, PLATEAU_HALF,
    RELEARN_FROM, MAINTAINED_FROM, MUTE_FROM, MUTE_UNTIL,
) = range(16)  # fmt: skip
PER_MACHINE = 16

# What `judge` gives back of each row, a column each.
(
    OUT_EXPECTED, OUT_LOWER, OUT_UPPER, OUT_SCORE, OUT_DEPTH, OUT_SINCE, OUT_STATE, OUT_SIGNAL, OUT_SIDE, OUT_REASON,
    OUT_FROM, OUT_TO,
) = range(12)  # fmt: skip
OUTPUTS = 12
SENTENCE = (OUT_REASON, OUT_SIGNAL, OUT_SIDE, OUT_SINCE, OUT_FROM, OUT_TO)

# The settings, as the loop takes them.
(LEARN, SPAN, WIDTH, RELEARN, UPWARDS, DOWNWARDS, DEVIATION, PERCENT, FROZEN) = range(9)

# What is worked out of each signal for one row.
(RESIDUAL, TAKEN_OFF, JUMP, LEVEL_OFF, FAR) = range(5)
PER_ROW = 5


@kernel
def judge(
    slots: Codes, times: Ints, values: Floats, machines: Floats, signals: Floats, profiles: Singles, settings: Floats,
    out: Floats,
) -> None:  # fmt: skip
    """Judge rows in time order, then learn each; ``values`` is by row, then by signal; the rest by key."""
    count = values.shape[1]
    row = np.empty((count, PER_ROW))
    residuals = np.empty((count, VIEWS))
    for i in range(len(slots)):
        for line in range(OUTPUTS):
            out[i, line] = np.nan
        out[i, OUT_REASON] = NOTHING
        present = 0
        for j in range(count):
            present += not np.isnan(values[i, j])
        if present == 0:
            out[i, OUT_STATE] = -1
            continue
        m, k, profile = machines[slots[i]], signals[slots[i]], profiles[slots[i]]
        x, verdict = values[i], out[i]
        relearnt = _accepted(m, k, count, times[i], settings)
        if relearnt != NOTHING:
            _say_relearnt(m, k, x, relearnt, times[i], verdict)
            for j in range(count):
                forget(k, j * PER_SIGNAL, profile, j * PROFILE)
            m[READINGS], m[STATE] = 0.0, WARMING
        elif m[MAINTAINED_FROM] > 0 and times[i] >= m[MAINTAINED_FROM]:
            _begin_afresh(m, k, count, times[i], verdict)
            continue
        step = _step(m, times[i])
        _look(k, profile, x, times[i], residuals, row, step, settings)
        _verdict(m, k, times[i], row, settings, verdict, relearnt != NOTHING)
        muted = m[MUTE_FROM] <= times[i] < m[MUTE_UNTIL]
        if m[STATE] == ABNORMAL or muted:
            for j in range(count):
                # What happens in an episode says nothing of where the trend goes.
                k[j * PER_SIGNAL + SLOPE] = k[j * PER_SIGNAL + MEAN_SLOPE]
        if m[STATE] == ABNORMAL:
            _watch_plateau(m, k, row, times[i], settings)
        elif step >= STEP_MIN and not muted:
            for j in range(count):
                if not np.isnan(x[j]):
                    _learn(k, profile, j, x[j], residuals, times[i], m[USUAL_US], settings)


@inlined
def _step(m: Floats, time_us: int) -> float:
    """Returns the time since the last reading, in usual distances of readings; learns the usual distance."""
    since = time_us - m[LAST_US]
    m[READINGS] += 1
    if m[READINGS] == 1:
        m[LAST_US] = time_us
        return 1.0
    m[LAST_US] = max(m[LAST_US], time_us)
    since = max(since, 0.0)
    usual = m[USUAL_US]
    step = min(since / usual, STEP_MAX) if usual > 0 else 1.0
    if m[READINGS] > 10:
        since = min(since, 4 * usual) if usual > 0 else since
    m[USUAL_US] += (since - usual) * max(1 / (m[READINGS] - 1), 1 / USUAL_READINGS)
    return float(step)


@inlined
def _look(
    k: Floats, profile: Singles, x: Floats, time_us: int, residuals: Floats, row: Floats, step: float, settings: Floats
) -> None:
    """Where each signal lies: its residuals, and its level moved on; shares of the band of the view that speaks."""
    gain = step / (step + (settings[SPAN] - 1) / 2)
    width = settings[WIDTH]
    for j in range(len(x)):
        row[j, JUMP] = row[j, LEVEL_OFF] = row[j, RESIDUAL] = np.nan
        if np.isnan(x[j]):
            continue
        own = j * PER_SIGNAL
        speaks = int(k[own + SPEAKS])
        for view in range(VIEWS):
            residuals[j, view] = x[j] - taken_off(k, own, profile, j * PROFILE, view, time_us)
            if not np.isnan(residuals[j, view]):
                at = j * PER_SIGNAL + OWN + view * PER_VIEW
                move_level(k, at, residuals[j, view], gain, width)
                follow_onset(k, at, residuals[j, view], time_us)
        at = speaking(k, j * PER_SIGNAL)
        r = residuals[j, speaks]
        if k[at + COUNT] < settings[LEARN] or np.isnan(r):
            continue
        row[j, RESIDUAL], row[j, TAKEN_OFF] = r, x[j] - r
        least = max(settings[DEVIATION], settings[PERCENT] / 100 * np.abs(k[at + MEAN] + x[j] - r))
        row[j, JUMP] = _share(r - k[at + MEAN], k, at, least, settings, False, len(x) == 1)
        row[j, LEVEL_OFF] = _share(k[at + LEVEL] - k[at + MEAN], k, at, 0.0, settings, True, len(x) == 1)
        if np.abs(k[at + SHOWN] - k[at + MEAN]) < least:
            row[j, LEVEL_OFF] = 0.0


@inlined
def _share(off: float, k: Floats, at: int, least: float, settings: Floats, level: bool, alone: bool) -> float:
    """Returns how far out it is, with its sign, as a share of the band; 0 on the side that does not matter."""
    side = 1.0 if off > 0 else -1.0
    if np.abs(off) < least or (side > 0 and settings[UPWARDS] == 0) or (side < 0 and settings[DOWNWARDS] == 0):
        return 0.0
    if level and alone:
        return float(off / level_reach(k, at, side, settings[WIDTH]))
    if level:  # of several signals each one's largest level says little: it is their mean square that counts
        return float(off / (settings[WIDTH] * k[at + LEVEL_SCALE]))
    return float(off / reach(k, at, side, settings[WIDTH]))


@inlined
def _varies(k: Floats, at: int) -> bool:
    """Whether a signal was ever anything but constant (up to rounding)."""
    return bool(k[at + SCALE] > 2e-9 * np.abs(k[at + MEAN]))


@inlined
def _verdict(m: Floats, k: Floats, time_us: int, row: Floats, settings: Floats, out: Floats, said: bool) -> None:
    """The signals together: root mean square of their shares over those that vary; begins and ends the episode."""
    jumps = levels = 0.0
    judged, most, which = 0, -1.0, -1
    for j in range(len(row)):
        at = speaking(k, j * PER_SIGNAL)
        if np.isnan(row[j, JUMP]) or (len(row) > 1 and not _varies(k, at)):
            continue
        judged += 1
        jumps += row[j, JUMP] ** 2
        levels += row[j, LEVEL_OFF] ** 2
        far = max(np.abs(row[j, LEVEL_OFF]), 0.5 * np.abs(row[j, JUMP]))
        if far > most:
            most, which = far, j
    if judged == 0:
        if not said:
            out[OUT_STATE] = m[STATE] if m[STATE] == ABNORMAL else WARMING
        return
    jump, level = np.sqrt(jumps / judged), np.sqrt(levels / judged)
    at = speaking(k, which * PER_SIGNAL)
    share = max(jump, level)
    if m[STATE] == ABNORMAL and jump < 1 and level < BACK:
        m[STATE] = NORMAL
    elif m[STATE] != ABNORMAL and share >= 1:
        _begin(m, k, time_us, row, which, jump >= 1, settings)
    elif m[STATE] == WARMING:
        m[STATE] = NORMAL
    middle = k[at + MEAN] + row[which, TAKEN_OFF]
    out[OUT_EXPECTED] = middle
    out[OUT_LOWER] = middle - reach(k, at, -1.0, settings[WIDTH])
    out[OUT_UPPER] = middle + reach(k, at, 1.0, settings[WIDTH])
    out[OUT_SCORE] = score_of(share)
    out[OUT_STATE] = m[STATE]
    if m[STATE] == ABNORMAL:
        out[OUT_SCORE] = max(out[OUT_SCORE], 75.0)
        out[OUT_DEPTH] = (k[at + SHOWN] - k[at + MEAN]) / k[at + SCALE]
        out[OUT_SINCE], out[OUT_SIGNAL] = m[SINCE], which
        out[OUT_SIDE], out[OUT_REASON], out[OUT_FROM], out[OUT_TO] = m[SIDE], m[REASON], m[LOWER], m[UPPER]
    else:
        out[OUT_SCORE] = min(out[OUT_SCORE], 74.999)


@kernel
def _begin(m: Floats, k: Floats, time_us: int, row: Floats, which: int, jumped: bool, settings: Floats) -> None:
    """An episode begins: what stands out, on which side, since when, and the band that it left."""
    at = speaking(k, which * PER_SIGNAL)
    above = row[which, JUMP if jumped or row[which, LEVEL_OFF] == 0 else LEVEL_OFF] > 0
    m[STATE], m[SIGNAL], m[PLATEAU_SINCE] = ABNORMAL, which, time_us
    m[SIDE], m[REASON] = 1.0 if above else -1.0, JUMPED if jumped else CLIMBED
    since, total = (k[at + ABOVE_SINCE], k[at + ABOVE]) if above else (k[at + BELOW_SINCE], k[at + BELOW])
    m[SINCE] = since if total > 0 else time_us
    middle, width = k[at + MEAN] + row[which, TAKEN_OFF], settings[WIDTH]
    if jumped:
        m[LOWER], m[UPPER] = middle - reach(k, at, -1.0, width), middle + reach(k, at, 1.0, width)
    else:
        m[LOWER], m[UPPER] = middle - level_reach(k, at, -1.0, width), middle + level_reach(k, at, 1.0, width)
    _begin_plateau(m, k, len(row), time_us, settings)


@kernel
def _begin_plateau(m: Floats, k: Floats, count: int, time_us: int, settings: Floats) -> None:
    """From now on it is noted whether the levels stay where they are."""
    m[PLATEAU_SINCE], m[PLATEAU_HALF] = time_us, settings[RELEARN] / 2
    for j in range(count):
        own = j * PER_SIGNAL
        k[own + PLATEAU] = k[speaking(k, own) + SHOWN]
        k[own + FIRST_TOTAL : own + SECOND_COUNT + 1] = 0.0


@kernel
def _watch_plateau(m: Floats, k: Floats, row: Floats, time_us: int, settings: Floats) -> None:
    """Note since when an episode has stayed at one level: what goes on moving is not taken for a new normal."""
    second = time_us - m[PLATEAU_SINCE] >= m[PLATEAU_HALF]
    for j in range(len(row)):
        own = j * PER_SIGNAL
        at = speaking(k, own)
        if np.isnan(row[j, JUMP]) or (len(row) > 1 and not _varies(k, at)):
            continue
        if np.abs(k[at + SHOWN] - k[own + PLATEAU]) > settings[WIDTH] * k[at + SCALE]:
            _begin_plateau(m, k, len(row), time_us, settings)
            return
        half = own + (SECOND_TOTAL if second else FIRST_TOTAL)
        k[half] += row[j, RESIDUAL]
        k[half + 1] += 1


@kernel
def _settled(m: Floats, k: Floats, count: int, time_us: int, settings: Floats) -> bool:
    """Whether all levels that are away have settled: they neither moved, nor climb as slowly as before.

    Where noise hides whether one still climbs, twice as long a time is looked at next.
    """
    unsure = False
    for j in range(count):
        own = j * PER_SIGNAL
        at = speaking(k, own)
        first, second = k[own + FIRST_COUNT], k[own + SECOND_COUNT]
        if first == 0 or second == 0 or (count > 1 and not _varies(k, at)):
            continue
        before, after, deviation = k[own + FIRST_TOTAL] / first, k[own + SECOND_TOTAL] / second, k[at + LEVEL_SCALE]
        noise = deviation * np.sqrt(2 * settings[SPAN] / min(first, second))
        moved, away = np.abs(after - before), np.abs(before - k[at + MEAN])
        if moved > SETTLED * deviation + noise:
            _begin_plateau(m, k, count, time_us, settings)
            return False
        rate = away / max(m[PLATEAU_SINCE] + m[PLATEAU_HALF] / 2 - m[SINCE], 1.0)
        if away > BACK * settings[WIDTH] * deviation and moved + noise > SLOWER * rate * m[PLATEAU_HALF]:
            unsure = True
    if unsure:
        m[PLATEAU_HALF] *= 2
        for j in range(count):
            own = j * PER_SIGNAL
            k[own + FIRST_TOTAL] += k[own + SECOND_TOTAL]
            k[own + FIRST_COUNT] += k[own + SECOND_COUNT]
            k[own + SECOND_TOTAL] = k[own + SECOND_COUNT] = 0.0
    return not unsure


@inlined
def _accepted(m: Floats, k: Floats, count: int, time_us: int, settings: Floats) -> int:
    """Whether all is to be learnt anew from this reading on, and why."""
    if m[RELEARN_FROM] > 0 and time_us >= m[RELEARN_FROM]:
        m[RELEARN_FROM] = 0.0
        return TOLD_TO
    if settings[RELEARN] > 0 and m[STATE] == ABNORMAL and time_us - m[PLATEAU_SINCE] >= 2 * m[PLATEAU_HALF]:
        return SETTLED_THERE if _settled(m, k, count, time_us, settings) else NOTHING
    return NOTHING


@kernel
def _begin_afresh(m: Floats, k: Floats, count: int, time_us: int, out: Floats) -> None:
    """After maintenance the episode is over, level and onset begin at what was normal; a row with score 0 says so."""
    m[MAINTAINED_FROM], m[STATE] = 0.0, NORMAL
    for j in range(count):
        for view in range(VIEWS):
            at = j * PER_SIGNAL + OWN + view * PER_VIEW
            k[at + LEVEL] = k[at + SHOWN] = k[at + MEAN]
            k[at + ABOVE] = k[at + BELOW] = 0.0
    out[OUT_SCORE], out[OUT_STATE], out[OUT_SIGNAL], out[OUT_REASON] = 0.0, NORMAL, m[SIGNAL], MAINTAINED
    out[OUT_SIDE], out[OUT_SINCE], out[OUT_FROM], out[OUT_TO] = 1.0, time_us, 0.0, 0.0


@kernel
def _say_relearnt(m: Floats, k: Floats, x: Floats, reason: int, time_us: int, out: Floats) -> None:
    """The row with which a new level is accepted: score 0, so that an alarm behind it clears."""
    j = int(m[SIGNAL])
    if np.isnan(x[j]):
        for other in range(len(x)):
            if not np.isnan(x[other]):
                j = other
    at = speaking(k, j * PER_SIGNAL)
    moved = k[at + SHOWN] - k[at + MEAN]
    out[OUT_EXPECTED] = x[j]
    out[OUT_LOWER] = out[OUT_UPPER] = x[j]
    out[OUT_SCORE], out[OUT_STATE], out[OUT_SIGNAL], out[OUT_REASON] = 0.0, WARMING, j, reason
    out[OUT_SIDE] = 1.0 if moved > 0 else -1.0
    out[OUT_SINCE] = m[PLATEAU_SINCE] if m[STATE] == ABNORMAL else time_us
    out[OUT_FROM] = out[OUT_TO] = x[j]


@inlined
def _learn(
    k: Floats, profile: Singles, j: int, x: float, residuals: Floats, time_us: int, usual_us: float, settings: Floats
) -> None:
    """One clean reading into all views of its signal, and into its rhythm."""
    own = j * PER_SIGNAL
    learn_rhythm(k, own, profile, j * PROFILE, x, time_us)
    learn_for, due = settings[LEARN], False
    for view in range(VIEWS):
        at = own + OWN + view * PER_VIEW
        learnt = k[at + COUNT] >= learn_for
        if not np.isnan(residuals[j, view]) and not (learnt and settings[FROZEN] > 0):
            bounded = view != TREND and k[own + SPEAKS] != TREND
            learn(k, at, residuals[j, view], time_us, learn_for, settings[WIDTH], bounded)
            if view == TREND:
                most = settings[WIDTH] * k[at + SCALE] if learnt else np.inf
                follow_line(k, own, residuals[j, view], time_us, usual_us, most)
            if int(k[at + COUNT]) % RESCALE == 0 or k[at + COUNT] == learn_for:
                settle(k, own, view, time_us, usual_us, settings[SPAN], learn_for)
                due = True
    if due:
        choose(k, own, learn_for)
