"""How healthy a machine is, in one number: 1 as when new, 0 as at its end; a line through all its sensors.

The index is a linear regression on 1 for readings of the healthy part of a life and 0 for those of its end, as in Wang,
Yu, Siegel & Lee, "A similarity-based prognostics approach for remaining useful life estimation of engineered systems"
(2008). It looks at means over 20 readings and at the change since the machine was new, so it is smooth, and causal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats
from tocsin.models.life_features import sensors_of

HEALTHY, FAILING = 0.5, 0.2
"""The share of a life that it is healthy from its begin, and that it is failing to its end; between them nothing is
said."""
RIDGE = 0.3
"""How much weights are drawn to 0, beside readings of variance 1. Sensors say nearly the same: with 0.01 of it the life
by similarity was 0.8 readings worse."""


@dataclass(frozen=True)
class Health:
    """What the index is made of."""

    weights: Floats
    """Of each sensor's mean over 20 readings, then of its change since the machine was new, shape (2 * sensors,)."""
    intercept: float

    def of(self, features: Floats) -> Floats:
        """Returns the index of each row, shape (rows,): about 1 to 0, and not cut off there.

        ``features`` are those of `wear_features`. A row says the same whatever rows are beside it.
        """
        return np.asarray(self.intercept + np.einsum("ij,j->i", _looked_at(features), self.weights))

    def to_json(self) -> Mapping[str, Any]:
        return {"weights": self.weights.tolist(), "intercept": self.intercept}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Health:
        return cls(np.array(tree["weights"]), float(tree["intercept"]))


def learn_health(features: Floats, age: Floats, left: Floats) -> Health:
    """Return the index that machines teach which ran until they failed.

    ``features`` (rows, features) of `wear_features`; ``age`` and ``left`` (rows,) say how many readings a machine has
    had and has still to come. Both ends count alike, and their means are 1 and 0.
    """
    life = age + left
    healthy, failing = age <= HEALTHY * life, left < FAILING * life
    ends = healthy | failing
    seen = _looked_at(features[ends])
    share = np.where(healthy[ends], 0.5 / healthy.sum(), 0.5 / failing.sum())
    centred = seen - share @ seen
    wanted = np.where(healthy[ends], 0.5, -0.5)
    square = centred.T @ (centred * share[:, None]) + RIDGE * np.eye(seen.shape[1])
    weights = np.linalg.solve(square, centred.T @ (share * wanted))
    good, bad = (float((_looked_at(features[some]) @ weights).mean()) for some in (healthy, failing))
    apart = max(good - bad, 1e-9)  # sensors that never vary tell nothing apart
    return Health(weights / apart, -bad / apart)


def _looked_at(features: Floats) -> npt.NDArray[np.float64]:
    sensors = sensors_of(features.shape[1])
    return np.concatenate([features[:, 1 + sensors : 1 + 2 * sensors], features[:, 1 + 3 * sensors :]], axis=1)
