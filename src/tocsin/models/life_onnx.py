"""Boosted trees and small networks as one ONNX model: half the mean of the networks, half the trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tocsin.errors import MissingExtra


def ensemble(boosted: Any, networks: Sequence[Any]) -> bytes:
    """Return the model: input ``features`` (rows, features), output ``life`` (rows, 1), both float32.

    ``boosted`` is a regressor of LightGBM, ``networks`` are scikit-learn's, each behind a scaler.
    """
    try:
        import onnx.helper
        from onnx import TensorProto, numpy_helper
    except ImportError:
        raise MissingExtra("onnx", "train", "a model of remaining life") from None
    trees = _trees(boosted.booster_.dump_model())
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


def _trees(dump: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attributes of ONNX's ``TreeEnsembleRegressor`` for LightGBM's own description of its trees."""
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}
    target: dict[str, list[Any]] = {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}

    def add(tree: int, node: Mapping[str, Any]) -> int:
        number = len(nodes["nodes_nodeids"]) - begins[tree]
        leaf = "leaf_value" in node
        limit = 0.0 if leaf else at_most(node["threshold"])
        row = (tree, number, 0 if leaf else node["split_feature"], limit, "LEAF" if leaf else "BRANCH_LEQ", 0, 0)
        for name, value in zip(names, row, strict=True):
            nodes[f"nodes_{name}"].append(value)
        if leaf:
            for name, value in {"treeids": tree, "nodeids": number, "ids": 0, "weights": node["leaf_value"]}.items():
                target[f"target_{name}"].append(value)
            return number
        at = begins[tree] + number
        nodes["nodes_truenodeids"][at] = add(tree, node["left_child"])
        nodes["nodes_falsenodeids"][at] = add(tree, node["right_child"])
        return number

    begins: list[int] = []
    for tree, info in enumerate(dump["tree_info"]):
        begins.append(len(nodes["nodes_nodeids"]))
        add(tree, info["tree_structure"])
    return {**nodes, **target, "n_targets": 1}


def at_most(threshold: float) -> float:
    """The largest float32 that is no larger: then a float32 is sent the same way as by the threshold itself."""
    near = np.float32(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))
