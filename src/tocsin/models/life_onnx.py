"""Boosted trees of a remaining life as an ONNX model."""

from __future__ import annotations

from typing import Any

from tocsin.models.trees_onnx import ENSEMBLE, Node, tree_attributes, tree_model


def write_trees(boosted: Any) -> bytes:
    """Return the model: input ``features`` (rows, features), output ``life`` (rows, 1), both float32.

    ``boosted`` is a regressor of LightGBM.
    """
    trees = tree_attributes(boosted.booster_.dump_model())
    given = {"features": ("rows", boosted.n_features_in_)}
    nodes: list[Node] = [(ENSEMBLE, ["features"], "life", trees)]
    return tree_model("remaining_life", "a model of remaining life", given, "life", nodes)
