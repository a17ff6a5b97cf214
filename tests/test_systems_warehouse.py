"""System 8 whole: several collections of MongoDB into a PostgreSQL warehouse, all tables of a load or none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mongo_server import Mongo
from postgres_server import PASSWORD, USER, Postgres

import tocsin
from tocsin.cli.launch import launch
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.errors import ConfigError, StateMismatch, Unwritten
from tocsin.mongodb import collection
from tocsin.pipeline.plan import Plan
from tocsin.pipeline.yamlfile import load_with_plan

EXAMPLES = Path(__file__).parent.parent / "examples"
TABLES = ("machines", "workorders", "parts")


class Warehouse:
    """The example's pipeline, between a database of its own and a schema of its own."""

    def __init__(self, mongo: Mongo, postgres: Postgres, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mongo, self.postgres, self.folder = mongo, postgres, folder
        self.database, self.schema = mongo.database(), postgres.schema()
        self.url = f"{mongo.host}/{self.database}"
        variables = {"MONGODB_URL": self.url, "POSTGRES_URL": postgres.url, "POSTGRES_USER": USER}
        variables |= {"POSTGRES_PASSWORD": PASSWORD, "FOLDER": str(folder / "lake")}
        for name, value in variables.items():
            monkeypatch.setenv(f"TOCSIN_{name}", value)
        self.text = (EXAMPLES / "warehouse.yaml").read_text().replace("warehouse.", f"{self.schema}.")

    def plan(self, **settings: str) -> Plan:
        file = self.folder / "warehouse.yaml"
        file.write_text(self.text)
        return load_with_plan(file, settings)[1]

    def run(self, **settings: str) -> Mapping[str, Any]:
        """Run it to its end."""
        return launch(self.plan(**settings))

    def now(self) -> datetime:
        now: datetime = self.mongo.client.admin.command("hello")["localTime"]
        return now

    def fill(self, count: int = 30) -> None:
        """Insert so many work orders, each with a part, of five machines."""
        then = self.now() - timedelta(minutes=10)
        machines = [{"_id": f"m{i}", "name": f"Press {i}", "installed": then, "changed": then} for i in range(5)]
        orders = [{"_id": f"w{i}", "machine": f"m{i % 5}", "hours": i / 4, "changed": then} for i in range(count)]
        parts = [{"workorder": f"w{i}", "part": "valve", "price": 12.5, "changed": then} for i in range(count)]
        for name, documents in zip(TABLES, (machines, orders, parts), strict=True):
            self.mongo.insert(self.database, name, documents)

    def counts(self) -> dict[str, int]:
        """The rows of each table; none where it is not there."""
        counts = {}
        for table in TABLES:
            name = f"{self.schema}.{table}"
            there = self.postgres.execute("select to_regclass(%s)", name)[0][0]
            counts[table] = self.postgres.execute(f"select count(*) from {name}")[0][0] if there else 0
        return counts

    def staged(self) -> list[Path]:
        """The rows that wait on disk."""
        return list((self.folder / "lake" / ".state" / "staged").rglob("*.arrow"))

    def epochs(self) -> set[int]:
        """The epochs that the tables reach to."""
        return {epoch for (epoch,) in self.postgres.execute(f"select epoch from {self.schema}.tocsin_epochs")}


@pytest.fixture
def warehouse(mongo: Mongo, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setattr("tocsin.engine.embedded.DRAIN_S", 1.0)  # a table that refuses is not waited for
    return Warehouse(mongo, postgres, tmp_path, monkeypatch)


def test_each_run_brings_only_what_is_new_or_changed(warehouse: Warehouse) -> None:
    warehouse.fill()
    assert warehouse.run()["rows_in"]["source"] == 65
    assert warehouse.counts() == {"machines": 5, "workorders": 30, "parts": 30}
    database = warehouse.mongo.client[warehouse.database]
    database.workorders.update_one({"_id": "w7"}, {"$set": {"done": True, "changed": warehouse.now()}})
    database.parts.insert_one({"workorder": "w7", "part": "seal", "price": 3.0, "changed": warehouse.now()})
    assert warehouse.run()["rows_in"]["source"] == 2
    assert warehouse.counts() == {"machines": 5, "workorders": 30, "parts": 31}
    rows = warehouse.postgres.execute(f"select key from {warehouse.schema}.workorders where done")
    assert rows == [("w7",)]
    assert warehouse.run()["rows_in"]["source"] == 0
    assert not warehouse.staged(), "local files are cleaned up"


def test_what_is_wrong_is_set_aside_and_the_load_goes_on(warehouse: Warehouse) -> None:
    warehouse.postgres.execute(
        f"create table {warehouse.schema}.machines (key text primary key, time timestamptz, changed timestamptz, "
        "name varchar(12), installed timestamptz)"
    )
    warehouse.fill(4)
    now = warehouse.now()
    wrong = {"_id": "w-wrong", "machine": "m1", "hours": "many", "changed": now}
    long = {"_id": "m-long", "name": "A press with a very long name", "changed": now}
    warehouse.mongo.insert(warehouse.database, "workorders", [wrong])
    warehouse.mongo.insert(warehouse.database, "machines", [long])
    warehouse.run()
    assert warehouse.counts() == {"machines": 5, "workorders": 4, "parts": 4}
    ((reason, contents),) = warehouse.postgres.execute(
        f"select reason, contents from {warehouse.schema}.tocsin_rejected"
    )
    assert "too long" in reason
    assert "m-long" in contents
    (aside,) = tocsin.read("quarantine", warehouse.folder / "lake").to_pylist()
    assert (aside["reason"], aside["topic"]) == ("type", "workorders")
    assert b"many" in aside["payload"]


def test_a_new_field_becomes_a_column(warehouse: Warehouse) -> None:
    warehouse.fill(2)
    warehouse.run()
    order = {"_id": "w9", "machine": "m1", "hours": 2.0, "shift": "night", "changed": warehouse.now()}
    warehouse.mongo.insert(warehouse.database, "workorders", [order])
    warehouse.text = warehouse.text.replace(
        "      workorder: {path",
        "      shift: {path: workorders.shift, type: text, optional: true}\n      workorder: {path",
    ).replace("[changed, machine, hours, done]", "[changed, machine, hours, done, shift]")
    launch(warehouse.plan(), forget="changed")
    rows = warehouse.postgres.execute(f"select key, shift from {warehouse.schema}.workorders where shift is not null")
    assert rows == [("w9", "night")]
    changes = warehouse.postgres.execute(f"select change from {warehouse.schema}.tocsin_history")
    assert ("added column shift",) in changes


def test_a_load_is_all_tables_or_none(warehouse: Warehouse) -> None:
    warehouse.fill(8)
    # The last of the three tables needs what does not come: nothing may reach the others.
    warehouse.postgres.execute(f"create table {warehouse.schema}.parts (key text primary key, needed text not null)")
    with pytest.raises(Unwritten, match="needs a value in column 'needed'"):
        warehouse.run()
    assert warehouse.counts() == {"machines": 0, "workorders": 0, "parts": 0}
    assert warehouse.staged()
    warehouse.postgres.execute(f"drop table {warehouse.schema}.parts")
    assert warehouse.run()["rows_in"]["source"] == 0, "what was read once waits on disk"
    assert warehouse.counts() == {"machines": 5, "workorders": 8, "parts": 8}
    assert not warehouse.staged()


def test_a_load_that_is_broken_off_shows_nothing_until_it_is_whole(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "PAGE_DOCUMENTS", 10)
    warehouse.fill(200)
    runner = EmbeddedRunner(warehouse.plan(checkpoint="1ms"))
    epoch = runner._epoch

    def stop_after_some(attempt: Any) -> None:
        epoch(attempt)
        if attempt.last.epoch == 5:
            runner.stop()

    monkeypatch.setattr(runner, "_epoch", stop_after_some)
    runner.run()
    assert warehouse.staged()
    assert warehouse.counts() == {"machines": 0, "workorders": 0, "parts": 0}
    read = sum(runner.counters.rows_in.values())
    assert 0 < read < 405
    assert warehouse.run(checkpoint="1ms")["rows_in"]["source"] == 405 - read
    assert warehouse.counts() == {"machines": 5, "workorders": 200, "parts": 200}
    assert len(warehouse.epochs()) == 1, "all tables stand at the same epoch"


def test_a_load_that_is_larger_than_the_lag_is_told(warehouse: Warehouse) -> None:
    warehouse.fill(200)
    with pytest.raises(Unwritten, match="set lag"):
        warehouse.run(lag="1 KB", memory="1 KB")
    warehouse.run()
    assert warehouse.counts() == {"machines": 5, "workorders": 200, "parts": 200}


def test_tables_that_were_loaded_alone_may_join_a_load(warehouse: Warehouse) -> None:
    warehouse.fill(3)
    together = warehouse.text
    warehouse.text = together.replace("          load: warehouse\n", "")
    warehouse.run()
    warehouse.text = together
    warehouse.mongo.insert(warehouse.database, "machines", [{"_id": "m9", "name": "x", "changed": warehouse.now()}])
    warehouse.run()
    assert warehouse.counts() == {"machines": 6, "workorders": 3, "parts": 3}
    assert len(warehouse.epochs()) == 1


def test_tables_whose_rows_wait_alone_may_not_join_a_load(warehouse: Warehouse) -> None:
    warehouse.fill(3)
    together = warehouse.text
    warehouse.text = together.replace("          load: warehouse\n", "")
    warehouse.postgres.execute(f"create table {warehouse.schema}.parts (key text primary key, needed text not null)")
    with pytest.raises(Unwritten):
        warehouse.run()
    warehouse.text = together
    with pytest.raises(StateMismatch, match="is part of 'load warehouse' from now on"):
        warehouse.run()
    warehouse.text = together.replace("          load: warehouse\n", "")
    warehouse.postgres.execute(f"drop table {warehouse.schema}.parts")
    warehouse.run()
    warehouse.text = together
    warehouse.run()
    assert warehouse.counts()["parts"] == 3


def test_a_load_of_two_servers_is_refused(warehouse: Warehouse) -> None:
    warehouse.text = warehouse.text.replace(
        f"table: {warehouse.schema}.parts", f"table: {warehouse.schema}.parts, url: postgresql://elsewhere/plant"
    )
    with pytest.raises(ConfigError, match="two servers"):
        warehouse.plan()


def test_the_documents_of_the_example_come(warehouse: Warehouse) -> None:
    script: Callable[[], object] = lambda: subprocess.run(  # noqa: E731
        [sys.executable, str(EXAMPLES / "warehouse_data.py"), warehouse.url],
        check=True,
        timeout=60,
        capture_output=True,
    )
    script()
    warehouse.run()
    assert warehouse.counts() == {"machines": 5, "workorders": 1, "parts": 1}
    script()
    warehouse.run()
    assert warehouse.counts() == {"machines": 5, "workorders": 2, "parts": 2}
    done = warehouse.postgres.execute(f"select key, done from {warehouse.schema}.workorders order by key")
    assert done == [("w1", True), ("w2", False)]
