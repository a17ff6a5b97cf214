"""The model of one series of bucket values: what is typical now, and how improbable a value is.

Four predictors run side by side: *fast* follows the last few buckets, *slow* a level with a trend, *daily* a profile of
24 hours on a moving level, *weekly* one of 168 hours. Each is scored by its own one-step errors (never by values that
it has seen), and the best of them speaks. Where a profile has not seen an hour yet it falls back on the next simpler
one. The tail of the errors beyond the usual 95 % is exponential with a learnt rate on either side, so a probability
can be far smaller than one over the number of buckets seen. A fifth statistic, the mean of the last twelve errors with
a tail of its own, finds what is a little wrong for long.

Learning is robust: an error counts at most four times the usual one, unless `ACCEPT` buckets in a row say the same.
"""

from __future__ import annotations

import numpy as np

from tocsin.batch import Floats, Ints
from tocsin.kernels import kernel

FAST, SLOW, DAILY, WEEKLY, MULTI = range(5)
RING = 12
"""Buckets that the multi-bucket statistic looks at, as in the original."""
ACCEPT = 24
"""After so many buckets on one side, far off, a new level is believed."""
USUAL = 2.45
"""In mean absolute errors: where the tail begins (1.96 sigma if Gaussian, which the start assumes)."""
PRIOR = 30.0
"""How many values the assumed tail is worth."""

# Where things stand in a row of the state.
N, SHIFT, RUN, AT, SIZE, BEST, BORN = range(7)
OFFSET = 7  # of each predictor (4)
TREND = OFFSET + 4  # of each predictor's offset, a bucket (4)
ERROR = TREND + 4  # mean absolute error of each, and of the multi-bucket statistic (5)
JUDGE = ERROR + 5  # the same, quickly forgotten: which predictor speaks (4)
TAIL = JUDGE + 4  # of each of the 5: share above, excess above, share below, excess below (20)
PER_TAILS, PER_SIDE, EXCESS = 4, 2, 1  # from one of the 5 to the next, from above to below, from share to excess
TAIL_SHARE, TAIL_EXCESS = 0.025, 0.48
"""What a tail is like if the errors are Gaussian."""
HISTORY = TAIL + 20  # the last twelve errors
SPREAD = HISTORY + RING  # by hour of day: error in units of the usual, and how often seen (48)
DAY = SPREAD + 48  # value by hour of day, and how often seen
WEEK = DAY + 48  # value by hour of week, and how often seen
WIDTH = WEEK + 336

# What `judge` gives back, a column each.
TYPICAL, LOWER, UPPER, LOGP, LOGP_SINGLE, LOGP_MULTI, SIGN, SEEN = range(8)
OUTPUTS = 8


@kernel
def profile(row: Floats, start: int, slots: int, place: float, smooth: bool, other: float) -> float:
    """The value of a profile at a place between slot centres; what is hardly known leans on the other prediction."""
    if smooth:
        left = int(np.floor(place - 0.5)) % slots
        right = (left + 1) % slots
        share = place - 0.5 - np.floor(place - 0.5)
    else:
        left = right = int(place) % slots
        share = 0.0
    value = 0.0
    for side in range(2):
        slot = left if side == 0 else right
        weight = 1.0 - share if side == 0 else share
        count = row[start + slots + slot]
        value += weight * (row[start + slot] * count + 0.5 * other) / (count + 0.5)
    return value


@kernel
def learn_profile(row: Floats, start: int, slots: int, place: float, x: float, slowest: float, weight: float) -> None:
    slot = int(place) % slots
    count = row[start + slots + slot]
    gain = min(1.0, weight * max(1.0 / (count + 1.0), slowest))
    row[start + slot] += gain * (x - row[start + slot])
    row[start + slots + slot] = min(count + weight, 1e6)


@kernel
def tail_of(which: int, side: int) -> int:
    """Returns where the tail of a predictor stands in a row; side 0 is above, 1 below."""
    return TAIL + PER_TAILS * which + PER_SIDE * side


