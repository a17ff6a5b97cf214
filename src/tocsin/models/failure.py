"""Failure within a horizon: how probable it is that a machine fails in the hours ahead, by what is known of it now.

Boosted trees (LightGBM) taught by the first rows; their log odds made probabilities on the next ones (Platt 1999); the
last ones judge, beside the base rate and a logistic regression that has the same rows and is calibrated alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field as Setting

from tocsin.batch import Floats, Ints
from tocsin.errors import ConfigError, MissingExtra
from tocsin.models.contributions import TREES, TreeContributions
from tocsin.models.dataset import TimedRows, checked, moment, numbers_of, times_of, told
from tocsin.models.failure_onnx import to_onnx
from tocsin.models.manifest import MODEL, Manifest
from tocsin.models.proof import Flags, figures
from tocsin.models.runtime import ModelSession
from tocsin.models.store import Store
from tocsin.models.training import Progress, TrainingFile
from tocsin.models.trees_onnx import tree_attributes
from tocsin.settings import Many, Settings
from tocsin.settings.quantities import Duration

KIND = "failure"
EVENTS_MIN = 10
"""Rows of either outcome that a part needs: fewer neither teach, calibrate nor judge anything."""
PARTS = ("train", "validate", "test")


class FailureData(TimedRows):
    """Which rows teach, which calibrate, which judge."""

    target: str
    """The column with whether it fails within the horizon: 0 and 1, or true and false; rows without it are left out."""
    features: Many[str] = Setting(min_length=1)
    """The columns to look at, which the stream must have, too: numbers, or true and false."""
    horizon: Duration = Setting(0, ge=0)
    """How far ahead the target looks, as ``24h``. Rows so close before a border know what lies behind it, and what
    follows the last rows is not known: these are left out."""


class Trees(Settings):
    """The boosted trees."""

    trees: int = Setting(200, ge=1)
    """How many."""
    leaves: int = Setting(15, ge=2)
    """How many leaves each has at most."""
    learning_rate: float = Setting(0.05, gt=0)
    """How much each of them corrects."""
    seed: int = Setting(0, ge=0)
    """What the random numbers begin with: the same seed and data give the same trees."""


class FailureTraining(TrainingFile):
    """Failure within a horizon, as ``tocsin train`` reads it."""

    kind: Literal["failure"]
    """What is taught."""
    dataset: FailureData
    """Which rows teach, calibrate and judge."""
    model: Trees = Trees()
    """The boosted trees."""

    def run(self, told: Progress | None = None) -> Manifest:
        from tocsin.lake.read import snapshot

        return train_on(self, *snapshot(self.dataset.query, self.folder), told)


@dataclass(frozen=True)
class Logistic:
    """The plain method: a logistic regression, calibrated; what is missing has the median of what taught."""

    fill: Floats
    weights: Floats
    """Arrays of shape (features,)."""
    bias: float

    def probability(self, features: Floats) -> Floats:
        """Returns the probability of each row, shape (rows,)."""
        filled = np.where(np.isfinite(features), features, self.fill)
        return _sigmoid(filled @ self.weights + self.bias)

    def to_json(self) -> Mapping[str, Any]:
        return {"fill": self.fill.tolist(), "weights": self.weights.tolist(), "bias": self.bias}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Logistic:
        return cls(np.array(tree["fill"]), np.array(tree["weights"]), float(tree["bias"]))


def train_on(
    training: FailureTraining, table: pa.Table, versions: Mapping[str, int], progress: Progress | None = None
) -> Manifest:
    """Teach with the rows of a table, prove, and keep as a new version; ``versions`` says what it is made from.

    Raises
    ------
    ConfigError
        A column is missing or of no use, or a part has too few rows of either outcome.
    """
    data, how = training.dataset, training.model
    features, outcome, parts, about = _parted(data, table, versions)
    teach, validate, test = (parts[part] for part in PARTS)
    trees = _boosted(how).fit(features[teach], outcome[teach])
    if progress is not None:
        progress(0.6, float("nan"))
    raw = trees.predict(features, raw_score=True)
    slope, offset = _platt(raw[validate], outcome[validate])
    logistic = _logistic(features, outcome, teach, validate)
    rate = float(outcome[np.concatenate([teach, validate])].mean())
    said = {"own": _sigmoid(slope * raw + offset), "logistic": logistic.probability(features)}
    said["base_rate"] = np.full(len(outcome), rate)
    own, *plain = ({name: figures(outcome[test], values[test])} for name, values in said.items())
    whole = np.asarray(np.isfinite(features[teach]).all(axis=0))
    manifest = Manifest(
        name=training.name,
        kind=KIND,
        inputs=tuple(data.features),
        target=data.target,
        data={**about, "windows": {part: len(parts[part]) for part in PARTS}},
        metrics={**own["own"], "failing": float(outcome[test].mean()), "readings": len(test)},
        baselines={name: values for one in plain for name, values in one.items()},
        judged_by="brier",
        settings={
            **how.model_dump(),
            "horizon_us": data.horizon,
            "base_rate": rate,
            "calibration": {"slope": slope, "offset": offset},
            "never_missing": [name for name, all_there in zip(data.features, whole, strict=True) if all_there],
            "logistic": logistic.to_json(),
        },
    )
    attributes = tree_attributes(trees.booster_.dump_model())
    content = to_onnx(attributes, len(data.features), slope, offset)
    return Store(training.store).add(manifest, {MODEL: content, TREES: json.dumps(attributes).encode()})


def _parted(
    data: FailureData, table: pa.Table, versions: Mapping[str, int]
) -> tuple[Floats, Flags, Mapping[str, Ints], Mapping[str, Any]]:
    """Features (rows, features), outcome (rows,), the places of each part, and what the manifest says of them."""
    checked(table, (*data.features, data.target, data.time))
    if data.target in data.features:
        raise ConfigError(f"'{data.target}' is the target and a feature, too; a feature is known before it")
    target, times = numbers_of(table, data.target), times_of(table, data.time)
    if set(np.unique(target[np.isfinite(target)])) - {0.0, 1.0}:
        raise ConfigError(f"target '{data.target}' has other values than 0 and 1; write a condition, as: days < 1")
    last = int(times.max())
    known = np.isfinite(target) & (times + data.horizon <= last)
    if data.until is not None:
        known &= times + data.horizon < moment(data.until, "until")
    order = np.flatnonzero(known)[np.argsort(times[known], kind="stable")]
    # As the model in the stream will see them.
    columns = [numbers_of(table, name)[order] for name in data.features]
    features = np.stack(columns, axis=1).astype(np.float32).astype(np.float64)
    features = np.where(np.isfinite(features), features, np.nan)
    outcome, times = target[order] == 1, times[order]
    if not len(times):
        raise ConfigError(f"no row has a target '{data.target}' and {data.horizon / 3.6e9:g} hours of time after it")
    borders = (int(times[0]), *data.cuts(times), last + 1)
    parts = {}
    for at, part in enumerate(PARTS):
        until = borders[at + 1] - (data.horizon if at < 2 else 0)
        parts[part] = np.flatnonzero((times >= borders[at]) & (times < until))
        events, count = int(outcome[parts[part]].sum()), len(parts[part])
        if min(events, count - events) < EVENTS_MIN:
            raise ConfigError(
                f"in the part to {part}, {events:,} of {count:,} rows fail, and {EVENTS_MIN} of either outcome are "
                "needed; take a longer time, or set validate_from and test_from"
            )
    digest = hashlib.sha256(features.tobytes() + outcome.tobytes() + times.tobytes()).hexdigest()
    about = {"query": data.query, "tables": dict(versions), "rows": len(times), "sha256": digest}
    return features, outcome, parts, {**about, "validate_from": told(borders[1]), "test_from": told(borders[2])}


def _boosted(how: Trees) -> Any:
    try:
        from lightgbm import LGBMClassifier
    except ImportError:
        raise MissingExtra("lightgbm", "train", "a model of failures") from None
    return LGBMClassifier(
        n_estimators=how.trees, num_leaves=how.leaves, learning_rate=how.learning_rate, random_state=how.seed,
        deterministic=True, force_row_wise=True, n_jobs=1, verbose=-1,
    )  # fmt: skip


def _platt(raw: Floats, outcome: Flags) -> tuple[float, float]:
    """Slope and offset that make log odds honest on rows that did not teach."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1e6).fit(raw[:, None], outcome)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def _logistic(features: Floats, outcome: Flags, teach: Ints, validate: Ints) -> Logistic:
    from sklearn.linear_model import LogisticRegression

    there = np.isfinite(features[teach])
    count = np.maximum(there.sum(axis=0), 1)
    fill = np.array([np.median(c[k]) if k.any() else 0.0 for c, k in zip(features[teach].T, there.T, strict=True)])
    filled = np.where(np.isfinite(features), features, fill)
    mean = filled[teach].sum(axis=0) / len(teach)
    scale = np.where(count > 1, filled[teach].std(axis=0), 1.0)
    scale = np.where(scale > 0, scale, 1.0)
    fitted = LogisticRegression(max_iter=1000).fit((filled[teach] - mean) / scale, outcome[teach])
    weights = fitted.coef_[0] / scale
    bias = float(fitted.intercept_[0] - mean @ weights)
    slope, offset = _platt(filled[validate] @ weights + bias, outcome[validate])
    return Logistic(fill, slope * weights, slope * bias + offset)


