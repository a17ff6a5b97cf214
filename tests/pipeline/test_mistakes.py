"""Whatever stands in a pipeline file, it is understood or told with its line and a remedy: never a traceback."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tocsin.contracts import Component
from tocsin.errors import ConfigError
from tocsin.pipeline.registry import find, names
from tocsin.pipeline.yamlfile import load_with_plan

PIPELINE: dict[str, Any] = {
    "name": "plant",
    "folder": "lake",
    "checkpoint": "1s",
    "memory": "1MiB",
    "lag": "1GiB",
    "source": {"files": {"path": "in.ndjson"}},
    "decode": {
        "json": {"columns": {"m": "text", "ts": {"type": "timestamp", "unit": "ms", "zone": "UTC"}, "v": "float"}}
    },
    "key": {"of": "m", "keys_max": 10},
    "time": {"column": "ts", "lateness": "5s", "unit": "ms", "zone": "UTC"},
    "idle_timeout": "10s",
    "page": {"streams": ["hot"]},
    "quarantine": {"delta": {"path": "bad"}},
    "streams": {
        "hot": {
            "from": ["source"],
            "steps": [{"keep": "v > 1"}],
            "sinks": [
                {"delta": {"path": "hot", "partition_by": ["key"]}},
                {"notify": {"to": "console", "text": "{v}"}},
            ],
        }
    },
}
ODD = (None, True, -1, 1.5, float("nan"), "", "{", [None], ["x", 1], {}, {1: {"y": None}}, [[]])
EVERY = 5
"""One in so many mistakes is tried: each setting meets a few, and each kind of mistake many settings (14 kinds)."""
SMALL = {"name": "plant", **{key: PIPELINE[key] for key in ("source", "decode", "key")}}


def _places(tree: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every setting in a tree, and every value in a list."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inside:
        yield (*place, key)
        yield from _places(value, (*place, key))


def _mistaken(tree: Any, below: tuple[Any, ...] = ()) -> Iterator[Any]:
    """The tree with every setting under a place misspelt, left out, and of the wrong type."""
    for place in list(_places(tree)):
        if place[: len(below)] != below or place == below:
            continue
        for odd in ("misspelt", "missing", *ODD):
            wrong = copy.deepcopy(tree)
            holder = wrong
            for step in place[:-1]:
                holder = holder[step]
            if odd == "misspelt" and isinstance(holder, dict):
                holder[f"{place[-1]}x"] = holder.pop(place[-1])
            elif odd == "missing":
                del holder[place[-1]]
            else:
                holder[place[-1]] = odd
            yield wrong


def _tell(path: Path, tree: Any) -> str:
    """What is said of a file; empty if nothing is wrong with it."""
    with path.open("w") as file:
        YAML(typ="safe").dump(tree, file)
    told = ""
    try:
        load_with_plan(path)
    except ConfigError as error:
        told = str(error)
    assert all(re.match(rf"{re.escape(str(path))}:\d+: \S+: ....", line) for line in told.splitlines()), told
    return told


def test_the_file_itself(tmp_path: Path) -> None:
    assert _tell(tmp_path / "p.yaml", PIPELINE) == ""
    told = [_tell(tmp_path / "p.yaml", wrong) for wrong in islice(_mistaken(PIPELINE), 0, None, EVERY)]
    assert sum(map(bool, told)) > len(told) / 2


def _parts() -> Iterator[Any]:
    for kind, place in (("operator", ("streams", "hot", "steps", 0)), ("sink", ("streams", "hot", "sinks", 0))):
        for name in names(kind):
            yield pytest.param(place, find(kind, name), id=name)
    for kind, place in (("source", ("source",)), ("decoder", ("decode",))):
        for name in names(kind):
            yield pytest.param(place, find(kind, name), id=f"{kind}-{name}")


@pytest.mark.parametrize(("place", "part"), list(_parts()))
def test_each_setting_of_each_part(tmp_path: Path, place: tuple[Any, ...], part: type[Component]) -> None:
    tree = copy.deepcopy({**SMALL, "streams": {"hot": {"steps": [{"keep": "v > 1"}], "sinks": [{"delta": "t"}]}}})
    holder = tree
    for step in place[:-1]:
        holder = holder[step]
    every = {field.alias or name: "x" for name, field in part.model_fields.items()}
    for first, settings in enumerate((dict(part.EXAMPLES[0]), every)):
        holder[place[-1]] = {part.name(): _plain(settings)}
        for wrong in islice(_mistaken(tree, place), 2 * first, None, EVERY):
            _tell(tmp_path / "p.yaml", wrong)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("time", {"colum": "ts"}, "time.colum: there is no such setting; did you mean 'column'?"),
        ("time", 5, "time.column"),
        ("time", "", "time.column"),
        ("time", {"column": "ts", "unit": "parsec"}, "time.unit: "),
        ("time", {"column": "ts", "zone": "Mars/Phobos"}, "time.zone: there is no time zone 'Mars/Phobos'"),
        ("time", {"column": "ts", "lateness": "soon"}, "time.lateness: 'soon' is not a duration"),
        ("time", {"column": "nope"}, "time: event_time needs column 'nope'"),
        ("zone", "Europe/Berln", "zone: there is no time zone 'Europe/Berln'; write it as Europe/Berlin"),
        ("key", 5, "key.of: "),
        ("key", {"off": "m"}, "key.off: there is no such setting; did you mean 'of'?"),
        ("key", "{m}/{line}", "key: rekey needs column 'line'"),
        ("key", None, "key: this is needed"),
    ],
)
def test_key_and_time_are_told_by_their_line(tmp_path: Path, place: str, value: Any, told: str) -> None:
    found = _tell(tmp_path / "p.yaml", {**PIPELINE, place: value})
    lines = (tmp_path / "p.yaml").read_text().splitlines()
    number = int(found.removeprefix(f"{tmp_path / 'p.yaml'}:").partition(":")[0])
    assert f": {told}" in found
    assert value is None or any(
        part in lines[number - 1] for part in (place, *(value if isinstance(value, dict) else ()))
    )


@pytest.mark.parametrize(
    ("sink", "told"),
    [
        ({"delta": {"path": "t", "partition_by": ["nope"]}}, "nope"),
        ({"mqtt": {"url": "mqtt://broker", "topic": "plant/{nope}/state"}}, "nope"),
        ({"notify": {"to": "console", "text": "{nope} is hot"}}, "nope"),
    ],
)
def test_what_a_sink_cannot_take_is_told_before_data_flows(tmp_path: Path, sink: Any, told: str) -> None:
    tree = copy.deepcopy(PIPELINE)
    tree["streams"]["hot"]["sinks"] = [{"delta": "fine"}, sink]
    assert "streams.hot.sinks.1: " in (found := _tell(tmp_path / "p.yaml", tree))
    assert told in found