@kernel
def log_tail(row: Floats, which: int, z: float, above: bool) -> float:
    """Natural log of the probability that an error lies at least as far out on its side."""
    at = tail_of(which, 0 if above else 1)
    share, excess = row[at], row[at + EXCESS]
    if z >= USUAL:
        return float(np.log(share) - (z - USUAL) / excess)
    return float(np.log(0.5) + (np.log(share) - np.log(0.5)) * (max(z, 0.0) / USUAL) ** 1.5)


@kernel
def log_p(row: Floats, which: int, z: float, side: int) -> float:
    """Of an error with a sign: one-sided if only one side is anomalous, else two-sided."""
    if side != 0:
        return log_tail(row, which, abs(z), z > 0) if z * side > 0 else 0.0
    return float(min(0.0, np.log(2.0) + log_tail(row, which, abs(z), z > 0)))


@kernel
def learn_tail(row: Floats, which: int, z: float, weight: float) -> None:
    """Share of errors beyond `USUAL`, and their mean excess, on the side of z."""
    n = row[N]
    gain = weight / (PRIOR + min(n, 4000.0))
    for side in range(2):
        at = tail_of(which, side)
        out = z if side == 0 else -z
        beyond = 1.0 if out > USUAL else 0.0
        row[at] = min(max(row[at] + gain * (beyond - row[at]), 0.002), 0.3)
        if beyond > 0:
            excess = min(out - USUAL, 6.0 * row[at + EXCESS])
            tail_gain = weight / (15.0 + min(0.05 * n, 200.0))
            row[at + EXCESS] = min(max(row[at + EXCESS] + tail_gain * (excess - row[at + EXCESS]), 0.25), 20.0)


@kernel
def start(row: Floats) -> None:
    """A model that has seen nothing."""
    row[:] = 0.0
    for which in range(5):
        for side in range(2):
            row[tail_of(which, side)] = TAIL_SHARE
            row[tail_of(which, side) + EXCESS] = TAIL_EXCESS
    row[BEST] = SLOW
    row[SPREAD : SPREAD + 24] = 1.0


@kernel
def judge(
    models: Floats, slots: Ints, values: Floats, learn: Ints, weights: Floats, second: float, span: float, side: int,
    floor: float, least: float, out: Floats,
) -> None:  # fmt: skip
    """Judge each value by the model in its slot, then learn it (with its weight, where ``learn`` says so).

    ``second`` is when the bucket lies in the week; ``floor`` the smallest usual error, ``least`` the smallest value
    that can be. A slot may come several times (the members of a population): all are judged before any is learned.
    """
    smooth = span < 3600.0
    slow = max(min(span / 86_400.0, 0.05), 0.01)
    guess = np.empty(4)
    predicted = np.empty((len(slots), 4))
    for i in range(len(slots)):
        row, x = models[slots[i]], values[i]
        hour = ((second + row[SHIFT]) / 3600.0) % 168.0
        n = row[N]
        predictors(row, hour, smooth, guess)
        predicted[i] = guess
        best = int(row[BEST])
        usual = scale(row, best, hour, floor)
        z = (x - guess[best]) / usual
        out[i, TYPICAL] = max(guess[best], least)
        excess_up, excess_down = row[tail_of(best, 0) + EXCESS], row[tail_of(best, 1) + EXCESS]
        out[i, LOWER] = max(guess[best] - USUAL * usual * (1.0 + 0.5 * (excess_down / TAIL_EXCESS - 1.0)), least)
        out[i, UPPER] = guess[best] + USUAL * usual * (1.0 + 0.5 * (excess_up / TAIL_EXCESS - 1.0))
        single = log_p(row, best, z, side)
        week_slot = int(hour) % 168
        if row[WEEK + 168 + week_slot] < 1.0 and best != FAST:  # an hour of the week never seen before
            z_fast = (x - guess[FAST]) / scale(row, FAST, hour, floor)
            single = max(single, log_p(row, FAST, z_fast, side)) if z * z_fast > 0 else 0.0
        mean = min(max(z, -4.0), 4.0)
        for k in range(RING - 1):
            mean += row[HISTORY + k]
        mean /= RING
        multi = 0.0
        is_told = side == 0 or z * side > 0  # after a shift the way back is no news to those who ask for one side
        if is_told and row[ERROR + MULTI] > 0 and n > 2 * RING and row[WEEK + 168 + week_slot] >= 1.0:
            multi = log_p(row, MULTI, mean / max(row[ERROR + MULTI], 0.1), side)
        doubt = n / (n + 20.0)  # of a model that has seen little
        out[i, LOGP_SINGLE] = single * doubt
        out[i, LOGP_MULTI] = multi * doubt
        out[i, LOGP] = min(single, 0.8 * multi) * doubt
        out[i, SIGN] = 1.0 if x > guess[best] else -1.0
        out[i, SEEN] = n
    for i in range(len(slots)):
        if learn[i]:
            hour = ((second + models[slots[i], SHIFT]) / 3600.0) % 168.0
            absorb(models[slots[i]], values[i], predicted[i], hour, slow, floor, weights[i], span)


