"""How a time is written is said where it is read first: check refuses what would come too late."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

import pytest

import tocsin
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.errors import ConfigError
from tocsin.pipeline.yamlfile import load_with_plan

TIMES = """
name: x
source: {{files: a.csv}}
decode: {{csv: {{columns: {{m: text, t: {column}, v: float}}}}}}
key: m
time: {time}
streams: {{s: {{sinks: [{{delta: readings}}]}}}}
"""


@pytest.mark.parametrize(
    ("time", "written"),
    [
        ("zone: Europe/Berlin", "2026-01-31 12:00:00"),
        ('format: "%d.%m.%Y %H:%M"', "31.01.2026 11:00"),
        ("unit: s", "1769857200"),
    ],
)
def test_how_a_time_is_written_is_said_where_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, time: str, written: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(f"m,t,v\na,{written},1.5\n")
    name = time.partition(":")[0]
    zone = "" if name != "format" else ", zone: UTC"
    by_time = f"{{column: t, {time}{zone}}}"
    (tmp_path / "x.yaml").write_text(TIMES.format(column="timestamp", time=by_time))
    with pytest.raises(ConfigError, match=f"x.yaml:6: .*column 't' is a timestamp where it is decoded.*{name}"):
        load_with_plan(tmp_path / "x.yaml")
    where_it_is_decoded = TIMES.format(column=f"{{type: timestamp, {time}{zone}}}", time="t")
    as_text = TIMES.format(column="int" if name == "unit" else "text", time=by_time)
    for i, right in enumerate((where_it_is_decoded, as_text)):
        (tmp_path / "x.yaml").write_text(f"{right}folder: {tmp_path}/{i}\n")
        EmbeddedRunner(load_with_plan(tmp_path / "x.yaml")[1]).run()
        (kept,) = tocsin.read("readings", tmp_path / str(i))["time"].to_pylist()
        assert kept.astimezone(UTC).strftime("%d.%m. %H:%M") == "31.01. 11:00"
