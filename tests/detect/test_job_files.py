"""Real job definitions: each loads, runs on rows of its shape, and finds what is planted for its function."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import data_folder
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.detect.job import Job, load_job
from tocsin.testing import BEGIN_US, feed, rows

DATA = data_folder.DATA / "anomaly_jobs"
FILES = sorted(DATA.glob("*.json"))
BUCKETS, EACH, AT = 220, 12, 180
pytestmark = pytest.mark.skipif(not FILES, reason="the job definitions are not in the data folder ($TOCSIN_DATA)")


def demanded(query: Any) -> Iterator[tuple[str, Any]]:
    """The fields and values that a query wants of a document (those that it excludes are left away)."""
    if isinstance(query, Mapping):
        for kind, body in query.items():
            if kind in ("term", "match"):
                yield from body.items()
            elif kind == "exists":
                yield body["field"], "there"
            elif kind != "must_not":
                yield from demanded(body)
    elif isinstance(query, list):
        for one in query:
            yield from demanded(one)


def documents(job: Job) -> pa.RecordBatch:
    """Documents with all fields that the job names; in bucket `AT` something that its function is there to find."""
    config = job._definition.job.analysis_config
    detector = config.detectors[0]
    random = np.random.default_rng(1)
    each = EACH * (2 if detector.side < 0 else 1)
    t = np.sort(random.uniform(0, BUCKETS * config.bucket_span, BUCKETS * each))
    fault = (t // config.bucket_span).astype(int) == AT
    if detector.base in ("count", "non_zero_count"):
        repeats = np.where(fault, 0 if detector.side < 0 else 40, 1)
        t, fault = np.repeat(t, repeats), np.repeat(fault, repeats)
    count = len(t)
    columns: dict[str, Any] = {
        name: np.repeat(value, count) for name, value in demanded(dict(job._definition.datafeed.query))
    }
    for name in config.influencers:
        columns[name] = [f"{name} {k}" for k in random.integers(0, 3, count)]
    for name in detector.entity_fields:
        columns[name] = np.array([f"{name} {k}" for k in random.integers(0, 3, count)], object)
    first = int(np.flatnonzero(fault)[0]) if fault.any() else 0
    if detector.base == "rare":
        columns[detector.by_field_name][first] = "never seen before"
    if detector.over_field_name:  # one that is not frequent
        columns[detector.over_field_name][first] = "stranger"
        fault = np.arange(count) == first
    if detector.base == "info_content":
        letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
        columns[detector.field_name] = [
            "".join(random.choice(letters if f else letters[:3], 900 if f else 9)) for f in fault
        ]
    elif detector.field_name:
        columns[detector.field_name] = np.where(fault, 5000.0, 10.0) + random.normal(0, 1, count)
    return rows({**columns, "time": t})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_job_finds_what_it_is_for(file: Path) -> None:
    job = load_job(file)
    span_s = job._definition.job.analysis_config.bucket_span
    found = feed(job, documents(job), chop=700).to_pylist()
    records = [r for r in found if r["result_type"] == "record"]
    assert sum(r["result_type"] == "bucket" for r in found) in (BUCKETS, BUCKETS - 1)
    top = max(records, key=lambda r: r["record_score"])
    assert round((top["time"].timestamp() - BEGIN_US / 1e6) / span_s) == AT
    assert top["record_score"] > 75
    elsewhere = [r for r in records if r["record_score"] > 75 and r["time"] != top["time"]]
    assert len(elsewhere) <= 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_check_takes_it(file: Path) -> None:
    done = CliRunner().invoke(main, ["check", str(file)])
    assert done.exit_code == 0, done.output


def test_score_reads_the_column_that_the_job_names(tmp_path: Path) -> None:
    """`created_at` is no usual name of a time, but it is what this job says."""
    file = DATA / "twitter_trends.json"
    job = load_job(file)
    table = pa.Table.from_batches([documents(job)]).drop_columns(["key"])
    table = table.rename_columns(["created_at" if name == "time" else name for name in table.column_names])
    data, out = tmp_path / "tweets.ndjson", tmp_path / "out.ndjson"
    data.write_text("".join(json.dumps(row, default=str) + "\n" for row in table.to_pylist()))
    done = CliRunner().invoke(main, ["score", str(file), str(data), "-o", str(out)])
    assert done.exit_code == 0, done.output
    records = [row for line in out.read_text().splitlines() if (row := json.loads(line))["result_type"] == "record"]
    assert max(r["record_score"] for r in records) > 75
