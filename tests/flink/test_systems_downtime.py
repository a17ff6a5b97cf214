"""examples/downtime-flink.yaml whole: Kafka with TLS and SCRAM, a job through crashes, its tables, page, audit."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import downtime_plant
import duckdb
import httpx
import pytest
from deltalake import DeltaTable
from downtime_plant import FILE, MACHINES, TABLES, eventually, receiver
from fake_flink import Attempt, run
from kafka_server import Kafka
from servers import free_port

from tocsin import read
from tocsin.engine.audit import newest
from tocsin.engine.keyed import refusals
from tocsin.flink.delivering import Delivering
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.serve.accounts import Accounts

HOUR_US = 3_600_000_000


@contextmanager
def page(folder: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """``tocsin serve`` as a process; gives where it is, and a token of each role."""
    accounts, soon_us = Accounts(folder / ".state"), time.time_ns() // 1_000 + HOUR_US
    tokens = {role: accounts.add_token(f"{role}-program", role, soon_us) for role in ("viewer", "operator", "admin")}
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tocsin.cli", "serve", str(FILE), "--port", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: process.poll() is not None or answers(f"{url}/readyz"), "the page does not answer")
        yield url, tokens
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code < 500
    except httpx.TransportError:
        return False


def asked(url: str, token: str, method: str = "GET", **more: Any) -> httpx.Response:
    return httpx.request(method, url, headers={"authorization": f"Bearer {token}"}, timeout=30, **more)


def assert_page_shows_who_may_what(folder: Path, go_on: Callable[[], None] = lambda: None) -> None:
    """The page over the lake: what each role may, what is in the audit, and an acknowledgement that the job takes."""
    with page(folder) as (url, tokens):
        viewer, operator, admin = (tokens[role] for role in ("viewer", "operator", "admin"))
        assert asked(f"{url}/api/alarms", "of nobody").status_code == 401
        eventually(lambda: len(asked(f"{url}/api/machines", viewer).json()["machines"]) == MACHINES, "machines")
        shown = {one["id"]: one for one in asked(f"{url}/api/alarms", viewer).json()["alarms"]}
        unseen = next(id for id, one in shown.items() if one["state"].endswith("UNACK"))
        act = f"{url}/api/alarms/{unseen}/acknowledge"
        assert asked(act, viewer, "POST", json={}).status_code == 403
        assert asked(act, operator, "POST", json={"reason": "seen"}).status_code == 202
        assert asked(f"{url}/api/audit", operator).status_code == 403
        rows = asked(f"{url}/api/audit", admin).json()
        assert [(row["who"], row["role"]) for row in rows if row["what"] == "acknowledge"] == [
            ("operator-program", "operator")
        ]

        def is_seen() -> bool:
            go_on()
            alarms = asked(f"{url}/api/alarms", viewer).json()["alarms"]
            return not next(one["state"] for one in alarms if one["id"] == unseen).endswith("UNACK")

        eventually(is_seen, "the page never showed that the alarm was acknowledged")
        by = {row["by"] for row in read("alarms", folder).to_pylist() if row["id"] == unseen}
        assert "operator-program" in by


def assert_others_read_the_same(folder: Path) -> None:
    """delta-rs, and DuckDB over the files that delta-rs names, see the rows that we do."""
    for name in TABLES:
        table, ours = DeltaTable(folder / name), read(name, folder)
        assert table.to_pyarrow_table().num_rows == ours.num_rows > 0
        (count,) = duckdb.sql("select count(*) from read_parquet(?)", params=[table.file_uris()]).fetchall()[0]
        assert count == ours.num_rows


@pytest.fixture
def set_up(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    def made(calls: str) -> Path:
        folder = tmp_path / "lake"
        for name, value in downtime_plant.settings(kafka, downtime_plant.send(kafka), folder, calls).items():
            monkeypatch.setenv(name, value)
        return folder

    return made


def test_the_whole_system_over_a_job_that_crashes(set_up: Callable[[str], Path], tmp_path: Path) -> None:
    with receiver() as told:
        folder = set_up(told.url)
        wanted = downtime_plant.embedded(tmp_path / "embedded")
        plan, rng = load_with_plan(FILE, {})[1], random.Random(3)
        assert refusals(plan) == []
        delivering = Delivering(plan)
        delivering.start()
        until_s = time.monotonic() + downtime_plant.PATIENCE_S

        def all_there(number: int) -> bool:
            assert time.monotonic() < until_s, difference(wanted, folder)
            return number % 4 == 0 and downtime_plant.bags(folder) == wanted

        last, happened = run(plan, rng, until=all_there)
        assert happened.total() > 4, happened
        assert last is not None
        attempt, made = Attempt(plan, last, rng), [last]
        attempt.publish(last.number)

        def go_on() -> None:
            attempt.pass_on()
            made.append(attempt.barrier(made[-1].number + 1))
            attempt.publish(made[-1].number)

        assert_page_shows_who_may_what(folder, go_on)
        attempt.close()
        assert_others_read_the_same(folder)
        rings = sum(row["ring"] for row in read("alarms", folder).to_pylist())
        eventually(lambda: len(told.bodies) >= rings, "messages are missing")
        delivering.stop(whole=False)
        assert len({str(body) for body in told.bodies}) == len(told.bodies) == rings > 0
        assert newest(folder / ".state", 10)


def difference(wanted: dict[str, Counter[str]], folder: Path) -> str:
    given = downtime_plant.bags(folder)
    return str({name: (wanted[name] - given[name], given[name] - wanted[name]) for name in wanted})
