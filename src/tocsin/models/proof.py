"""How good probabilities are: how well they tell apart, and whether of the times they say 20 % it happens 20 %.

Numpy only, since reports are made where nothing is trained.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats

Flags = npt.NDArray[np.bool_]
EDGES = np.array([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])
"""Ranges of probability that are looked at each by itself: failures are rare, so most lie far below a half."""
NORMAL_90 = 1.645
"""Within how many deviations 90 % of a normal distribution lie."""


def figures(outcome: Flags, probability: Floats) -> dict[str, float]:
    """Return Brier score, calibration error, average precision and AUC of the probability of each row.

    The calibration error is the mean distance between what was said and what happened in the ranges of `EDGES`, each
    by how many rows it has (Naeini et al. 2015). Average precision and AUC are NaN where all rows are of one class.

    Examples
    --------
    >>> said = figures(np.array([False, False, True, True]), np.array([0.1, 0.3, 0.2, 0.9]))
    >>> {name: round(value, 4) for name, value in said.items()}
    {'brier': 0.1875, 'calibration_error': 0.175, 'average_precision': 0.8333, 'auc': 0.75}
    """
    gaps = [row["rows"] * abs(row["said"] - row["happened"]) for row in reliability(outcome, probability)]
    return {
        "brier": float(np.mean((probability - outcome) ** 2)),
        "calibration_error": sum(gaps) / len(outcome) if len(outcome) else math.nan,
        "average_precision": _average_precision(outcome, probability),
        "auc": _auc(outcome, probability),
    }


def reliability(outcome: Flags, probability: Floats) -> list[dict[str, Any]]:
    """Return for each range of probability with rows in it what was said in the mean, and how often it happened.

    ``lower`` and ``upper`` are the 90 % interval of the latter (Wilson 1927), as if rows were independent: rows of one
    machine before one failure are not, so the truth may lie outside more often.
    """
    number = np.clip(np.searchsorted(EDGES, probability, side="right") - 1, 0, len(EDGES) - 2)
    table = []
    for at in np.unique(number):
        rows = number == at
        count, share = int(rows.sum()), float(outcome[rows].mean())
        lower, upper = _wilson(share, count)
        table.append({
            "from": float(EDGES[at]), "to": float(EDGES[at + 1]), "rows": count,
            "said": float(probability[rows].mean()), "happened": share, "lower": lower, "upper": upper,
        })  # fmt: skip
    return table


def _wilson(share: float, count: int) -> tuple[float, float]:
    z = NORMAL_90**2 / count
    middle, reach = share + z / 2, math.sqrt(z * share * (1 - share) + z * z / 4)
    return max(0.0, (middle - reach) / (1 + z)), min(1.0, (middle + reach) / (1 + z))


def _auc(outcome: Flags, probability: Floats) -> float:
    """The share of pairs in which the row with the event has the higher probability; a tie counts half."""
    yes, no = probability[outcome], np.sort(probability[~outcome])
    if not len(yes) or not len(no):
        return math.nan
    below, up_to = np.searchsorted(no, yes, side="left"), np.searchsorted(no, yes, side="right")
    return float(np.mean(below + up_to) / 2 / len(no))


def _average_precision(outcome: Flags, probability: Floats) -> float:
    """The mean precision over the events, each at its own probability; rows of one probability come together."""
    if not outcome.any():
        return math.nan
    order = np.argsort(-probability, kind="stable")
    last = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
    events = np.cumsum(outcome[order])[last]
    return float(np.sum(np.diff(events, prepend=0) * events / (last + 1)) / outcome.sum())
