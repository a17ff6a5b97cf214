"""What the messages of data sets, trainings and the store of models advise is done here, and works."""

# ruff: noqa: E501 (what stands in a pipeline file, and what a message says, stays in one line)

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from advice import Remedy, followed, remedies
from pumps import pumps

from tocsin.batch import as_times
from tocsin.errors import CorruptState
from tocsin.models.contributions import TreeContributions
from tocsin.models.dataset import Dataset, checked, moment, numbers_of, times_of
from tocsin.models.explain import CATEGORIES_MAX, _encoded, _features
from tocsin.models.failure import FailureData, _parted
from tocsin.models.life_training import LifeData, in_order
from tocsin.models.manifest import Manifest
from tocsin.models.store import Store
from tocsin.models.text import FOLDS, _check
from tocsin.models.trees_onnx import tree_attributes
from tocsin.testing import rows

TABLE = rows({"value": [1.0, 2.0, 3.0], "text": ["a", "b", "c"], "day": ["2026-01-01"] * 3})
TABLE = pa.Table.from_batches([TABLE])
DAYS = TABLE.set_column(4, "day", pc.cast(pc.strptime(TABLE["day"], "%Y-%m-%d", "us"), pa.timestamp("us", "UTC")))
GAPS = TABLE.set_column(1, "time", pc.if_else(pc.equal(TABLE["value"], 2.0), None, TABLE["time"]))
HOURS = as_times(np.arange(600) * 3_600_000_000 + 1_600_000_000_000_000)
PLANT = pa.table({"machine": ["m"] * 600, "ts": HOURS, "load": np.sin(np.arange(600) / 4)})


def series(settings: Mapping[str, Any]) -> None:
    Dataset.model_validate(
        {"query": "from plant", "target": "load", "time": "ts", "key": "machine", "every": "1h"} | settings
    ).series(PLANT, {})


def failures(settings: Mapping[str, Any]) -> None:
    data = {"query": "", "target": "fails", "features": ["vibration"], "horizon": "1h"}
    table = settings.get("table", pumps(2_000))
    _parted(FailureData.model_validate(data | {k: v for k, v in settings.items() if k != "table"}), table, {})


def life(table: pa.Table) -> None:
    in_order(LifeData.model_validate({"query": "", "sensors": ["heat"]}), table)


def encoded(table: pa.Table) -> None:
    places = pa.array(range(len(table))).to_numpy()
    _encoded(table, table.column_names, places, places)


GOOD = Manifest(
    "pump", "forecaster", ("load",), "load", window=3, horizon=1,
    metrics={"rmse": 2.0}, baselines={"persistence": {"rmse": 3.0}},
)  # fmt: skip
PUMPS = pumps(2_000)
LATE = "2023-11-14T22:13:21Z"
MACHINES = pa.table({"key": ["a", "a", None], "time": [1, 2, 3], "heat": [1.0, 2.0, 3.0]})
GIVEN = pa.table({"y": [0, 1], "a": [1.0, 2.0], "b": [2.0, 1.0]})
MANY = pa.table({"a": [1.0] * (CATEGORIES_MAX + 1), "b": [str(n) for n in range(CATEGORIES_MAX + 1)]})
LISTS = pa.table({"a": [1.0], "b": pa.array([[1.0]])})
WORDS = ["on"] * FOLDS + ["off"] * FOLDS
CASES = [
    *remedies(lambda table: checked(table, ("value",)), ("models/dataset", "ask it with: tocsin query", TABLE[:0], TABLE)),
    *remedies(
        lambda table: numbers_of(table, "text"),
        ("models/dataset", "turn it into one", TABLE, TABLE.set_column(3, "text", TABLE["value"])),
    ),
    *remedies(
        lambda table: times_of(table, "day"),
        ("models/dataset", "write it as: {}::timestamptz", TABLE, DAYS),
    ),
    *remedies(
        lambda table: times_of(table, "time"),
        ("models/dataset", "leave them out", GAPS, GAPS.filter(GAPS["time"].is_valid())),
    ),
    *remedies(
        lambda text: moment(text, "until"),
        ("models/dataset", "write it as 2026-01-31 or 2026-01-31T06:00:00Z", "noon", "2026-01-31", "2026-01-31T06:00:00Z"),
    ),
    *remedies(
        series,
        ("models/dataset", "set validate_from and test_from", {"window": 6, "test_from": "2020-09-14"}, {"window": 6, "validate_from": "2020-09-25", "test_from": "2020-09-30"}),
        ("models/dataset", "take a shorter window, fill what is missing in the query, or set validate_from and test_from", {"window": 500}, {"window": 20}),
    ),
    *remedies(
        failures,
        ("models/failure", "write a condition, as: days < 1", {"target": "age"}, {"target": "old", "table": PUMPS.append_column("old", pc.less(PUMPS["age"], 25.0))}),
        ("models/failure", "take a longer time, or set validate_from and test_from", {"table": PUMPS[:60]}, {"table": PUMPS}),
    ),
    *remedies(life, ("models/life_training", "leave them out", MACHINES, MACHINES[:2])),
    *remedies(
        life,
        ("models/life_training", "fill them in the query, or leave them out", MACHINES[:2].set_column(2, "heat", pa.array([1.0, None])), MACHINES[:2], MACHINES[:1]),
    ),
    *remedies(
        lambda drop: _features(GIVEN, "y", (), drop, None),
        ("models/explain", "name fewer to leave out", ("a", "b"), ("a",)),
    ),
    *remedies(encoded, ("models/explain", "a feature is a number, a flag or a text: drop it", LISTS, LISTS.select(["a"])), ("models/explain", "explain nothing: drop it", MANY, MANY.select(["a"]))),
    *remedies(
        lambda classes: _check(["a"] * len(WORDS), classes),
        ("models/text", "give one class for each text", WORDS[:-1], WORDS),
    ),
    *remedies(
        lambda classes: _check(["a"] * len(classes), classes),
        ("models/text", "give {} or more, or leave it out", [*WORDS, "half"], [*WORDS, *["half"] * FOLDS], WORDS),
    ),
    *remedies(
        lambda name: replace(GOOD, name=name),
        ("models/manifest", "take up to 64 letters, digits, '-' and '_'", "a b", "a-b_C1"),
    ),
]  # fmt: skip
BAD = replace(GOOD, metrics={"rmse": 4.0})
FILES = {"model.onnx": b"weights"}


