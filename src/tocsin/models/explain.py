"""Why rows are of the class they are: three models beside each other on one split, and what each of them goes by.

Logistic regression and a decision tree can be read; boosted trees (LightGBM) usually predict better. All three are
taught by the same rows, calibrated by rows after those, and judged by the last ones, which nothing is chosen on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.batch import Floats
from tocsin.domain.contributions import in_words
from tocsin.errors import ConfigError, MissingExtra

JUDGE, CALIBRATE = 0.3, 0.2
"""The last share of all rows judges; the last share of the others calibrates."""
LEAK = 0.99
"""The AUC of a single feature from which on it probably knows the answer."""
CATEGORIES_MAX = 50
REPEATS = 5
BOOSTED = "boosted trees"
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Explanation:
    """What three models make of a target, and by which features."""

    target: str
    features: tuple[str, ...]
    base_rates: Mapping[str, float]
    """Share of positive rows by part: ``teach``, ``calibrate``, ``judge``."""
    left_out: int
    """Rows without a target, or without a time where rows are put in order by it."""
    models: pa.Table
    """One row a model, the base rate's first: average precision, AUC and Brier score on the rows that judge."""
    importance: pa.Table
    """One row a feature: by model the drop of average precision when it is shuffled; the boosted trees' SHAP share."""
    leaks: Mapping[str, float]
    """By feature that alone tells the classes apart in the rows that teach: its AUC."""
    rows: npt.NDArray[np.int64]
    """The places of the rows that judge in what was given, shape (rows,)."""
    outcome: Flags
    """Whether each of them is positive, shape (rows,)."""
    probability: Floats
    """What the boosted trees say of each of them, calibrated, shape (rows,)."""
    contributions: Floats
    """SHAP values of each of them in log odds before calibration, shape (rows, features)."""

    def in_words(self, row: int) -> str:
        """Returns what raises the probability of a judged row most, as shares of all that raises it."""
        return in_words(self.features, self.contributions[row]) or "nothing raises it"

    def agreement(self) -> str:
        """Returns in a sentence which features all rank among their first three, and which they differ on most."""
        ranks = {name: _ranks(self.importance[name].to_numpy()) for name in self.importance.column_names[1:]}
        names = self.importance["feature"].to_pylist()
        table = np.array(list(ranks.values()))
        shared = [name for i, name in enumerate(names) if (table[:, i] <= 3).all()]
        apart = table.max(axis=0) - table.min(axis=0)
        most = int(apart.argmax())
        said = (
            f"all have {', '.join(shared)} among their first three" if shared else "no feature is among all first three"
        )
        if not apart[most]:
            return f"{said}; they rank all features alike"
        places = ", ".join(f"{rank[most]} by {name}" for name, rank in ranks.items())
        return f"{said}; they differ most on {names[most]} (place {places})"


def explain(
    frame: Any,
    target: str,
    features: Sequence[str] = (),
    drop: Sequence[str] = (),
    time: str | None = None,
    seed: int = 0,
) -> Explanation:
    """Explain a column of yes and no (or 1 and 0) by the others of a table of Arrow, pandas or polars.

    ``time`` names the column that rows are put in order by; without it they are in order. Permutation importance is
    that of Breiman (2001), SHAP values are exact ones of trees (Lundberg et al. 2020), calibration is Platt's (1999).

    Raises
    ------
    ConfigError
        A column is missing or of no use, or a part of the rows is all of one class.
    """
    try:
        import lightgbm  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError:
        raise MissingExtra("lightgbm and scikit-learn", "train", "an explanation") from None
    table = frame if isinstance(frame, pa.Table) else pa.table(frame)
    names = _features(table, target, features, drop, time)
    order = np.arange(len(table))
    known = table[target].is_valid().to_numpy()
    if time is not None:
        if pt.is_string(table[time].type):
            raise ConfigError(f"'{time}' is text, which is not in the order of time; make it a timestamp first")
        order = pc.sort_indices(table, [(time, "ascending")]).to_numpy().astype(np.int64)
        known = known & table[time].is_valid().to_numpy()
    order = order[known[order]]
    y = _outcome(table[target], target)[order]
    until = int(len(y) * (1 - JUDGE))
    cuts = [int(until * (1 - CALIBRATE)), until]
    parts = dict(zip(("teach", "calibrate", "judge"), np.split(np.arange(len(y)), cuts), strict=True))
    for part, places in parts.items():
        if len(np.unique(y[places])) < 2:
            raise ConfigError(
                f"'{target}' is the same in all {len(places)} rows that {part}; give more rows, over a longer time"
            )
    x, groups = _encoded(table, names, order, parts["teach"])
    return _explained(target, names, x, groups, y, parts, order, len(table) - len(order), seed)


def _explained(
    target: str, names: Sequence[str], x: Floats, groups: Sequence[npt.NDArray[np.int64]], y: Flags,
    parts: Mapping[str, npt.NDArray[np.int64]], order: npt.NDArray[np.int64], left_out: int, seed: int,
) -> Explanation:  # fmt: skip
    teach, calibrate, judge = parts.values()
    base = float(y[teach].mean())
    rows = [_figures("base rate", y[judge], np.full(len(judge), base))]
    columns: dict[str, Any] = {"feature": list(names)}
    probability = np.empty(0)
    for name, model in _models(seed).items():
        model.fit(x[teach], y[teach])
        probability = _platt(_log_odds(model, x[calibrate]), y[calibrate], _log_odds(model, x[judge]))
        rows.append(_figures(name, y[judge], probability))
        columns[name] = _permuted(model, x[judge], groups, y[judge], seed)
    # The boosted trees are the last of the models: theirs are the probability and the contributions.
    shap = np.asarray(model.predict(x[judge], pred_contrib=True))[:, :-1]
    contributions = np.column_stack([shap[:, group].sum(axis=1) for group in groups])
    size = np.abs(contributions).mean(axis=0)
    columns["SHAP share"] = size / size.sum() if size.any() else size
    importance = pa.table(columns)
    single = {name: _alone(x[np.ix_(teach, group)], y[teach]) for name, group in zip(names, groups, strict=True)}
    return Explanation(
        target=target,
        features=tuple(names),
        base_rates={part: float(y[places].mean()) for part, places in parts.items()},
        left_out=left_out,
        models=pa.Table.from_pylist(rows),
        importance=importance.sort_by([(BOOSTED, "descending")]),
        leaks={name: auc for name, auc in single.items() if auc >= LEAK},
        rows=order[judge],
        outcome=y[judge],
        probability=probability,
        contributions=contributions,
    )


