"""Has this series ever looked like this before?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tocsin.bases import Detector, Judgement, Tells
from tocsin.batch import Codes, Floats, Ints
from tocsin.kernels import kernel
from tocsin.state import Columns, Field

# One set of constants for all series, chosen by cross-validation over 29 series of the Numenta Anomaly Benchmark and
# copies of them that lack some of their rows (docs/decisions/novelty.md has the tables).
START = 80  # readings until distances are taken
SCORE_FROM = 120  # readings until there is a verdict
STORE = 128  # values remembered in a channel
RADIUS = 0.02  # a value closer than this (in standard deviations) to a remembered one is not remembered
QUANTILE = 0.975  # distances above this running quantile make the tail
XI_MAX = 0.45  # heaviest tail
GATE = 0.8  # share of the variance that the weekly rhythm must explain before it is taken off
RECENT = 80  # usual intervals in which only a higher score is news
STORM = 0.8  # how much the bar rises with the logarithm of the number of rings so far in a storm
STORM_SPAN = 500.0  # usual intervals in which the number of rings falls to 37 %
ON_TIME = 1.5  # a difference between readings further apart than so many usual intervals is not judged
RING = 2.4  # novelty that the shipped threshold, score 50, stands for
RARE = 2e-5  # share of readings that may score above 75

CHANNELS = 10  # value, residual; averages over 3, 10, 40 of both; logarithm; difference
WEIGHTS = (1.0, 0.5, 0.5, 0.5, 0.25, 0.25)  # of value or residual, the three averages, logarithm, difference

# Columns of the arrays below.
N, ORIGIN, LAST, MEAN_X, VAR_X, MEAN_R, VAR_R, LOW, SCALE, RINGS, EXCESS, AVERAGES = range(12)
TIME, INTERVAL, CLOCK, STORMY = range(AVERAGES + 6, AVERAGES + 10)
SINGLES = AVERAGES + 10
C_MEAN, C_VAR, C_QUANTILE, C_TAIL, C_SUM, C_SQUARES, C_COUNT, C_RADIUS = range(8)
PER_CHANNEL = 8

Singles = npt.NDArray[np.float32]


@kernel
def _thin(store: Singles, count: int, gap: float) -> int:
    """Keep only values that are further apart than ``gap``; returns how many are left."""
    kept = 1
    for i in range(1, count):
        if store[i] - store[kept - 1] > gap:
            store[kept] = store[i]
            kept += 1
    return kept


@kernel
def _distance(store: Singles, count: int, value: float) -> tuple[int, float]:
    """Where ``value`` stands in the sorted store, and how far it is from the nearest value there."""
    low, high = 0, count
    while low < high:
        middle = (low + high) >> 1
        if store[middle] < value:
            low = middle + 1
        else:
            high = middle
    distance = np.inf
    if low < count:
        distance = store[low] - value
    if low > 0:
        distance = min(distance, value - store[low - 1])
    return low, distance


@kernel
def _tail(channel: Floats, distance: float) -> float:
    """-log10 of the probability of a distance beyond the running quantile: generalised Pareto by moments."""
    mean = channel[C_SUM] / channel[C_TAIL]
    variance = max(channel[C_SQUARES] / channel[C_TAIL] - mean * mean, 1e-18)
    xi = min(max(0.5 * (1.0 - mean * mean / variance), 0.0), XI_MAX)
    z = (distance - channel[C_QUANTILE]) / max(mean * (1.0 - xi), 1e-12)
    beyond = z / np.log(10.0) if xi < 1e-6 else np.log10(1.0 + xi * z) / xi
    return float(beyond - np.log10(1.0 - QUANTILE))


@kernel
def _novelty(channel: Floats, store: Singles, value: float, n: int) -> float:
    """Judge a value of one channel against all that it remembers, then learn it."""
    score = 0.0
    channel[C_COUNT] += 1.0
    off = value - channel[C_MEAN]
    channel[C_MEAN] += off / channel[C_COUNT]
    channel[C_VAR] += off * (value - channel[C_MEAN])
    sigma = np.sqrt(channel[C_VAR] / channel[C_COUNT])
    count = int(store[STORE])
    value = float(np.float32(value))
    at, distance = _distance(store, count, value)
    if count and n > START:
        relative = distance / sigma if sigma > 0.0 else 0.0
        quantile = channel[C_QUANTILE]
        if relative > quantile:
            if n > SCORE_FROM and channel[C_TAIL] > 5.0:
                score = _tail(channel, relative)
            elif n > SCORE_FROM and channel[C_TAIL] == 0.0:  # nothing was ever new: once in so many readings
                score = np.log10(n)
            excess = relative - quantile
            channel[C_TAIL] += 1.0
            channel[C_SUM] += excess
            channel[C_SQUARES] += excess * excess
        # Running quantile by stochastic approximation (Robbins & Monro 1951), in steps relative to itself; slow on
        # purpose: a quantile that follows fast forgets what is unusual.
        step = 3.0 * max(1.0 / (n - START), 0.002) * max(quantile, 0.01)
        channel[C_QUANTILE] = max(quantile + step * (QUANTILE if relative > quantile else QUANTILE - 1.0), 0.0)
    if count == 0 or distance > channel[C_RADIUS] * sigma:
        full = count == STORE
        while count == STORE:
            channel[C_RADIUS] *= 1.5
            count = _thin(store, count, channel[C_RADIUS] * sigma)
        if full:
            at, _ = _distance(store, count, value)
        for i in range(count, at, -1):
            store[i] = store[i - 1]
        store[at] = value
        store[STORE] = count + 1
    return score


@kernel
def _logarithm(value: float, low: float, scale: float) -> float:
    z = (value - low) / scale
    return float(np.log1p(z) if z >= 0.0 else -np.log1p(-z))


@kernel
def _learn_logarithm(key: Floats, channel: Floats, store: Singles, first: Singles) -> None:
    """Fix the scale of the logarithm by the first `START` readings, and let it learn them."""
    ordered = np.sort(first)
    key[LOW] = ordered[0]
    middle = 0.5 * (ordered[START // 2 - 1] + ordered[START // 2]) - ordered[0]
    if middle <= 0.0:
        middle = ordered[-1] - ordered[0]
    key[SCALE] = middle if middle > 0.0 else 1.0
    for value in first:
        _novelty(channel, store, _logarithm(value, key[LOW], key[SCALE]), 0)


@kernel
def _elapsed(key: Floats, time_us: int) -> float:
    """Returns the time since the reading before, in usual intervals (their running median), at most `RECENT`.

    What comes about when it should counts as one interval, so that jitter changes nothing.
    """
    since = max(time_us - key[TIME], 0.0)
    key[TIME] += since
    if key[INTERVAL] == 0.0:
        key[INTERVAL] = since
    elif since > 0.0 and since != key[INTERVAL]:
        gain = max(1.0 / key[N], 0.01)
        key[INTERVAL] *= np.exp(gain if since > key[INTERVAL] else -gain)
    intervals = since / key[INTERVAL] if key[INTERVAL] > 0.0 else 1.0
    return 1.0 if abs(intervals - 1.0) < 0.3 else min(intervals, float(RECENT))


@kernel
def _is_news(key: Floats, recent: Singles, novelty: float, intervals: float) -> bool:
    """Whether a novelty is higher than all in the last `RECENT` intervals; it is remembered by when it came."""
    for at in range(int(key[CLOCK]) + 1, int(key[CLOCK] + intervals) + 1):
        recent[at % RECENT] = 0.0
    key[CLOCK] += intervals
    if novelty == 0.0:
        return False
    news = novelty > float(recent.max())
    at = int(key[CLOCK]) % RECENT
    recent[at] = max(recent[at], novelty)
    return news


@kernel
def _surprises(
    key: Floats, channel: Floats, store: Singles, x: float, residual: float, rhythmic: bool, n: int, on_time: bool
) -> float:
    """The weighted sum of the squared novelties of all channels; each learns its value."""
    first = n == 1
    score_x, score_r = _novelty(channel[0], store[0], x, n), _novelty(channel[1], store[1], residual, n)
    total = (score_r if rhythmic else score_x) ** 2
    for i in range(3):
        gain = (0.5, 2.0 / 11.0, 2.0 / 41.0)[i]
        a, b = AVERAGES + i, AVERAGES + 3 + i
        key[a] = x if first else key[a] + gain * (x - key[a])
        key[b] = residual if first else key[b] + gain * (residual - key[b])
        score_x = _novelty(channel[2 + i], store[2 + i], key[a], n)
        score_r = _novelty(channel[5 + i], store[5 + i], key[b], n)
        total += WEIGHTS[1 + i] * (score_r if rhythmic else score_x) ** 2
    if n > START:
        logarithm = _logarithm(x, key[LOW], key[SCALE])
        total += WEIGHTS[4] * _novelty(channel[8], store[8], logarithm, n) ** 2
    if on_time:
        total += WEIGHTS[5] * _novelty(channel[9], store[9], 0.0 if first else x - key[LAST], n) ** 2
    return float(total)


@kernel
def judge(
    slots: Codes,
    times_us: Ints,
    values: Floats,
    keys: Floats,
    channels: Floats,
    stores: Singles,
    week: Singles,
    recent: Singles,
    out: Floats,
) -> None:
    """Judge readings in time order, then learn each; ``out`` is (4, rows): expected, lower, upper, score."""
    for row in range(len(slots)):
        out[0, row] = out[1, row] = out[2, row] = out[3, row] = np.nan
        if np.isnan(values[row]):
            continue
        slot = slots[row]
        key, channel, store = keys[slot], channels[slot], stores[slot]
        first = key[N] == 0.0
        if first:
            key[ORIGIN] = values[row]
        x = values[row] - key[ORIGIN]
        if first:
            key[TIME] = times_us[row]
        elif x == key[LAST] and times_us[row] == key[TIME]:
            continue  # the same reading again
        n = int(key[N]) + 1
        key[N] = n
        intervals = 1.0 if first else _elapsed(key, times_us[row])
        hour = (times_us[row] // 3_600_000_000) % 168
        seen = week[slot, 168 + hour]
        rhythm = week[slot, hour] if seen > 0.0 else key[MEAN_X]
        rhythmic = n > 1 and key[VAR_X] > 0.0 and 1.0 - key[VAR_R] / key[VAR_X] > GATE
        if n > SCORE_FROM:
            expected = rhythm if rhythmic else key[AVERAGES + 1]
            band = 3.0 * np.sqrt(max(channel[1 if rhythmic else 9, C_VAR], 0.0) / (n - 1))
            out[0, row] = key[ORIGIN] + expected
            out[1, row] = out[0, row] - band
            out[2, row] = out[0, row] + band
        residual = x - rhythm
        week[slot, 168 + hour] = seen + 1.0
        week[slot, hour] += (x - week[slot, hour]) * max(1.0 / (seen + 1.0), 0.1)
        off = x - key[MEAN_X]
        key[MEAN_X] += off / n
        key[VAR_X] += off * (x - key[MEAN_X])
        off = residual - key[MEAN_R]
        key[MEAN_R] += off / n
        key[VAR_R] += off * (residual - key[MEAN_R])
        rhythmic = key[VAR_X] > 0.0 and 1.0 - key[VAR_R] / key[VAR_X] > GATE

        total = _surprises(key, channel, store, x, residual, rhythmic, n, intervals <= ON_TIME)
        key[LAST] = x
        if n <= START:
            recent[slot, n - 1] = x
            if n == START:
                _learn_logarithm(key, channel[8], store[8], recent[slot])
                recent[slot] = 0.0
            continue
        novelty = float(np.float32(np.sqrt(total)))  # as it will be remembered
        if key[STORMY] > 0.0:
            key[STORMY] *= np.exp(-intervals / STORM_SPAN)
        news = _is_news(key, recent[slot], novelty, intervals)
        if n > SCORE_FROM:
            out[3, row] = _score(key, novelty, n) if news else 0.0


@kernel
def _score(key: Floats, novelty: float, n: int) -> float:
    """0 to 100: 50 at `RING`, 75 where this series' own past says that `RARE` readings go beyond.

    In a storm the bar rises with each ring.
    """
    # Exponential tail of this series' own novelty above 2, with a prior worth two rings in 2,000 readings.
    mean = (key[EXCESS] + 2.0 * 0.7) / (key[RINGS] + 2.0)
    share = (key[RINGS] + 2.0) / (n + 2000.0)
    rare = max(2.0 + mean * np.log(max(share / RARE, 1.0)), RING + 1.0)
    if novelty > 2.0:
        key[RINGS] += 1.0
        key[EXCESS] += novelty - 2.0
    novelty = max(novelty - STORM * np.log(1.0 + key[STORMY]), 0.0)
    if novelty < RING:
        return float(50.0 * novelty / RING)
    key[STORMY] += 1.0
    if novelty < rare:
        return float(50.0 + 25.0 * (novelty - RING) / (rare - RING))
    return float(100.0 - 25.0 * np.exp((rare - novelty) / rare))


class Novelty(Detector):
    """Says how new a reading is for its own series; needs no settings. The detector to start with.

    Each reading is seen in six ways: as it is (or less its weekly rhythm, once that explains most of the variance),
    as averages over 3, 10 and 40 readings, as a logarithm and as a step. In each, the distance to the nearest value
    ever seen is held against the tail of such distances (generalised Pareto), and the surprises are added up. A score
    is given when it is higher than all of the last 80: what goes on being strange is no longer news. Each ring raises
    the bar for the next, for some 500 readings, so that bursts and a new regime ring a few times only.

    Times count, not places: 80 and 500 are multiples of the usual interval between readings, a jump across a gap is
    not taken for a sudden one, and the same reading twice is no reading. It is a surprise detector: it holds no level,
    and what lasts is not told for long (`health` does that).

    Score 50 is the threshold to ring at; above 75 comes about one normal reading in 50,000, by the series' own past.
    The first 120 readings have no verdict. Multiplying a series or adding to it changes nothing.

    Not for a sensor that stands still (`stuck`), nor for several signals that are only strange together
    (`multivariate`).

    Nearest-neighbour novelty after Knorr & Ng 1998; tails after Pickands 1975 and Siffer et al. 2017 (SPOT).

    Examples
    --------
    >>> import numpy as np
    >>> values = np.sin(np.arange(2000) / 9).round(3)
    >>> values[1500] = 5.0
    >>> verdict = feed(Novelty(), rows({"value": values}))
    >>> scores = verdict["score"].fill_null(0).to_numpy()
    >>> int(scores.argmax()), bool(scores.max() > 75)
    (1500, True)
    """

    STATE: ClassVar[int] = 2  # the first did not know when a reading came
    TELLS: ClassVar[Tells] = "surprise"
    EXAMPLES: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    def fields(self) -> Mapping[str, Field]:
        return {
            "keys": Field(width=SINGLES),
            "channels": Field(width=CHANNELS * PER_CHANNEL, initial=_FRESH),
            "stores": Field(np.float32, width=CHANNELS * (STORE + 1)),
            "week": Field(np.float32, width=336),
            "recent": Field(np.float32, width=RECENT),
        }

    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Judgement:
        out = np.empty((4, len(slots)))
        judge(
            slots, times, values, state["keys"],
            state["channels"].reshape(-1, CHANNELS, PER_CHANNEL), state["stores"].reshape(-1, CHANNELS, STORE + 1),
            state["week"], state["recent"], out,
        )  # fmt: skip
        return out[0], out[1], out[2], out[3]


_FRESH = np.tile(np.array([0.0] * C_RADIUS + [RADIUS]), CHANNELS)
