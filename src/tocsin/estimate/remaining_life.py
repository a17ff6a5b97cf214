"""Remaining life: how long a machine still has, as a range with its confidence, by a model taught with failed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field as Setting

from tocsin.bases import Keyed, added, promised, require
from tocsin.batch import Codes, Floats, as_numbers, floats
from tocsin.models import SAMPLES
from tocsin.models.life import LifePredictor
from tocsin.models.store import FOLDER, Store
from tocsin.state import Columns, Field

ADDED = tuple(
    pa.field(name, pa.float64()) for name in ("rul", "rul_lower", "rul_upper", "rul_confidence", "health_index")
)


class RemainingLife(Keyed):
    """Says how many readings a machine still has before it fails, and between which bounds.

    Each row gets ``rul``, ``rul_lower``, ``rul_upper`` and ``rul_confidence``, the share of machines (0.9 unless the
    model was taught otherwise) whose true life lies within the bounds. A reading is what taught the model: a cycle, an
    hour; make them with `window` or `resample` before. An upper bound at the model's cap (125) means "that or more":
    so far ahead nothing can be seen. ``health_index`` is how healthy the machine is, from 1 as when it was new to 0
    as at its end (null with a version that was taught before there was one). All are null until each sensor has been
    seen once.

    What counts is how fast the readings move away from what they were when the machine was new, so the first reading of
    a key must be of a new machine, or one just overhauled; a replaced machine needs a key of its own. The model is a
    version in the store of models (kind ``remaining_life``), taught by `tocsin train` with machines that ran
    until they failed. Without ``version`` it is the one that was promoted when the run starts.

    Saxena et al., "Damage propagation modeling for aircraft engine run-to-failure simulation" (2008); Wang et al., "A
    similarity-based prognostics approach for remaining useful life estimation" (2008) for the health index; Vovk,
    "Conditional validity of inductive conformal predictors" (2012) for the bounds.

    Examples
    --------
    >>> worn = rows({"wear": [0.02 * i for i in range(80)], "load": [1.0] * 80})
    >>> left = feed(RemainingLife(model="wear", store=str(SAMPLES)), worn)
    >>> left["rul"][5].as_py() > left["rul"][-1].as_py() >= left["rul_lower"][-1].as_py()
    True
    """

    SHORTHAND: ClassVar[str | None] = "model"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({"model": "wear", "version": 1, "store": str(SAMPLES)},)
    WHOLE: ClassVar[str] = "its model multiplies all rows of a batch at once, and rounds by how many they are"

    model: str
    """The model's name in the store."""
    version: int | None = Setting(None, ge=1)
    """The model's version; if not set, the one that is promoted when the run starts."""
    store: str = str(FOLDER)
    """The folder that models are kept in."""

    @cached_property
    def _predictor(self) -> LifePredictor:
        store = Store(Path(self.store))
        version = self.version if self.version is not None else store.followed(self.model).version
        return LifePredictor.open(store, self.model, version)

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows.append_column("wear", rows.column("value")).append_column("load", rows.column("other"))

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for column in (*self._predictor.settings, *self._predictor.sensors):
            require(input, column, self.name(), number=True)
        return added(input, ADDED, self.name())

    def fields(self) -> Mapping[str, Field]:
        return self._predictor.fields()

    def update(self, state: Columns, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        settings, sensors = (_numbers(rows, names) for names in (self._predictor.settings, self._predictor.sensors))
        features = self._predictor.features(slots, settings, sensors, state)
        life, lower, upper = self._predictor.predict(slots, features, state)
        confidence = np.where(np.isfinite(life), self._predictor.coverage, np.nan)
        said = (life, lower, upper, confidence, self._predictor.health_index(features))
        columns = [*rows.columns, *map(as_numbers, said)]
        return pa.RecordBatch.from_arrays(columns, schema=promised(self, rows.schema))


def _numbers(rows: pa.RecordBatch, names: Sequence[str]) -> Floats:
    """Columns as numbers, shape (rows, columns); NaN where there is none."""
    numbers = np.empty((rows.num_rows, len(names)))
    for i, name in enumerate(names):
        numbers[:, i] = floats(rows.column(name))
    return np.where(np.isfinite(numbers), numbers, np.nan)
