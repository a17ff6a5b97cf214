"""Advise: what to do now, run on or maintain, by a policy that was learnt in a simulated plant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field as Setting

from tocsin.bases import Stateless, added, promised, require
from tocsin.batch import as_numbers, floats
from tocsin.models import SAMPLES
from tocsin.models.policy import Adviser
from tocsin.models.store import FOLDER, Store

ADDED = (pa.field("advice", pa.string()), pa.field("advice_share", pa.float64()))


class Advise(Stateless):
    """Says what to do with a machine now: "run" or "maintain".

    Each row gets ``advice``, and ``advice_share``, how much the policy prefers it to what else could be done (0.5 to 1
    where there are two actions): no probability that it is right. Both are null where an input is. The inputs are
    columns named as in the model's manifest; a policy for maintenance takes the wear as it was measured (``reading``),
    the days that are left and how many with caution (``rul``, ``rul_lower``, as `remaining_life` says them), days since
    the part was new (``age``), and days until the line stands still anyway (``idle_in``).

    The model is a version in the store of models (kind ``policy``), taught by `tocsin.models.policy` in an environment
    like the plant: its advice is as good as the environment's costs and wear are those of the plant. Without
    ``version`` it is the one that was promoted when the run starts.

    Hansen & Ostermeier, "Completely derandomized self-adaptation in evolution strategies" (2001).

    Examples
    --------
    >>> morning = rows({"reading": [0.2, 0.9, None], "rul": [30.0, 3.0, 3.0], "rul_lower": [15.0, 0.5, 0.5],
    ...                 "age": [5, 22, 22], "idle_in": [3, 0, 0]})
    >>> feed(Advise(model="maintenance", store=str(SAMPLES)), morning)["advice"].to_pylist()
    ['run', 'maintain', None]
    """

    SHORTHAND: ClassVar[str | None] = "model"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({"model": "maintenance", "version": 1, "store": str(SAMPLES)},)

    model: str
    """The model's name in the store."""
    version: int | None = Setting(None, ge=1)
    """The model's version; if not set, the one that is promoted when the run starts."""
    store: str = str(FOLDER)
    """The folder that models are kept in."""

    @cached_property
    def _adviser(self) -> Adviser:
        store = Store(Path(self.store))
        version = self.version if self.version is not None else store.followed(self.model).version
        return Adviser.open(store, self.model, version)

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        for name in ("reading", "rul", "rul_lower", "age", "idle_in"):
            rows = rows.append_column(name, rows.column("value"))
        return rows

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for column in self._adviser.inputs:
            require(input, column, self.name(), number=True)
        return added(input, ADDED, self.name())

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        seen = np.column_stack([floats(rows.column(name)) for name in self._adviser.inputs])
        shares = self._adviser.shares(seen)
        best, known = shares.argmax(axis=1), np.isfinite(shares).all(axis=1)
        names = pa.array(self._adviser.actions, pa.string()).take(pa.array(best, mask=~known))
        columns = [*rows.columns, names, as_numbers(shares.max(axis=1))]
        return pa.RecordBatch.from_arrays(columns, schema=promised(self, rows.schema))
