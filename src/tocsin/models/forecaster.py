"""A trained forecaster, loaded: windows of readings in, what comes next out (numpy and onnxruntime only)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tocsin.errors import ConfigError
from tocsin.models.manifest import MODEL, Manifest
from tocsin.models.runtime import Session
from tocsin.models.store import Store

KIND = "forecaster"
ROWS_MIN = 8
"""Fewer windows are filled up to this many: the library sums one row alone in another order, and the last digit of a
forecast must not depend on how many machines were asked about at once."""
ROWS_MAX = 4096
"""Windows of one call: what they need of memory has a limit."""
Floats = npt.NDArray[np.float64]


class Forecaster:
    """One version of a forecaster.

    It says how much the target will have changed from the last reading of the window, so that a level that it was not
    taught with is no trouble.
    """

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes], place: str) -> None:
        if manifest.kind != KIND:
            raise ConfigError(f"{place} is a model of kind {manifest.kind}; what forecasts is of kind {KIND}")
        self.manifest = manifest
        self.mean = np.array(manifest.scaling["mean"], np.float64)
        self.scale = np.array(manifest.scaling["scale"], np.float64)
        self.change_scale = float(manifest.scaling["change"])
        self.at = manifest.inputs.index(manifest.target)
        self._session = Session(files[MODEL], f"{place}/{MODEL}")

    @classmethod
    def open(cls, store: Store, name: str, version: int) -> Forecaster:
        """Returns a version of a model, its files held against their digests."""
        return cls(store.show(name, version), store.files(name, version), str(store.place(name, version)))

    def predict(self, windows: Floats) -> Floats:
        """Returns the target ``horizon`` periods after each window, shape (rows,).

        ``windows`` has the shape (rows, window, inputs), oldest period first, in the readings' own units; a window with
        a number missing has no forecast (NaN).
        """
        said = np.full(len(windows), np.nan)
        whole = np.flatnonzero(np.isfinite(windows).all(axis=(1, 2)))
        for start in range(0, len(whole), ROWS_MAX):
            some = whole[start : start + ROWS_MAX]
            scaled = ((windows[some] - self.mean) / self.scale).astype(np.float32)
            padding = max(0, ROWS_MIN - len(some))
            if padding:
                scaled = np.concatenate([scaled, np.zeros((padding, *scaled.shape[1:]), np.float32)])
            (change,) = self._session.run({"window": scaled})
            said[some] = windows[some, -1, self.at] + change[: len(some), 0].astype(np.float64) * self.change_scale
        return said
