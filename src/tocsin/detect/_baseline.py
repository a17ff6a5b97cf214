"""The protected baseline of `health`: what one signal was like while it was well, and how far it is from that now.

Each signal is seen in several ways side by side: as it is, less its daily rhythm, less its weekly one, and, where it
has a steady trend, less a line that follows it. Each view keeps a mean, and how much blocks of 1, 2, 4, 8 ... readings
differ from the block before (Allan 1966). Their sum is the variance of a reading; the part of it from blocks as long as
``span`` on is the variance of the level. So a value that wanders by nature gets a wide band, and white noise a narrow
one. Differences are clipped (Huber 1964), blocks longer than what has been seen are extrapolated, and nothing is learnt
outside the band.

Once a view has learnt for long enough it is protected: from then on the mean moves, and the differences grow, only
within bounds that what was learnt until then sets. Otherwise a climb slow enough would teach itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats
from tocsin.kernels import at_least, inlined, kernel

Singles = npt.NDArray[np.float32]

HORIZON = 10_000.0
"""Readings after which one learnt counts for a third: gains fall to one over it."""
OCTAVES = 14
"""Blocks of 1, 2, 4 ... 8,192 readings."""
BEYOND = 6
"""Octaves beyond what has been seen that the band allows for: a value that wanders may go on to wander."""
PRIOR = 16.0
"""How many differences the extrapolation from shorter blocks is worth."""
STEEPEST = 2.0
"""Most that the difference grows to an octave that was seldom or never seen: 2 is a random walk, 0.5 white noise.