@kernel
def predictors(row: Floats, hour: float, smooth: bool, guess: Floats) -> None:
    guess[FAST] = row[OFFSET + FAST]
    guess[SLOW] = row[OFFSET + SLOW] + row[TREND + SLOW]
    level = row[OFFSET + SLOW]
    daily = profile(row, DAY, 24, hour % 24.0, smooth, level)
    guess[DAILY] = daily + row[OFFSET + DAILY] + row[TREND + DAILY]
    guess[WEEKLY] = profile(row, WEEK, 168, hour, smooth, daily) + row[OFFSET + WEEKLY] + row[TREND + WEEKLY]


@kernel
def scale(row: Floats, which: int, hour: float, floor: float) -> float:
    """The usual error now: overall, times what this hour of the day is known for."""
    slot = int(hour) % 24
    count = row[SPREAD + 24 + slot]
    factor = (row[SPREAD + slot] * count + 8.0) / (count + 8.0)
    return float(max(row[ERROR + which] * min(max(factor, 0.4), 3.0), floor + 1e-3 * row[SIZE]))


@kernel
def absorb(
    row: Floats, x: float, guess: Floats, hour: float, slow: float, floor: float, weight: float, span: float
) -> None:
    """Learn one value, after it was judged by ``guess``."""
    n = row[N]
    if n == 0:
        row[OFFSET + FAST] = row[OFFSET + SLOW] = x
        row[SIZE] = abs(x)
        learn_profile(row, DAY, 24, hour % 24.0, x, 0.1, weight)
        learn_profile(row, WEEK, 168, hour, x, 0.2, weight)
        row[N] = weight
        return
    best = int(row[BEST])
    usual = scale(row, best, hour, floor)
    off = x - guess[best]
    if weight >= 1.0:
        count_run(row, off, abs(off) > 4.0 * usual)
    accepted = abs(row[RUN]) >= ACCEPT
    row[SIZE] += 0.02 * weight * (min(abs(x), 4.0 * row[SIZE] + 1e-9) - row[SIZE])
    seen = row[WEEK + 168 + int(hour) % 168] >= 1.0
    learn_predictors(row, x, guess, hour, slow, floor, weight, accepted, seen)
    if accepted:
        row[RUN] = 0.0
    limit = 4.0 * usual
    kept = x if n < 12 else guess[best] + min(max(off, -limit), limit)
    learn_profile(row, DAY, 24, hour % 24.0, kept - row[OFFSET + DAILY], 0.1 * min(1.0, span / 3600.0), weight)
    learn_profile(row, WEEK, 168, hour, kept - row[OFFSET + WEEKLY], 0.2 * min(1.0, span / 3600.0), weight)
    learn_spread(row, abs(off), best, hour, floor, weight)
    if weight >= 1.0:
        learn_history(row, off / usual, seen)
    row[N] = n + weight
    chosen = SLOW
    for which in (DAILY, WEEKLY):
        if row[JUDGE + which] < 0.97 * row[JUDGE + chosen]:
            chosen = which
    row[BEST] = chosen


