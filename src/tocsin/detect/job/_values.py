"""The functions: one value for each group of a bucket's rows."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats, Ints


@dataclass(frozen=True, slots=True)
class ModelShape:
    """How the values of a function are modelled: square roots of counts (their spread is then the same whatever the
    level), logarithms of sizes, plain numbers else."""

    kind: str
    floor: float
    """The smallest usual error, in modelled units."""

    def inward(self, values: Floats) -> Floats:
        if self.kind == "root":
            return np.sqrt(np.maximum(values, 0.0) + 0.375)
        if self.kind == "log":
            return np.sign(values) * np.log1p(np.abs(values))
        return values

    def outward(self, values: Floats) -> Floats:
        if self.kind == "root":
            return np.maximum(np.square(np.maximum(values, 0.0)) - 0.375, 0.0)
        if self.kind == "log":
            return np.sign(values) * np.expm1(np.minimum(np.abs(values), 700.0))
        return values

    @property
    def least(self) -> float:
        return float(np.sqrt(0.375)) if self.kind == "root" else -float("inf")


ROOT, LOG, PLAIN = ModelShape("root", 0.2), ModelShape("log", 0.02), ModelShape("plain", 1e-9)


def shape(function: str, population: bool) -> ModelShape:
    """A population's members differ by factors, one member's own values by amounts."""
    if function in ("count", "non_zero_count", "distinct_count", "freq_rare"):
        return ROOT
    if function in ("info_content", "varp", "lat_long") or population:
        return LOG
    return PLAIN


ZERO_WHEN_ABSENT = ("count", "sum")
"""Functions for which a known series without rows has the value 0; the others skip the bucket."""
NUMERIC = ("min", "max", "mean", "median", "sum", "non_null_sum", "varp", "metric")
TEXTUAL = ("distinct_count", "info_content", "lat_long")
PARTS: Mapping[str, tuple[str, ...]] = {"metric": ("mean", "min", "max")}
"""Functions that are several models side by side."""


def numeric(function: str, groups: Ints, count: int, x: Floats, weight: Floats) -> Floats:
    """Value of a numeric function for groups 0 ... count - 1, NaN where a group has no number.

    ``weight`` is how many documents a row stands for: a row of a summary holds their mean (or sum, min, max).
    """
    known = ~np.isnan(x)
    groups, x, weight = groups[known], x[known], weight[known]
    n = np.bincount(groups, weight, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        if function in ("sum", "non_null_sum"):
            return np.where(n > 0, np.bincount(groups, x, count), np.nan)
        mean = np.bincount(groups, x * weight, count) / n
        if function == "mean":
            return mean
        if function == "varp":
            return np.where(n > 1, np.bincount(groups, weight * (x - mean[groups]) ** 2, count) / n, np.nan)
    out = np.full(count, np.nan)
    if not len(x):
        return out
    if function in ("min", "max"):
        order = np.argsort(groups, kind="stable")
        first = np.flatnonzero(np.diff(groups[order], prepend=-1))
        pick = np.minimum if function == "min" else np.maximum
        out[groups[order][first]] = pick.reduceat(x[order], first)
        return out
    order = np.lexsort((x, groups))  # median
    ends = np.cumsum(np.bincount(groups, minlength=count))
    sizes = np.diff(ends, prepend=0)
    here = np.flatnonzero(sizes)
    begin = ends[here] - sizes[here]
    ordered = x[order]
    out[here] = (ordered[begin + (sizes[here] - 1) // 2] + ordered[begin + sizes[here] // 2]) / 2
    return out


def counts(groups: Ints, count: int, weight: Floats) -> Floats:
    """Documents in each group."""
    return np.bincount(groups, weight, count).astype(np.float64)


def distinct(groups: Ints, count: int, codes: Ints) -> Floats:
    """Different values in each group; a code below 0 is no value."""
    here = codes >= 0
    pairs = np.unique(np.stack([groups[here], codes[here]]), axis=1)
    counts = np.bincount(pairs[0], minlength=count).astype(np.float64)
    counts[np.bincount(groups[here], minlength=count) == 0] = np.nan
    return counts


def information(groups: Ints, count: int, codes: Ints, words: npt.NDArray[np.object_]) -> Floats:
    """Bytes that the different texts of each group take, compressed."""
    out = np.full(count, np.nan)
    here = codes >= 0
    pairs = np.unique(np.stack([groups[here], codes[here]]), axis=1)
    for group in np.unique(pairs[0]):  # compression dominates: some 20 µs a group
        texts = sorted(str(words[code]) for code in pairs[1][pairs[0] == group])
        out[group] = len(zlib.compress("".join(texts).encode("utf-8", "replace"), 6)) - 8
    return out


def place(text: str) -> tuple[float, float] | None:
    """Latitude and longitude of ``"52.5,13.4"``."""
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        return None
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else None


def distance_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Great-circle distance."""
    la, oa, lb, ob = (math.radians(angle) for angle in (*a, *b))
    half = math.sin((lb - la) / 2) ** 2 + math.cos(la) * math.cos(lb) * math.sin((ob - oa) / 2) ** 2
    return 12_742.0 * math.asin(math.sqrt(min(half, 1.0)))
