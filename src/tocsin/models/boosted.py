"""Forecasters of boosted trees: what they look at of a window, how they are taught (LightGBM), and their ONNX graph.

Ke et al., "LightGBM: a highly efficient gradient boosting decision tree" (2017). The graph takes the same windows as
that of a net and says the same (the change from the last reading, scaled), so whatever runs one runs the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field as Setting

from tocsin.batch import Floats, Ints
from tocsin.errors import MissingExtra
from tocsin.models.dataset import Series
from tocsin.models.training import Progress
from tocsin.models.trees_onnx import DOUBLE, ENSEMBLE, FLOAT, Node, tree_attributes, tree_model
from tocsin.settings import Settings

F32 = npt.NDArray[np.float32]
FEATURE_SHARE = 0.5
"""The share of the features that each tree chooses from: neighbours in a window say nearly the same, and trees that do
not all split at the same one err less alike (Breiman 2001)."""
ROWS = 4_096
"""Windows that are held at once; what is kept of them is smaller."""


class Boosted(Settings):
    """The boosted trees, and how they learn."""

    trees: int = Setting(ge=1)
    """How many there are at most; that this is set says that trees are taught, and no net."""
    patience: int = Setting(50, ge=1)
    """After how many trees without an improvement on the validation part it stops; those up to the best one count."""
    leaves: int = Setting(15, ge=2)
    """How many leaves each has at most."""
    leaf_rows: int = Setting(20, ge=1)
    """How many windows a leaf stands for at least."""
    learning_rate: float = Setting(0.03, gt=0)
    """How much each of them corrects."""
    seed: int = Setting(0, ge=0)
    """What the random numbers begin with: the same seed and data give the same trees."""


def looks(window: int) -> Floats:
    """Returns what is looked at of each input, as weights of its periods (oldest first), shape (window, features).

    The last reading; how much it has changed since 1, 2, 4 ... periods before and since the first; the means of the
    last 2, 4, 8 ... and of all.

    Examples
    --------
    >>> (np.array([1.0, 3.0, 5.0]) @ looks(3)).tolist()
    [5.0, 2.0, 4.0, 4.0, 3.0]
    """
    periods = np.eye(window)[::-1]
    doubled = [1 << k for k in range(window.bit_length())]
    back = sorted({lag for lag in doubled if lag < window} | {window - 1} - {0})
    means = sorted({count for count in doubled if 1 < count < window} | {window} - {1})
    changes = [periods[0] - periods[lag] for lag in back]
    return np.stack([periods[0], *changes, *(periods[:count].mean(axis=0) for count in means)], axis=1)


def features(scaled: F32) -> F32:
    """Returns what the trees see of windows, shape (rows, inputs times features).

    It is summed in double precision and then rounded: so it is the same in whatever order a library sums, and a window
    goes the same way through a tree wherever it is run.
    """
    seen = scaled.astype(np.float64).transpose(0, 2, 1) @ looks(scaled.shape[1])
    return seen.reshape(len(scaled), -1).astype(np.float32)


def grow(series: Series, scaling: tuple[Floats, Floats, float], how: Boosted, told: Progress | None = None) -> Any:
    """Returns LightGBM's trees, taught by the part to train, as many as are best on the part to validate.

    ``scaling`` is mean and deviation of each input, and the deviation of the change. ``told`` is called after each
    tree with the share that is done at most, and the loss.
    """
    try:
        import lightgbm
    except ImportError:
        raise MissingExtra("lightgbm", "train", "a forecaster of trees") from None

    def tell(now: Any) -> None:
        if told is not None:
            told((now.iteration + 1) / how.trees, float(now.evaluation_result_list[0][2]))

    settings = {
        "objective": "regression",
        "num_leaves": how.leaves,
        "min_data_in_leaf": how.leaf_rows,
        "learning_rate": how.learning_rate,
        "feature_fraction": FEATURE_SHARE,
        "seed": how.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    train = lightgbm.Dataset(*_lesson(series, scaling, series.train))
    validate = lightgbm.Dataset(*_lesson(series, scaling, series.validate), reference=train)
    callbacks = [tell, lightgbm.early_stopping(how.patience, verbose=False)]
    return lightgbm.train(settings, train, how.trees, [validate], callbacks=callbacks)


def _lesson(series: Series, scaling: tuple[Floats, Floats, float], ends: Ints) -> tuple[F32, Floats]:
    """What the trees see of the windows that end there, and the change that follows, scaled."""
    mean, scale, change = scaling
    seen = [
        features(((series.windows(ends[start : start + ROWS]) - mean) / scale).astype(np.float32))
        for start in range(0, len(ends), ROWS)
    ]
    return np.concatenate(seen), (series.targets(ends) - series.values[ends, 0]) / change


def to_onnx(dump: Mapping[str, Any], window: int, inputs: int) -> bytes:
    """Return the model: input ``window`` (rows, window, inputs), scaled; output ``change`` (rows, 1), scaled.

    ``dump`` is LightGBM's description of its trees.
    """
    nodes: list[Node] = [
        ("Transpose", ["window"], "by_input", {"perm": [0, 2, 1]}),
        ("Cast", ["by_input"], "double", {"to": DOUBLE}),
        ("MatMul", ["double", "looks"], "seen", {}),
        ("Flatten", ["seen"], "flat", {}),
        ("Cast", ["flat"], "features", {"to": FLOAT}),
        (ENSEMBLE, ["features"], "change", tree_attributes(dump)),
    ]
    given = {"window": ("rows", window, inputs)}
    return tree_model("boosted", "a forecaster of trees", given, "change", nodes, {"looks": looks(window)})
