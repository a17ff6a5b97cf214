"""The page on vibration: all that it shows runs and gives what it says."""

from __future__ import annotations

import doctest
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs

from tocsin.acquire._vibration import Motion, acceleration
from tocsin.cli import main
from tocsin.domain.severity import LIMITS_MM_S
from tocsin.estimate._spectra import SPECTRA
from tocsin.estimate.spectrum import FEATURES
from tocsin.lake.read import read

PAGE = PageOfDocs("vibration")


def run(*command: str) -> str:
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_fault_is_named_before_the_level_leaves_zone_b(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vibration.yaml").write_text(PAGE.shown("yaml")[0])
    commands = PAGE.shown("sh")[0]
    started, *queries = [shlex.split(line)[1:] for line in commands.splitlines()]
    run(*started)
    moments, evidence, alarms = (run(*query) for query in queries)
    named, zone_c = re.findall(r"2026-01-05[T ]([\d:]+)", moments)
    assert "08:02:00" < named < zone_c
    assert "outer race" in evidence
    assert "the bearing of hall/motor-1 is damaged" in " ".join(alarms.split())
    table = read("vibration")
    assert {row["fault"] for row in table.to_pylist() if row["key"] == "hall/motor-2"} == {None}
    assert {"ringing", *FEATURES.names} <= set(table.column_names)


def test_spectra_are_kept_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plot.yaml").write_text(PAGE.shown("yaml")[1])
    started, query = [shlex.split(line)[1:] for line in PAGE.shown("sh")[1].splitlines()]
    run(*started)
    assert "inner race" in run(*query)
    kept = read("spectra")
    assert max(len(spectrum) for spectrum in kept["spectrum"].to_pylist()) <= 400
    for field in SPECTRA:
        assert f"`{field.name}`" in PAGE.text
        assert kept[field.name].null_count == 0


def test_waveforms_in_json_become_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (record,) = (json.loads(text) for text in PAGE.shown("json"))
    random = np.random.default_rng(4)
    with (tmp_path / "sensor.ndjson").open("w") as file:
        for minute in range(3):
            wave = acceleration(Motion(1770 / 60, 1.5, 0.0, 0.5), 4096, 12_000, random)
            sent = {**record, "time": f"2026-01-05T08:{minute:02}:00Z", "samples": wave.round(4).tolist()}
            file.write(json.dumps(sent) + "\n")
    (tmp_path / "sensor.yaml").write_text(PAGE.shown("yaml")[2])
    run("run", "sensor.yaml")
    told = read("sensors").to_pylist()
    assert [(row["key"], row["speed"], row["fault"]) for row in told] == [("hall/motor-3", 1770.0, "inner race")] * 3


def test_the_tables_are_those_of_the_step() -> None:
    for name in set(FEATURES.names) - {"key", "time", "speed"}:
        assert f"`{name}`" in PAGE.text
    for machine_class, (b, c, d) in LIMITS_MM_S.items():
        assert re.search(rf"^\| `{machine_class}` \|.*\| {b} \| {c} \| {d} \|$", PAGE.text, re.MULTILINE)
    (python,) = PAGE.shown("python")
    examples = doctest.DocTestParser().get_doctest(python, {}, "vibration.md", "vibration.md", 0)
    assert doctest.DocTestRunner().run(examples) == doctest.TestResults(failed=0, attempted=len(examples.examples))
