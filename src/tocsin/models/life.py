"""Remaining life: how many readings a machine still has before it fails, taught by machines that have failed.

Boosted trees (LightGBM) and three small networks on the same causal features, half and half, in one ONNX model; bounds
by conformal prediction over machines that were held back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats
from tocsin.errors import ConfigError, MissingExtra
from tocsin.models.life_features import Regimes, feature_count, find_regimes, state_width, wear_features
from tocsin.models.life_onnx import ensemble
from tocsin.models.manifest import MODEL, Manifest
from tocsin.models.runtime import ModelSession
from tocsin.models.store import Store

KIND = "remaining_life"
CAP = 125.0
"""Readings before the failure from which on nothing of it can be seen (Heimes 2008): life is taught up to here."""
FOLDS = 5
YOUNG = 30
"""Readings of a machine that bounds are not learnt from: it has not shown itself yet."""
LEVELS = 6
NETWORKS = 3
Units = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Effort:
    """How much is put into teaching."""

    trees: int = 600
    rounds: int = 25
    """How often each network sees each row."""


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
    boosted: Any
    networks: Any
    bounds: LifeBounds
    cap: float
    held_back: Floats
    """What was predicted for each row that teaches, by a model that had not seen its machine."""

    def features(self, units: Units, settings: Floats, sensors: Floats) -> Floats:
        """Returns the features of each row, shape (rows, features); the rows of a machine in their order."""
        return _features(self.regimes, units, settings, sensors)

    def predict(self, features: Floats) -> Floats:
        """Returns the remaining life of each row, up to the cap, shape (rows,)."""
        return _predict(self.boosted, self.networks, features, self.cap)

    def to_onnx(self) -> bytes:
        """Returns the model: input ``features`` (rows, features), output ``life`` (rows, 1), not cut off yet."""
        return ensemble(self.boosted, self.networks)


def train(
    units: Units, settings: Floats, sensors: Floats, *, cap: float = CAP, coverage: float = 0.9,
    effort: Effort | None = None, seed: int = 0, progress: Callable[[str], None] = lambda said: None,
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
    features = _features(regimes, units, settings, sensors)
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = np.empty(len(names), np.int64)
    fold_of[order] = np.arange(len(names)) % FOLDS
    folds = fold_of[np.searchsorted(names, units)]
    held_back = np.empty(len(units))
    for fold in range(FOLDS):
        teach, judge = folds != fold, folds == fold
        fitted = _fit(features[teach], wanted[teach], effort, seed)
        held_back[judge] = _predict(*fitted, features[judge], cap)
        progress(f"held back part {fold + 1} of {FOLDS}")
    bounds = learn_bounds(units, held_back, wanted, coverage)
    return LifeModel(regimes, *_fit(features, wanted, effort, seed), bounds, cap, held_back)


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
            "bounds": {n: getattr(model.bounds, n).tolist() for n in ("at", "below", "above")},
        },
    )
    return manifest, {MODEL: model.to_onnx()}


class LifePredictor:
    """One version of a model of remaining life, loaded (numpy, numba and onnxruntime only)."""

    ROWS_MIN = 8
    """Fewer rows are filled up: the last digit must not depend on how many rows come at once."""

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes], place: str) -> None:
        if manifest.kind != KIND:
            raise ConfigError(f"{place} is a model of kind {manifest.kind}; remaining life needs one of kind {KIND}")
        self.settings: Sequence[str] = manifest.settings["settings"]
        self.sensors: Sequence[str] = manifest.settings["sensors"]
        self.cap = float(manifest.settings["cap"])
        self.coverage = float(manifest.settings["coverage"])
        self.regimes = Regimes.from_json(manifest.scaling)
        self.bounds = LifeBounds(*(np.array(manifest.settings["bounds"][n]) for n in ("at", "below", "above")))
        self._session = ModelSession(files[MODEL], f"{place}/{MODEL}")

    @classmethod
    def open(cls, store: Store, name: str, version: int) -> LifePredictor:
        """Returns a version of a model, its files held against their digests."""
        return cls(store.show(name, version), store.files(name, version), str(store.place(name, version)))

    @property
    def width(self) -> int:
        """How many numbers the features remember of a machine."""
        return state_width(len(self.sensors))

    def features(
        self, slots: npt.NDArray[np.int32], settings: Floats, sensors: Floats, ages: Floats, memory: Floats
    ) -> Floats:
        """Returns the features of each row, and goes on with what is remembered of each machine."""
        features = np.empty((len(slots), feature_count(sensors.shape[1])))
        wear_features(slots, self.regimes.scaled(settings, sensors), ages, memory, features)
        return features

    def predict(self, features: Floats) -> tuple[Floats, Floats, Floats]:
        """Returns remaining life, lower and upper bound, each (rows,); NaN where a feature is missing."""
        life = np.full(len(features), np.nan)
        whole = np.flatnonzero(np.isfinite(features).all(axis=1))
        if len(whole):
            given = features[whole].astype(np.float32)
            padding = np.zeros((max(0, self.ROWS_MIN - len(given)), given.shape[1]), np.float32)
            (said,) = self._session.run({"features": np.concatenate([given, padding])})
            life[whole] = np.clip(said[: len(whole), 0], 0, self.cap)
        return life, *self.bounds.around(life, self.cap)


def _features(regimes: Regimes, units: Units, settings: Floats, sensors: Floats) -> Floats:
    names, slots = np.unique(units, return_inverse=True)
    features = np.empty((len(units), feature_count(sensors.shape[1])))
    ages, memory = np.zeros(len(names)), np.zeros((len(names), state_width(sensors.shape[1])))
    wear_features(slots.astype(np.int32), regimes.scaled(settings, sensors), ages, memory, features)
    return features.astype(np.float32).astype(np.float64)  # as the model in the stream will see them


def _fit(features: Floats, wanted: Floats, effort: Effort, seed: int) -> tuple[Any, Any]:
    import warnings

    try:
        from lightgbm import LGBMRegressor
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtra(str(error.name), "train", "a model of remaining life") from None
    boosted = LGBMRegressor(
        n_estimators=effort.trees, learning_rate=0.03, num_leaves=8, min_child_samples=40, subsample=0.7,
        subsample_freq=1, colsample_bytree=0.4, reg_lambda=5, random_state=seed, n_jobs=1, deterministic=True,
        force_row_wise=True, verbose=-1,
    ).fit(features, wanted)  # fmt: skip
    networks = []
    for number in range(NETWORKS):
        network = MLPRegressor(
            hidden_layer_sizes=(64, 32), alpha=1.0, max_iter=effort.rounds, random_state=seed + number
        )
        with warnings.catch_warnings():
            # It is stopped early on purpose.
            warnings.simplefilter("ignore", ConvergenceWarning)
            networks.append(make_pipeline(StandardScaler(), network).fit(features, wanted))
    return boosted, networks


def _predict(boosted: Any, networks: Any, features: Floats, cap: float) -> Floats:
    by_networks = np.mean([network.predict(features) for network in networks], axis=0)
    return np.asarray(np.clip((boosted.booster_.predict(features) + by_networks) / 2, 0, cap))


def _weighted_quantile(values: Floats, weights: Floats, share: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, share)), len(values) - 1)])
