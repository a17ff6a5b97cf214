"""Spectra as step `spectrum` tells them on request: columns, and no more lines than are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.batch import Floats, Ints

SPECTRA = (
    pa.field("spectrum", pa.list_(pa.float32())),
    pa.field("spectrum_step", pa.float64()),
    pa.field("envelope_spectrum", pa.list_(pa.float32())),
    pa.field("envelope_step", pa.float64()),
    pa.field("fault_frequencies", pa.list_(pa.float64())),
)
"""What a row of `spectrum` has beside its features where ``spectra`` is set; the page draws them (`serve.spectra`)."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Spectra as they are told, one for each block; None where there is none."""

    lines: np.ndarray[Any, Any]
    steps: Floats
    frequencies: np.ndarray[Any, Any]

    @classmethod
    def of(cls, blocks: int) -> Drawn:
        return cls(np.full(blocks, None), np.full(blocks, np.nan), np.full(blocks, None))

    def take(self, at: Ints, amplitudes: Floats, wanted: Sequence[int], resolution_hz: float, lines_max: int) -> None:
        """Take spectra of shape (blocks, lines), of each the first lines that are wanted, ``lines_max`` at most.

        The loop goes over blocks: all that is told on request costs half as much again as the step without it.
        """
        for block, spectrum, count in zip(at, amplitudes, wanted, strict=True):
            told = spectrum[:count]
            together = -(-count // lines_max)
            highest = np.maximum.reduceat(told, np.arange(0, len(told), together)) if len(told) else told
            self.lines[block], self.steps[block] = highest, resolution_hz * together
