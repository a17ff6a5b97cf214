"""What `check` calls right starts: each setting of each part wrong in one of many ways, and what passes is run."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from test_mistakes import PIPELINE, SMALL, _mistaken, _plain, _tell

from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.recovery import Effects, check_ends, check_tables
from tocsin.errors import ConfigError, TocsinError
from tocsin.pipeline.registry import find, names
from tocsin.pipeline.yamlfile import load_with_plan

COLUMNS = {"v": "float", "value": "float", "other": "float", "count": "int", "text": "text", "flag": "bool"}
ROWS = [
    {
        "m": f"a{i % 2}",
        "ts": f"2026-01-01T00:00:{i:02d}Z",
        "v": i,
        "value": i * 1.5,
        "other": 1,
        "count": i,
        "text": "x",
    }
    for i in range(30)
]
"""Of ``text`` and ``flag`` nothing is there."""
PLACES = {
    "operator": ("streams", "hot", "steps", 0),
    "sink": ("streams", "hot", "sinks", 0),
    "decoder": ("decode",),
    "key": ("key",),
    "time": ("time",),
}
TURN = {"operator": 37, "sink": 5, "decoder": 7, "key": 2, "time": 3}
"""Of so many wrong settings of a kind one is tried; these share no factor with the number of ways to be wrong."""
SINKS = ("delta", "files")
"""The sinks that need no server."""
COLUMN = {
    "path": "ts",
    "type": "timestamp",
    "unit": "ms",
    "zone": "UTC",
    "format": "%Y",
    "optional": True,
    "null": ["x"],
}
TIME = {"column": "ts", "lateness": "5s", "keys_apart": "1h", "unit": "ms", "zone": "UTC", "mark": "odd", "past": "1h"}
TIMES = (TIME, {"column": ["ts", "text"], "format": "%Y"}, {"column": "ts", "offset": "v", "rate": 5, "slack": "1s"})


def _wanted() -> Iterator[Any]:
    for kind in ("operator", "decoder", "sink"):
        for name in names(kind):
            if kind != "sink" or name in SINKS:
                part = find(kind, name)
                yield pytest.param(kind, [{name: _plain(dict(settings))} for settings in part.EXAMPLES], id=name)
    columns = {"m": "text", "ts": COLUMN, "v": {"path": "v", "type": "float", "optional": True}}
    yield pytest.param("decoder", [{part: {"columns": columns}} for part in ("json", "csv")], id="columns")
    yield pytest.param("key", [{"of": "m", "keys_max": 2, "length_max": 5}, {"constant": "x"}, "{m}/{text}"], id="key")
    yield pytest.param("time", TIMES, id="time")


@pytest.mark.parametrize(("kind", "examples"), list(_wanted()))
def test_what_is_right_starts(tmp_path: Path, kind: str, examples: list[Any]) -> None:
    (tmp_path / "in.ndjson").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    tree = copy.deepcopy({**SMALL, "streams": {"hot": {"steps": [{"keep": "v > 1"}], "sinks": [{"delta": "t"}]}}})
    tree["source"] = {"files": {"path": str(tmp_path / "in.ndjson")}}
    tree["decode"] = {
        "json": {
            "columns": {
                "m": "text",
                "ts": "timestamp",
                **{name: {"type": kind, "optional": True} for name, kind in COLUMNS.items()},
            }
        }
    }
    tree["time"] = "ts"
    holder: Any = tree
    for step in PLACES[kind][:-1]:
        holder = holder[step]
    numbers = count(len(json.dumps(examples)))
    for example in examples:
        holder[PLACES[kind][-1]] = example
        for wrong in _mistaken(tree, PLACES[kind]):
            if next(numbers) % TURN[kind] == 0:
                _try(tmp_path, wrong, next(numbers))


def _try(folder: Path, tree: Any, number: int) -> None:
    """Told with its line and its place, or else right: then it must run."""
    tree = {**tree, "folder": str(folder / f"lake{number}")}
    if _tell(folder / "p.yaml", tree):
        return
    _, plan = load_with_plan(folder / "p.yaml")
    try:
        check_ends(plan, Effects())
        check_tables(plan, Effects())
    except ConfigError:
        return
    try:
        EmbeddedRunner(plan).run()
    except TocsinError as error:
        raise AssertionError(f"check calls it right, but it does not start: {tree}") from error


def test_a_part_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    tree = copy.deepcopy(PIPELINE)
    tree["source"] = {"files": {"path": str(tmp_path / "in.ndjson")}}
    tree["steps"] = [{"derive": {"w": "v * 2"}}, {"keep": "v > 1"}, {"cast": {"v": "int"}}]
    for number, wrong in enumerate(_mistaken(tree)):
        if number % 9 == 0 and isinstance(wrong.get("source"), dict):
            _try(tmp_path, wrong, number)