def _sigmoid(odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -500, 500))))


class FailurePredictor:
    """One version of a model of failures, loaded (numpy and onnxruntime only)."""

    ROWS_MIN = 8
    """Fewer rows are filled up: the last digit must not depend on how many rows come at once."""

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes], place: str) -> None:
        if manifest.kind != KIND:
            raise ConfigError(f"{place} is a model of kind {manifest.kind}; a probability of failure needs kind {KIND}")
        self.manifest = manifest
        self.inputs: Sequence[str] = manifest.inputs
        self.logistic = Logistic.from_json(manifest.settings["logistic"])
        never = set(manifest.settings["never_missing"])
        self._needed = np.array([name in never for name in self.inputs])
        self._session = ModelSession(files[MODEL], f"{place}/{MODEL}")
        self._trees = (
            TreeContributions.read(files[TREES], len(self.inputs), f"{place}/{TREES}") if TREES in files else None
        )

    @classmethod
    def open(cls, store: Store, name: str, version: int | None) -> FailurePredictor:
        """Returns a version of a model (if None, the one that was promoted), its files held against their digests."""
        version = version if version is not None else store.followed(name).version
        return cls(store.show(name, version), store.files(name, version), str(store.place(name, version)))

    def probability(self, features: Floats) -> Floats:
        """Returns the probability of each row, shape (rows,); NaN where a number is missing that never was before."""
        said = np.full(len(features), np.nan)
        some = np.flatnonzero(~(np.isnan(features) & self._needed).any(axis=1))
        if len(some):
            given = features[some].astype(np.float32)
            padding = np.zeros((max(0, self.ROWS_MIN - len(given)), given.shape[1]), np.float32)
            (probability,) = self._session.run({"features": np.concatenate([given, padding])})
            said[some] = probability[: len(some), 0]
        return said

    def contributions(self, features: Floats, probability: Floats) -> Floats:
        """Returns how each input has moved the log odds of a row, shape (rows, inputs), for what `probability` said.

        SHAP values of the trees, for rows that are more probable than the base rate: nothing raises the others, and
        they take a hundred times as long as the probability (0.4 ms). NaN for the others, and by a version without its
        trees.
        """
        said = np.full(features.shape, np.nan)
        if self._trees is not None:
            some = np.flatnonzero(probability > self.manifest.settings["base_rate"])
            said[some] = self.manifest.settings["calibration"]["slope"] * self._trees(features[some])
        return said
