"""What a version of a model says of itself: what it takes, what it was taught with, how good it was beside plain ones.

The manifest is JSON, stands beside the model's files in ``models/NAME/VERSION/``, and is read without any library, so
that an edge device can.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from tocsin.errors import ConfigError, CorruptState

MANIFEST = "manifest.json"
"""The file's name; every other file of a version is named in it, with its digest."""
MODEL = "model.onnx"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.(onnx|json)")


@dataclass(frozen=True)
class Manifest:
    """One version of a model; what is not known yet (version, files, signature, created) is given by `Store.add`."""

    name: str
    kind: str
    """What it does: ``forecaster``, ``failure``, ``remaining_life``, ``text``; a step takes only kinds it knows."""
    inputs: tuple[str, ...]
    """The columns that it looks at, in the order of the model's input."""
    target: str
    """The column that it says something of."""
    window: int = 1
    """How many periods it looks at."""
    horizon: int = 0
    """How many periods ahead it says it; 0 for what is so now."""
    scaling: Mapping[str, Any] = field(default_factory=dict)
    """How inputs become what the model takes: ``mean`` and ``scale`` by input, in the order of the inputs."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What taught it: the query, each table's Delta version, how many rows, their digest, where the parts begin."""
    code: str = ""
    """The version of tocsin that made it."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """How good it is on the part that judges, which nothing was learnt or chosen on."""
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The same figures of plain methods (``persistence`` ...) on the same part."""
    judged_by: str = "rmse"
    """The figure by which it is compared."""
    higher_is_better: bool = False
    """Whether more of that figure is better (accuracy), or less (an error)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, and what else is needed to infer: by its kind."""
    version: int = 0
    created: str = ""
    """When, as ISO 8601 in UTC."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of each file beside this one."""
    signature: str = ""
    """The SHA-256 of this manifest, signature left out: since it names the digest of every file, it is of them all."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"{self.name!r} is no name for a model; take up to 64 letters, digits, '-' and '_'")
        for name in self.files:
            check_file(name)

    @property
    def best_baseline(self) -> tuple[str, float] | None:
        """Returns the plain method that is best by the figure that judges, and that figure; None without any."""
        known = {name: figures[self.judged_by] for name, figures in self.baselines.items() if self.judged_by in figures}
        if not known:
            return None
        name = (max if self.higher_is_better else min)(known, key=lambda one: known[one])
        return name, known[name]

    @property
    def is_better(self) -> bool:
        """Returns whether it beats every plain method that stands beside it; without any it does not."""
        best, own = self.best_baseline, self.metrics.get(self.judged_by, math.nan)
        if best is None:
            return False
        return own > best[1] if self.higher_is_better else own < best[1]

    def verdict(self) -> str:
        """Returns in a sentence whether it is better than the best of the plain methods."""
        best, own = self.best_baseline, self.metrics.get(self.judged_by, math.nan)
        if best is None:
            return f"{self.name}: no plain method stands beside it, so nobody knows whether it is any good"
        against = f"{best[0]}: {self.judged_by} {own:.4g} against {best[1]:.4g}"
        return f"{self.name} is {'better' if self.is_better else 'NOT better'} than {against}"

    def signed(self) -> Manifest:
        """Returns the same with its signature."""
        return replace(self, signature=self.digest())

    def digest(self) -> str:
        """Returns what the signature has to be."""
        plain = {key: value for key, value in asdict(self).items() if key != "signature"}
        return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, place: str = MANIFEST) -> Manifest:
        """Returns the manifest that a text holds; `CorruptState` where it is none, or was changed since."""
        try:
            tree = json.loads(text)
            known = {f.name for f in fields(cls)}
            manifest = cls(**{**tree, "inputs": tuple(tree["inputs"])}) if tree.keys() <= known else None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptState(f"{place} is no manifest of a model ({error}); train it anew") from error
        if manifest is None:
            raise CorruptState(
                f"{place} was written by a newer tocsin: {sorted(tree.keys() - known)} is not known here"
            )
        if manifest.digest() != manifest.signature:
            raise CorruptState(f"{place} does not match its signature: it was changed after training; train it anew")
        return manifest

    def check_files(self, files: Mapping[str, bytes], place: str) -> None:
        """Raises `CorruptState` unless these are the files, whole and unchanged, that the manifest names."""
        if files.keys() != self.files.keys():
            raise CorruptState(f"{place} has the files {sorted(files)} instead of {sorted(self.files)}; train it anew")
        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != self.files[name]:
                raise CorruptState(f"{place}/{name} was changed or damaged since it was made; roll back, or train anew")


def check_file(name: str) -> None:
    """Raises `ConfigError` unless a file of a model may have this name: ONNX and JSON only, in no other folder."""
    if not _FILE.fullmatch(name) or name == MANIFEST:
        raise ConfigError(
            f"{name!r} is no file of a model: they are named *.onnx or *.json and lie beside the manifest"
        )
