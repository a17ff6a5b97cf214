"""Write ONNX models: the bytes of the few messages of onnx.proto that a chain of operators needs, and no library.

The format is protocol buffers (tag, length, content); the numbers of the fields are those of onnx.proto, IR version 8,
operators of version 17, which every runtime since 2022 reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IR_VERSION, OPSET = 8, 17
FLOAT32, INT64 = 1, 7
_INT, _STRING, _INTS = 2, 3, 7
Weights = npt.NDArray[np.float32] | npt.NDArray[np.int64]
Shape = Sequence[int | str]
"""A dimension is a number, or a name where it may be any."""


@dataclass
class OnnxGraph:
    """Operators in the order in which they run."""

    name: str
    nodes: list[bytes] = field(default_factory=list)
    weights: list[bytes] = field(default_factory=list)

    def add(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str],
        settings: Mapping[str, int | str | Sequence[int]] | None = None,
    ) -> None:  # fmt: skip
        """Add an operator; an empty name stands for an input or output that is left out."""
        parts = [_text(1, name) for name in inputs] + [_text(2, name) for name in outputs]
        parts += [_text(3, f"{kind}_{len(self.nodes)}"), _text(4, kind)]
        parts += [_bytes(5, _attribute(name, value)) for name, value in (settings or {}).items()]
        self.nodes.append(b"".join(parts))

    def weight(self, name: str, values: Weights) -> str:
        """Add numbers that the model has learnt; returns their name."""
        kind = INT64 if values.dtype == np.int64 else FLOAT32
        raw = np.ascontiguousarray(values, np.dtype("<i8") if kind == INT64 else np.dtype("<f4")).tobytes()
        dims = b"".join(_number(1, size) for size in values.shape)
        self.weights.append(dims + _number(2, kind) + _text(8, name) + _bytes(9, raw))
        return name

    def model(
        self, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], whole: Mapping[str, Shape] | None = None
    ) -> bytes:
        """Returns the model as a file holds it; inputs and outputs are of float32, inputs in ``whole`` of int64."""
        graph = b"".join(
            (
                *(_bytes(1, node) for node in self.nodes),
                _text(2, self.name),
                *(_bytes(5, weight) for weight in self.weights),
                *(_bytes(11, _value(name, shape, FLOAT32)) for name, shape in inputs.items()),
                *(_bytes(11, _value(name, shape, INT64)) for name, shape in (whole or {}).items()),
                *(_bytes(12, _value(name, shape, FLOAT32)) for name, shape in outputs.items()),
            )
        )
        operators = _text(1, "") + _number(2, OPSET)
        return _number(1, IR_VERSION) + _text(2, "tocsin") + _bytes(7, graph) + _bytes(8, operators)


def _attribute(name: str, value: int | str | Sequence[int]) -> bytes:
    head = _text(1, name)
    if isinstance(value, str):
        return head + _text(4, value) + _number(20, _STRING)
    if isinstance(value, int):
        return head + _number(3, value) + _number(20, _INT)
    return head + b"".join(_number(8, one) for one in value) + _number(20, _INTS)


def _value(name: str, shape: Shape, kind: int) -> bytes:
    dims = b"".join(_bytes(1, _text(2, d) if isinstance(d, str) else _number(1, d)) for d in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, dims)))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(at: int, value: int) -> bytes:
    return _varint(at << 3) + _varint(value)


def _bytes(at: int, content: bytes) -> bytes:
    return _varint(at << 3 | 2) + _varint(len(content)) + content


def _text(at: int, text: str) -> bytes:
    return _bytes(at, text.encode())
