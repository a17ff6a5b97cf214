"""Classes of texts, as ``tocsin train`` teaches them: texts by SQL, the last ones in time judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from pydantic import Field as Setting

from tocsin.errors import ConfigError
from tocsin.models import text
from tocsin.models.dataset import SHARES, Moment, checked, moment, times_of, told
from tocsin.models.manifest import Manifest
from tocsin.models.store import Store
from tocsin.models.training import Progress, TrainingFile
from tocsin.settings import Settings


class TextData(Settings):
    """Which texts teach, which judge."""

    query: str
    """SQL over the tables, as ``tocsin query`` takes it; rows without a text or a class are left out."""
    text: str = "text"
    """The column with the text."""
    target: str = "class"
    """The column with its class."""
    time: str = "time"
    """The column with the time."""
    test_from: Moment | None = None
    """From when on texts judge, and nothing else; if not set, from 85 % of the time on."""


class TextTraining(TrainingFile):
    """Classes of texts, as ``tocsin train`` reads it."""

    kind: Literal["text"]
    """What is taught."""
    dataset: TextData
    """Which texts teach, which judge; methods are compared by cross-validation within those that teach."""
    seed: int = Setting(0, ge=0)
    """What the random numbers begin with: the same seed and data give the same model."""

    def run(self, told: Progress | None = None) -> Manifest:
        from tocsin.lake.read import snapshot

        return train_on(self, *snapshot(self.dataset.query, self.folder))


def train_on(training: TextTraining, table: pa.Table, versions: Mapping[str, int]) -> Manifest:
    """Teach with the rows of a table, prove, and keep as a new version; ``versions`` says what it is made from."""
    data = training.dataset
    checked(table, (data.text, data.target, data.time))
    for name in (data.text, data.target):
        kind = table.schema.field(name).type
        if not (pt.is_string(kind) or pt.is_large_string(kind) or pt.is_dictionary(kind)):
            raise ConfigError(f"column '{name}' of the query is {kind}, no text; write it as: {name}::text")
    table = table.sort_by([(data.time, "ascending")]).select([data.text, data.target, data.time])
    table = table.filter(pa.compute.and_(table[data.text].is_valid(), table[data.target].is_valid()))
    if not len(table):
        raise ConfigError(f"no row of the query has both '{data.text}' and '{data.target}'; ask it with: tocsin query")
    times = times_of(table, data.time)
    span = int(times[-1] - times[0])
    border = moment(data.test_from, "test_from") if data.test_from else int(times[0]) + int(SHARES[1] * span)
    cut = int(np.searchsorted(times, border))
    if not 0 < cut < len(times):
        raise ConfigError(f"no text lies on one side of test_from, {told(border)}; rows span {told(int(times[0]))} to "
                          f"{told(int(times[-1]))}")  # fmt: skip
    texts, classes = (table[name].cast(pa.string()).to_pylist() for name in (data.text, data.target))
    model = text.train(texts[:cut], classes[:cut], seed=training.seed)
    manifest, files = text.version(training.name, data.text, model, (texts[cut:], classes[cut:]), data.target)
    digest = hashlib.sha256(json.dumps([texts, classes]).encode() + times.tobytes()).hexdigest()
    about = {
        "query": data.query, "tables": dict(versions), "rows": len(times), "sha256": digest,
        "test_from": told(border), "windows": {"train": cut, "test": len(times) - cut},
    }  # fmt: skip
    return Store(training.store).add(replace(manifest, data=about), files)
