"""Recurrent forecasters as ONNX: the weights of an RNN, LSTM or GRU, and the graph of standard operators for them.

Weights are kept in the layout of the ONNX operators: ``w`` (gates times units, inputs), ``r`` (gates times units,
units), ``b`` (gates times units,), then ``out`` (units,) and ``bias`` (). Gates are in the operators' order: input,
output, forget, cell for an LSTM (Hochreiter & Schmidhuber 1997), update, reset, new for a GRU (Cho et al. 2014, with
the reset after the product, as in cuDNN).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tocsin.models.onnx_graph import Graph

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
_OPERATORS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
Array = npt.NDArray[np.float32]


def to_onnx(cell: str, weights: Mapping[str, Array], window: int) -> bytes:
    """Returns the model: input ``window`` (rows, window, inputs), scaled; output ``change`` (rows, 1), scaled."""
    units, inputs = weights["r"].shape[1], weights["w"].shape[1]
    graph = Graph(cell)
    graph.add("Transpose", ["window"], ["steps"], {"perm": [1, 0, 2]})
    biases = np.concatenate([weights["b"], np.zeros_like(weights["b"])])
    names = [
        graph.weight("w", weights["w"][None]),
        graph.weight("r", weights["r"][None]),
        graph.weight("b", biases[None]),
    ]
    settings = {"hidden_size": units} | ({"linear_before_reset": 1} if cell == "gru" else {})
    graph.add(_OPERATORS[cell], ["steps", *names], ["", "last"], settings)
    graph.add("Squeeze", ["last", graph.weight("axes", np.array([0], np.int64))], ["state"])
    last = [graph.weight("out", weights["out"][:, None]), graph.weight("bias", weights["bias"].reshape(1))]
    graph.add("Gemm", ["state", *last], ["change"])
    return graph.model({"window": ("rows", window, inputs)}, {"change": ("rows", 1)})
