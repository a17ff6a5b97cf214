"""Remaining life, as ``tocsin train`` teaches it: machines that failed by SQL, some of them held back to judge."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field as Setting

from tocsin.batch import Floats
from tocsin.errors import ConfigError
from tocsin.models import life
from tocsin.models.dataset import checked, numbers_of, times_of
from tocsin.models.manifest import Manifest
from tocsin.models.store import Store
from tocsin.models.training import Progress, TrainingFile
from tocsin.settings import Many, Settings


class LifeData(Settings):
    """Which machines teach; a part of them at a time is held back and judges."""

    query: str
    """SQL over the tables, as ``tocsin query`` takes it: machines from new until they failed, and no others."""
    sensors: Many[str] = Setting(min_length=1)
    """The columns that may tell of wear."""
    settings: Many[str] = ()
    """The columns with what the machine was told to do (load, speed): where they explain the sensors, these are
    looked at within their ranges."""
    key: str = "key"
    """The column that tells machines apart; the last row of each is its failure."""
    time: str = "time"
    """The column with the time, or with a number that rows are put in order by."""


class LifeTraining(TrainingFile):
    """Remaining life, as ``tocsin train`` reads it."""

    kind: Literal["remaining_life"]
    """What is taught."""
    dataset: LifeData
    """Which machines teach."""
    models: Many[life.Member] = Setting(life.MEMBERS, min_length=1)
    """Which models say it together, each as much as the others: boosted ``trees``, a ``gru`` over the last readings,
    and the ``similarity`` of the health to that of machines that failed."""
    cap: float = Setting(life.CAP, gt=0)
    """How many readings before the failure nothing of it can be seen yet: life is taught up to here."""
    coverage: float = Setting(0.9, ge=0.5, lt=1)
    """The share of machines whose life lies between the bounds."""
    seed: int = Setting(0, ge=0)
    """What the random numbers begin with: the same seed and data give the same model."""

    def run(self, told: Progress | None = None) -> Manifest:
        from tocsin.lake.read import snapshot

        return train_on(self, *snapshot(self.dataset.query, self.folder), told)


def train_on(
    training: LifeTraining, table: pa.Table, versions: Mapping[str, int], told: Progress | None = None,
    effort: life.Effort | None = None,
) -> Manifest:  # fmt: skip
    """Teach with the rows of a table, prove, and keep as a new version; ``versions`` says what it is made from."""
    units, settings, sensors = in_order(training.dataset, table)
    done = iter(range(1, life.FOLDS + 1))

    def progress(_: str) -> None:
        if told is not None:
            told(next(done) / (life.FOLDS + 1), float("nan"))

    model = life.train(
        units, settings, sensors, cap=training.cap, coverage=training.coverage, members=training.models,
        effort=effort, seed=training.seed, progress=progress,
    )  # fmt: skip
    manifest, files = life.version(
        training.name, training.dataset.settings, training.dataset.sensors, model, units, training.coverage
    )
    digest = hashlib.sha256(settings.tobytes() + sensors.tobytes() + units.tobytes()).hexdigest()
    about = {"query": training.dataset.query, "tables": dict(versions), "rows": len(units), "sha256": digest}
    return Store(training.store).add(replace(manifest, data=about), files)


def in_order(data: LifeData, table: pa.Table) -> tuple[life.Units, Floats, Floats]:
    """Returns whose a row is (rows,), settings and sensors (rows, columns); the rows of a machine in their order."""
    checked(table, (*data.settings, *data.sensors, data.key, data.time))
    is_time = pa.types.is_timestamp(table.schema.field(data.time).type)
    times = times_of(table, data.time) if is_time else numbers_of(table, data.time)
    keys = table[data.key].combine_chunks().cast(pa.string()).dictionary_encode()
    if keys.null_count:
        raise ConfigError(f"column '{data.key}' of the query has rows without a machine; leave them out")
    names = sorted(keys.dictionary.to_pylist())
    slot = np.array([names.index(name) for name in keys.dictionary.to_pylist()], np.int64)
    units = slot[keys.indices.to_numpy(zero_copy_only=False)]
    order = np.lexsort((times, units))
    columns = {name: numbers_of(table, name)[order] for name in (*data.settings, *data.sensors)}
    for name, values in columns.items():
        if not np.isfinite(values).all():
            raise ConfigError(
                f"column '{name}' of the query has rows without a number; fill them in the query, or leave them out"
            )
    units = units[order]
    settings, sensors = (
        np.stack([columns[n] for n in some], axis=1) if some else np.empty((len(units), 0))
        for some in (data.settings, data.sensors)
    )
    return units, settings, sensors
