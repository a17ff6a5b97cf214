"""A pipeline from a YAML file: substitution of secrets and variables, and errors that name file, line and remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from tocsin.errors import ConfigError
from tocsin.pipeline.compile import Misplaced
from tocsin.pipeline.model import Pipeline
from tocsin.pipeline.plan import Plan
from tocsin.pipeline.watch import WRITTEN, opened

_VARIABLE = re.compile(r"\$\{(?:(env|file):)?([^}:]+)(?::-([^}]*))?\}")
Place = tuple[str | int, ...]


def load(path: Path | str, settings: Mapping[str, str] | None = None) -> Pipeline:
    """Read a pipeline; ``settings`` (``a.b=value``) override what the file says.

    Raises `ConfigError` with one line for each mistake: ``file:line: place: what, and the remedy``.
    """
    return load_with_plan(path, settings)[0]


def load_with_plan(path: Path | str, settings: Mapping[str, str] | None = None) -> tuple[Pipeline, Plan]:
    """Read a pipeline and compile it, so that wrong columns are told by their line as well."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    try:
        tree = YAML().load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: this is not YAML: {error.problem or error}") from error
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path}:1: a pipeline is a mapping with name, source and streams")
    for dotted, value in (settings or {}).items():
        _put(tree, _steps(dotted), YAML(typ="safe").load(value))
    mistakes: list[tuple[Place, str]] = []
    plain = _plain(tree, (), mistakes)
    if not mistakes:
        try:
            pipeline = Pipeline.model_validate(plain)
            return pipeline, pipeline.plan()
        except ValidationError as error:
            mistakes = list(_mistakes(error, tree))
        except Misplaced as error:
            place = _steps(error.place)
            mistakes = [(_as_written(place, tree), _sentence(error, place, tree))]
    lines = [f"{path}:{_line(tree, place)}: {_dotted(place)}: {text}" for place, text in mistakes]
    raise ConfigError("\n".join(lines))


def expanded(path: Path) -> str:
    """Returns the text of a file with the streams in place of the block that stands for them; secrets stay unread."""
    yaml = YAML()
    tree = yaml.load(path.read_text(encoding="utf-8"))
    made = opened(tree)
    if made is not tree:
        at = list(tree).index("watch")
        del tree["watch"]
        for name in ("streams", "page"):
            tree.pop(name, None)
            tree.insert(min(at, len(tree)), name, made[name])
            at += 1
    text = StringIO()
    yaml.dump(tree, text)
    return text.getvalue()


def _mistakes(error: ValidationError, tree: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    for mistake in error.errors():
        place = _as_written(mistake["loc"], tree)
        if mistake["type"] == "parts":
            for inner, sentence in mistake["ctx"]["errors"]:
                yield (*place, *inner), sentence
        elif mistake["type"] == "missing":
            yield place, "this is needed"
        elif mistake["type"] == "extra_forbidden":
            yield place, "there is no such setting here"
        else:
            yield place, mistake["msg"].removeprefix("Value error, ")


def _as_written(place: Place, tree: Mapping[str, Any]) -> Place:
    """A place in the one source of a file stands at the top of the file, one in what ``watch`` stands for in that."""
    if "watch" in tree and place[:2] not in [("streams", name) for name in tree.get("streams") or {}]:
        if place[:4] in WRITTEN:
            return (*WRITTEN[place[:4]], *place[4:])
        if place[:1] == ("streams",):
            return ("watch",)
    return place[2:] if place[:2] == ("sources", "source") and "sources" not in tree else place


def _sentence(error: Misplaced, place: Place, tree: Mapping[str, Any]) -> str:
    """What is wrong, in words of the file: where ``watch`` says no columns, rows have to name their signal."""
    if "watch" not in tree or place[:2] != ("streams", "series") or "series" in (tree.get("streams") or {}):
        return error.sentence
    there = error.sentence.partition("; ")[2]
    return f"no column names the signal of a row, so say with 'of' which columns are judged; {there}"


def _line(tree: Any, place: Place) -> int:
    """The line of the innermost part of a place that the file holds."""
    line = 1
    for step in place:
        known = getattr(getattr(tree, "lc", None), "data", None) or {}
        if step not in known:
            break
        line = known[step][0] + 1
        tree = tree[step]
    return line


def _dotted(place: Place) -> str:
    return ".".join(map(str, place)) or "pipeline"


def _steps(dotted: str) -> Place:
    return tuple(int(step) if step.isdigit() else step for step in dotted.split("."))


def _put(tree: Any, place: Place, value: Any) -> None:
    for step in place[:-1]:
        tree = tree.setdefault(step, {}) if isinstance(tree, MutableMapping) else tree[step]
    tree[place[-1]] = value


def _plain(value: Any, place: Place, mistakes: list[tuple[Place, str]]) -> Any:
    """The tree as plain Python, with ``${NAME:-default}``, ``${env:NAME}`` and ``${file:path}`` put in."""
    if isinstance(value, Mapping):
        return {key: _plain(inner, (*place, key), mistakes) for key, inner in value.items()}
    if isinstance(value, str):

        def put_in(reference: re.Match[str]) -> str:
            where, name, default = reference.groups()
            if where == "file":
                try:
                    return Path(name).read_text(encoding="utf-8").strip()
                except OSError as error:
                    mistakes.append((place, f"cannot read {name} ({error.strerror})"))
                    return ""
            text = os.environ.get(name, default)
            if text is None:
                mistakes.append(
                    (place, f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
                )
            return text or ""

        return _VARIABLE.sub(put_in, str(value))
    if isinstance(value, Sequence):
        return [_plain(inner, (*place, i), mistakes) for i, inner in enumerate(value)]
    return value
