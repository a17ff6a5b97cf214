"""Remaining life: how many readings a machine still has before it fails, taught by machines that have failed.

Boosted trees (LightGBM) and a GRU on the same causal features, half and half, or the similarity of their health to that
of machines that failed; bounds by conformal prediction over machines that were held back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tocsin.batch import Codes, Floats
from tocsin.errors import ConfigError, MissingExtra
from tocsin.models import life_gru, life_similarity
from tocsin.models.life_features import Numbers, Regimes, feature_count, find_regimes, state_width, wear_features
from tocsin.models.life_health import Health, learn_health
from tocsin.models.life_members import Members
from tocsin.models.life_onnx import write_trees
from tocsin.models.manifest import Manifest
from tocsin.models.store import Store
from tocsin.state import Columns, Field

KIND = "remaining_life"
CAP = 125.0
"""Readings before the failure from which on nothing of it can be seen (Heimes 2008): life is taught up to here."""
FOLDS = 5
YOUNG = 30
"""Readings of a machine that bounds are not learnt from: it has not shown itself yet."""
LEVELS = 6
Member = Literal["trees", "gru", "similarity"]
MEMBERS: tuple[Member, ...] = ("trees", "gru")
Units = Numbers


@dataclass(frozen=True)
class Effort:
    """How much is put into teaching."""

    trees: int = 600
    steps: int = 640
    """How many corrections the GRU takes at least."""


@dataclass(frozen=True)
class LifeBounds:
    """By predicted life, how far the true one lies below and above it: arrays of shape (levels,)."""

    at: Floats
    below: Floats
    above: Floats

    def around(self, life: Floats, cap: float) -> tuple[Floats, Floats]:
        """Returns lower and upper bound; an upper bound at the cap means that much or more."""
        lower = np.clip(life + np.interp(life, self.at, self.below), 0, cap)
        return lower, np.clip(life + np.interp(life, self.at, self.above), 0, cap)


@dataclass(frozen=True)
class LifeModel:
    """What was taught."""

    regimes: Regimes
    health: Health
    members: Mapping[str, bytes]
    """By name, the ONNX models that say it together."""
    bounds: LifeBounds
    cap: float
    held_back: Floats
    """What was predicted for each row that teaches, by models that had not seen its machine."""


@dataclass(frozen=True)
class _Lives:
    """Rows of machines that failed, each machine's in their order."""

    units: Units
    features: Floats
    wanted: Floats

    def part(self, rows: npt.NDArray[np.bool_]) -> _Lives:
        """Returns some machines of them."""
        return _Lives(self.units[rows], self.features[rows], self.wanted[rows])


def train(
    units: Units, settings: Floats, sensors: Floats, *, cap: float = CAP, coverage: float = 0.9,
    members: Sequence[Member] = MEMBERS, effort: Effort | None = None, seed: int = 0,
    progress: Callable[[str], None] = lambda said: None,
) -> LifeModel:  # fmt: skip
    """Return a model taught with machines that ran until they failed: the last row of each is its failure.

    ``units`` (rows,) says whose a row is; ``settings`` (rows, settings) may make regimes; ``sensors`` (rows, sensors).

    Raises
    ------
    ConfigError
        There are too few machines to hold some back.
    """
    names = np.unique(units)
    if len(names) < 2 * FOLDS:
        raise ConfigError(f"{len(names)} machines have failed; to teach, and to hold some back, give {2 * FOLDS}")
    effort = effort or Effort()
    wanted = np.minimum(remaining(units), cap)
    regimes = find_regimes(settings, sensors)
    lives = _Lives(units, machine_features(regimes, units, settings, sensors), wanted)
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = np.empty(len(names), np.int64)
    fold_of[order] = np.arange(len(names)) % FOLDS
    folds = fold_of[np.searchsorted(names, units)]
    held_back = np.empty(len(units))
    for fold in range(FOLDS):
        teach, judge = folds != fold, folds == fold
        held_back[judge] = _said(lives.part(judge), *_taught(lives.part(teach), members, effort, seed), cap)
        progress(f"held back part {fold + 1} of {FOLDS}")
    bounds = learn_bounds(units, held_back, wanted, coverage)
    files, health = _taught(lives, members, effort, seed)
    return LifeModel(regimes, health, files, bounds, cap, held_back)


