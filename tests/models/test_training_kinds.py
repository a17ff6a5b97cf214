"""Texts and remaining life by the same file and command as forecasters: who teaches, who judges, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from tocsin.batch import as_times
from tocsin.cli import main
from tocsin.errors import ConfigError
from tocsin.models import life_training, text_training
from tocsin.models.life import Effort
from tocsin.models.life_training import LifeTraining, in_order
from tocsin.models.store import Store
from tocsin.models.text import TextClassifier
from tocsin.models.training import read_training

LOG = {
    "hydraulics": "pump leaking oil|oil pressure low|hose leaking fluid|oil leak at hose",
    "electrical": "fuse blown|power supply fuse blown|cable burnt|sensor cable broken",
}


def log(repeated: int = 8) -> pa.Table:
    """Lines of a maintenance log in the order of time; the last quarter has classes that nobody could know."""
    lines = [(text, name) for name, texts in LOG.items() for text in texts.split("|")]
    rows = [lines[i] for i in np.random.default_rng(2).permutation(np.arange(len(lines) * repeated) % len(lines))]
    count = len(rows)
    classes = [name if i < count * 3 // 4 else "paint" for i, (_, name) in enumerate(rows)]
    times = as_times(1_700_000_000_000_000 + 3_600_000_000 * np.arange(count))
    return pa.table({"time": times, "text": [text for text, _ in rows], "class": classes}).sort_by("text")


def failed(machines: int = 14) -> pa.Table:
    """Machines that wear until they fail, rows in any order."""
    random = np.random.default_rng(1)
    tables = []
    for number in range(machines):
        life = int(random.integers(45, 80))
        wear = 1.6 * (np.arange(life) / life) ** 2 + random.normal(0, 0.05, life)
        tables.append(
            pa.table({"key": [f"m{number}"] * life, "cycle": np.arange(life), "wear": wear, "load": 1.0 + wear * 0})
        )
    table = pa.concat_tables(tables)
    return table.take(random.permutation(len(table)))


def test_texts_by_the_command_the_last_ones_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.lake.read.snapshot", lambda query, folder: (log(), {"log": 2}))
    file = tmp_path / "trade.yaml"
    file.write_text(
        f"kind: text\nname: trade\nstore: {tmp_path}\ndataset: {{query: from log, test_from: 2023-11-16T22:13:20Z}}\n"
    )
    result = CliRunner().invoke(main, ["train", str(file)])
    assert result.exit_code == 0, result.output
    manifest = Store(tmp_path).show("trade", 1)
    assert manifest.data["windows"] == {"train": 48, "test": 16}
    assert manifest.settings["classes"] == ["electrical", "hydraulics"], "what judges has taught"
    assert manifest.metrics["accuracy"] == 0.0
    assert json.loads(result.stdout.splitlines()[-1])["accuracy"] == 0.0
    classes, _ = TextClassifier.open(Store(tmp_path), "trade", 1).classify(["oil leak", "fuse"])
    assert classes == ["hydraulics", "electrical"]


def life(tmp_path: Path, **dataset: object) -> LifeTraining:
    tree = {"query": "from failed", "sensors": ["wear"], "settings": ["load"], "time": "cycle", **dataset}
    return LifeTraining.model_validate({"kind": "remaining_life", "name": "wear", "store": tmp_path, "dataset": tree})


def test_remaining_life_is_that_of_rows_in_order(tmp_path: Path) -> None:
    effort, shares = Effort(trees=150, rounds=40), []
    table = failed()
    taught, again = (in_order(life(tmp_path).dataset, one) for one in (table, table.sort_by("cycle")))
    assert all((ours == theirs).all() for ours, theirs in zip(taught, again, strict=True))
    first = life_training.train_on(life(tmp_path), table, {"failed": 7}, lambda share, _: shares.append(share), effort)
    assert first.is_better
    assert (first.settings["machines"], first.data["tables"]) == (14, {"failed": 7})
    assert shares == sorted(shares)
    assert len(shares) == 5


def test_what_cannot_teach_is_refused(tmp_path: Path) -> None:
    table = failed()
    gaps = table.append_column("heat", pa.array([None] + [1.0] * (len(table) - 1)))
    with pytest.raises(ConfigError, match="'heat' of the query has rows without a number"):
        life_training.train_on(life(tmp_path, sensors=["heat"]), gaps, {})
    file = tmp_path / "text.yaml"
    file.write_text("kind: text\nname: t\ndataset: {query: q, target: cycle, text: key, time: cycle}\n")
    training = read_training(file, {})
    assert isinstance(training, text_training.TextTraining)
    with pytest.raises(ConfigError, match="'cycle' of the query is int64, no text"):
        text_training.train_on(training, table, {})
