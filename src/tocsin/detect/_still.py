"""Whether a machine's signals still move and still come, and whether the machine is still heard: for `health`.

A signal is stuck when it has kept one value for ten times as many readings as ever before, and missing when it is
absent from ten times as many rows of its machine. What rests by nature (a switch, a counter, a coarse sensor), and what
moves smoothly, must have been watched for a week, or a day, before that says anything: the weekend, and the turn of a
slow swing, are longer than all standstills before them.

A machine is silent when there is no reading of it for ten times as long as ever before, by event time, while others are
heard or the watermark goes on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import inlined, int64, kernel, lent

TIMES = 10.0
"""How many times as long as ever before is too long."""
LEAST = 30.0
"""Readings of one value, or rows without one, below which nothing is said."""
CHANGES_LEAST = 30.0
"""Changes after which it is known how long a signal rests."""
LEAST_US = 60_000_000.0
"""Silence below which nothing is said."""
KEEP = 1 - 1 / 10_000
"""How late readings came is forgotten over so many of them."""
PLACES = 2**62 - 1
"""A place masked by it is not negative, which the compiler then knows."""
DAY_US, WEEK_US = 86_400_000_000.0, 604_800_000_000.0

# Where things stand in the numbers of a signal.
(
    VALUE, VALUE_SINCE, RUN, RUN_LONGEST, CHANGES, REPEATS, TURNS, WAY, SEEN, SEEN_FIRST, SEEN_LAST, ABSENT,
    ABSENT_LONGEST, PER_STILL,
) = range(14)  # fmt: skip
# And in what is known of when a machine is heard.
(HEARD_COUNT, HEARD_LAST, GAP_LONGEST, BEHIND, HEARD_TOLD, WATERMARK, PER_HEARD) = range(7)


@inlined
def _absence_allowed(s: Floats, at: int) -> float:
    """Returns in how many rows of its machine a signal may be missing."""
    return float(max(TIMES * s[at + ABSENT_LONGEST], LEAST))


@inlined
def too_still(s: Floats, at: int, x: float, time_us: int, counts: bool, clean: bool, learn_for: float) -> float:
    """Returns for how much of the longest time that is usual a signal has kept its value; 0 where that is not known.

    ``counts`` is whether the reading is far enough from the one before it in time, ``clean`` whether the standstill
    that it ends is one to learn from.
    """
    s[at + SEEN] += 1
    s[at + SEEN_LAST] = time_us
    if s[at + SEEN] <= learn_for or s[at + ABSENT] < _absence_allowed(s, at):
        s[at + ABSENT_LONGEST] = max(s[at + ABSENT_LONGEST], s[at + ABSENT])
    s[at + ABSENT] = 0.0
    if s[at + SEEN] == 1:
        s[at + VALUE], s[at + VALUE_SINCE], s[at + SEEN_FIRST] = x, time_us, time_us
        return 0.0
    if x != s[at + VALUE]:
        way = 1.0 if x > s[at + VALUE] else -1.0
        s[at + TURNS] += way * s[at + WAY] < 0
        s[at + WAY] = way
        s[at + CHANGES] += 1
        if clean:
            s[at + RUN_LONGEST] = max(s[at + RUN_LONGEST], s[at + RUN])
        s[at + VALUE], s[at + VALUE_SINCE], s[at + RUN] = x, time_us, 0.0
        return 0.0
    if counts:
        s[at + RUN] += 1
        s[at + REPEATS] += clean
    limit = max(TIMES * s[at + RUN_LONGEST], LEAST)
    if s[at + RUN] < limit or s[at + CHANGES] < CHANGES_LEAST or s[at + SEEN] < learn_for:
        return 0.0
    rests, smooth = 2 * (s[at + REPEATS] - s[at + RUN]) > s[at + SEEN], 4 * s[at + TURNS] < s[at + CHANGES]
    watched = s[at + VALUE_SINCE] - s[at + SEEN_FIRST]
    return float(s[at + RUN] / limit) if watched >= (WEEK_US if rests else DAY_US if smooth else 0.0) else 0.0


@inlined
def too_absent(s: Floats, at: int, learn_for: float) -> float:
    """Returns for how much of the most rows that is usual a signal is missing; counts the row that it is not in."""
    s[at + ABSENT] += 1
    return float(s[at + ABSENT] / _absence_allowed(s, at)) if s[at + SEEN] >= learn_for else 0.0


@inlined
def silence_allowed(h: Floats, at: int) -> float:
    """Returns how long a machine may be silent, in microseconds.

    Where readings come far behind the watermark (machines uploaded one after the other) that is what they may take.
    """
    return float(max(TIMES * max(h[at + GAP_LONGEST], h[at + BEHIND]), LEAST_US))


@kernel
def listen(
    slots: Codes, times: Ints, heard: npt.NDArray[np.bool_], h: Floats, count: int, learn_for: float, before: Ints,
    known: Ints, last: Ints,
) -> int:  # fmt: skip
    """Find silences that readings end, and learn how long a machine is silent; returns how many there are.

    Of each: before which row, when it was known, and the last reading before it. Where nobody was heard for as long,
    it is the stream that was silent (an engine that was stopped), and no machine is told.
    """
    h = lent(h)
    passed, newest = h[WATERMARK], 0.0  # the watermark is the same for all machines but new ones
    for slot in range(count):
        newest = max(newest, h[((slot * PER_HEARD) & PLACES) + HEARD_LAST])
    n = 0
    for i in range(len(slots)):
        if not heard[i]:
            continue
        at = (int64(slots[i]) * PER_HEARD) & PLACES
        since, allowed = times[i] - h[at + HEARD_LAST], silence_allowed(h, at)
        if passed != 0:
            h[at + BEHIND] = max(h[at + BEHIND] * KEEP, passed - times[i])
        h[at + HEARD_COUNT] += 1
        if h[at + HEARD_COUNT] > 1 and since > 0:
            if h[at + HEARD_COUNT] <= learn_for or since <= allowed:
                h[at + GAP_LONGEST] = max(h[at + GAP_LONGEST], since)
            elif h[at + HEARD_TOLD] == 0 and times[i] - newest > allowed:
                _begin_again(h, count, times[i])
            elif h[at + HEARD_TOLD] == 0:
                before[n], known[n], last[n] = i, int64(h[at + HEARD_LAST] + allowed) + 1, int64(h[at + HEARD_LAST])
                n += 1
            h[at + HEARD_TOLD] = 0.0
        h[at + HEARD_LAST] = max(h[at + HEARD_LAST], times[i])
        newest = max(newest, h[at + HEARD_LAST])
    return n


@kernel
def _begin_again(h: Floats, count: int, time_us: int) -> None:
    """The stream was silent: nobody is missed for the time until now."""
    for slot in range(count):
        at = slot * PER_HEARD
        if h[at + HEARD_COUNT] > 0 and h[at + HEARD_TOLD] == 0:
            h[at + HEARD_LAST] = max(h[at + HEARD_LAST], time_us)


@kernel
def overdue(h: Floats, count: int, watermark_us: int, learn_for: float, slots: Codes, known: Ints, last: Ints) -> int:
    """Find machines that the watermark shows to be silent, once each; returns how many there are."""
    h = lent(h)
    n = 0
    for slot in range(count):
        at = (slot * PER_HEARD) & PLACES
        h[at + WATERMARK] = watermark_us
        if h[at + HEARD_COUNT] < learn_for or h[at + HEARD_TOLD] > 0:
            continue
        allowed = silence_allowed(h, at)
        if h[at + HEARD_LAST] + allowed < watermark_us:
            slots[n], known[n], last[n] = slot, int64(h[at + HEARD_LAST] + allowed) + 1, int64(h[at + HEARD_LAST])
            h[at + HEARD_TOLD] = 1.0
            n += 1
    return n
