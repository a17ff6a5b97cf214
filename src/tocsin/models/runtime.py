"""Run an ONNX model: one thread, numbers in, numbers out (numpy and onnxruntime only, so that the edge can)."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from tocsin.errors import CorruptState, MissingExtra


class Spent(threading.local):
    """What models have cost in this thread since it began: whoever takes the difference knows what a step did."""

    calls: int = 0
    seconds: float = 0.0


SPENT = Spent()


class ModelSession:
    """A model that is loaded.

    One thread for each call: the cores belong to the pipeline, and small models are faster so.
    """

    def __init__(self, content: bytes, place: str) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("onnxruntime", "models", "a trained model") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's errors have no base of their own
            raise CorruptState(
                f"{place} cannot be loaded as an ONNX model ({error}); roll back, or train anew"
            ) from error

    def run(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Returns the model's outputs, in its order, for inputs by their names."""
        began_s = time.perf_counter()
        outputs = list(self._session.run(None, dict(inputs)))
        SPENT.seconds += time.perf_counter() - began_s
        SPENT.calls += 1
        return outputs
