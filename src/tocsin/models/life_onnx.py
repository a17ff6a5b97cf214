"""Boosted trees of a remaining life as an ONNX model."""

from __future__ import annotations

from typing import Any

from tocsin.errors import MissingExtra
from tocsin.models.trees_onnx import tree_attributes


def write_trees(boosted: Any) -> bytes:
    """Return the model: input ``features`` (rows, features), output ``life`` (rows, 1), both float32.

    ``boosted`` is a regressor of LightGBM.
    """
    try:
        import onnx.helper
        from onnx import TensorProto
    except ImportError:
        raise MissingExtra("onnx", "train", "a model of remaining life") from None
    trees = tree_attributes(boosted.booster_.dump_model())
    node = onnx.helper.make_node("TreeEnsembleRegressor", ["features"], ["life"], domain="ai.onnx.ml", **trees)
    graph = onnx.helper.make_graph(
        [node],
        "remaining_life",
        [onnx.helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", boosted.n_features_in_])],
        [onnx.helper.make_tensor_value_info("life", TensorProto.FLOAT, ["rows", 1])],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
