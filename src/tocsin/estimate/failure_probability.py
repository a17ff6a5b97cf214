"""Failure probability: how probable it is that a machine fails in the time ahead, by a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field as Setting

from tocsin.bases import Stateless, added, explaining, promised, require
from tocsin.batch import Floats, as_numbers, floats
from tocsin.models import SAMPLES
from tocsin.models.failure import FailurePredictor
from tocsin.models.store import FOLDER, Store

PROBABILITY = pa.field("failure_probability", pa.float64())


class FailureProbability(Stateless):
    """Says how probable it is that a machine fails within the horizon that its model was taught.

    Each row gets ``failure_probability``: of the rows with 0.2, about 20 % are followed by a failure within the horizon
    (24 hours, say), as far as the time ahead is like the rows that calibrated it; `tocsin backtest` draws whether that
    still holds. It is null where a column has no value that was always there when the model was taught.

    The model is a version in the store of models (kind ``failure``), made by `tocsin train`. Without ``version`` it is
    the one that was promoted when the run starts. Where machines have run until they failed, and how long they still
    have matters more than whether it is today, take `remaining_life`.

    Platt, "Probabilistic outputs for support vector machines" (1999) for the calibration; Ke et al., "LightGBM" (2017);
    Lundberg et al., "From local explanations to global understanding with explainable AI for trees" (2020).

    Examples
    --------
    >>> pumps = rows({"vibration": [1.0, 6.0], "age": [3.0, 40.0]})
    >>> new, worn = feed(FailureProbability(model="pump", store=str(SAMPLES)), pumps)["failure_probability"].to_pylist()
    >>> new < 0.2 < 0.5 < worn
    True
    """

    SHORTHAND: ClassVar[str | None] = "model"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({"model": "pump", "version": 1, "store": str(SAMPLES)},)

    model: str
    """The model's name in the store."""
    version: int | None = Setting(None, ge=1)
    """The model's version; if not set, the one that is promoted when the run starts."""
    store: str = str(FOLDER)
    """The folder that models are kept in."""

    @cached_property
    def predictor(self) -> FailurePredictor:
        """The version that is asked, loaded."""
        return FailurePredictor.open(Store(Path(self.store)), self.model, self.version)

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows.append_column("vibration", rows.column("value")).append_column("age", rows.column("other"))

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for column in self.predictor.inputs:
            require(input, column, self.name(), number=True)
        contributions = explaining([PROBABILITY.name], self.predictor.inputs)
        return added(input, (PROBABILITY, contributions), self.name())

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        columns = [floats(rows.column(name)) for name in self.predictor.inputs]
        features = np.stack(columns, axis=1)
        features = np.where(np.isfinite(features), features, np.nan)
        probability = self.predictor.probability(features)
        made = as_numbers(probability), _lists(self.predictor.contributions(features, probability))
        return pa.RecordBatch.from_arrays([*rows.columns, *made], schema=promised(self, rows.schema))


def _lists(contributions: Floats) -> pa.Array:
    """Numbers of shape (rows, inputs) as a list a row; null where there are none."""
    known = np.isfinite(contributions[:, 0])
    offsets = np.concatenate([[0], np.cumsum(known) * contributions.shape[1]]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(contributions[known].reshape(-1)), mask=pa.array(~known)
    )
