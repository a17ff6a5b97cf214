"""The commands of docs/mongodb.md run as they stand, its pipelines are right, and the DAG's commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from mongo_server import Mongo
from postgres_server import PASSWORD, USER, Postgres

from tocsin.acquire.mongodb import Mongodb
from tocsin.cli import main
from tocsin.cli.schedule import Schedule

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "mongodb.md").read_text()


@pytest.fixture
def environment(mongo: Mongo, postgres: Postgres, tmp_path: Path) -> dict[str, str]:
    postgres.execute("drop schema if exists warehouse cascade")
    names = {"MONGODB_URL": f"{mongo.host}/{mongo.database()}", "POSTGRES_URL": postgres.url, "POSTGRES_USER": USER}
    names |= {"POSTGRES_PASSWORD": PASSWORD, "FOLDER": str(tmp_path / "lake")}
    return {f"TOCSIN_{name}": value for name, value in names.items()}


def test_the_commands_load_the_warehouse(
    environment: dict[str, str], postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(ROOT)
    said = []
    for line in block.splitlines():
        name, *arguments = shlex.split(line.replace("$TOCSIN_MONGODB_URL", environment["TOCSIN_MONGODB_URL"]))
        if name == "tocsin":
            result = CliRunner().invoke(main, arguments, env=environment)
            assert result.exit_code == 0, f"{line}: {result.output}"
            said.append(result.output)
        elif name == "python":
            subprocess.run([sys.executable, *arguments], check=True, timeout=60, capture_output=True)
    assert "7 records of source" in " ".join(said[1].split())
    assert "3 records of source" in " ".join(said[2].split())
    assert re.search(r"compact .*well", said[4])
    assert postgres.execute("select key, done from warehouse.workorders order by key") == [("w1", True), ("w2", False)]


def test_the_source_of_the_page_is_right() -> None:
    from ruamel.yaml import YAML

    (text,) = re.findall(r"```yaml\n(source:.*?)```", PAGE, re.DOTALL)
    settings = YAML(typ="safe").load(text)["source"]["mongodb"]
    assert Mongodb.model_validate(settings).database == "shop"


def test_the_dag_has_commands_that_exist(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    path = ROOT / "examples" / "airflow_warehouse.py"
    text = path.read_text()
    compile(text, str(path), "exec")
    jobs = Schedule(ROOT / "examples" / "warehouse.yaml", ()).jobs
    named = re.findall(r"tocsin jobs \{FILE\} --run (\w+)", text)
    assert len(named) == 3
    assert set(named) <= jobs.keys()
