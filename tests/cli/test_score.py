"""`tocsin score`: a file in, the same file with the detector's columns out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.cli.score import score
from tocsin.errors import ConfigError


def series(folder: Path, n: int = 400) -> Path:
    values = np.random.default_rng(1).normal(size=n).round(3)
    values[300] = 30
    lines = [f"2026-01-{1 + i // 96:02d} {i // 4 % 24:02d}:{i % 4 * 15:02d}:00,{v},x" for i, v in enumerate(values)]
    path = folder / "data.csv"
    path.write_text("timestamp,load,note\n" + "\n".join(lines) + "\n")
    return path


def test_a_detector_by_its_name_over_csv(tmp_path: Path) -> None:
    data, out = series(tmp_path), tmp_path / "out.csv"
    assert score(Path("novelty"), data, out, value="load") == 400
    given, judged = data.read_text().splitlines(), out.read_text().splitlines()
    assert judged[0] == given[0] + ",expected,lower,upper,score"
    assert all(b.startswith(a.rsplit(",", 2)[0]) for a, b in zip(given, judged, strict=True))
    assert max(range(1, 401), key=lambda i: float(judged[i].rsplit(",", 1)[1] or 0)) == 301


def test_steps_from_yaml_to_parquet(tmp_path: Path) -> None:
    job, out = tmp_path / "job.yaml", tmp_path / "out.parquet"
    job.write_text("- window: {every: 1h, compute: mean(load)}\n- keep: load_mean > 5\n")
    assert score(job, series(tmp_path), out) == 1
    assert pq.read_table(out)["time"].to_pylist()[0].hour == 3


def test_series_are_told_apart_by_a_key(tmp_path: Path) -> None:
    path, out = tmp_path / "data.ndjson", tmp_path / "out.ndjson"
    path.write_text(
        "".join(json.dumps({"ts": i * 1000 + 1.7e12, "m": "ab"[i % 2], "value": i % 2}) + "\n" for i in range(600))
    )
    score(Path("novelty"), path, out, key="m")
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["score"] for row in found[-100:]} == {0.0}


def test_a_job_splits_by_a_column_named_key(tmp_path: Path) -> None:
    path, job, out = tmp_path / "data.csv", tmp_path / "job.json", tmp_path / "out.ndjson"
    path.write_text("time,key\n" + "".join(f"2026-01-01T00:00:{i:02d}Z,{'ab'[i % 2]}\n" for i in range(60)))
    detector = {"function": "count", "partition_field_name": "key"}
    config = {"bucket_span": "10s", "detectors": [detector]}
    job.write_text(json.dumps({"job_id": "j", "analysis_config": config, "model_plot_config": {"enabled": True}}))
    score(job, path, out)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["partition_field_value"] for row in found if row["result_type"] == "model_plot"} == {"a", "b"}


@pytest.mark.parametrize(
    ("data", "options", "remedy"),
    [
        ("a,b\n1,2\n", {}, "--time"),
        ("time,b\nnoon,2\n", {}, "no time in row 1: 'noon'"),
        ("time,b\n2026-01-01T00:00:00Z,2\n", {"key": "machine"}, "there is no column 'machine'"),
        ("time,b\n2026-01-01T00:00:00Z,2\n", {}, "needs column 'value'"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, data: str, options: dict[str, str], remedy: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(data)
    with pytest.raises(ConfigError, match=remedy):
        score(Path("novelty"), path, tmp_path / "out.csv", **options)


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    done = CliRunner().invoke(main, ["score", "novelty", str(series(tmp_path)), "-o", str(out), "--value", "load"])
    assert done.exit_code == 0, done.output
    assert isinstance(pq.read_table(out), pa.Table)
    done = CliRunner().invoke(main, ["score", "novelti", str(series(tmp_path)), "-o", str(out)])
    assert done.exit_code == 2
    assert "did you mean 'novelty'" in done.output
