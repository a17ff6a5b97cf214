"""The store: versions that never change, a champion that is swapped whole, and what must not get in."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.errors import ConfigError, CorruptState, TocsinError, UnknownName
from tocsin.models.manifest import Manifest
from tocsin.models.store import Store

GOOD = Manifest(
    "pump", "forecaster", ("load", "outside"), "load", window=3, horizon=1,
    metrics={"rmse": 2.0}, baselines={"persistence": {"rmse": 3.0}, "seasonal_naive": {"rmse": 2.5}},
)  # fmt: skip
BAD = replace(GOOD, metrics={"rmse": 2.6})
FILES = {"model.onnx": b"weights", "words.json": b"{}"}


def test_versions_are_counted_kept_and_read_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = store.add(GOOD, FILES), store.add(GOOD, FILES)
    assert (first.version, second.version) == (1, 2)
    assert store.show("pump", 1) == first
    assert store.show("pump").version == 2
    assert dict(store.files("pump", 2)) == FILES
    assert store.champion("pump") is None
    assert sorted(os.listdir(tmp_path / "pump")) == [".lock", "1", "2"]  # nothing half made stays


def test_promote_and_roll_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for draft in (GOOD, BAD, GOOD):
        store.add(draft, FILES)
    with pytest.raises(ConfigError, match=r"no version of model 'pump' was promoted.* promote pump 3"):
        store.followed("pump")
    stamps = [store.stamp("pump")]
    store.promote("pump", 1)
    stamps.append(store.stamp("pump"))
    with pytest.raises(ConfigError, match=r"NOT better than seasonal_naive: rmse 2.6 against 2.5.*--force"):
        store.promote("pump", 2)
    assert store.champion("pump") == 1
    store.promote("pump", 2, force=True)
    store.promote("pump", 2, force=True)  # once is enough
    stamps.append(store.stamp("pump"))
    assert len(set(stamps)) == 3
    assert store.rollback("pump") == 1
    assert store.followed("pump").version == 1
    with pytest.raises(ConfigError, match="no champion before this one"):
        store.rollback("pump")


def test_what_was_changed_is_not_promoted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(3):
        store.add(GOOD, FILES)
    (tmp_path / "pump" / "1" / "model.onnx").write_bytes(b"other")
    with pytest.raises(CorruptState, match=r"model\.onnx was changed or damaged"):
        store.promote("pump", 1)
    (tmp_path / "pump" / "2" / "more.onnx").write_bytes(b"")
    with pytest.raises(CorruptState, match="has the files"):
        store.promote("pump", 2)
    manifest = tmp_path / "pump" / "3" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rmse": 2.0', '"rmse": 1.0'))
    with pytest.raises(CorruptState, match="does not match its signature"):
        store.promote("pump", 3)
    assert store.champion("pump") is None


@pytest.mark.parametrize("name", ["../up.onnx", "model.pkl", "manifest.json", "a/b.onnx", ".hidden.json"])
def test_only_onnx_and_json_beside_the_manifest(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no file of a model"):
        Store(tmp_path).add(GOOD, {name: b""})


def test_a_model_has_a_plain_name() -> None:
    with pytest.raises(ConfigError, match="no name for a model"):
        replace(GOOD, name="../pump")


def test_who_reads_while_others_promote_sees_a_whole_champion(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(2):
        store.add(GOOD, FILES)
    store.promote("pump", 1)
    done = threading.Event()

    def promote() -> None:
        for turn in range(60):
            Store(tmp_path).promote("pump", 1 + turn % 2)
        done.set()

    threads = [threading.Thread(target=promote) for _ in range(2)]
    for thread in threads:
        thread.start()
    seen = set()
    while not done.is_set():
        seen.add(store.champion("pump"))
    for thread in threads:
        thread.join()
    assert seen <= {1, 2}
    assert not [name for name in os.listdir(tmp_path / "pump") if name.startswith(".champion")]


def test_more_is_better_where_the_manifest_says_so() -> None:
    text = Manifest(
        "notes", "text", ("text",), "cause", judged_by="accuracy", higher_is_better=True, metrics={"accuracy": 0.8},
        baselines={"commonest": {"accuracy": 0.3}, "bayes": {"accuracy": 0.75}},
    )  # fmt: skip
    assert text.best_baseline == ("bayes", 0.75)
    assert text.is_better
    assert not replace(text, metrics={"accuracy": 0.7}).is_better
    assert not replace(text, baselines={}).is_better
    assert not replace(text, metrics={}).is_better


def test_a_newer_manifest_is_refused_by_name(tmp_path: Path) -> None:
    tree = json.loads(GOOD.signed().to_json())
    assert Manifest.from_json(json.dumps(tree)) == GOOD.signed()
    with pytest.raises(CorruptState, match="newer tocsin: \\['colour'\\]"):
        Manifest.from_json(json.dumps(tree | {"colour": "red"}))
    for text in ("", "[]", "{}", "null", '{"inputs": 3}'):
        with pytest.raises(CorruptState):
            Manifest.from_json(text)


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(GOOD, FILES)
    with pytest.raises(UnknownName, match="did you mean 'pump'"):
        store.promote("pumq", 1)
    with pytest.raises(TocsinError, match="no version 7; there are: 1"):
        store.show("pump", 7)


def test_the_command_line(tmp_path: Path) -> None:
    def tocsin(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["models", *words, "--store", str(tmp_path)])
        return result.exit_code, result.output

    assert "there are no models" in tocsin("list")[1]
    store = Store(tmp_path)
    store.add(GOOD, FILES)
    store.add(BAD, {"model.onnx": b"others"})
    assert tocsin("promote", "pump", "1") == (0, "pump 1 is the champion\n")
    code, said = tocsin("promote", "pump", "2")
    assert code == 2
    assert "NOT better" in said
    assert tocsin("promote", "pump", "2", "--force")[0] == 0
    listed = json.loads(tocsin("list", "--format", "json")[1].splitlines()[1])
    assert (listed["champion"], listed["better"], listed["baseline"]) == ("*", "NO", 2.5)
    assert '"rmse": 2.6' in tocsin("show", "pump")[1]
    assert tocsin("rollback", "pump") == (0, "pump 1 is the champion again\n")
    assert "metrics.rmse: 2.0 -> 2.6" in tocsin("diff", "pump", "1", "2")[1]
    assert 'files.words.json: "' in tocsin("diff", "pump", "1", "2")[1]