@kernel
def count_run(row: Floats, off: float, far: bool) -> None:
    """How many values in succession lay far off on one side."""
    if not far:
        row[RUN] = 0.0
    elif off > 0:
        row[RUN] = max(row[RUN], 0.0) + 1.0
    else:
        row[RUN] = min(row[RUN], 0.0) - 1.0


@kernel
def learn_predictors(
    row: Floats, x: float, guess: Floats, hour: float, slow: float, floor: float, weight: float, accepted: bool,
    seen: bool,
) -> None:  # fmt: skip
    """One value into the four predictors: their errors, tails, offsets and trends."""
    n = row[N]
    early = min(1.0, weight / (n + 1.0))
    for which in range(4):
        r = x - guess[which]
        limit = 4.0 * scale(row, which, hour, floor)
        # While little is known nothing is clipped: the first errors make the scale.
        bounded = r if n < 12 or accepted else min(max(r, -limit), limit)
        gain = max(early, 0.015 * weight)
        error = abs(r) if n < 12 else min(abs(r), 6.0 * row[ERROR + which] + floor)
        row[ERROR + which] += gain * (error - row[ERROR + which])
        row[JUDGE + which] += max(early, weight * slow) * (min(abs(r), limit) - row[JUDGE + which])
        z = r / max(row[ERROR + which], floor + 1e-3 * row[SIZE])
        # In an hour of the week never seen before the profiles' errors say nothing of later ones.
        if n >= 12 and abs(row[RUN]) < 3 and (which < DAILY or seen):
            learn_tail(row, which, z if which == FAST else r / scale(row, which, hour, floor), weight)
        if which == FAST:
            row[OFFSET + FAST] += min(0.35, max(early, 0.35 * weight)) * bounded
        else:
            step = 1.0 if accepted else max(early, weight * slow) if which == SLOW else weight * slow
            row[OFFSET + which] += row[TREND + which] * weight + step * bounded
            if not accepted:  # critically damped: a steady trend leaves no error behind
                row[TREND + which] += 0.25 * slow * slow * weight * bounded


@kernel
def learn_spread(row: Floats, error: float, best: int, hour: float, floor: float, weight: float) -> None:
    """How large errors are at this hour of the day, in units of the usual one."""
    if row[N] > 24:
        slot = int(hour) % 24
        count = row[SPREAD + 24 + slot]
        ratio = min(error / max(row[ERROR + best], floor + 1e-12), 4.0)
        row[SPREAD + slot] += min(1.0, weight * max(1.0 / (count + 2.0), 0.02)) * (ratio - row[SPREAD + slot])
        row[SPREAD + 24 + slot] = min(count + weight, 1e6)


@kernel
def learn_history(row: Floats, z: float, seen: bool) -> None:
    """One error into the last twelve, and their mean into its own tail."""
    for k in range(RING - 1, 0, -1):
        row[HISTORY + k] = row[HISTORY + k - 1]
    row[HISTORY] = min(max(z, -4.0), 4.0)
    mean = 0.0
    for k in range(RING):
        mean += row[HISTORY + k]
    mean /= RING
    n = row[N]
    row[ERROR + MULTI] += max(min(0.3, 1.0 / (n + 1.0)), 0.01) * (min(abs(mean), 1.5) - row[ERROR + MULTI])
    if n >= 2 * RING and abs(row[RUN]) < 3 and seen:
        learn_tail(row, MULTI, mean / max(row[ERROR + MULTI], 0.1), 0.3)
