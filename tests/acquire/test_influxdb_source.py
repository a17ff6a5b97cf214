"""Source `influxdb` over a real server: order, types, many points of one time, runs that go on, and refusals."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count as counting
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from page_of_docs import PageOfDocs
from servers import InfluxDb, free_port

import tocsin
from tocsin.acquire.influxdb import Influxdb as Source
from tocsin.batch import REST
from tocsin.cli import main
from tocsin.cli.import_influxdb import columns_of
from tocsin.contracts import Offset, Reader
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.errors import ConfigError, SourceError, Unavailable
from tocsin.influxdb import following
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.testing import read_from

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "influxdb.yaml"
AT_NS = 1_767_268_800_000_000_000
PATIENCE_S = 20.0
_NUMBERS = counting(1)


class Plant:
    """A measurement of its own at the server."""

    def __init__(self, server: InfluxDb, measurement: str) -> None:
        self.server, self.measurement = server, measurement

    def write(self, *points: str) -> None:
        self.server.write([f"{self.measurement}{point}" for point in points])

    def source(self, **settings: Any) -> Source:
        more = {"url": self.server.url, "database": "plant", "user": "tocsin", "password": InfluxDb.PASSWORD}
        return Source.model_validate({**more, "measurement": self.measurement, "delay": "0s", **settings})

    def read(self, offset: Offset | None = None, rows_max: int = 1_000) -> tuple[list[dict[str, Any]], Offset]:
        """What a run gives, and where it ends."""
        with closing(read_from(self.source(), offset)) as reader:
            parts = list(polled(reader, rows_max))
        return [row for rows, _ in parts for row in rows], parts[-1][1]


@pytest.fixture
def plant(influxdb: InfluxDb) -> Plant:
    return Plant(influxdb, f"history{next(_NUMBERS)}")


def polled(reader: Reader, rows_max: int = 1_000) -> Iterator[tuple[list[dict[str, Any]], Offset]]:
    """Points with their times, to the end of the run."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        one = reader.poll(rows_max, 0.1)
        if one is None:
            continue
        yield [json.loads(r["payload"]) | {"sent": r["sent"].timestamp()} for r in one[0].rows.to_pylist()], one[1]
        if one[0].watermark_us == REST:
            return
    pytest.fail("it never ended")


def numbers(rows: Sequence[dict[str, Any]]) -> list[int]:
    return [row["n"] for row in rows]


def test_points_of_all_series_come_in_the_order_of_time_with_their_types(plant: Plant) -> None:
    plant.write(
        f",machine=b,hall=1 celsius=21.5,n=2i {AT_NS + 2_000_000_000}",
        f',machine=a celsius=20,running=true,state="on \\"ä\\"",n=9007199254740993i {AT_NS}',
        f",machine=a n=-1i {AT_NS - 10**18}",
    )
    rows, offset = plant.read()
    assert rows == [
        {"machine": "a", "n": -1, "sent": AT_NS / 1e9 - 1e9},
        {"machine": "a", "celsius": 20, "running": True, "state": 'on "ä"', "n": 2**53 + 1, "sent": AT_NS / 1e9},
        {"machine": "b", "hall": "1", "celsius": 21.5, "n": 2, "sent": AT_NS / 1e9 + 2},
    ]
    assert offset == {"after": AT_NS + 2_000_000_000, "count": 3}


def test_a_run_goes_on_where_the_last_one_ended(plant: Plant) -> None:
    plant.write(*(f" n={n}i {AT_NS + n}" for n in range(100)))
    rows, offset = plant.read()
    assert numbers(rows) == list(range(100))
    assert plant.read(offset) == ([], offset)
    plant.write(*(f" n={n}i {AT_NS + n}" for n in range(100, 150)))
    assert numbers(plant.read(json.loads(json.dumps(offset)))[0]) == list(range(100, 150))


@pytest.mark.parametrize("rows_max", [1, 7])
def test_points_of_one_time_are_neither_lost_nor_doubled(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, rows_max: int
) -> None:
    """Pages smaller than what has one time, and a start anew after each batch."""
    monkeypatch.setattr(following, "POINTS", 5)
    plant.write(*(f",machine=m{n % 11:02} n={n}i {AT_NS + n // 11}" for n in range(110)))
    with closing(read_from(plant.source())) as reader:
        first = [(numbers(rows), offset) for rows, offset in polled(reader, rows_max)]
    assert [n for some, _ in first for n in some] == list(range(110))
    given = 0
    for some, offset in first:
        given += len(some)
        assert numbers(plant.read(offset)[0]) == list(range(given, 110))


