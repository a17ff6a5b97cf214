"""Data sets: what is missing makes no window, windows look back only, parts are in time, versions are named."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from trained import plant

import tocsin
from tocsin.batch import as_times
from tocsin.errors import ConfigError
from tocsin.models.dataset import Dataset, Series

MINUTE_US = 60_000_000


def minutes(at: list[int], values: list[float | None], key: list[str] | None = None) -> pa.Table:
    columns = {"time": as_times(np.array(at, np.int64) * MINUTE_US), "value": pa.array(values, pa.float64())}
    return pa.table(columns | ({"key": key} if key else {}))


def made(table: pa.Table, **settings: object) -> Series:
    plain = {"query": "-", "target": "value", "window": 2, "every": "1m"}
    return Dataset.model_validate(plain | settings).series(table, {})


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_windows_against_a_search_for_them(horizon: int) -> None:
    random = np.random.default_rng(horizon)
    at = np.flatnonzero(random.random(120) > 0.2)
    value = {int(m): float(m) for m in at if random.random() > 0.1}
    series = made(minutes(at.tolist(), [value.get(int(m)) for m in at]), horizon=horizon, window=3)
    want = [
        ([value[m - 2], value[m - 1], value[m]], value[m + horizon])
        for m in range(120)
        if all(t in value for t in (m - 2, m - 1, m, m + horizon))
    ]
    assert len(want) > 10
    assert series.windows(series.ends)[:, :, 0].tolist() == [window for window, _ in want]
    assert series.targets(series.ends).tolist() == [target for _, target in want]


def test_machines_do_not_share_windows() -> None:
    at, keys = [*range(10), *range(10)], ["a"] * 10 + ["b"] * 10
    series = made(minutes(at, [*map(float, range(10)), *map(float, range(100, 110))], keys), key="key")
    windows = series.windows(series.ends)
    assert len(windows) == 16
    assert (np.diff(windows[:, :, 0], axis=1) == 1).all()
    assert series.keys == ("a", "b")


def test_parts_are_in_time_and_do_not_overlap() -> None:
    series = made(
        minutes(list(range(100)), list(map(float, range(100)))),
        validate_from="1970-01-01T00:50:00Z", test_from="1970-01-01T01:10:00Z",
    )  # fmt: skip
    assert series.targets(series.train).max() == 49
    assert (series.targets(series.validate).min(), series.targets(series.validate).max()) == (50, 69)
    assert series.targets(series.test).min() == 70
    assert series.about["test_from"] == "1970-01-01T01:10:00Z"


def test_rows_that_come_faster_than_the_period_are_passed_over() -> None:
    series = made(minutes([0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0.0, 99.0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert 99.0 not in series.values


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"target": "speed"}, r"no column 'speed'; it gives \[time, value\]"),
        ({"features": ["time"]}, "'time' of the query is timestamp.* looks at numbers"),
        ({"time": "value"}, "no time; write it as: value::timestamptz"),
        ({"window": 50}, "no window of 50 periods without a gap lies in the part to"),
        ({"validate_from": "soon", "test_from": "later"}, "validate_from: soon: write it as"),
        ({"validate_from": "1980-01-01"}, "must come in this order"),
    ],
)
def test_mistakes_are_told(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        made(minutes(list(range(30)), list(map(float, range(30)))), **settings)


def test_no_rows_is_told() -> None:
    with pytest.raises(ConfigError, match="answers with no rows"):
        made(minutes([], []))


def test_the_lake_is_asked_and_its_version_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    lines = [
        f"{datetime.fromtimestamp(ts.timestamp(), UTC):%Y-%m-%dT%H:%M:%SZ},{machine},{'' if load is None else load}"
        for ts, machine, load in zip(*(plant(160, 1)[c].to_pylist() for c in ("ts", "machine", "load")), strict=True)
    ]
    (tmp_path / "in" / "a.csv").write_text("ts,machine,load\n" + "\n".join(lines) + "\n")
    (tmp_path / "load.yaml").write_text(f"""
name: load
folder: {tmp_path}/lake
source: {{files: {{path: {tmp_path}/in, format: csv}}}}
decode: {{csv: {{columns: {{ts: timestamp, machine: text, load: float}}}}}}
key: machine
time: {{column: ts, lateness: 0s}}
streams:
  load: {{sinks: [delta: load]}}
""")
    tocsin.run(tocsin.load(tmp_path / "load.yaml"))
    dataset = Dataset(query="select * from load", target="load", key="key", window=3, every="1h")
    series = dataset.load(tmp_path / "lake")
    assert list(series.about["tables"]) == ["load"]
    assert series.about["tables"]["load"] >= 1
    assert series.about["rows"] == tocsin.read("load", tmp_path / "lake").num_rows > 150
