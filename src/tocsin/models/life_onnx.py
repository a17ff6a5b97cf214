"""Boosted trees and small networks as one ONNX model: half the mean of the networks, half the trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tocsin.errors import MissingExtra
from tocsin.models.trees_onnx import tree_attributes


def ensemble(boosted: Any, networks: Sequence[Any]) -> bytes:
    """Return the model: input ``features`` (rows, features), output ``life`` (rows, 1), both float32.

    ``boosted`` is a regressor of LightGBM, ``networks`` are scikit-learn's, each behind a scaler.
    """
    try:
        import onnx.helper
        from onnx import TensorProto, numpy_helper
    except ImportError:
        raise MissingExtra("onnx", "train", "a model of remaining life") from None
    trees = tree_attributes(boosted.booster_.dump_model())
    nodes = [onnx.helper.make_node("TreeEnsembleRegressor", ["features"], ["trees"], domain="ai.onnx.ml", **trees)]
    numbers: dict[str, Any] = {}
    for number, pipeline in enumerate(networks):
        scaler, network = pipeline[0], pipeline[1]
        last = "features"
        for layer, (weights, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
            if layer == 0:  # the scaler, worked into the first layer
                weights, bias = weights / scaler.scale_[:, None], bias - (scaler.mean_ / scaler.scale_) @ weights
            name = f"{number}_{layer}"
            numbers |= {f"w{name}": weights, f"b{name}": bias}
            nodes.append(onnx.helper.make_node("Gemm", [last, f"w{name}", f"b{name}"], [f"y{name}"]))
            last = f"y{name}"
            if layer + 1 < len(network.coefs_):
                nodes.append(onnx.helper.make_node("Relu", [last], [f"r{name}"]))
                last = f"r{name}"
        nodes[-1].output[0] = f"network{number}"
    nodes += [
        onnx.helper.make_node("Mean", [f"network{number}" for number in range(len(networks))], ["network"]),
        onnx.helper.make_node("Mean", ["trees", "network"], ["life"]),
    ]
    constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in numbers.items()]
    shape = ["rows", boosted.n_features_in_]
    graph = onnx.helper.make_graph(
        nodes,
        "remaining_life",
        [onnx.helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("life", TensorProto.FLOAT, ["rows", 1])],
        constants,
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
