"""Parts of another package, installed as people install them: they go by the names they are registered under."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package in it, built from a copy so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def python(installed: Path, *words: str, code: int = 0, cwd: Path | None = None) -> str:
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=cwd, timeout=240
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_example_runs_and_goes_on(installed: Path, tmp_path: Path) -> None:
    file = str(EXAMPLE / "furnace.yaml")
    told = python(installed, "-m", "tocsin.cli", "check", file, cwd=tmp_path)
    assert "readings.0.celsius: key" in told
    for readings in ("300", "300"):
        python(installed, "-m", "tocsin.cli", "run", file, "--set", f"source.furnace.readings={readings}", cwd=tmp_path)
        with closing(sqlite3.connect(tmp_path / "tocsin-data" / "plant.db")) as db:
            (count, times, low, high) = db.execute(
                "select count(*), count(distinct time), min(fahrenheit), max(fahrenheit) from readings"
            ).fetchone()
        assert (count, times) == (300, 300)
        assert 780 < low < high < 850


def test_a_part_comes_back_from_its_json_under_its_name(installed: Path) -> None:
    python(
        installed,
        "-c",
        """
from acme_tocsin.database import Sqlite
from acme_tocsin.furnace import Furnace
from acme_tocsin.steps import Celsius
from tocsin import Pipeline

made = Pipeline(
    name="furnace",
    source=Furnace(readings=5),
    streams={"readings": {"steps": [Celsius(of="fahrenheit")], "sinks": [Sqlite(path="x.db")]}},
)
text = made.model_dump_json(by_alias=True)
again = Pipeline.model_validate_json(text)
assert [step.id for step in made.plan().steps] == ["readings.0.celsius"], made.plan().steps
assert [sink.id for sink in again.plan().sinks] == ["readings.0.sqlite"]
assert again.model_dump_json(by_alias=True) == text
""",
    )


def test_it_is_listed_and_shown(installed: Path) -> None:
    told = python(installed, "-m", "tocsin.cli", "components")
    assert "celsius" in told
    assert "celsius (operator)" in python(installed, "-m", "tocsin.cli", "components", "celsius")
    assert '"sqlite"' in python(installed, "-m", "tocsin.cli", "schema")


def test_it_conforms(installed: Path) -> None:
    python(
        installed,
        "-c",
        """
from acme_tocsin.steps import Celsius
from tocsin.pipeline.registry import find
from tocsin.testing.checks import checks_for, examples, sample

for kind, name in (("operator", "celsius"), ("source", "furnace"), ("sink", "sqlite")):
    assert find(kind, name).name() == name
for check in checks_for(Celsius):
    for part in examples(Celsius):
        check(part, sample(Celsius))
""",
    )


def test_mistakes_of_a_package_are_told(tmp_path: Path) -> None:
    for folder, lines in {
        "taken": "[tocsin.operator]\nwindow = acme:Window\n",
        "gone": "[tocsin.operator]\ngone = acme_gone:Gone\n",
        "none": "[tocsin.operator]\nnone = pathlib:Path\n",
    }.items():
        info = tmp_path / folder / "acme-1.dist-info"
        info.mkdir(parents=True)
        (info / "entry_points.txt").write_text(lines)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    told = {
        name: python(tmp_path / name, "-m", "tocsin.cli", "components", name, code=2)
        for name in ("taken", "gone", "none")
    }
    assert "acme:Window is registered as the operator 'window', which there is already" in told["taken"]
    assert "'gone' (acme_gone:Gone) cannot be loaded" in told["gone"]
    assert "'none' (pathlib:Path) is no part" in told["none"]
