"""Boosted trees and their calibration as one ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tocsin.models.trees_onnx import ENSEMBLE, Node, tree_model


def to_onnx(trees: Mapping[str, Any], features: int, slope: float, offset: float) -> bytes:
    """Return the model: input ``features`` (rows, features), output ``probability`` (rows, 1), both float32.

    ``trees`` are as `trees_onnx.tree_attributes` gives them; their sum are log odds, which slope and offset calibrate.
    """
    nodes: list[Node] = [
        (ENSEMBLE, ["features"], "raw", trees),
        ("Mul", ["raw", "slope"], "scaled", {}),
        ("Add", ["scaled", "offset"], "odds", {}),
        ("Sigmoid", ["odds"], "probability", {}),
    ]
    constants = {name: np.array([number], np.float32) for name, number in {"slope": slope, "offset": offset}.items()}
    given = {"features": ("rows", features)}
    return tree_model("failure", "a model of failures", given, "probability", nodes, constants)
