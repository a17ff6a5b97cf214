"""Train a forecaster from a file: data set, lesson, proof beside plain methods, a new version in the store."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Tag
from pydantic import Field as Setting

from tocsin.batch import Floats, Ints
from tocsin.errors import ConfigError
from tocsin.models import boosted, conformal
from tocsin.models.boosted import Boosted
from tocsin.models.conformal import CONFORMAL, OUTPUTS, PENDING, follow
from tocsin.models.dataset import Dataset, Series
from tocsin.models.forecaster import KIND, Forecaster
from tocsin.models.manifest import MODEL, Manifest
from tocsin.models.recurrent import to_onnx
from tocsin.models.store import Store
from tocsin.models.training import Progress, TrainingFile
from tocsin.settings import Settings


class Neural(Settings):
    """The net, and how it learns."""

    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    """Which kind of recurrent net: an LSTM remembers longest, a GRU is smaller, an RNN the plainest."""
    units: int = Setting(32, ge=1, le=1_024)
    """How many numbers it remembers."""
    per_key: bool = False
    """Whether each machine gets a net of its own (all are taught together); else one is for all."""
    epochs: int = Setting(50, ge=1)
    """How often it goes through the data at most."""
    patience: int = Setting(5, ge=1)
    """After how many epochs without an improvement on the validation part it stops; the best one counts."""
    batch: int = Setting(128, ge=1)
    """How many windows it looks at before each correction."""
    learning_rate: float = Setting(0.003, gt=0)
    """How large a correction is (Adam)."""
    seed: int = Setting(0, ge=0)
    """What the random numbers begin with: the same seed and data give the same net."""


def _which(model: Any) -> str:
    """What the settings of a model are those of: trees where it is said how many, else a net."""
    return "boosted" if isinstance(model, Boosted) or (isinstance(model, Mapping) and "trees" in model) else "net"


class Training(TrainingFile):
    """A forecaster, as ``tocsin train`` reads it."""

    kind: Literal["forecaster"] = "forecaster"
    """What is taught; without it a forecaster."""
    dataset: Dataset
    """Which rows teach, choose and judge."""
    model: Annotated[Annotated[Neural, Tag("net")] | Annotated[Boosted, Tag("boosted")], Discriminator(_which)] = (
        Neural()
    )
    """The net, or the boosted trees, and how it learns."""
    season: int | None = Setting(None, ge=2)
    """How many periods make a day, a shift, a cycle: then the reading one season before is a plain method, too."""
    coverage: float = Setting(0.9, ge=0.5, lt=1)
    """The share of readings that lie between the bounds."""

    def run(self, told: Progress | None = None) -> Manifest:
        return train_on(self, self.dataset.load(self.folder), told)


def train_on(training: Training, series: Series, told: Progress | None = None) -> Manifest:
    """Train a forecaster, prove it on the part that judges, and keep it as a new version, which is not promoted.

    Interrupted, a net goes on where it was when it is called again with the same settings and data; trees, which take
    seconds, begin anew. ``told`` is called after each epoch or tree with the share that is done and the loss on the
    validation part.
    """
    if isinstance(training.model, Boosted):
        scaling = _scaling(series, None)
        trees = boosted.grow(series, scaling, training.model, told)
        content = boosted.to_onnx(trees.dump_model(), series.dataset.window, len(series.dataset.inputs))
        draft = _draft(training, series, [scaling], {"learnt_trees": trees.best_iteration})
        return Store(training.store).add(*_proven(training, series, draft, {MODEL: content}))
    kept = training.store / training.name / f".training-{_fingerprint(training, series)}"
    kept.mkdir(parents=True, exist_ok=True)
    draft, content = _taught(training, training.model, series, kept, told)
    manifest = Store(training.store).add(*_proven(training, series, draft, {MODEL: content}))
    shutil.rmtree(kept)
    return manifest


def _taught(
    training: Training, how: Neural, series: Series, kept: Path, told: Progress | None
) -> tuple[Manifest, bytes]:
    """Returns what the manifest says of a net, or of one for each machine, before it is proven, and its graph."""
    from tocsin.models.fit import Recipe, teach

    owners = range(len(series.keys)) if how.per_key else (None,)
    scalings = [_scaling(series, owner) for owner in owners]
    lessons = [_lesson(series, owner, scaling) for owner, scaling in zip(owners, scalings, strict=True)]
    recipe = Recipe(**how.model_dump(exclude={"per_key"}))
    learnt = teach(lessons, series.dataset.window, recipe, kept, told)
    weights = {name: np.stack([one.weights[name] for one in learnt]) for name in learnt[0].weights}
    if not how.per_key:
        weights = {name: values[0] for name, values in weights.items()}
    learnt_epochs = max(one.epochs for one in learnt)
    keys = list(series.keys) if how.per_key else []
    draft = _draft(training, series, scalings, {"learnt_epochs": learnt_epochs, "keys": keys})
    return draft, to_onnx(how.cell, weights, series.dataset.window)


def _fingerprint(training: Training, series: Series) -> str:
    settings = training.model_dump(mode="json", exclude={"store", "folder"})
    return hashlib.sha256(json.dumps([settings, series.about], sort_keys=True).encode()).hexdigest()[:16]


def _scaling(series: Series, owner: int | None) -> tuple[Floats, Floats, float]:
    """Mean and deviation of each input, and the deviation of the change, over what teaches and nothing else."""
    early = series.times < series.validate_us
    mine = early if owner is None else early & (series.key == owner)
    ends = series.train if owner is None else series.train[series.key[series.train] == owner]
    if not len(ends):
        raise ConfigError(
            f"machine '{series.keys[owner or 0]}' has no whole window in the part to train; leave it out of the query, "
            "or train one net for all"
        )
    mean, scale = np.nanmean(series.values[mine], axis=0), np.nanstd(series.values[mine], axis=0)
    change = float(np.std(series.targets(ends) - series.values[ends, 0]))
    return mean, np.where(scale > 0, scale, 1.0), change or 1.0


def _lesson(series: Series, owner: int | None, scaling: tuple[Floats, Floats, float]) -> Any:
    from tocsin.models.fit import Lesson

    mean, scale, change = scaling
    rows = np.arange(len(series.key)) if owner is None else np.flatnonzero(series.key == owner)
    values, begin = series.values[rows], int(rows[0])
    ahead = np.full(len(rows), np.nan)
    horizon = series.dataset.horizon
    ahead[:-horizon] = values[horizon:, 0] - values[:-horizon, 0]
    train, validate = (
        ends if owner is None else ends[series.key[ends] == owner] - begin for ends in (series.train, series.validate)
    )
    return Lesson(
        ((values - mean) / scale).astype(np.float32), (ahead / change).astype(np.float32), train,
        validate if len(validate) else train,
    )  # fmt: skip


def _draft(training: Training, series: Series, scalings: Any, learnt: Mapping[str, Any]) -> Manifest:
    dataset = training.dataset
    mean, scale, change = ([np.asarray(one[i]).tolist() for one in scalings] for i in range(3))
    parts = {part: len(getattr(series, part)) for part in ("train", "validate", "test")}
    return Manifest(
        name=training.name,
        kind=KIND,
        inputs=dataset.inputs,
        target=dataset.target,
        window=dataset.window,
        horizon=dataset.horizon,
        scaling={"mean": mean, "scale": scale, "change": change},
        data={**series.about, "windows": parts},
        settings={
            **training.model.model_dump(),
            **learnt,
            "every_us": dataset.every,
            "coverage": training.coverage,
            "season": training.season,
        },
    )


def _proven(
    training: Training, series: Series, draft: Manifest, files: Mapping[str, bytes]
) -> tuple[Manifest, Mapping[str, bytes]]:
    """Returns the draft with its figures beside those of plain methods, and what the bounds begin with."""
    model = Forecaster(draft, files, training.name)
    judging = np.concatenate([series.validate, series.test])
    ahead = np.full(len(series.values), np.nan)
    ahead[judging] = model.predict(series.windows(judging), series.key[judging])
    start = _bounds(series, ahead, training.coverage, series.validate, np.array(CONFORMAL))[1]
    own, _ = _bounds(series, ahead, training.coverage, series.test, start)
    plain = {"persistence": series.values[series.test, 0]}
    if training.season is not None:
        before = series.test + series.dataset.horizon - training.season
        same = (before >= 0) & (series.key[before] == series.key[series.test])
        plain["seasonal_naive"] = np.where(same, series.values[before, 0], np.nan)
    truth, said = series.targets(series.test), ahead[series.test]
    known = np.isfinite(said) & np.all([np.isfinite(one) for one in plain.values()], axis=0)
    metrics = {**_errors(truth[known], said[known]), **own, "readings": int(known.sum())}
    baselines = {name: _errors(truth[known], one[known]) for name, one in plain.items()}
    draft = replace(draft, metrics=metrics, baselines=baselines, settings={**draft.settings, "conformal": list(start)})
    return draft, files


def _errors(truth: Floats, said: Floats) -> dict[str, float]:
    return {
        "rmse": float(np.sqrt(np.mean((truth - said) ** 2))),
        "mae": float(np.mean(np.abs(truth - said))),
    }


def _bounds(
    series: Series, ahead: Floats, coverage: float, ends: Ints, start: Floats
) -> tuple[dict[str, float], Floats]:
    """Returns how well the bounds hold over some windows, and where they are at last: the median of all machines."""
    count, horizon = len(series.keys), series.dataset.horizon
    state = np.repeat(start[None].astype(np.float64), count, axis=0)
    given = np.full(len(series.values), np.nan)
    given[ends] = ahead[ends]
    out = np.full((OUTPUTS, len(given)), np.nan)
    follow(
        series.key.astype(np.int32), np.ones(len(given), np.int64), series.values[:, 0].copy(), given, horizon,
        coverage, np.zeros(count, np.int64), state, np.full((count, horizon * PENDING), np.nan), out,
    )  # fmt: skip
    y, lower, upper = series.values[:, 0], out[conformal.LOWER], out[conformal.UPPER]
    known = np.isfinite(y) & np.isfinite(lower)
    if not known.any():
        return {}, np.median(state, axis=0)
    covered = (y[known] >= lower[known]) & (y[known] <= upper[known])
    return {
        "coverage": float(np.mean(covered)),
        "width": float(np.mean(upper[known] - lower[known])),
    }, np.median(state, axis=0)