def test_more_points_of_one_time_than_can_be_read_are_told(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POINTS", 5)
    monkeypatch.setattr(following, "POINTS_MAX", 5)
    plant.write(*(f",machine=m{n} n={n}i {AT_NS}" for n in range(8)))
    with pytest.raises(SourceError, match=f"have the time {AT_NS} ns"):
        plant.read()


def test_what_is_new_waits_until_writers_are_through(plant: Plant) -> None:
    now_ns = time.time_ns()
    plant.write(f" n=1i {now_ns - 60_000_000_000}", f" n=2i {now_ns}")
    with closing(read_from(plant.source(delay="30s"))) as reader:
        assert [n for rows, _ in polled(reader) for n in numbers(rows)] == [1]
    with closing(read_from(plant.source(delay="1s", follow=True, every="50ms"))) as reader:
        seen: list[int] = []
        until_s = time.monotonic() + PATIENCE_S
        while len(seen) < 2:
            assert time.monotonic() < until_s, seen
            if (one := reader.poll(10, 0.1)) is not None:
                seen += [json.loads(payload)["n"] for payload in one[0].rows["payload"].to_pylist()]
                assert 2 not in seen or time.time_ns() - now_ns >= 1_000_000_000
    assert seen == [1, 2]


def test_a_name_is_a_name(plant: Plant) -> None:
    plant.write(f" n=1i {AT_NS}")
    odd = Plant(plant.server, f'{plant.measurement}" where time > 0; drop measurement "{plant.measurement}')
    assert odd.read()[0] == []
    quoted = Plant(plant.server, f'a\\b "{plant.measurement}')
    plant.server.write([f'a\\b\\ "{plant.measurement} n=2i {AT_NS}'])
    assert numbers(quoted.read()[0]) == [2]
    assert numbers(plant.read()[0]) == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"password": "wrong"}, "401.*check user and password"),
        ({"database": "elsewhere"}, "database not found: elsewhere"),
    ],
)
def test_what_the_server_refuses_is_told(plant: Plant, change: dict[str, Any], message: str) -> None:
    with closing(read_from(plant.source(**change))) as reader, pytest.raises(SourceError, match=message) as told:
        list(polled(reader))
    assert not isinstance(told.value, Unavailable)
    assert "wrong" not in str(told.value)
    plant.write(f" n=1i {AT_NS}")
    assert numbers(plant.read()[0]) == [1], "with the right user, password, url and database"


def test_who_is_given_the_right_to_read_reads(plant: Plant) -> None:
    plant.write(f" n=1i {AT_NS}")
    plant.server.ask("create user reads with password 'reads-only'")
    source = plant.source(user="reads", password="reads-only")
    with closing(read_from(source)) as reader, pytest.raises(SourceError, match=r"403.*; give the right to read"):
        list(polled(reader))
    plant.server.ask("grant read on plant to reads")
    with closing(read_from(source)) as reader:
        assert [n for rows, _ in polled(reader) for n in numbers(rows)] == [1]


def test_a_measurement_that_is_not_there_has_no_points(plant: Plant) -> None:
    assert plant.read()[0] == []


