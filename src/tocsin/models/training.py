"""What all trainings have in common, and reading one from a file: ``kind`` says what is taught."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tocsin.errors import ConfigError, UnknownName
from tocsin.models.manifest import Manifest
from tocsin.settings import Settings

Progress = Callable[[float, float], None]
"""Called now and then with the share that is done, and the loss on the rows that choose (NaN where there is none)."""
KINDS = {
    "forecaster": ("tocsin.models.train", "Training"),
    "failure": ("tocsin.models.failure", "FailureTraining"),
    "remaining_life": ("tocsin.models.life_training", "LifeTraining"),
    "text": ("tocsin.models.text_training", "TextTraining"),
}
"""By kind, where its training is: read on demand, since each brings libraries of its own."""


class TrainingFile(Settings):
    """What every training says."""

    name: str
    """The model's name in the store."""
    folder: Path = Path("tocsin-data")
    """Where the tables are that the query asks."""
    store: Path = Path("models")
    """Where the model is kept."""

    @abstractmethod
    def run(self, told: Progress | None = None) -> Manifest:
        """Train, prove on the rows that judge, and keep as a new version, which is not promoted; return its manifest.

        Raises
        ------
        ConfigError
            The query, its columns or the split leave nothing to learn from.
        MissingExtra
            A library that teaches is not installed.
        """


def read_training(path: Path, settings: Mapping[str, str]) -> TrainingFile:
    """Returns what a YAML file says; ``settings`` (``model.units``) override it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        tree: Any = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a training is a mapping with name and dataset")
    for place, value in settings.items():
        *steps, last = place.split(".")
        at = tree
        for step in steps:
            at = at.setdefault(step, {})
        at[last] = YAML(typ="safe").load(value)
    kind = str(tree.get("kind", "forecaster"))
    if kind not in KINDS:
        raise UnknownName("kind of training", kind, KINDS)
    module, name = KINDS[kind]
    made: type[TrainingFile] = getattr(import_module(module), name)
    try:
        return made.model_validate(tree)
    except ValidationError as error:
        said = [f"{path}: {_place(tree, e['loc'])}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join(said)) from error


def _place(tree: Any, steps: Sequence[str | int]) -> str:
    """Returns where in the file a mistake is: where settings may be of two kinds, which they are stands in no file."""
    place = []
    for at, step in enumerate(steps):
        inside = isinstance(tree, Mapping) and step in tree
        if inside or at == len(steps) - 1:
            place.append(str(step))
        tree = tree[step] if inside else tree
    return ".".join(place)


def train(training: TrainingFile | Path | str, told: Progress | None = None) -> Manifest:
    """Train a model, prove it on the part that judges, and keep it as a new version, which is not promoted.

    ``training`` is what is to be done, or the YAML file that says it.
    """
    if not isinstance(training, TrainingFile):
        training = read_training(Path(training), {})
    return training.run(told)
