"""Remaining life by a GRU over the features of a machine's last readings (JAX and optax teach it)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats
from tocsin.models.life_features import Numbers, sensors_of
from tocsin.models.recurrent import to_onnx

DEPTH = 10
"""Readings that it looks at: 20 and 30 were no better, the features look further back than that."""
UNITS = 32
STRIDE = 4
"""Each so manieth reading teaches: neighbours say nearly the same."""
EPOCHS = 20
"""How often it sees each of them at least: 30 were worse. There is no part that says when to stop: eight to twelve
machines of a hundred say it badly, and are missed among those that teach."""
BATCH, LEARNING_RATE = 128, 0.003
Weights = Mapping[str, npt.NDArray[np.float32]]


def columns(features: int) -> Numbers:
    """Returns which of so many features it looks at: the age, the means over 5 readings, the change since new."""
    sensors = sensors_of(features)
    return np.concatenate([np.arange(1 + sensors), np.arange(1 + 3 * sensors, features)])


def learn(inputs: Floats, begins: Numbers, lives: Floats, steps: int, seed: int) -> Weights:
    """Return the weights of a GRU, which takes windows of ``inputs`` as they are and says the life.

    ``inputs`` (rows, columns), ``begins`` (rows,) the first row of the row's machine, ``lives`` (rows,). It takes
    ``steps`` corrections at least. Before its first reading a machine is as it was at it.
    """
    from tocsin.models.fit import Lesson, Recipe, teach

    mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
    scale = np.where(scale > 1e-6, scale, 1.0)
    middle, spread = float(lives.mean()), float(lives.std()) or 1.0
    place, padded = _padded(begins)
    targets = np.zeros(len(padded), np.float32)
    targets[place] = (lives - middle) / spread
    taught = place[::STRIDE]
    epochs = max(EPOCHS, -(-steps // max(1, len(taught) // BATCH)))
    recipe = Recipe("gru", UNITS, epochs, epochs, BATCH, LEARNING_RATE, seed)
    scaled = ((inputs - mean) / scale)[padded].astype(np.float32)
    (learnt,) = teach([Lesson(scaled, targets, taught, taught[::STRIDE])], DEPTH, recipe)
    return _unscaled(learnt.weights, mean, scale, middle, spread)


def write(weights: Weights) -> bytes:
    """Returns the model: input ``window`` (rows, `DEPTH`, columns), output ``change`` (rows, 1), the life."""
    return to_onnx("gru", weights, DEPTH)


def _padded(begins: Numbers) -> tuple[Numbers, Numbers]:
    """Where each row stands, and which row each place holds, once machines' first rows are repeated before them."""
    fresh = begins == np.arange(len(begins))
    copies = np.where(fresh, DEPTH, 1)
    return np.cumsum(copies) - 1, np.repeat(np.arange(len(begins)), copies)


def _unscaled(weights: Weights, mean: Floats, scale: Floats, middle: float, spread: float) -> Weights:
    """The same net for inputs as they are and for lives in readings."""
    own = {name: values.astype(np.float64) for name, values in weights.items()}
    own["w"] = own["w"] / scale
    own["b"] = own["b"] - own["w"] @ mean
    own["out"], own["bias"] = own["out"] * spread, own["bias"] * spread + middle
    return {name: np.asarray(values, np.float32) for name, values in own.items()}
