"""Remaining life by similarity: machines that failed, whose health went the same way, say how long this one has.

Wang, Yu, Siegel & Lee, "A similarity-based prognostics approach for remaining useful life estimation of engineered
systems" (2008), with each piece of each life in the library weighted by its distance (Nadaraya & Watson 1964), so that
a life may be shifted in time against another; how far, the age limits, which counts as a distance, too.
"""

from __future__ import annotations

import numpy as np

from tocsin.batch import Codes, Floats
from tocsin.models.life_features import recent_rows
from tocsin.models.onnx_graph import OnnxGraph

LAGS = (0, 5, 10, 20, 30, 40, 60)
"""How many readings ago the health is looked at."""
DEPTH = LAGS[-1] + 1
AGE = 200.0
"""So many readings of age count as much as the whole way from healthy to failed at one of the lags."""
SPREAD = 0.004
"""The squared distance at which a piece counts for 1/e of one that is the same."""
STEP = 2
"""Each so manieth reading of a life is in the library: neighbours say the same."""


def trajectory(healths: Floats, age: Floats) -> Floats:
    """Returns what is compared: healths at the lags, then the age, shape (rows, lags + 1).

    ``healths`` (rows, `DEPTH`) holds the health of the last readings, the newest last.
    """
    return np.concatenate([healths[:, [DEPTH - 1 - lag for lag in LAGS]], age[:, None] / AGE], axis=1)


def learn(slots: Codes, healths: Floats, age: Floats, lives: Floats) -> bytes:
    """Returns the model that machines teach which ran until they failed; each argument has one number a row."""
    recent = np.empty((len(slots), DEPTH, 1))
    recent_rows(slots, healths[:, None], np.full((int(slots.max()) + 1, DEPTH), np.nan), recent)
    pieces = age.astype(np.int64) % STEP == 0
    return to_onnx(trajectory(recent[pieces, :, 0], age[pieces]), lives[pieces])


def to_onnx(library: Floats, lives: Floats) -> bytes:
    """Returns the model: input ``trajectory`` (rows, lags + 1), output ``life`` (rows, 1).

    ``library`` (pieces, lags + 1) is what is compared with, ``lives`` (pieces,) what was left then. The squared
    distance without the part that all pieces share is a product, and weights by its exponential are a softmax. All is
    counted from the middle of the library, where float32 is exact enough.
    """
    middle = library.mean(axis=0)
    pieces = library - middle
    graph = OnnxGraph("similarity")
    graph.add("Sub", ["trajectory", graph.weight("middle", middle.astype(np.float32))], ["apart"])
    near = graph.weight("near", (2 / SPREAD * pieces.T).astype(np.float32))
    far = graph.weight("far", (-np.sum(pieces**2, axis=1) / SPREAD).astype(np.float32))
    graph.add("Gemm", ["apart", near, far], ["likeness"])
    graph.add("Softmax", ["likeness"], ["weights"], {"axis": 1})
    graph.add("MatMul", ["weights", graph.weight("lives", lives[:, None].astype(np.float32))], ["life"])
    return graph.model({"trajectory": ("rows", library.shape[1])}, {"life": ("rows", 1)})
