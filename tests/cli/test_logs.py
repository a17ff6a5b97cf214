"""The log, for people and for a collector; and the service that it is written by."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SERVICE = ROOT / "examples" / "service"


def run(folder: Path, *options: str, **variables: str) -> list[str]:
    """What a run says of a damaged file."""
    (folder / "in.ndjson").write_text('{"machine": "press", "v": 1.5}\n')
    (folder / "broken.ndjson.gz").write_bytes(b"no gzip")
    (folder / "x.yaml").write_text(
        f"name: x\nfolder: {folder}/data\nsource: {{files: {{path: '{folder}/*.ndjson*'}}}}\n"
        "decode: {json: {columns: {machine: category, v: float}}}\nkey: machine\n"
        "streams: {readings: {sinks: [delta: readings]}}\n"
    )
    command = [sys.executable, "-m", "tocsin.cli", *options, "run", str(folder / "x.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, timeout=120)
    return [line for line in done.stderr.splitlines() if "broken.ndjson.gz is read only in part" in line]


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_line_of_json(tmp_path: Path, how: str) -> None:
    given = run(tmp_path, "--log-format", "json") if how == "option" else run(tmp_path, TOCSIN_LOG_FORMAT="json")
    (line,) = given
    told = json.loads(line)
    assert told["level"] == "warning"
    assert told["logger"].startswith("tocsin.acquire")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", told["time"])


def test_a_level(tmp_path: Path) -> None:
    assert run(tmp_path, "--log-level", "error") == []
    shutil.rmtree(tmp_path / "data")
    assert len(run(tmp_path)) == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_what_systemd_takes(tmp_path: Path) -> None:
    unit = (SERVICE / "tocsin@.service").read_text().replace("/opt/tocsin/bin/tocsin", sys.executable)
    path = tmp_path / "tocsin@plant.service"
    path.write_text(unit)
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60)
    assert path.name not in done.stderr, done.stderr


def test_the_service_and_the_container_call_what_is_there() -> None:
    for name in ("tocsin@.service", "Containerfile"):
        text = (SERVICE / name).read_text()
        assert "tocsin" in text
        for option in re.findall(r"(?<=\s)--(?:set|page)\b", text):
            help = subprocess.run(
                [sys.executable, "-m", "tocsin.cli", "run", "--help"], capture_output=True, text=True, check=True
            )
            assert option in help.stdout
