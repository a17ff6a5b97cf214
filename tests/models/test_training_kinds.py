"""Texts and remaining life by the same file and command as forecasters: who teaches, who judges, what is refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs

from tocsin.batch import as_times
from tocsin.cli import main
from tocsin.errors import ConfigError
from tocsin.estimate.classify import Classify
from tocsin.models import life_training, text_training
from tocsin.models.life import Effort
from tocsin.models.life_training import LifeTraining, in_order
from tocsin.models.store import Store
from tocsin.models.training import read_training
from tocsin.testing import feed, rows

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
    """Machines that wear until they fail, rows in any order, columns as the page on remaining life has them."""
    random = np.random.default_rng(1)
    tables = []
    for number in range(machines):
        life = int(random.integers(45, 80))
        wear = 1.6 * (np.arange(life) / life) ** 2 + random.normal(0, 0.05, life)
        steady = np.ones(life)
        tables.append(
            pa.table(
                {"key": [f"m{number}"] * life, "time": np.arange(life), "temperature": wear, "pressure": steady,
                 "speed": random.normal(size=life), "altitude": steady, "throttle": steady}
            )
        )  # fmt: skip
    table = pa.concat_tables(tables)
    return table.take(random.permutation(len(table)))


def test_texts_by_the_page_the_last_ones_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.lake.read.snapshot", lambda query, folder: (log(), {"log": 2}))
    monkeypatch.chdir(tmp_path)
    page = PageOfDocs("text")
    (content,), (commands,) = page.shown("yaml"), page.shown("sh")
    Path("trade.yaml").write_text(content)
    train, promote = (shlex.split(line)[1:] for line in commands.splitlines())
    assert "there are no models in" in CliRunner().invoke(main, ["models", "list"]).stderr
    with pytest.raises(ConfigError, match=r"there is no model 'trade' in .*; make it first: tocsin train FILE"):
        Store().followed("trade")
    refused = CliRunner().invoke(main, [*train, "--set", "dataset.test_from"])
    assert "write it as place=value, such as --set model.units=64" in refused.stderr
    result = CliRunner().invoke(main, [*train, "--set", "dataset.test_from=2023-11-16T22:13:20Z"])
    assert result.exit_code == 0, result.output
    manifest = Store().show("trade", 1)
    assert manifest.data["windows"] == {"train": 48, "test": 16}
    assert manifest.settings["classes"] == ["electrical", "hydraulics"], "what judges has taught"
    assert manifest.metrics["accuracy"] == 0.0
    assert json.loads(result.stdout.splitlines()[-1])["accuracy"] == 0.0
    assert "trade is NOT better than most_frequent" in CliRunner().invoke(main, promote).output
    follow = re.search(r"follow it: tocsin (.+)", result.stderr)
    assert follow is not None
    with pytest.raises(ConfigError, match=r"look at them \(tocsin models list --store \S+\), then: ") as told:
        Store().followed("trade")
    look, then = re.findall(r"tocsin ([^)]+)", str(told.value))
    assert shlex.split(then) == shlex.split(follow[1])
    assert "trade" in CliRunner().invoke(main, shlex.split(look)).output
    assert CliRunner().invoke(main, [*shlex.split(then), "--force"]).exit_code == 0
    assert Store().followed("trade").version == 1
    said = feed(Classify(model="trade"), rows({"text": ["oil leak", "fuse"]}))
    assert said["class"].to_pylist() == ["hydraulics", "electrical"]


def life(tmp_path: Path, **dataset: str) -> LifeTraining:
    """What the page on remaining life trains."""
    (content,) = PageOfDocs("remaining_life").shown("yaml")
    (tmp_path / "turbofan.yaml").write_text(content)
    changed = {f"dataset.{name}": value for name, value in dataset.items()}
    training = read_training(tmp_path / "turbofan.yaml", {"store": str(tmp_path), **changed})
    assert isinstance(training, LifeTraining)
    return training


def test_remaining_life_by_the_page_is_that_of_rows_in_order(tmp_path: Path) -> None:
    effort, shares = Effort(trees=150, steps=40), []
    table = failed()
    taught, again = (in_order(life(tmp_path).dataset, one) for one in (table, table.sort_by("time")))
    assert all((ours == theirs).all() for ours, theirs in zip(taught, again, strict=True))
    first = life_training.train_on(life(tmp_path), table, {"failed": 7}, lambda share, _: shares.append(share), effort)
    assert first.is_better
    assert first.metrics["rmse"] == first.metrics["rmse_raw"], "no machine here lives as long as the cap"
    assert (first.settings["machines"], first.data["tables"]) == (14, {"failed": 7})
    assert shares == sorted(shares)
    assert len(shares) == 5


def test_what_cannot_teach_is_refused(tmp_path: Path) -> None:
    table = failed()
    gaps = table.append_column("heat", pa.array([None] + [1.0] * (len(table) - 1)))
    with pytest.raises(ConfigError, match="'heat' of the query has rows without a number"):
        life_training.train_on(life(tmp_path, sensors="heat"), gaps, {})


def test_numbers_are_written_as_text_and_rows_have_both(tmp_path: Path) -> None:
    file = tmp_path / "text.yaml"
    file.write_text("kind: text\nname: t\ndataset: {query: q, target: class, text: text, time: time}\n")
    training = read_training(file, {"store": str(tmp_path)})
    assert isinstance(training, text_training.TextTraining)
    numbers = log().set_column(2, "class", pc.utf8_length(log()["class"]))
    with pytest.raises(ConfigError, match="'class' of the query is int32, no text; write it as: class::text"):
        text_training.train_on(training, numbers, {})
    written = duckdb.sql("select time, text, class::text as class from numbers").to_arrow_table()
    assert text_training.train_on(training, written, {}).version == 1
    neither = log().set_column(2, "class", pa.nulls(len(numbers), pa.string()))
    with pytest.raises(ConfigError, match="no row of the query has both 'text' and 'class'; ask it with: tocsin query"):
        text_training.train_on(training, neither, {})
    assert duckdb.sql("select count(*) from neither where class is not null").fetchall() == [(0,)], "asked, it shows"
