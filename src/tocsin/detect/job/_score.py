"""Probabilities as scores from 0 to 100, in proportion to the worst that the job has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tocsin.batch import Floats

KNOTS = (2.0, 3.0, 3.5, 4.4, 5.25, 7.5, 12.0, 30.0)
"""-log10 of a probability ..."""
SCORES = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 97.0, 100.0)
"""... and the score that it has while nothing worse is usual."""
BINS = 320
BIN = 0.125
FORGET = 1.0 - 1.0 / 5_000.0
"""A bucket counts half after 3,500 further ones."""


class Normaliser:
    """Scores in proportion to the job's own past: how improbable the worst of each bucket was.

    What 2 % of the buckets reach is worth at most 75, what 3 % reach at most 50, 5 % at most 25: a job whose data is
    wild rings no more often than one whose data is calm. Where nothing has happened yet, `KNOTS` alone decide.
    """

    def __init__(self, counts: Sequence[float] | None = None, worst: float = 0.0) -> None:
        self.counts: Floats = np.zeros(BINS) if counts is None else np.array(counts, np.float64)
        self.worst = worst
        self.knots = self._knots()

    def observe(self, worst: float) -> None:
        """The least probable thing of one more bucket."""
        self.counts *= FORGET
        self.counts[min(int(worst / BIN), BINS - 1)] += 1.0
        self.worst = max(self.worst, worst)
        self.knots = self._knots()

    def score(self, surprise: float) -> float:
        """The score of a surprise (-log10 of a probability), by what is known now."""
        return float(np.interp(surprise, self.knots, SCORES))

    def _knots(self) -> Floats:
        knots = np.array(KNOTS)
        total = self.counts.sum()
        if total >= 100:
            above = np.cumsum(self.counts[::-1])[::-1]
            # Some few buckets prove nothing about what is usual.
            for at, share in ((2, 0.05), (3, 0.03), (4, 0.02)):
                reached = np.flatnonzero(above > max(share * total, 10.0))
                if len(reached):
                    knots[at] = max(knots[at], (reached[-1] + 1) * BIN)
        if self.worst > KNOTS[-1]:
            knots[-1] = self.worst
        for at in range(1, len(knots)):
            knots[at] = max(knots[at], knots[at - 1] + 0.25)
        return knots


def together(surprises: Sequence[float]) -> float:
    """Of several surprises in one bucket: the greatest, and a little for each other one."""
    ordered = sorted(surprises, reverse=True)
    return ordered[0] + 0.1 * sum(max(s - 2.0, 0.0) for s in ordered[1:10]) if ordered else 0.0