def _features(
    table: pa.Table, target: str, features: Sequence[str], drop: Sequence[str], time: str | None
) -> tuple[str, ...]:
    there = table.column_names
    for name in (target, *features, *drop, *([time] if time else [])):
        if name not in there:
            raise ConfigError(f"there is no column '{name}'; there are [{', '.join(there)}]")
    names = tuple(n for n in (features or there) if n not in (target, time, *drop))
    if not names:
        raise ConfigError(f"no column is left to explain '{target}' by; name fewer to leave out")
    return names


def _outcome(column: pa.ChunkedArray, target: str) -> Flags:
    values = set(pc.unique(column.drop_null()).to_pylist())
    if not values <= {0, 1}:
        some = ", ".join(map(str, list(values)[:4]))
        raise ConfigError(f"'{target}' has values such as {some}; a target is 0 and 1, or true and false")
    return np.asarray(column.cast(pa.float64()).fill_null(0).to_numpy() == 1)


def _encoded(
    table: pa.Table, names: Sequence[str], order: npt.NDArray[np.int64], teach: npt.NDArray[np.int64]
) -> tuple[Floats, list[npt.NDArray[np.int64]]]:
    """Numbers as they are, with NaN where there is none; a column of text as one of 0 and 1 for each text taught."""
    columns: list[Floats] = []
    groups = []
    for name in names:
        begin, column = len(columns), table[name]
        if pt.is_integer(column.type) or pt.is_floating(column.type) or pt.is_boolean(column.type):
            numbers = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()[order]
            columns.append(np.where(np.isfinite(numbers), numbers, np.nan))
        elif pt.is_string(column.type) or pt.is_large_string(column.type) or pt.is_dictionary(column.type):
            texts = np.array([str(v) for v in column.to_pylist()], object)[order]
            known = sorted(set(texts[teach]))
            if len(known) > CATEGORIES_MAX:
                raise ConfigError(
                    f"'{name}' has {len(known)} texts; more than {CATEGORIES_MAX} explain nothing: drop it"
                )
            columns += [(texts == text).astype(np.float64) for text in known]
        else:
            raise ConfigError(f"'{name}' is {column.type}; a feature is a number, a flag or a text: drop it")
        groups.append(np.arange(begin, len(columns)))
    return np.column_stack(columns), groups


def _models(seed: int) -> dict[str, Any]:
    from lightgbm import LGBMClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    filled = SimpleImputer(strategy="median", keep_empty_features=True)
    return {
        "logistic regression": make_pipeline(filled, StandardScaler(), LogisticRegression(max_iter=1000)),
        "decision tree": DecisionTreeClassifier(max_depth=5, min_samples_leaf=20, random_state=seed),
        BOOSTED: LGBMClassifier(
            n_estimators=200, learning_rate=0.05, num_leaves=15, random_state=seed, deterministic=True,
            force_row_wise=True, n_jobs=1, verbose=-1,
        ),
    }  # fmt: skip


def _log_odds(model: Any, x: Floats) -> Floats:
    share = np.clip(model.predict_proba(x)[:, 1], 1e-6, 1 - 1e-6)
    return np.asarray(np.log(share / (1 - share)))


def _platt(taught: Floats, y: Flags, judged: Floats) -> Floats:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1e6).fit(taught[:, None], y)
    return np.asarray(fitted.predict_proba(judged[:, None])[:, 1])


def _figures(name: str, y: Flags, probability: Floats) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

    return {
        "model": name,
        "average_precision": float(average_precision_score(y, probability)),
        "auc": float(roc_auc_score(y, probability)),
        "brier": float(brier_score_loss(y, probability)),
        "base_rate": float(y.mean()),
    }


def _permuted(model: Any, x: Floats, groups: Sequence[npt.NDArray[np.int64]], y: Flags, seed: int) -> Floats:
    """The mean drop of average precision when the columns of a feature are shuffled together, shape (features,)."""
    from sklearn.metrics import average_precision_score

    whole = average_precision_score(y, _log_odds(model, x))
    random = np.random.default_rng(seed)
    drops = np.zeros(len(groups))
    for at, group in enumerate(groups):
        for _ in range(REPEATS):
            shuffled = x.copy()
            shuffled[:, group] = x[random.permutation(len(x))][:, group]
            drops[at] += (whole - average_precision_score(y, _log_odds(model, shuffled))) / REPEATS
    return drops


def _alone(x: Floats, y: Flags) -> float:
    """The best AUC of the columns of a feature, whichever way they point; a missing value is the least one."""
    from sklearn.metrics import roc_auc_score

    aucs = [float(roc_auc_score(y, np.nan_to_num(column, nan=-1e300))) for column in x.T]
    return max((max(auc, 1 - auc) for auc in aucs), default=0.5)


def _ranks(values: Floats) -> npt.NDArray[np.int64]:
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return ranks
