"""Recurrent forecasters as ONNX: the weights of an RNN, LSTM or GRU, and the graph of standard operators for them.

Weights are kept in the layout of the ONNX operators: ``w`` (gates times units, inputs), ``r`` (gates times units,
units), ``b`` (gates times units,), then ``out`` (units,) and ``bias`` (). Gates are in the operators' order: input,
output, forget, cell for an LSTM (Hochreiter & Schmidhuber 1997), update, reset, new for a GRU (Cho et al. 2014, with
the reset after the product, as in cuDNN).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tocsin.models.onnx_graph import OnnxGraph

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
_OPERATORS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
Array = npt.NDArray[np.float32]


def to_onnx(cell: str, weights: Mapping[str, Array], window: int) -> bytes:
    """Returns the model: input ``window`` (rows, window, inputs), scaled; output ``change`` (rows, 1), scaled.

    Weights with an axis more before the others are those of many machines: then a further input ``key`` (1,) of int64
    says whose are used.
    """
    many = weights["r"].ndim == 3
    units, inputs = weights["r"].shape[-1], weights["w"].shape[-1]
    graph = OnnxGraph(cell)

    def given(name: str, values: Array) -> str:
        """The name of one operand; of many machines it is the row of one, with the axis that the operator wants."""
        if not many:
            return graph.weight(name, values)
        graph.add("Gather", [graph.weight(f"{name}_all", values), "key"], [name], {"axis": 0})
        return name

    bias = np.concatenate([weights["b"], np.zeros_like(weights["b"])], axis=-1)
    own = [weights["w"], weights["r"], bias] if many else [weights["w"][None], weights["r"][None], bias[None]]
    names = [given(name, values) for name, values in zip("wrb", own, strict=True)]
    graph.add("Transpose", ["window"], ["steps"], {"perm": [1, 0, 2]})
    settings = {"hidden_size": units} | ({"linear_before_reset": 1} if cell == "gru" else {})
    graph.add(_OPERATORS[cell], ["steps", *names], ["", "last"], settings)
    graph.add("Squeeze", ["last", graph.weight("axes", np.array([0], np.int64))], ["state"])
    last = weights["out"] if many else weights["out"][None]
    tail = weights["bias"].reshape(-1)
    graph.add("Gemm", ["state", given("out", last), given("bias", tail)], ["change"], {"transB": 1})
    key: dict[str, Sequence[int | str]] = {"key": (1,)} if many else {}
    return graph.model({"window": ("rows", window, inputs)}, {"change": ("rows", 1)}, key)
