"""How well a machine is: one number from its detectors, forecasts and remaining life, and what pulls it down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tocsin.serve.messages import Contribution, Life

SPAN = 20
"""So many of the newest readings count: one reading that is odd pulls little down, a level that stays odd does."""
CALM, GRAVEST = 50.0, 100.0
"""A mean score up to the one pulls nothing down, the other all; 75, where a detector's limit is, half."""
LIFE = "remaining life"
"""What a life that comes to its end is called beside the signals."""

Scores = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Verdicts:
    """The newest scores of one stream of verdicts on a machine, and which signal each is about; oldest first."""

    scores: Scores
    about: list[str]

    def pulls(self) -> Mapping[str, float]:
        """Returns how much each signal pulls down, 0 to 1; what is told of several is shared out by their scores."""
        known = np.isfinite(self.scores)
        if not known.any():
            return {}
        mean = float(self.scores[known].mean())
        pull = min(max((mean - CALM) / (GRAVEST - CALM), 0.0), 1.0)
        sums: dict[str, float] = {}
        for score, signal in zip(self.scores[known].tolist(), np.array(self.about)[known].tolist(), strict=True):
            sums[signal] = sums.get(signal, 0.0) + score
        whole = sum(sums.values()) or 1.0
        return {signal: pull * part / whole for signal, part in sums.items()}


@dataclass(slots=True)
class Condition:
    """What detectors, forecasts and models have said of one machine lately."""

    _verdicts: dict[tuple[str, str], _Verdicts] = field(default_factory=dict)
    """By stream and signal; the signal is empty where the rows say which one they are about."""
    _lives: dict[str, tuple[Scores, Life]] = field(default_factory=dict)
    """By stream: the last times in milliseconds, and what is left."""
    _longest: dict[str, float] = field(default_factory=dict)
    """By stream: the longest remaining life that was told; it is as good as new there."""
    _told: tuple[int | None, list[Contribution], Life | None] | None = None

    def judge(self, stream: str, signal: str, scores: Scores, about: Sequence[str] | None = None) -> None:
        """Take in scores (0 to 100, NaN for none), oldest first; ``about`` names the signal of each if they differ."""
        names = [signal] * min(len(scores), SPAN) if about is None else list(about[-SPAN:])
        before = self._verdicts.get((stream, signal))
        if before is not None:
            scores, names = np.concatenate((before.scores, scores[-SPAN:])), before.about + names
        self._verdicts[stream, signal] = _Verdicts(scores[-SPAN:], names[-SPAN:])
        self._told = None

    def foresee(self, stream: str, times_ms: Scores, lives: Scores) -> None:
        """Take in how many readings are left, oldest first; ``lives`` has shape (rows, 4): see `Life`."""
        known = np.isfinite(lives).all(axis=1)
        if not known.any():
            return
        times_ms, lives = times_ms[known], lives[known]
        life = Life(*lives[-1].tolist())
        before = self._lives.get(stream)
        times = times_ms if before is None else np.concatenate((before[0], times_ms))
        times = times[-SPAN:]
        apart = np.diff(times)
        life.reading_s = float(np.median(apart)) / 1000 if len(apart) and np.median(apart) > 0 else None
        self._lives[stream] = times, life
        self._longest[stream] = max(self._longest.get(stream, 0.0), float(lives[:, 0].max()))
        self._told = None

    def told(self) -> tuple[int | None, list[Contribution], Life | None]:
        """Returns the number from 0 to 100 (None before anybody has judged), what pulls it down, and what life is left.

        Each signal leaves its share of what the others leave, so the number is low where one signal is very bad or
        several are bad.
        """
        if self._told is None:
            self._told = self._summed_up()
        return self._told

    def _summed_up(self) -> tuple[int | None, list[Contribution], Life | None]:
        pulls: dict[str, float] = {}
        for verdicts in self._verdicts.values():
            for signal, pull in verdicts.pulls().items():
                pulls[signal] = max(pulls.get(signal, 0.0), pull)
        lives = [
            (life.expected / self._longest[stream], life)
            for stream, (_, life) in self._lives.items()
            if self._longest[stream] > 0
        ]
        shortest = min(lives, key=lambda one: one[0], default=None)
        if shortest is not None:
            pulls[LIFE] = 1.0 - shortest[0]
        if not pulls:
            return None, [], None
        whole = sum(pulls.values())
        shares = sorted(pulls.items(), key=lambda one: -one[1])
        parts = [Contribution(name, round(100 * pull / whole)) for name, pull in shares if pull >= 0.005]
        left = float(np.prod([1.0 - pull for pull in pulls.values()]))
        return round(100 * left), [part for part in parts if part.percent], None if shortest is None else shortest[1]


def surprise(y: Scores, yhat: Scores, lower: Scores, upper: Scores) -> Scores:
    """Returns a score from 0 to 100 of each reading by its forecast: 75 at a bound, as a detector's is at its limit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.abs(y - yhat) / np.where(y >= yhat, upper - yhat, yhat - lower)
        return np.where(share < 1, 75 * share, 100 - 25 / share)