A trend, or a slow swing before it turns, is 4: a view of its own follows the one, and the other does turn."""
CLIP = 3.0
"""A difference of blocks counts for no more than this many times the usual one."""
SURELY_INSIDE = 8.99
"""A squared difference under this many times the usual one is not clipped, so no root need be taken."""
CLIP_FROM = 4.0
"""Differences of a block length before any is clipped."""
NEWS = 2.0
"""A reading, or a level, is new only this many times as far out as all before it."""
RESCALE = 16
"""Learnt readings between two times that the band is worked out."""
SLACK = 0.5
"""Of the sums that find the onset, in standard deviations (Page 1954)."""
HOURS_A_DAY, HOURS_A_WEEK = 24, 168
DAY_KNOWN, WEEK_KNOWN = 2 * 24, 2 * 168
"""Hours learnt before a rhythm is taken off at all."""
PROFILE_GAIN = 0.1
"""Least that the newest hour counts in its mean."""
NARROWER = 0.7
"""How much narrower a view with a rhythm must be than the simpler one to be believed."""
PROTECTED_AFTER = 2.0
"""A view is protected once it has learnt this many times as many readings as it needs to judge, and for a day."""
MOVES = 2.0
"""Most that the mean of a protected view moves in all, in standard deviations of the level."""
GROWS = 4.0
"""Most that the differences of a protected view grow: their sum is a variance."""
TREND_SURE, TREND_OVER, TREND_DOUBT = 60.0, 16.0, 6.0
"""Student's t, squared, of the mean difference of blocks: a trend is taken off from the first on, until the second;
from the third on nothing is protected, since it may come to be one."""
TREND_BLOCKS = 16.0
"""Differences of a block length before they can show a trend."""
TREND_NARROWER = 0.5
"""How much narrower the view less a trend must be than the others."""
FOLLOWS = 0.02
"""Gain of the line that follows a trend; that of its slope is a quarter of its square, so that it does not swing."""
SLOPE_GAIN = 1 / 4000
"""Gain of the mean slope, with which the line goes on during an episode."""
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
WEEK_US = 7 * DAY_US
MONDAY_US = 345_600_000_000
"""1970-01-05: weeks begin on Mondays."""

VIEWS = 4
AS_IS, DAILY, WEEKLY, TREND = range(VIEWS)

# Where things stand in the numbers of a signal: its own, then those of each view.
(
    SPEAKS, HOUR, HOUR_TOTAL, HOUR_COUNT, HOURS, DAY_TOTAL, DAY_SEEN, WEEK_TOTAL, WEEK_SEEN, TRENDS, LINE, SLOPE,
    MEAN_SLOPE, LINE_US, PLATEAU, FIRST_TOTAL, FIRST_COUNT, SECOND_TOTAL, SECOND_COUNT, OWN,
) = range(20)  # fmt: skip
(
    COUNT, MEAN, SCALE, LEVEL_SCALE, LEVEL, SHOWN, HIGHEST, LOWEST, LEVEL_HIGHEST, LEVEL_LOWEST, FARTHEST,
    ABOVE, BELOW, ABOVE_SINCE, BELOW_SINCE, FIRST_US, ANCHOR, ANCHOR_SCALE, TABLE,
) = range(19)  # fmt: skip
LAST, BLOCKS, DIFFERENCE, SIGNED, LAW, PER_OCTAVE = range(6)
PER_VIEW = TABLE + OCTAVES * PER_OCTAVE
PER_SIGNAL = OWN + VIEWS * PER_VIEW
PROFILE = 2 * (HOURS_A_DAY + HOURS_A_WEEK)
"""The mean of each hour of the day, how often it was seen; the same by hour of the week."""
WEEK_AT = 2 * HOURS_A_DAY


@inlined
def speaking(k: Floats, own: int) -> int:
    """Returns where, in a machine's numbers, those of the view that speaks for a signal begin.

    Numbers are found by where they begin: a slice would cost 10 ns each time.
    """
    return own + OWN + int(k[own + SPEAKS]) * PER_VIEW


@inlined
def less_rhythm(k: Floats, own: int, profile: Singles, start: int, x: float, time_us: int) -> tuple[float, float]:
    """Returns a reading less its daily, and less its weekly rhythm; NaN where that is not known yet."""
    if k[own + HOURS] < DAY_KNOWN:
        return np.nan, np.nan
    of_week = (time_us - MONDAY_US) % WEEK_US
    of_day = of_week % DAY_US
    shape = _shape(profile, start, HOURS_A_DAY, of_day / HOUR_US - 0.5, k[own + DAY_TOTAL], k[own + DAY_SEEN])
    daily = x - shape
    if k[own + HOURS] < WEEK_KNOWN:
        return daily, np.nan
    total, seen = k[own + WEEK_TOTAL], k[own + WEEK_SEEN]
    return daily, x - _shape(profile, start + WEEK_AT, HOURS_A_WEEK, of_week / HOUR_US - 0.5, total, seen)


@inlined
def _shape(profile: Singles, at: int, slots: int, place: float, total: float, seen: float) -> float:
    """Returns how far a rhythm lies from its mean at a place in hours, between the middles of two of them."""
    low = np.floor(place)
    left = int(low) if low >= 0 else slots - 1
    right = left + 1 if left + 1 < slots else 0
    if profile[at + slots + left] < 1 or profile[at + slots + right] < 1:
        return np.nan
    # Only the shape: where the level goes must be seen in what is left.
    return float(profile[at + left] + (place - low) * (profile[at + right] - profile[at + left]) - total / seen)


@inlined
def less_trend(k: Floats, own: int, x: float, time_us: int) -> float:
    """Returns a reading less the line that follows its trend; NaN where there is none."""
    if k[own + TRENDS] > 0:
        return float(x - (k[own + LINE] + k[own + SLOPE] * (time_us - k[own + LINE_US])))
    return np.nan


@inlined
def learn_rhythm(k: Floats, own: int, profile: Singles, start: int, x: float, time_us: int) -> None:
    """One clean reading into the hour that it lies in; an hour that is over goes into the profiles."""
    hour = float((time_us - MONDAY_US) // HOUR_US)
    if hour != k[own + HOUR]:
        if k[own + HOUR_COUNT] > 0:
            mean = k[own + HOUR_TOTAL] / k[own + HOUR_COUNT]
            of_day, of_week = int(k[own + HOUR]) % HOURS_A_DAY, int(k[own + HOUR]) % HOURS_A_WEEK
            for at, slots, slot, total in (
                (start, HOURS_A_DAY, of_day, own + DAY_TOTAL),
                (start + WEEK_AT, HOURS_A_WEEK, of_week, own + WEEK_TOTAL),
            ):
                seen, before = profile[at + slots + slot] + 1, profile[at + slot]
                profile[at + slots + slot] = seen
                profile[at + slot] += (mean - before) * max(1 / seen, PROFILE_GAIN)
                k[total] += profile[at + slot] - before
                k[total + 1] += seen == 1
            k[own + HOURS] += 1
        k[own + HOUR], k[own + HOUR_TOTAL], k[own + HOUR_COUNT] = hour, 0.0, 0.0
    k[own + HOUR_TOTAL] += x
    k[own + HOUR_COUNT] += 1


@inlined
def learn_blocks(k: Floats, table: int, r: float) -> None:
    """One reading into the differences of blocks; about two octaves are touched for each reading."""
    least_gain = 1 / HORIZON
    for octave in range(OCTAVES):
        o = table + octave * PER_OCTAVE
        blocks, before = k[o + BLOCKS], k[o + LAST]
        if blocks > 0:
            by, usual = r - before, k[o + DIFFERENCE]
            if blocks > CLIP_FROM and by * by > SURELY_INSIDE * usual:
                most = CLIP * np.sqrt(max(usual, 1e-18 * r * r))
                by = min(max(by, -most), most)
            gain = gain_after(blocks, min(least_gain, 0.125))
            k[o + DIFFERENCE] = usual + (by * by - usual) * gain
            k[o + SIGNED] += (by - k[o + SIGNED]) * gain
        k[o + LAST] = r
        k[o + BLOCKS] = blocks + 1
        if int(blocks) & 1 == 0:
            return
        r = 0.5 * (before + r)
        least_gain *= 2


@inlined
def gain_after(count: float, least: float) -> float:
    """Returns the gain of a mean of so many, ``max(1 / count, least)``; divides only while that may be the larger."""
    return 1 / count if count * least < 1 else least


@kernel
def rescale(k: Floats, at: int, span: float, magnitude: float) -> None:
    """Work out the standard deviations of a reading and of the level from the differences of blocks."""
    whole = level = 0.0
    one, two, seen_for = 0.0, 0.0, 0
    size = 1.0
    for octave in range(OCTAVES + BEYOND):
        o = at + TABLE + octave * PER_OCTAVE
        difference, blocks = 0.0, 0.0
        if octave < OCTAVES:
            difference, blocks = k[o + DIFFERENCE], max(k[o + BLOCKS] - 1, 0.0)
        if blocks > 0:
            seen_for = octave
        elif octave > seen_for + BEYOND:
            break
        if octave >= 2:
            # White noise halves from octave to octave; what grows is taken to go on growing.
            steep = min(max(one / two, 0.5), STEEPEST) if two > 0 else 0.5
            weight = blocks / (blocks + PRIOR)
            difference = weight * difference + (1 - weight) * one * steep
        if octave < OCTAVES:
            if k[at + ANCHOR_SCALE] > 0:
                difference = min(difference, GROWS * k[o + LAW])
            else:
                k[o + LAW] = difference
        whole += difference / 4
        if 2 * size > span:
            level += difference / 4
        one, two = difference, one
        size *= 2
    k[at + SCALE] = at_least(np.sqrt(whole), magnitude)
    k[at + LEVEL_SCALE] = at_least(np.sqrt(level), magnitude)


@kernel
def protect(k: Floats, at: int) -> None:
    """From now on what a view has learnt bounds what it learns further; lengths never seen are as extrapolated."""
    one, two = k[at + TABLE + LAW], k[at + TABLE + LAW]
    for octave in range(OCTAVES):
        o = at + TABLE + octave * PER_OCTAVE
        if k[o + LAW] == 0:
            k[o + LAW] = one * (min(max(one / two, 0.5), STEEPEST) if two > 0 else 0.5)
        one, two = k[o + LAW], one
    k[at + ANCHOR], k[at + ANCHOR_SCALE] = k[at + MEAN], k[at + LEVEL_SCALE]


@inlined
def follow(k: Floats, at: int, r: float, gain: float, width: float, time_us: int) -> None:
    """Let the level of a view follow a reading, and the sums that find an onset.

    No reading, and no level, counts for more than about twice the band.
    """
    mean, scale = k[at + MEAN], k[at + SCALE]
    if k[at + COUNT] == 0:
        k[at + LEVEL] = k[at + SHOWN] = k[at + MEAN] = mean = r
    else:
        k[at + SHOWN] += gain * (r - k[at + SHOWN])
        if scale > 0:
            inside = min(max(r, mean - reach(k, at, -1.0, width)), mean + reach(k, at, 1.0, width))
            moved = k[at + LEVEL] + gain * (inside - k[at + LEVEL])
            up, down = level_reach(k, at, 1.0, width), level_reach(k, at, -1.0, width)
            k[at + LEVEL] = min(max(moved, mean - 2 * down), mean + 2 * up)
        else:
            k[at + LEVEL] += gain * (r - k[at + LEVEL])
    if scale <= 0:
        return
    # One-sided sums both ways: the last time that one was zero is when its side began (Hinkley 1971).
    z, above, below = (r - mean) / scale, k[at + ABOVE], k[at + BELOW]
    if above == 0:
        k[at + ABOVE_SINCE] = time_us
    if below == 0:
        k[at + BELOW_SINCE] = time_us
    k[at + ABOVE] = min(max(above + z - SLACK, 0.0), 1e6)
    k[at + BELOW] = min(max(below - z - SLACK, 0.0), 1e6)


@inlined
def reach(k: Floats, at: int, side: float, width: float) -> float:
    """Returns how far a reading may lie from the mean: standard deviations, or somewhat beyond all that was seen."""
    return float(max(width * k[at + SCALE], NEWS * (k[at + HIGHEST] if side > 0 else k[at + LOWEST])))


@inlined
def level_reach(k: Floats, at: int, side: float, width: float) -> float:
    """The same for the level."""
    return float(max(width * k[at + LEVEL_SCALE], NEWS * (k[at + LEVEL_HIGHEST] if side > 0 else k[at + LEVEL_LOWEST])))


@inlined
def learn(k: Floats, at: int, r: float, time_us: int, learnt: bool, width: float, bounded: bool) -> None:
    """One clean reading into a view; ``bounded`` is whether its mean keeps to the bounds of a protected view."""
    if k[at + COUNT] == 0:
        k[at + FIRST_US] = time_us
    mean = k[at + MEAN]
    off = r - mean
    if learnt:
        up, down = reach(k, at, 1.0, width), reach(k, at, -1.0, width)
        off = min(max(off, -down), up)
    keep = 1 - 1 / HORIZON
    k[at + HIGHEST], k[at + LOWEST] = max(k[at + HIGHEST] * keep, off), max(k[at + LOWEST] * keep, -off)
    # How far the level went from the mean counts only once it has come back: a slow climb does not teach itself.
    far = k[at + LEVEL] - mean
    if far * k[at + FARTHEST] < 0:
        if k[at + FARTHEST] > 0:
            k[at + LEVEL_HIGHEST] = max(k[at + LEVEL_HIGHEST] * keep, k[at + FARTHEST])
        else:
            k[at + LEVEL_LOWEST] = max(k[at + LEVEL_LOWEST] * keep, -k[at + FARTHEST])
        k[at + FARTHEST] = far
    elif np.abs(far) > np.abs(k[at + FARTHEST]):
        k[at + FARTHEST] = far
    learn_blocks(k, at + TABLE, mean + off)
    k[at + COUNT] += 1
    mean += off * gain_after(k[at + COUNT], 1 / HORIZON)
    if bounded and k[at + ANCHOR_SCALE] > 0:
        most = MOVES * k[at + ANCHOR_SCALE]
        mean = min(max(mean, k[at + ANCHOR] - most), k[at + ANCHOR] + most)
    k[at + MEAN] = mean


@inlined
def _trend(k: Floats, own: int) -> tuple[float, float]:
    """Returns how sure it is that the signal has a steady trend (t squared), and its slope for each reading."""
    most, slope, size = 0.0, 0.0, 1.0
    for octave in range(OCTAVES):
        o = own + OWN + TABLE + octave * PER_OCTAVE
        count = min(k[o + BLOCKS] - 1, max(HORIZON / size, 8.0))
        if count >= TREND_BLOCKS and k[o + DIFFERENCE] > 0:
            share = k[o + SIGNED] ** 2 / k[o + DIFFERENCE]
            sure = (count - 1) * share / max(1 - share, 1e-9)
            if sure > most:
                most, slope = sure, k[o + SIGNED] / size
        size *= 2
    return most, slope


@kernel
def settle(k: Floats, own: int, view: int, time_us: int, usual_us: float, span: float, learn_for: float) -> None:
    """What is worked out of a view now and then: its band, whether it is protected, whether there is a trend."""
    at = own + OWN + view * PER_VIEW
    rescale(k, at, span, np.abs(k[own + OWN + MEAN]))
    if view == TREND or k[at + COUNT] < PROTECTED_AFTER * learn_for:
        return
    sure, slope = _trend(k, own)
    if k[at + ANCHOR_SCALE] == 0 and sure < TREND_DOUBT and time_us - k[at + FIRST_US] >= DAY_US:
        protect(k, at)
    if k[own + TRENDS] > 0 and sure < TREND_OVER:
        k[own + TRENDS] = 0.0
    elif k[own + TRENDS] == 0 and sure >= TREND_SURE and usual_us > 0:
        begin = own + OWN + TREND * PER_VIEW
        k[begin : begin + PER_VIEW] = 0.0
        k[own + TRENDS], k[own + LINE], k[own + LINE_US] = 1.0, k[own + OWN + SHOWN], time_us
        k[own + SLOPE] = k[own + MEAN_SLOPE] = slope / usual_us


@inlined
def follow_line(k: Floats, own: int, r: float, time_us: int, usual_us: float, most: float) -> None:
    """Let the line follow a clean reading that lies by ``r`` off it (Holt 1957), for no more than the band."""
    since = time_us - k[own + LINE_US]
    r = min(max(r, -most), most)
    k[own + LINE] += k[own + SLOPE] * since + FOLLOWS * r
    k[own + SLOPE] += FOLLOWS * FOLLOWS / 4 * r / usual_us
    k[own + MEAN_SLOPE] += SLOPE_GAIN * (k[own + SLOPE] - k[own + MEAN_SLOPE])
    k[own + LINE_US] = time_us


@kernel
def choose(k: Floats, own: int, learn_for: float) -> None:
    """The narrowest view that has learnt enough speaks; a rhythm, or a trend, must make the band clearly narrower."""
    best, least = AS_IS, 0.0
    for view in range(VIEWS):
        at = own + OWN + view * PER_VIEW
        narrower = TREND_NARROWER if view == TREND else NARROWER
        if view == TREND and k[own + TRENDS] == 0:
            continue
        if k[at + COUNT] >= learn_for and (view == AS_IS or k[at + SCALE] < narrower * least):
            best, least = view, k[at + SCALE]
    k[own + SPEAKS] = best


@kernel
def forget(k: Floats, own: int, profile: Singles, start: int) -> None:
    """Begin anew at the level that the signal has now; its rhythm is kept, moved to that level."""
    at = speaking(k, own)
    moved = np.float32(k[at + SHOWN] - k[at + MEAN])
    for first, slots, total in (
        (start, HOURS_A_DAY, own + DAY_TOTAL), (start + WEEK_AT, HOURS_A_WEEK, own + WEEK_TOTAL)
    ):  # fmt: skip
        for slot in range(slots):
            if profile[first + slots + slot] > 0:
                before = profile[first + slot]
                profile[first + slot] += moved
                k[total] += profile[first + slot] - before
    k[own : own + HOURS] = 0.0
    k[own + TRENDS : own + PER_SIGNAL] = 0.0
