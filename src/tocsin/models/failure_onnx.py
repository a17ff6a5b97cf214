"""Boosted trees and their calibration as one ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tocsin.errors import MissingExtra


def to_onnx(trees: Mapping[str, Any], features: int, slope: float, offset: float) -> bytes:
    """Return the model: input ``features`` (rows, features), output ``probability`` (rows, 1), both float32.

    ``trees`` are as `trees_onnx.tree_attributes` gives them; their sum are log odds, which slope and offset calibrate.
    """
    try:
        import onnx.helper
        from onnx import TensorProto, numpy_helper
    except ImportError:
        raise MissingExtra("onnx", "train", "a model of failures") from None
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("TreeEnsembleRegressor", ["features"], ["raw"], domain="ai.onnx.ml", **trees),
        node("Mul", ["raw", "slope"], ["scaled"]),
        node("Add", ["scaled", "offset"], ["odds"]),
        node("Sigmoid", ["odds"], ["probability"]),
    ]
    numbers = {"slope": slope, "offset": offset}
    constants = [numpy_helper.from_array(np.array([number], np.float32), name) for name, number in numbers.items()]
    graph = onnx.helper.make_graph(
        nodes,
        "failure",
        [value("features", TensorProto.FLOAT, ["rows", features])],
        [value("probability", TensorProto.FLOAT, ["rows", 1])],
        constants,
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
