"""Classify: which class a text belongs to, and how surely, by a model that was taught with texts and their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.types as pt
from pydantic import Field as Setting

from tocsin.bases import Stateless, added, promised, require
from tocsin.batch import as_numbers, in_words
from tocsin.errors import SchemaError
from tocsin.models import SAMPLES
from tocsin.models.store import FOLDER, Store
from tocsin.models.text import TextClassifier

ADDED = (pa.field("class", pa.string()), pa.field("confidence", pa.float64()))


class Classify(Stateless):
    """Says which class the text in a column belongs to: a maintenance log's line to "hydraulics" or "electrical".

    Each row gets ``class``, and ``confidence``, the probability of that class. Both are null where there is no text, or
    no word of it was in the texts that taught; below ``confidence_min`` only the class is null.

    The model is a version in the store of models (kind ``text``), taught by `tocsin train`: TF-IDF with naive
    Bayes or a linear model. Without ``version`` it is the one that was promoted when the run starts. Where there are no
    classes to teach with, take `categorize`.

    McCallum & Nigam, "A comparison of event models for naive Bayes text classification" (1998).

    Examples
    --------
    >>> log = rows({"text": ["Hydraulic pump leaking oil", "fuse blown, no power", "xyz", None]})
    >>> feed(Classify(model="trade", store=str(SAMPLES)), log)["class"].to_pylist()
    ['hydraulics', 'electrical', None, None]
    """

    SHORTHAND: ClassVar[str | None] = "model"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"model": "trade", "version": 1, "store": str(SAMPLES), "confidence_min": 0.4},
    )

    model: str
    """The model's name in the store."""
    of: str = "text"
    """The column with the text."""
    version: int | None = Setting(None, ge=1)
    """The model's version; if not set, the one that is promoted when the run starts."""
    store: str = str(FOLDER)
    """The folder that models are kept in."""
    confidence_min: float = Setting(0.0, ge=0, le=1)
    """Below this confidence there is no class: a person should read it."""

    @cached_property
    def _classifier(self) -> TextClassifier:
        store = Store(Path(self.store))
        version = self.version if self.version is not None else store.followed(self.model).version
        return TextClassifier.open(store, self.model, version)

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        kind = require(input, self.of, self.name()).type
        if not (pt.is_string(kind) or pt.is_large_string(kind) or pt.is_dictionary(kind)):
            raise SchemaError(
                f"{self.name()} needs text in column '{self.of}', which is {in_words(kind)}; name another with of"
            )
        assert self._classifier is not None  # a model that is not there is told before data flows
        return added(input, ADDED, self.name())

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        texts = rows.column(self.of).cast(pa.string()).to_pylist()
        classes, confidence = self._classifier.classify(texts)
        sure = [name if share >= self.confidence_min else None for name, share in zip(classes, confidence, strict=True)]
        columns = [*rows.columns, pa.array(sure, pa.string()), as_numbers(confidence)]
        return pa.RecordBatch.from_arrays(columns, schema=promised(self, rows.schema))