def remaining(units: Units) -> Floats:
    """Return how many rows of its machine come after each row, shape (rows,)."""
    left = np.empty(len(units))
    for unit in np.unique(units):
        rows = np.flatnonzero(units == unit)
        left[rows] = np.arange(len(rows) - 1, -1, -1)
    return left


def learn_bounds(units: Units, predicted: Floats, wanted: Floats, coverage: float) -> LifeBounds:
    """Return bounds that hold for a share of machines, each looked at once, whatever life is predicted for it.

    Errors of held-back machines, in levels of the predicted life (Vovk 2012, conditional on a category), each machine
    with the same weight in a level, however many rows it has there: a machine's rows err together.
    """
    old = np.concatenate([np.arange(np.sum(units == u)) >= YOUNG for u in dict.fromkeys(units.tolist())])
    some = old if old.sum() >= 50 * LEVELS else np.ones(len(units), bool)
    whose, life, error = units[some], predicted[some], (wanted - predicted)[some]
    edges = np.quantile(life, np.linspace(0, 1, LEVELS + 1))
    level = np.clip(np.searchsorted(edges, life, side="right") - 1, 0, LEVELS - 1)
    at, below, above = [], [], []
    for number in np.unique(level):
        rows = level == number
        _, whom, count = np.unique(whose[rows], return_inverse=True, return_counts=True)
        weights = 1 / count[whom]
        share = min((1 - coverage) / 2 * len(count) / (len(count) + 1), 0.5)
        at.append(float(np.average(life[rows], weights=weights)))
        below.append(_weighted_quantile(error[rows], weights, share))
        above.append(_weighted_quantile(error[rows], weights, 1 - share))
    return LifeBounds(np.array(at), np.array(below), np.array(above))


def nasa_score(predicted: Floats, truth: Floats) -> float:
    """Return the asymmetric score of Saxena et al. (2008), summed over machines: late costs more than early."""
    late = predicted - truth
    return float(np.sum(np.where(late < 0, np.exp(-late / 13), np.exp(late / 10)) - 1))


def rmse(predicted: Floats, truth: Floats) -> float:
    return float(np.sqrt(np.mean((predicted - truth) ** 2)))


def version(
    name: str, settings: Sequence[str], sensors: Sequence[str], model: LifeModel, units: Units, coverage: float = 0.9
) -> tuple[Manifest, Mapping[str, bytes]]:
    """Return what `Store.add` needs; figures are of machines that were held back, beside the mean life of those.

    ``rmse`` is against the life cut off at the cap, ``rmse_raw`` against the life as it was.
    """
    truth = remaining(units)
    wanted = np.minimum(truth, model.cap)
    manifest = Manifest(
        name=name,
        kind=KIND,
        inputs=(*settings, *sensors),
        target="rul",
        scaling=model.regimes.to_json(),
        metrics={"rmse": rmse(model.held_back, wanted), "rmse_raw": rmse(model.held_back, truth)},
        baselines={"mean_life": {"rmse": float(np.std(wanted)), "rmse_raw": float(np.std(truth))}},
        settings={
            "cap": model.cap,
            "coverage": coverage,
            "machines": len(np.unique(units)),
            "settings": list(settings),
            "sensors": list(sensors),
            "members": list(model.members),
            "health": model.health.to_json(),
            "bounds": {n: getattr(model.bounds, n).tolist() for n in ("at", "below", "above")},
        },
    )
    return manifest, {f"{name}.onnx": content for name, content in model.members.items()}