@pytest.mark.parametrize("wrong", [{"measurement": ""}, {"measurement": "a\nb"}, {"url": "influx"}, {"database": ""}])
def test_settings_that_cannot_work(plant: Plant, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        plant.source(**wrong)


def test_history_into_the_lake(influxdb: InfluxDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed on its way, run to its end, and run again: each point is there once."""
    count = 30_000
    influxdb.write([f"oven,machine=m{n % 3} celsius={n} {AT_NS + n // 2 * 1_000}" for n in range(count)])
    monkeypatch.setenv("TOCSIN_INFLUX_URL", influxdb.url)
    monkeypatch.setenv("TOCSIN_INFLUX_PASSWORD", InfluxDb.PASSWORD)
    monkeypatch.setenv("TOCSIN_FOLDER", str(tmp_path))
    process = subprocess.Popen([sys.executable, "-m", "tocsin.cli", "run", str(EXAMPLE)])
    until_s = time.monotonic() + 60
    while not (tmp_path / ".state").is_dir():
        assert time.monotonic() < until_s
        time.sleep(0.01)
    process.kill()
    process.wait(10)
    EmbeddedRunner(load_with_plan(EXAMPLE)[1]).run()
    influxdb.write([f"oven,machine=m0 celsius={n} {AT_NS + n * 1_000}" for n in range(count, count + 10)])
    EmbeddedRunner(load_with_plan(EXAMPLE)[1]).run()
    kept = sorted(tocsin.read("readings", tmp_path)["celsius"].to_pylist())
    assert kept == [float(n) for n in range(count + 10)]


def imported(plant: Plant, folder: Path, *more: str) -> Result:
    """What `tocsin import influxdb` says."""
    named = [plant.server.url, plant.measurement, "--database", "plant", "--user", "tocsin", "--folder", str(folder)]
    environment = {"TOCSIN_INFLUX_PASSWORD": InfluxDb.PASSWORD}
    return CliRunner().invoke(main, ["import", "influxdb", *named, *more], env=environment)


def test_history_by_one_command_that_ends_and_goes_on_when_it_is_called_again(plant: Plant, tmp_path: Path) -> None:
    points = [f',machine=m{n % 2},hall=north n={n}i,celsius={n / 2},on=true,state="a b" {AT_NS + n}' for n in range(40)]
    plant.write(*points[:30])
    assert imported(plant, tmp_path).exit_code == 0
    assert imported(plant, tmp_path).exit_code == 0
    plant.write(*points[30:], f",machine=m0,hall=north n=40i,bar.max=1.5 {AT_NS + 40}")  # a new field, with a dot
    assert imported(plant, tmp_path).exit_code == 0
    kept = tocsin.read(plant.measurement, tmp_path).sort_by("n").to_pylist()
    assert [row["n"] for row in kept] == list(range(41))
    first = {name: kept[0][name] for name in ("key", "machine", "hall", "celsius", "on", "state", "bar_max")}
    assert first == {
        "key": "north/m0", "machine": "m0", "hall": "north", "celsius": 0.0, "on": True, "state": "a b", "bar_max": None
    }  # fmt: skip
    assert kept[0]["time"].timestamp() == AT_NS / 1e9
    assert kept[40]["bar_max"] == 1.5


def test_the_commands_of_the_page_take_over_what_there_is(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.write(*(f",machine=m{n % 2} celsius={n} {AT_NS + n}" for n in range(10)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOCSIN_INFLUX_PASSWORD", InfluxDb.PASSWORD)
    lines = PageOfDocs("influxdb").shown("sh")[0].replace("oven", plant.measurement)
    commands = [line for line in lines.splitlines() if line.startswith("tocsin ")]
    for line in commands:
        words = shlex.split(line.replace("http://127.0.0.1:8086", plant.server.url))[1:]
        if words[0] == "query":
            words += ["--folder", f"tocsin-data/{plant.measurement}"]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in commands] == ["tocsin"] * 2
    assert "m1" in done.output


def test_another_measurement_into_the_same_table_has_a_position_of_its_own(plant: Plant, tmp_path: Path) -> None:
    older = Plant(plant.server, f"{plant.measurement} of before")
    plant.write(f",machine=a n=1i {AT_NS}")
    escaped = older.measurement.replace(" ", "\\ ")
    older.server.write([f"{escaped} n=2.5 {AT_NS - 1}", f"{escaped} m=1 {AT_NS}"])
    assert imported(plant, tmp_path, "--table", "Oven", "--key", "machine").exit_code == 0
    failed = imported(older, tmp_path, "--table", "oven")
    assert (failed.exit_code, "'n'" in failed.stderr) == (2, True), failed.stderr  # the table has whole numbers there
    assert imported(older, tmp_path, "--table", "other").exit_code == 0
    assert tocsin.read("oven", tmp_path).select(["key", "n"]).to_pylist() == [{"key": "a", "n": 1}]
    assert tocsin.read("other", tmp_path)["key"].to_pylist() == [older.measurement] * 2


@pytest.mark.parametrize(
    ("measurement", "more", "code", "said"),
    [
        ("nowhere", (), 2, "database 'plant' has no measurement 'nowhere'"),
        (None, ("--key", "press"), 2, "--key press is no tag of .* there are machine"),
        (None, ("--user", "nobody"), 1, "401.*check user and password"),
        (None, ("--database", ""), 2, "database: String should have at least 1 character"),
    ],
)
def test_what_cannot_be_imported_is_told_in_a_sentence(
    plant: Plant, tmp_path: Path, measurement: str | None, more: tuple[str, ...], code: int, said: str
) -> None:
    plant.write(f",machine=a n=1i {AT_NS}")
    failed = imported(Plant(plant.server, measurement or plant.measurement), tmp_path, *more)
    assert failed.exit_code == code, failed.stderr
    assert re.search(said, failed.stderr), failed.stderr
    assert InfluxDb.PASSWORD not in failed.stderr


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("v", "integer"), ("v", "float")], {"v": "float"}),
        ([("v", "float"), ("v", "integer"), ("w", "unsigned")], {"v": "float", "w": "int"}),
        ([("v", "float"), ("v", "string")], "'v' is float at one time and text at another"),
        ([("machine", "float")], "'machine' is a tag and a field"),
        ([("a.b", "float"), ("c d", "float")], {"a_b": "float", "c_d": "float"}),
        ([("a.b", "float"), ("A_b", "float")], "'a.b' and 'A_b' would both be column 'A_b'"),
    ],
)
def test_the_type_of_a_field_that_has_changed(fields: list[tuple[str, str]], expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            columns_of(["machine"], fields)
        return
    columns = columns_of(["machine"], fields)
    assert {name: column["type"] for name, column in columns.items()} == {"machine": "category", **expected}


def test_a_server_that_is_not_there_is_waited_for() -> None:
    source = Source(url=f"http://127.0.0.1:{free_port()}", database="plant", measurement="m")
    with closing(read_from(source)) as reader, pytest.raises(Unavailable, match=r"http://127\.0\.0\.1"):
        list(polled(reader))
