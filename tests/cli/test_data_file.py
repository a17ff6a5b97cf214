"""CSV of any country in `tocsin score`, and what is said where it cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tocsin.cli import main


def scored(folder: Path, data: bytes, *options: str) -> Result:
    (folder / "d.csv").write_bytes(data)
    out = folder / "o.ndjson"
    return CliRunner().invoke(
        main, ["score", "zscore", str(folder / "d.csv"), "-o", str(out), "--value", "v", *options]
    )


@pytest.mark.parametrize(
    ("text", "values", "options"),
    [
        ("time;v\n2026-01-01;1.234,5\n2026-01-02;12,5\n2026-01-03;-\n", [1234.5, 12.5, None], []),
        ('time,v\n2026-01-01,"1,234.5"\n2026-01-02,12.5\n', [1234.5, 12.5], []),
        ('time,v\n2026-01-01,"0,5"\n2026-01-02,"1,25"\n', [0.5, 1.25], []),
        ("time;v\n2026-01-01;1.234\n2026-01-02;2.345\n", [1.234, 2.345], []),
        ("time;v\n2026-01-01;1.234\n2026-01-02;2.345\n", [1234.0, 2345.0], ["--decimal", ","]),
        ("time\tv\n2026-01-01\t0,5\n", [0.5], []),
        ("time,v\n-,bar\n2026-01-01,3\n", [3], ["--skip", "2"]),
        ("time,v\n01.02.2026 10:00,3\n", [3], ["--format", "%d.%m.%Y %H:%M", "--zone", "Europe/Berlin"]),
        ("date,time,v\n2026-01-01,10:00:00,3\n", [3], ["--time", "date+time"]),
        ("time,v\n2026-01-01,9007199254740993\n", [9007199254740993], []),
    ],
)
def test_numbers_and_times(tmp_path: Path, text: str, values: list[float], options: list[str]) -> None:
    for data in (text.encode(), text.encode("utf-16"), text.encode("utf-16-le"), text.encode("utf-8-sig")):
        done = scored(tmp_path, data, *options)
        assert done.exit_code == 0, done.output
        rows = (tmp_path / "o.ndjson").read_text().splitlines()
        assert [json.loads(row)["v"] for row in rows] == values


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("time,v,Grad °\n2026-01-01,3,1\n".encode("cp1252"), "--encoding cp1252"),
        (b"time,v\n-,bar\n2026-01-01,3\n", "--skip LINE"),
        (b"time,v\n01.02.2026 10:00,3\n", 'format: "%d.%m.%Y %H:%M"'),
        (b"date,time,v\n2026-01-01,10:00:00,3\n", "--time date+time"),
        (b"20.5\n20.6\n", "write a line with the columns' names"),
        (b"v\n1\n", "say with --time which column has the time"),
    ],
)
def test_a_remedy_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    done = scored(tmp_path, data)
    assert done.exit_code == 2
    assert said in done.output
    assert scored(tmp_path, data, "--encoding", "no such").exit_code == 2