class LifePredictor:
    """One version of a model of remaining life, loaded (numpy, numba and onnxruntime only)."""

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes], place: str) -> None:
        if manifest.kind != KIND:
            raise ConfigError(f"{place} is a model of kind {manifest.kind}; remaining life needs one of kind {KIND}")
        self.settings: Sequence[str] = manifest.settings["settings"]
        self.sensors: Sequence[str] = manifest.settings["sensors"]
        self.cap = float(manifest.settings["cap"])
        self.coverage = float(manifest.settings["coverage"])
        self.regimes = Regimes.from_json(manifest.scaling)
        self.bounds = LifeBounds(*(np.array(manifest.settings["bounds"][n]) for n in ("at", "below", "above")))
        # A version of before there was a health index has none, and one model, of all features.
        healthy = manifest.settings.get("health")
        self.health = None if healthy is None else Health.from_json(healthy)
        named = {name: files[f"{name}.onnx"] for name in manifest.settings.get("members", ("model",))}
        self._members = Members(named, feature_count(len(self.sensors)), self.health, place)

    @classmethod
    def open(cls, store: Store, name: str, version: int) -> LifePredictor:
        """Returns a version of a model, its files held against their digests."""
        return cls(store.show(name, version), store.files(name, version), str(store.place(name, version)))

    def fields(self) -> Mapping[str, Field]:
        """Returns what is remembered of each machine."""
        return {**_remembered(len(self.sensors)), **self._members.fields()}

    def features(self, slots: Codes, settings: Floats, sensors: Floats, state: Columns) -> Floats:
        """Returns the features of each row, and goes on with what is remembered of each machine."""
        return _wear(slots, self.regimes.scaled(settings, sensors), state)

    def predict(self, slots: Codes, features: Floats, state: Columns) -> tuple[Floats, Floats, Floats]:
        """Returns remaining life, lower and upper bound, each (rows,); NaN where a feature is missing."""
        life = np.clip(self._members.predict(slots, features, state), 0, self.cap)
        return life, *self.bounds.around(life, self.cap)

    def health_index(self, features: Floats) -> Floats:
        """Returns the health of each row, 1 as new to 0 as at the end, shape (rows,); NaN where it is not known."""
        if self.health is None:
            return np.full(len(features), np.nan)
        return np.clip(self.health.of(features), 0, 1)


def machine_features(regimes: Regimes, units: Units, settings: Floats, sensors: Floats) -> Floats:
    """Return the features of each row, shape (rows, features), as the models see them: in single precision."""
    state = Columns(_remembered(sensors.shape[1]))
    features = _wear(slots_of(units, state), regimes.scaled(settings, sensors), state)
    return features.astype(np.float32).astype(np.float64)


def slots_of(units: Units, state: Columns) -> Codes:
    """Return where the state keeps the machine of each row, shape (rows,)."""
    return state.slots(pa.array(units).cast(pa.string()))


def _remembered(sensors: int) -> Mapping[str, Field]:
    return {"age": Field(), "memory": Field(width=state_width(sensors))}


def _wear(slots: Codes, scaled: Floats, state: Columns) -> Floats:
    features = np.empty((len(slots), feature_count(scaled.shape[1])))
    wear_features(slots, scaled, state["age"], state["memory"], features)
    return features


def _taught(lives: _Lives, members: Sequence[Member], effort: Effort, seed: int) -> tuple[Mapping[str, bytes], Health]:
    """Returns each model's ONNX, and what the health index is made of."""
    features, wanted = lives.features, lives.wanted
    age = features[:, 0]
    health = learn_health(features, age, remaining(lives.units))
    begins = np.arange(len(age)) - age.astype(np.int64) + 1

    def write(member: Member) -> bytes:
        if member == "trees":
            return write_trees(_boosted(features, wanted, effort, seed))
        if member == "gru":
            inputs = features[:, life_gru.columns(features.shape[1])]
            return life_gru.write(life_gru.learn(inputs, begins, wanted, effort.steps, seed))
        slots = np.unique(begins, return_inverse=True)[1].astype(np.int32)
        return life_similarity.learn(slots, health.of(features), age, wanted)

    return {member: write(member) for member in members}, health


def _said(lives: _Lives, files: Mapping[str, bytes], health: Health, cap: float) -> Floats:
    """What models say of machines that did not teach them."""
    members = Members(files, lives.features.shape[1], health, "held back")
    state = Columns(members.fields())
    return np.clip(members.predict(slots_of(lives.units, state), lives.features, state), 0, cap)


def _boosted(features: Floats, wanted: Floats, effort: Effort, seed: int) -> Any:
    try:
        from lightgbm import LGBMRegressor
    except ImportError as error:
        raise MissingExtra(str(error.name), "train", "a model of remaining life") from None
    return LGBMRegressor(
        n_estimators=effort.trees, learning_rate=0.03, num_leaves=8, min_child_samples=40, subsample=0.7,
        subsample_freq=1, colsample_bytree=0.4, reg_lambda=5, random_state=seed, n_jobs=1, deterministic=True,
        force_row_wise=True, verbose=-1,
    ).fit(features, wanted)  # fmt: skip


def _weighted_quantile(values: Floats, weights: Floats, share: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, share)), len(values) - 1)])
