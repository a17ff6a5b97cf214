"""What is counted rather than modelled: categories (rare, freq_rare), times of day and week, places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tocsin.detect.job._values import distance_km

LEARN = 20
"""Buckets before something can be rare, as in the original."""
CATEGORIES_MAX = 50_000
"""So many categories are remembered for each partition; the ones not seen for longest go first."""
MEMBERS_MAX = 1_000
PLACES_MAX = 40
STEEP = 2.4
"""A first appearance among some hundred quiet buckets is as surprising as a value of probability 10^-5.5."""

Memory = dict[str, Any]


class Categories:
    """How often each category was seen, in how many buckets (or by how many members of the population)."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        memory.setdefault("n", 0)
        memory.setdefault("seen", {})
        seen: dict[str, list[Any]] = memory["seen"]
        self.seen = seen

    @property
    def buckets(self) -> int:
        return int(self.memory["n"])

    def surprise(self, category: str) -> tuple[float, float]:
        """-log10 of how seldom something as rare as this comes, made steeper; and that rate itself, for a bucket."""
        if self.buckets < LEARN:
            return 0.0, 1.0
        count = self.seen[category][0] if category in self.seen else 0
        if count > 0.1 * self.buckets:
            return 0.0, min(1.0, count / self.buckets)
        as_rare = sum(c for c, *_ in self.seen.values() if c <= max(count, 1))
        rate = min(1.0, (as_rare + 0.5) / (self.buckets + 1.0))
        surprise = -STEEP * math.log10(rate)
        return (surprise if count == 0 else max(surprise - 1.0, 0.0)), rate

    def learn(self, category: str, bucket: int) -> None:
        """Seen in this bucket."""
        entry = self.seen.setdefault(category, [0, bucket])
        entry[0] += 1
        entry[1] = bucket

    def end(self) -> None:
        """One more bucket with rows."""
        self.memory["n"] += 1
        if len(self.seen) > CATEGORIES_MAX:
            oldest = sorted(self.seen, key=lambda c: self.seen[c][1])[: len(self.seen) - CATEGORIES_MAX * 9 // 10]
            for category in oldest:
                del self.seen[category]

    def prune(self, before: int) -> None:
        """Forget what was last seen before a bucket."""
        for category in [c for c, entry in self.seen.items() if entry[1] < before]:
            del self.seen[category]


class Members:
    """Which members of a population have a category."""

    def __init__(self, memory: Memory) -> None:
        memory.setdefault("n", 0)
        memory.setdefault("has", {})
        self.memory = memory
        has: dict[str, list[str]] = memory["has"]
        self.has = has
        self.everyone: dict[str, int] = memory.setdefault("everyone", {})

    def surprise(self, category: str, member: str) -> tuple[float, float]:
        """How seldom a member has a category that so few others have."""
        if self.memory["n"] < LEARN or len(self.everyone) < 5:
            return 0.0, 1.0
        others = [m for m in self.has.get(category, ()) if m != member]
        share = (len(others) + 0.5) / (len(self.everyone) + 1.0)
        if share > 0.1:
            return 0.0, share
        # Of all that members have, how much is shared by as few.
        total = sum(map(len, self.has.values()))
        as_rare = sum(len(ms) for ms in self.has.values() if len(ms) <= len(others) + 1 and len(ms) > 0)
        known = member in self.has.get(category, ())
        rate = min(1.0, (as_rare + 0.5) / (total + 1.0)) * (1.0 if known else min(1.0, 50.0 / (self.memory["n"] + 1.0)))
        return -STEEP * math.log10(max(rate, 1e-12)), rate

    def is_rare(self, category: str) -> bool:
        return len(self.has.get(category, ())) <= max(0.05 * len(self.everyone), 1.0)

    def learn(self, category: str, member: str, bucket: int) -> None:
        listed = self.has.setdefault(category, [])
        if member not in listed and len(listed) < MEMBERS_MAX:
            listed.append(member)
        self.everyone[member] = bucket

    def end(self) -> None:
        self.memory["n"] += 1
        for crowd in (self.has, self.everyone):
            while len(crowd) > CATEGORIES_MAX:
                del crowd[next(iter(crowd))]


class TimesOfDay:
    """At what times of the day (or week) things happen: a circle of quarter hours, smoothed over its neighbours."""

    def __init__(self, memory: Memory, period_s: int, now_s: float) -> None:
        self.bins = period_s // 900
        # A time of day is known after three days, one of the week after two weeks.
        self.ready = now_s - memory.setdefault("born", now_s) >= max(2 * period_s, 259_200)
        self.memory = memory
        memory.setdefault("n", 0)
        memory.setdefault("circle", [0.0] * self.bins)

    def surprise(self, second: float) -> tuple[float, float, float]:
        """How seldom something happens at such a time; the rate; and the usual time nearest to it."""
        n = self.memory["n"]
        if n < LEARN or not self.ready:
            return 0.0, 1.0, second
        circle = np.array(self.memory["circle"])
        weights = ((-2, 0.5), (-1, 1.0), (0, 1.0), (1, 1.0), (2, 0.5))
        smooth = np.sum([np.roll(circle, k) * w for k, w in weights], axis=0)
        here = int(second // 900) % self.bins
        density = smooth[here]
        rate = min(1.0, (circle[smooth <= max(density, 0.5)].sum() + 0.5) / (circle.sum() + 1.0))
        busy = np.flatnonzero(smooth >= 0.25 * smooth.max())
        nearest = busy[np.argmin(np.minimum((busy - here) % self.bins, (here - busy) % self.bins))]
        surprise = -STEEP * math.log10(rate) if density < 0.05 * smooth.max() else 0.0
        return surprise, rate, float(nearest * 900 + 450)

    def learn(self, second: float) -> None:
        self.memory["n"] += 1
        self.memory["circle"][int(second // 900) % self.bins] += 1.0


class Places:
    """Where things happen: up to `PLACES_MAX` centres."""

    def __init__(self, memory: Memory) -> None:
        self.centres: list[list[float]] = memory.setdefault("centres", [])

    def nearest(self, here: tuple[float, float]) -> tuple[tuple[float, float], float] | None:
        """The usual place nearest to this, and how far it is; None if there is none yet."""
        if not self.centres:
            return None
        far, at = min((distance_km(here, (c[0], c[1])), i) for i, c in enumerate(self.centres))
        return (self.centres[at][0], self.centres[at][1]), far

    def learn(self, here: tuple[float, float]) -> None:
        place = self.nearest(here)
        if place is None or (place[1] > 20.0 and len(self.centres) < PLACES_MAX):
            self.centres.append([*here, 1.0])
            return
        centre = min(self.centres, key=lambda c: distance_km(here, (c[0], c[1])))
        centre[2] += 1.0
        gain = max(1.0 / centre[2], 0.02)
        if abs(here[1] - centre[1]) < 180:
            centre[0] += gain * (here[0] - centre[0])
            centre[1] += gain * (here[1] - centre[1])
