"""LightGBM's trees as ONNX keeps them, and the models that they are part of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tocsin.errors import MissingExtra

FLOAT, DOUBLE = 1, 11
"""What onnx.proto calls numbers of 32 and of 64 bits."""
ENSEMBLE = "TreeEnsembleRegressor"
Node = tuple[str, Sequence[str], str, Mapping[str, Any]]
"""An operator: its kind, the names of its inputs, that of its output, its attributes."""


def tree_model(
    name: str, taught: str, given: Mapping[str, Sequence[int | str]], said: str, nodes: Sequence[Node],
    constants: Mapping[str, npt.NDArray[Any]] = {},
) -> bytes:  # fmt: skip
    """Return the model of these operators, which run in their order: one input by its name and shape, one output.

    Both are float32, the output of shape (rows, 1). ``taught`` says what needs the library, where it is missing.
    """
    try:
        import onnx.helper
        from onnx import numpy_helper
    except ImportError:
        raise MissingExtra("onnx", "train", taught) from None
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node(
                kind, list(inputs), [output], domain="ai.onnx.ml" if kind == ENSEMBLE else None, **attributes
            )
            for kind, inputs, output, attributes in nodes
        ],
        name,
        [value(input, FLOAT, list(shape)) for input, shape in given.items()],
        [value(said, FLOAT, ["rows", 1])],
        [numpy_helper.from_array(numbers, constant) for constant, numbers in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def tree_attributes(dump: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the attributes of ONNX's ``TreeEnsembleRegressor`` for LightGBM's own description of its trees.

    A missing number (NaN) goes the way that training found for it; where none was missing in training, as 0 does. Hit
    rates are how many rows of training came by.
    """
    names = ("treeids", "nodeids", "featureids", "values", "hitrates", "modes", "truenodeids", "falsenodeids",
             "missing_value_tracks_true")  # fmt: skip
    nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}
    target: dict[str, list[Any]] = {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}

    def add(tree: int, node: Mapping[str, Any]) -> int:
        number = len(nodes["nodes_nodeids"]) - begins[tree]
        leaf = "leaf_value" in node
        limit = 0.0 if leaf else at_most(node["threshold"])
        came = float(node.get("leaf_count" if leaf else "internal_count", 1))  # a tree of one leaf counts nothing
        row = (tree, number, 0 if leaf else node["split_feature"], limit, came, "LEAF" if leaf else "BRANCH_LEQ", 0, 0,
               0 if leaf else _missing_goes_left(node))  # fmt: skip
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


def _missing_goes_left(node: Mapping[str, Any]) -> int:
    return int(node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0)


def at_most(threshold: float) -> float:
    """Return the largest float32 that is no larger: then a float32 is sent the same way as by the threshold itself."""
    with np.errstate(over="ignore"):  # what is beyond all float32 comes back to the largest
        near = np.float32(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))
