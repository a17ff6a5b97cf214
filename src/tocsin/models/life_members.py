"""The models that say a remaining life together: what each looks at of a machine, and the mean of what they say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tocsin.batch import Codes, Floats
from tocsin.models import life_gru, life_similarity
from tocsin.models.life_features import recent_rows
from tocsin.models.life_health import Health
from tocsin.models.runtime import ModelSession
from tocsin.state import Columns, Field

ROWS_MIN = 8
"""Fewer rows are filled up: the last digit must not depend on how many rows come at once."""
ROWS = 4_096
"""Rows whose windows are held at once."""


class Members:
    """Some models of ``trees``, ``gru`` and ``similarity``, loaded: the life is the mean of what they say.

    ``files`` holds each one's ONNX model by its name, ``features`` is how many of them `wear_features` makes.
    """

    def __init__(self, files: Mapping[str, bytes], features: int, health: Health | None, place: str) -> None:
        self._sessions = {name: ModelSession(content, f"{place}/{name}.onnx") for name, content in files.items()}
        self._columns = life_gru.columns(features)
        self._health = health

    def fields(self) -> Mapping[str, Field]:
        """Returns what is remembered of each machine; the name has the size, so that another model begins anew."""
        widths = {"gru": life_gru.DEPTH * len(self._columns), "similarity": life_similarity.DEPTH}
        return {
            f"{name}_{width}": Field(initial=np.nan, width=width)
            for name, width in widths.items()
            if name in self._sessions
        }

    def predict(self, slots: Codes, features: Floats, state: Columns) -> Floats:
        """Returns the remaining life of each row, not cut off, shape (rows,); NaN where a feature is missing."""
        life = np.full(len(features), np.nan)
        for start in range(0, len(features), ROWS):
            some = slice(start, start + ROWS)
            life[some] = self._predict(slots[some], features[some], state)
        return life

    def _predict(self, slots: Codes, features: Floats, state: Columns) -> Floats:
        whole = np.flatnonzero(np.isfinite(features).all(axis=1))
        life = np.full(len(features), np.nan)
        if len(whole):
            said = [
                _run(session, *self._looked_at(name, slots[whole], features[whole], state))
                for name, session in self._sessions.items()
            ]
            life[whole] = np.mean(said, axis=0)
        return life

    def _looked_at(self, name: str, slots: Codes, features: Floats, state: Columns) -> tuple[str, Floats]:
        """The name of a model's input, and what it is."""
        if name == "gru":
            return "window", _windows(slots, features[:, self._columns], state, "gru", life_gru.DEPTH)
        if name == "similarity":
            assert self._health is not None
            healths = self._health.of(features)[:, None]
            recent = _windows(slots, healths, state, "similarity", life_similarity.DEPTH)[:, :, 0]
            return "trajectory", life_similarity.trajectory(recent, features[:, 0])
        return "features", features


def _windows(slots: Codes, values: Floats, state: Columns, name: str, depth: int) -> Floats:
    windows = np.empty((len(slots), depth, values.shape[1]))
    recent_rows(slots, np.ascontiguousarray(values), state[f"{name}_{depth * values.shape[1]}"], windows)
    return windows


def _run(session: ModelSession, name: str, given: Floats) -> Floats:
    rows = given.astype(np.float32)
    padding = np.zeros((max(0, ROWS_MIN - len(rows)), *rows.shape[1:]), np.float32)
    (said,) = session.run({name: np.concatenate([rows, padding])})
    return np.asarray(said[: len(rows), 0], np.float64)
