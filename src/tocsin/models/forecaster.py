"""A trained forecaster, loaded: windows of readings in, what comes next out (numpy and onnxruntime only)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tocsin.errors import ConfigError
from tocsin.models.manifest import MODEL, Manifest
from tocsin.models.runtime import ModelSession
from tocsin.models.store import Store

KIND = "forecaster"
ROWS_MIN = 8
"""Fewer windows are filled up to this many: the library sums one row alone in another order, and the last digit of a
forecast must not depend on how many machines were asked about at once."""
ROWS_MAX = 4096
"""Windows of one call: what they need of memory has a limit."""
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Forecaster:
    """One version of a forecaster.

    It says how much the target will have changed from the last reading of the window, so that a level that it was not
    taught with is no trouble.
    """

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes], place: str) -> None:
        if manifest.kind != KIND:
            raise ConfigError(f"{place} is a model of kind {manifest.kind}; what forecasts is of kind {KIND}")
        self.manifest = manifest
        self.keys: Mapping[str, int] = {key: i for i, key in enumerate(manifest.settings.get("keys", ()))}
        """The machines that have weights of their own, and which; none where one model is for all."""
        self.mean, self.scale, self.change = (
            np.atleast_2d(np.array(manifest.scaling[name], np.float64)) for name in ("mean", "scale", "change")
        )
        self.change = self.change.reshape(-1)
        self.at = manifest.inputs.index(manifest.target)
        self._session = ModelSession(files[MODEL], f"{place}/{MODEL}")

    @classmethod
    def open(cls, store: Store, name: str, version: int) -> Forecaster:
        """Returns a version of a model, its files held against their digests."""
        return cls(store.show(name, version), store.files(name, version), str(store.place(name, version)))

    def predict(self, windows: Floats, which: Ints | None = None) -> Floats:
        """Returns the target ``horizon`` periods after each window, shape (rows,).

        ``windows`` has the shape (rows, window, inputs), oldest period first, in the readings' own units; a window with
        a number missing has no forecast (NaN). Where machines have weights of their own, ``which`` says whose each
        window is, as `keys` has it, or -1 for a machine that was not taught: it has none either.
        """
        said = np.full(len(windows), np.nan)
        whole = np.isfinite(windows).all(axis=(1, 2))
        if not self.keys:
            self._predict(windows, np.flatnonzero(whole), None, said)
            return said
        assert which is not None
        for k in np.unique(which[whole & (which >= 0)]).tolist():
            self._predict(windows, np.flatnonzero(whole & (which == k)), k, said)
        return said

    def _predict(self, windows: Floats, whole: Ints, key: int | None, said: Floats) -> None:
        k = key or 0
        inputs = {} if key is None else {"key": np.array([key], np.int64)}
        for start in range(0, len(whole), ROWS_MAX):
            some = whole[start : start + ROWS_MAX]
            scaled = ((windows[some] - self.mean[k]) / self.scale[k]).astype(np.float32)
            if len(some) < ROWS_MIN:
                scaled = np.concatenate([scaled, np.zeros((ROWS_MIN - len(some), *scaled.shape[1:]), np.float32)])
            (change,) = self._session.run({"window": scaled, **inputs})
            said[some] = windows[some, -1, self.at] + change[: len(some), 0].astype(np.float64) * self.change[k]
