"""The episodes of one machine: its signals judged together against their baselines, begun, kept and ended."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tocsin.batch import Codes, Floats, Ints
from tocsin.detect._baseline import (
    ABOVE,
    ABOVE_SINCE,
    AS_IS,
    BELOW,
    BELOW_SINCE,
    COUNT,
    DAILY,
    LEVEL,
    LEVEL_SCALE,
    MEAN,
    MEAN_SLOPE,
    OWN,
    PER_SIGNAL,
    PER_VIEW,
    PROFILE,
    RESCALE,
    SCALE,
    SHOWN,
    SLOPE,
    SPEAKS,
    TREND,
    VIEWS,
    WEEKLY,
    Singles,
    choose,
    follow,
    follow_line,
    forget,
    learn,
    learn_rhythm,
    less_rhythm,
    less_trend,
    level_reach,
    reach,
    settle,
    speaking,
)
from tocsin.detect._machine import (
    ABNORMAL,
    BACK,
    CLIMBED,
    DEVIATION,
    DOWNWARDS,
    FROZEN,
    JUMP,
    JUMPED,
    LAST_US,
    LEARN,
    LEVEL_OFF,
    LOWER,
    MAINTAINED,
    MAINTAINED_FROM,
    MISSING,
    MUTE_FROM,
    MUTE_UNTIL,
    NORMAL,
    NOTHING,
    PER_MACHINE,
    PER_ROW,
    PERCENT,
    PLATEAU_SINCE,
    READINGS,
    REASON,
    RELEARN_FROM,
    RESIDUAL,
    SIDE,
    SIGNAL,
    SINCE,
    SPAN,
    STATE,
    STILL,
    STUCK,
    TAKEN_OFF,
    UPPER,
    UPWARDS,
    USUAL_US,
    WARMING,
    WIDTH,
    accepted,
    begin_plateau,
    varies,
    watch_plateau,
)
from tocsin.detect._still import (
    ABSENT,
    PER_STILL,
    PLACES,
    RUN,
    SEEN_LAST,
    VALUE,
    VALUE_SINCE,
    too_absent,
    too_still,
)
from tocsin.kernels import inlined, int64, kernel, lent, score_of

STEP_MAX = 8.0
"""The level moves on after a gap as it does after this many readings."""
STEP_MIN = 0.1
"""Readings closer together than this share of the usual distance are judged, but not learnt."""
USUAL_READINGS = 100.0
"""Over how many readings their usual distance in time is averaged."""

# What `judge` gives back of each row, apart from its state: a line each.
(OUT_EXPECTED, OUT_LOWER, OUT_UPPER, OUT_SCORE, VERDICT_LINES) = range(5)
# And where there is something to say (`OUT_REASON` is always set).
(OUT_REASON, OUT_SIGNAL, OUT_SIDE, OUT_SINCE, OUT_FROM, OUT_TO, OUT_DEPTH, STORY_LINES) = range(8)
SENTENCE = (OUT_REASON, OUT_SIGNAL, OUT_SIDE, OUT_SINCE, OUT_FROM, OUT_TO)

Signs = npt.NDArray[np.int8]
"""The state of each row; -1 where there is no reading."""


@kernel
def judge(
    slots: Codes, times: Ints, values: Floats, m: Floats, k: Floats, profile: Singles, still: Floats,
    settings: Floats, row: Floats, residuals: Floats, verdicts: Floats, states: Signs, stories: Floats,
) -> None:  # fmt: skip
    """Judge rows in time order, then learn each; ``values`` is by row, then by signal.

    The numbers of all machines, of all signals and the profiles are flat: each is found by where it begins, since a
    slice of an array would cost 10 ns.
    """
    m, k, profile, settings, x = lent(m), lent(k), lent(profile), lent(settings), lent(values.reshape(-1))
    verdicts, states, stories, row, residuals = lent(verdicts), lent(states), lent(stories), lent(row), lent(residuals)
    still, count = lent(still), values.shape[1]
    learn_for, span, width, frozen = settings[LEARN], settings[SPAN], settings[WIDTH], settings[FROZEN] > 0
    for i in range(len(slots)):
        slot, at = int64(slots[i]), i * count
        # Masked so that the compiler knows it is not negative, and leaves out counting from an array's end.
        b, own, start = (slot * PER_MACHINE) & PLACES, (slot * count * PER_SIGNAL) & PLACES, slot * count * PROFILE
        s = (slot * count * PER_STILL) & PLACES
        for line in range(VERDICT_LINES):
            verdicts[line, i] = np.nan
        stories[OUT_REASON, i] = NOTHING
        present = 0
        for j in range(count):
            present += not np.isnan(x[at + j])
        if present == 0:
            states[i] = -1
            continue
        relearnt = NOTHING
        if m[b + RELEARN_FROM] > 0 or (m[b + STATE] == ABNORMAL and m[b + REASON] < STUCK):
            relearnt = accepted(m, b, k, own, count, times[i], settings)
        if relearnt != NOTHING:
            _say_relearnt(m, b, k, own, x, at, count, relearnt, times[i], i, verdicts, states, stories)
            for j in range(count):
                forget(k, own + j * PER_SIGNAL, profile, start + j * PROFILE)
            still[s : s + count * PER_STILL] = 0.0
            m[b + READINGS], m[b + STATE] = 0.0, WARMING
        elif m[b + MAINTAINED_FROM] > 0 and times[i] >= m[b + MAINTAINED_FROM]:
            _begin_afresh(m, b, k, own, count, times[i], i, verdicts, states, stories)
            for j in range(count):
                still[s + j * PER_STILL + RUN] = still[s + j * PER_STILL + ABSENT] = 0.0
            continue
        step = _step(m, b, times[i])
        gain = step / (step + (span - 1) / 2)
        muted = m[b + MUTE_FROM] <= times[i] < m[b + MUTE_UNTIL]
        clean = m[b + STATE] != ABNORMAL and not muted
        for j in range(count):
            of = s + j * PER_STILL
            if np.isnan(x[at + j]):
                row[j * PER_ROW + STILL] = too_absent(still, of, learn_for)
            else:
                row[j * PER_ROW + STILL] = too_still(still, of, x[at + j], times[i], step >= STEP_MIN, clean, learn_for)
            _look(
                k, own + j * PER_SIGNAL, profile, start + j * PROFILE, x[at + j], times[i], residuals, j * VIEWS, row,
                j * PER_ROW, gain, count == 1, learn_for, width, settings,
            )  # fmt: skip
        said = relearnt != NOTHING
        _verdict(m, b, k, own, still, s, count, times[i], row, settings, i, verdicts, states, stories, said)
        if m[b + STATE] == ABNORMAL or muted:
            for j in range(count):
                # What happens in an episode says nothing of where the trend goes.
                k[own + j * PER_SIGNAL + SLOPE] = k[own + j * PER_SIGNAL + MEAN_SLOPE]
        if m[b + STATE] == ABNORMAL and m[b + REASON] < STUCK:
            watch_plateau(m, b, k, own, count, row, times[i], settings)
        elif m[b + STATE] != ABNORMAL and step >= STEP_MIN and not muted:
            for j in range(count):
                if not np.isnan(x[at + j]):
                    _learn(
                        k, own + j * PER_SIGNAL, profile, start + j * PROFILE, x[at + j], residuals, j * VIEWS,
                        times[i], m[b + USUAL_US], learn_for, span, width, frozen,
                    )  # fmt: skip


@inlined
def _step(m: Floats, b: int, time_us: int) -> float:
    """Returns the time since the last reading, in usual distances of readings; learns the usual distance."""
    since = time_us - m[b + LAST_US]
    m[b + READINGS] += 1
    if m[b + READINGS] == 1:
        m[b + LAST_US] = time_us
        return 1.0
    m[b + LAST_US] = max(m[b + LAST_US], time_us)
    since = max(since, 0.0)
    usual = m[b + USUAL_US]
    if since == usual and usual > 0:
        return 1.0  # as it is most often, and cheaper than what would come to the same
    step = min(since / usual, STEP_MAX) if usual > 0 else 1.0
    if m[b + READINGS] > 10:
        since = min(since, 4 * usual) if usual > 0 else since
    m[b + USUAL_US] += (since - usual) * max(1 / (m[b + READINGS] - 1), 1 / USUAL_READINGS)
    return float(step)


@inlined
def _look(
    k: Floats, own: int, profile: Singles, start: int, x: float, time_us: int, residuals: Floats, views: int,
    row: Floats, out: int, gain: float, alone: bool, learn_for: float, width: float, settings: Floats,
) -> None:  # fmt: skip
    """Where one signal lies: its residuals, and its level moved on; shares of the band of the view that speaks."""
    row[out + JUMP] = row[out + LEVEL_OFF] = row[out + RESIDUAL] = np.nan
    if np.isnan(x):
        return
    residuals[views + AS_IS] = x
    residuals[views + DAILY], residuals[views + WEEKLY] = less_rhythm(k, own, profile, start, x, time_us)
    residuals[views + TREND] = less_trend(k, own, x, time_us)
    for view in range(VIEWS):
        r = residuals[views + view]
        if not np.isnan(r):
            follow(k, own + OWN + view * PER_VIEW, r, gain, width, time_us)
    at = speaking(k, own)
    r = residuals[views + int(k[own + SPEAKS])]
    if k[at + COUNT] < learn_for or np.isnan(r):
        return
    row[out + RESIDUAL], row[out + TAKEN_OFF] = r, x - r
    least = max(settings[DEVIATION], settings[PERCENT] / 100 * np.abs(k[at + MEAN] + x - r))
    row[out + JUMP] = _share(r - k[at + MEAN], k, at, least, settings, width, False, alone)
    row[out + LEVEL_OFF] = _share(k[at + LEVEL] - k[at + MEAN], k, at, 0.0, settings, width, True, alone)
    if np.abs(k[at + SHOWN] - k[at + MEAN]) < least:
        row[out + LEVEL_OFF] = 0.0


@inlined
def _share(
    off: float, k: Floats, at: int, least: float, settings: Floats, width: float, level: bool, alone: bool
) -> float:
    """Returns how far out it is, with its sign, as a share of the band; 0 on the side that does not matter."""
    side = 1.0 if off > 0 else -1.0
    if np.abs(off) < least or (side > 0 and settings[UPWARDS] == 0) or (side < 0 and settings[DOWNWARDS] == 0):
        return 0.0
    if level and alone:
        return float(off / level_reach(k, at, side, width))
    if level:  # of several signals each one's largest level says little: it is their mean square that counts
        return float(off / (width * k[at + LEVEL_SCALE]))
    return float(off / reach(k, at, side, width))


@inlined
def _verdict(
    m: Floats, b: int, k: Floats, own: int, still: Floats, s: int, count: int, time_us: int, row: Floats,
    settings: Floats, i: int, verdicts: Floats, states: Signs, stories: Floats, said: bool,
) -> None:  # fmt: skip
    """The signals together: root mean square of their shares over those that vary; begins and ends the episode."""
    jumps = levels = 0.0
    judged, most, which, stillest, still_signal = 0, -1.0, -1, 0.0, -1
    for j in range(count):
        if row[j * PER_ROW + STILL] > stillest:
            stillest, still_signal = row[j * PER_ROW + STILL], j
        jumped, climbed = row[j * PER_ROW + JUMP], row[j * PER_ROW + LEVEL_OFF]
        if np.isnan(jumped) or (count > 1 and not varies(k, speaking(k, own + j * PER_SIGNAL))):
            continue
        judged += 1
        jumps += jumped**2
        levels += climbed**2
        far = max(np.abs(climbed), 0.5 * np.abs(jumped))
        if far > most:
            most, which = far, j
    if judged == 0:
        if not said:
            states[i] = m[b + STATE] if m[b + STATE] == ABNORMAL else WARMING
        return
    jump, level = np.sqrt(jumps / judged), np.sqrt(levels / judged)
    at = speaking(k, own + which * PER_SIGNAL)
    share = max(jump, level)
    # An episode is not over in a row without the signal that it is about: nobody saw it come back.
    unseen = m[b + STATE] == ABNORMAL and m[b + REASON] < STUCK and np.isnan(row[int(m[b + SIGNAL]) * PER_ROW + JUMP])
    over = m[b + REASON] >= STUCK or (jump < 1 and level < BACK and not unseen)
    if m[b + STATE] == ABNORMAL and stillest < 1 and over:
        m[b + STATE] = NORMAL
    if m[b + STATE] != ABNORMAL:
        m[b + STATE] = NORMAL
        if share >= 1:
            _begin(m, b, k, own, count, time_us, row, which, jump >= 1, settings)
        elif stillest >= 1:
            _begin_still(m, b, still, s + still_signal * PER_STILL, still_signal)
    middle, width = k[at + MEAN] + row[which * PER_ROW + TAKEN_OFF], settings[WIDTH]
    if unseen:
        which = int(m[b + SIGNAL])
        at = speaking(k, own + which * PER_SIGNAL)
    else:
        verdicts[OUT_EXPECTED, i] = middle
        verdicts[OUT_LOWER, i] = middle - reach(k, at, -1.0, width)
        verdicts[OUT_UPPER, i] = middle + reach(k, at, 1.0, width)
    states[i] = m[b + STATE]
    if m[b + STATE] == ABNORMAL:
        verdicts[OUT_SCORE, i] = max(score_of(max(share, stillest)), 75.0)
        stories[OUT_DEPTH, i] = (k[at + SHOWN] - k[at + MEAN]) / k[at + SCALE]
        which = int(m[b + SIGNAL]) if m[b + REASON] >= STUCK else which
        _tell(stories, i, m[b + REASON], which, m[b + SIDE], m[b + SINCE], m[b + LOWER], m[b + UPPER])
    else:
        verdicts[OUT_SCORE, i] = min(score_of(share), 74.999)


@inlined
def _tell(
    stories: Floats, i: int, reason: float, signal: float, side: float, since: float, lower: float, upper: float
) -> None:
    """What the sentence of a row is made of."""
    stories[OUT_REASON, i], stories[OUT_SIGNAL, i], stories[OUT_SIDE, i] = reason, signal, side
    stories[OUT_SINCE, i], stories[OUT_FROM, i], stories[OUT_TO, i] = since, lower, upper


@kernel
def _begin(
    m: Floats, b: int, k: Floats, own: int, count: int, time_us: int, row: Floats, which: int, jumped: bool,
    settings: Floats,
) -> None:  # fmt: skip
    """An episode begins: what stands out, on which side, since when, and the band that it left."""
    at, out = speaking(k, own + which * PER_SIGNAL), which * PER_ROW
    above = row[out + (JUMP if jumped or row[out + LEVEL_OFF] == 0 else LEVEL_OFF)] > 0
    m[b + STATE], m[b + SIGNAL], m[b + PLATEAU_SINCE] = ABNORMAL, which, time_us
    m[b + SIDE], m[b + REASON] = 1.0 if above else -1.0, JUMPED if jumped else CLIMBED
    since, total = (k[at + ABOVE_SINCE], k[at + ABOVE]) if above else (k[at + BELOW_SINCE], k[at + BELOW])
    m[b + SINCE] = since if total > 0 else time_us
    middle, width = k[at + MEAN] + row[out + TAKEN_OFF], settings[WIDTH]
    if jumped:
        m[b + LOWER], m[b + UPPER] = middle - reach(k, at, -1.0, width), middle + reach(k, at, 1.0, width)
    else:
        m[b + LOWER] = middle - level_reach(k, at, -1.0, width)
        m[b + UPPER] = middle + level_reach(k, at, 1.0, width)
    begin_plateau(m, b, k, own, count, time_us, settings)


@kernel
def _begin_still(m: Floats, b: int, still: Floats, at: int, signal: int) -> None:
    """An episode begins in which a signal keeps its value, or does not come."""
    m[b + STATE], m[b + SIGNAL], m[b + SIDE] = ABNORMAL, signal, 1.0
    if still[at + ABSENT] > 0:
        m[b + REASON], m[b + SINCE] = MISSING, still[at + SEEN_LAST]
    else:
        m[b + REASON], m[b + SINCE] = STUCK, still[at + VALUE_SINCE]
    m[b + LOWER] = m[b + UPPER] = still[at + VALUE]


@kernel
def _begin_afresh(
    m: Floats, b: int, k: Floats, own: int, count: int, time_us: int, i: int, verdicts: Floats, states: Signs,
    stories: Floats,
) -> None:  # fmt: skip
    """After maintenance the episode is over, level and onset begin at what was normal; a row with score 0 says so."""
    m[b + MAINTAINED_FROM], m[b + STATE] = 0.0, NORMAL
    for j in range(count):
        for view in range(VIEWS):
            at = own + j * PER_SIGNAL + OWN + view * PER_VIEW
            k[at + LEVEL] = k[at + SHOWN] = k[at + MEAN]
            k[at + ABOVE] = k[at + BELOW] = 0.0
    verdicts[OUT_SCORE, i], states[i], stories[OUT_DEPTH, i] = 0.0, NORMAL, np.nan
    _tell(stories, i, MAINTAINED, m[b + SIGNAL], 1.0, time_us, 0.0, 0.0)


@kernel
def _say_relearnt(
    m: Floats, b: int, k: Floats, own: int, x: Floats, row: int, count: int, reason: int, time_us: int, i: int,
    verdicts: Floats, states: Signs, stories: Floats,
) -> None:  # fmt: skip
    """The row with which a new level is accepted: score 0, so that an alarm behind it clears."""
    j = int(m[b + SIGNAL])
    if np.isnan(x[row + j]):
        for other in range(count):
            if not np.isnan(x[row + other]):
                j = other
    at, value = speaking(k, own + j * PER_SIGNAL), x[row + j]
    moved = k[at + SHOWN] - k[at + MEAN]
    verdicts[OUT_EXPECTED, i] = verdicts[OUT_LOWER, i] = verdicts[OUT_UPPER, i] = value
    verdicts[OUT_SCORE, i], states[i], stories[OUT_DEPTH, i] = 0.0, WARMING, np.nan
    since = m[b + PLATEAU_SINCE] if m[b + STATE] == ABNORMAL else time_us
    _tell(stories, i, reason, j, 1.0 if moved > 0 else -1.0, since, value, value)


@inlined
def _learn(
    k: Floats, own: int, profile: Singles, start: int, x: float, residuals: Floats, views: int, time_us: int,
    usual_us: float, learn_for: float, span: float, width: float, frozen: bool,
) -> None:  # fmt: skip
    """One clean reading into all views of its signal, and into its rhythm."""
    learn_rhythm(k, own, profile, start, x, time_us)
    due, bounded = False, k[own + SPEAKS] != TREND
    for view in range(VIEWS):
        at, r = own + OWN + view * PER_VIEW, residuals[views + view]
        if np.isnan(r):
            continue
        learnt = k[at + COUNT] >= learn_for
        if learnt and frozen:
            continue
        learn(k, at, r, time_us, learnt, width, bounded and view != TREND)
        if view == TREND:
            follow_line(k, own, r, time_us, usual_us, width * k[at + SCALE] if learnt else np.inf)
        if int(k[at + COUNT]) % RESCALE == 0 or k[at + COUNT] == learn_for:
            settle(k, own, view, time_us, usual_us, span, learn_for)
            due = True
    if due:
        choose(k, own, learn_for)