@followed(CASES)
def test_what_a_training_advises(remedy: Remedy) -> None:
    remedy.follow()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two versions of a model, both promoted one after the other, and a backup of them."""
    store = Store(tmp_path / "models")
    for number in (1, 2):
        store.add(GOOD, FILES)
        store.promote("pump", number)
    shutil.copytree(tmp_path / "models", tmp_path / "backup")
    return store


DAMAGE: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "is no manifest of a model .*; train it anew": ("manifest.json", lambda _: "rust"),
    "does not match its signature: .*; train it anew": ("manifest.json", lambda text: text.replace("2.0", "1.0")),
}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_damaged_version_is_trained_anew(store: Store, said: str) -> None:
    name, damage = DAMAGE[said]
    path = store.folder / "pump" / "2" / name
    path.write_text(damage(path.read_text()))
    with pytest.raises(CorruptState, match=said):
        store.files("pump", 2)
    store.promote("pump", store.add(GOOD, FILES).version)  # trained anew
    assert store.files("pump", store.followed("pump").version) == FILES


def test_a_damaged_champion_is_rolled_back_or_trained_anew(store: Store) -> None:
    (store.folder / "pump" / "2" / "model.onnx").write_text("rust")
    with pytest.raises(CorruptState, match="was changed or damaged since it was made; roll back, or train anew"):
        store.files("pump", 2)
    assert store.rollback("pump") == 1
    assert store.files("pump", 1) == FILES
    assert store.files("pump", store.add(GOOD, FILES).version) == FILES


def test_trees_that_cannot_be_read_are_taught_anew() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    with pytest.raises(CorruptState, match="; train anew") as refused:
        TreeContributions.read(b"rust", 2, "models/pump/2/trees.json")
    assert "models/pump/2/trees.json holds no trees (" in str(refused.value)
    taught = lightgbm.train({"verbosity": -1, "min_data_in_leaf": 1}, lightgbm.Dataset(np.eye(2), [0.0, 1.0]), 1)
    anew = json.dumps(tree_attributes(taught.dump_model())).encode()
    assert TreeContributions.read(anew, 2, "models/pump/3/trees.json")(np.eye(2)).shape == (2, 2)


def test_a_version_without_manifest(store: Store, tmp_path: Path) -> None:
    place = store.folder / "pump" / "2"
    (place / "manifest.json").unlink()
    with pytest.raises(CorruptState, match="delete the folder, or bring it back from a backup"):
        store.show("pump")
    shutil.rmtree(place)
    assert store.show("pump").version == 1
    shutil.copytree(tmp_path / "backup" / "pump" / "2", place)
    assert store.show("pump").version == 2


def test_a_pointer_that_cannot_be_read(store: Store) -> None:
    (pointer,) = [path for path in (store.folder / "pump").iterdir() if path.is_file() and path.name != ".lock"]
    assert "history" in json.loads(pointer.read_text())
    pointer.write_text("rust")
    with pytest.raises(CorruptState, match="delete it, then promote a version again"):
        store.followed("pump")
    pointer.unlink()
    store.promote("pump", 2)
    assert store.followed("pump").version == 2
