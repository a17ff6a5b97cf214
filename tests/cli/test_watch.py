"""`tocsin watch` and `tocsin init` as people run them: over a file, over a broker, and with what they answer."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from kafka_server import Kafka
from postgres_server import PASSWORD as POSTGRES_PASSWORD
from postgres_server import USER, Postgres
from servers import Mosquitto

from tocsin.cli import main
from tocsin.cli.sources import PASSWORD, Named, named_by
from tocsin.cli.watch import checked, look
from tocsin.errors import ConfigError
from tocsin.lake.read import query
from tocsin.pipeline.yamlfile import load_with_plan

BEGIN = datetime(2026, 3, 23, 6, 0, 0)
ROWS, FAULT = 1_200, 900


def invoked(*arguments: str, answers: str = "", code: int = 0) -> Result:
    done = CliRunner().invoke(main, arguments, input=answers)
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def werk(tmp_path: Path) -> Path:
    """A German export of two presses; the second one gets hot in the last quarter."""
    noise = np.random.default_rng(1).normal(0, 1, (ROWS, 2, 2))
    lines = ["Maschine;Datum;Uhrzeit;Druck (bar);Temperatur °C;Status"]
    for i in range(ROWS):
        at = BEGIN + timedelta(seconds=10 * i)
        for m in (0, 1):
            hot = 12 if m == 1 and i >= FAULT else 0
            values = f"{1_120 + noise[i, m, 0]:.2f};{60 + noise[i, m, 1] + hot:.2f}".replace(".", ",")
            lines.append(f"Presse {m + 1};{at:%d.%m.%Y};{at:%H:%M:%S};1.{values[1:]};Läuft")
    (tmp_path / "werk.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    return tmp_path / "werk.csv"


def test_a_file_is_watched_to_its_end_and_what_was_seen_is_said(werk: Path) -> None:
    lake, saved = werk.parent / "lake", werk.parent / "plant.yaml"
    arguments = ["--no-page", "--zone", "Europe/Berlin", "--folder", str(lake), "--save", str(saved)]
    done = invoked("watch", str(werk), *arguments)
    for said in (
        "semicolons",
        "thousands '.'",
        "cp1252",
        "'Maschine': 2 names",
        "Druck (bar), Temperatur",
        "as you said",
    ):
        assert said in done.stderr, done.stderr
    look = re.search(r"look at it on the page: tocsin (serve .*)", done.stderr)
    assert look is not None
    assert look[1] == f"serve {lake / 'watch.yaml'}"
    assert load_with_plan(lake / "watch.yaml")[1].folder == lake
    assert "2 machines" not in done.stdout
    assert "Presse 2" in done.stdout
    assert "Temperatur_degC jumped above" in done.stdout
    kept = query("select key, count(*) as n, min(time) as t, max(Druck_bar) as p from readings group by key", lake)
    assert sorted(kept["key"].to_pylist()) == ["Presse 1", "Presse 2"]
    assert kept["n"].to_pylist() == [ROWS, ROWS]
    assert kept["t"][0].as_py() == (BEGIN - timedelta(hours=1)).replace(tzinfo=UTC)
    assert 1_120 < kept["p"][0].as_py() < 1_130
    rung = query("select key, time from alarms where event = 'raised'", lake).to_pylist()
    assert [row["key"] for row in rung] == ["Presse 2"]
    fault = (BEGIN + timedelta(seconds=10 * FAULT, hours=-1)).replace(tzinfo=UTC)
    assert abs(rung[0]["time"] - fault) < timedelta(minutes=2)


def test_units_behind_or_under_the_names_are_those_of_the_signals(tmp_path: Path) -> None:
    rows = [f"2026-03-01 {i // 60:02}:{i % 60:02}:00;press;{i % 7}.5;{50 + i % 3};{i % 5}" for i in range(600)]
    (tmp_path / "p.csv").write_text("\n".join(["at;machine;flow;Lager °C;count", ";;m³/h;;-", *rows]), encoding="utf-8")
    saved = tmp_path / "p.yaml"
    arguments = ["--no-page", "--zone", "UTC", "--folder", str(tmp_path / "lake"), "--save", str(saved)]
    assert "units m³/h, °C" in invoked("watch", str(tmp_path / "p.csv"), *arguments).stderr
    kept = query("select signal, name, unit from signal_names order by signal", tmp_path / "lake").to_pylist()
    assert [(row["signal"], row["name"], row["unit"]) for row in kept] == [
        ("Lager_degC", "Lager", "°C"), ("flow", "flow", "m³/h"),
    ]  # fmt: skip


def test_the_saved_file_is_right_and_runs_to_the_same_rows(werk: Path) -> None:
    saved, again = werk.parent / "plant.yaml", werk.parent / "again"
    invoked("watch", str(werk), "--no-page", "--folder", str(werk.parent / "lake"), "--save", str(saved))
    assert "plant.yaml: right" in invoked("check", str(saved), "--set", f"folder={again}").stderr
    assert "# machine: 'Maschine': 2 names" in saved.read_text(encoding="utf-8")
    invoked("run", str(saved), "--set", f"folder={again}")
    assert query("select * from readings", again).num_rows == 2 * ROWS
    assert "is there already" in invoked("watch", str(werk), "--no-page", "--save", str(saved), code=2).stderr


def test_a_second_look_goes_on_where_the_first_ended(werk: Path) -> None:
    arguments = ["watch", str(werk), "--no-page", "--folder", str(werk.parent / "lake")]
    invoked(*arguments)
    assert "read to their end before" in invoked(*arguments).stderr


def test_a_folder_of_another_source_is_refused(werk: Path) -> None:
    lake = werk.parent / "lake"
    invoked("watch", str(werk), "--no-page", "--folder", str(lake))
    other = werk.parent / "other.csv"
    other.write_bytes(werk.read_bytes())
    told = invoked("watch", str(other), "--no-page", "--folder", str(lake), code=2).stderr
    assert f"{lake} holds what was read from another source" in told
    assert query("select * from readings", lake).num_rows == 2 * ROWS


def test_machines_one_after_the_other_are_all_judged(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).normal(0, 1, (3, 200))
    lines = [
        f"{engine + 1} {cycle + 1} {500 + noise[engine, cycle] + (40 if cycle > 150 else 0):.3f} {cycle % 7}.5"
        for engine in range(3)
        for cycle in range(200)
    ]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    done = invoked("watch", str(tmp_path / "train.txt"), "--no-page", "--folder", str(tmp_path / "lake"))
    assert "3 machines" in done.stdout
    assert "too late" not in done.stderr


def test_init_asks_writes_the_file_and_says_how_to_run_it(werk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(werk.parent)
    answers = ["Europe/Berin", "Europe/Berlin", "n", "", "", "Temperatur °C", "Europe/Berlin", "y", "own.yaml"]
    done = invoked("init", str(werk), answers="\n".join(answers) + "\n")
    assert "there is no zone 'Europe/Berin'" in done.stderr
    written = Path("own.yaml").read_text(encoding="utf-8")
    assert "zone: Europe/Berlin" in written
    assert "health: {of: Temperatur_degC" in written
    assert "Druck" not in written.partition("\nname:")[2]
    assert "own.yaml: right" in invoked("check", "own.yaml").stderr


def test_parquet_has_columns_of_its_own(tmp_path: Path) -> None:
    at = pa.array(
        [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=i) for i in range(90)], pa.timestamp("ms", "UTC")
    )
    table = pa.table({"at": at, "pump": [f"p{i % 3}" for i in range(90)], "flow": [i / 7 for i in range(90)]})
    pq.write_table(table, tmp_path / "flow.parquet")
    invoked("watch", str(tmp_path / "flow.parquet"), "--no-page", "--folder", str(tmp_path / "lake"))
    assert query("select distinct key from readings order by key", tmp_path / "lake")["key"].to_pylist() == [
        "p0",
        "p1",
        "p2",
    ]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nothing.csv", "no file matches nothing.csv"),
        ("ftp://plant/readings", "there is no source for ftp://"),
        ("kafka://broker", "write broker and topic, as kafka://broker:9092/plant.telemetry"),
        ("postgresql://host/plant", "write database and table"),
        ("mqtt://", "write broker and topics"),
        ("empty", "empty is a folder that holds no file yet"),
        (
            "sqlite://none.db/readings",
            "there is no file none.db; write a file and a table of it, as sqlite://plant.db/",
        ),
    ],
)
def test_a_source_that_is_none_is_told_with_a_remedy(
    source: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sentence in invoked("watch", source, "--no-page", code=2).stderr


def test_a_zone_and_a_folder_that_are_none_are_told(werk: Path) -> None:
    words = ["watch", str(werk), "--no-page", "--folder", str(werk)]
    told = invoked(*words, "--zone", "Europe/Berln", code=2).stderr
    assert "there is no zone 'Europe/Berln'; write it as Europe/Berlin" in told
    told = invoked(*words, "--zone", "Europe/Berlin", code=2).stderr
    assert f"{werk} cannot be written (File exists); choose another folder with --folder" in told


def test_a_password_in_an_address_reaches_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    source = Named("mqtt://me:s%40cret@broker:1884/plant/+/data").source()
    monkeypatch.delenv(PASSWORD)
    expected = {"url": "mqtt://broker:1884", "topic": "plant/+/data", "user": "me", "password": f"${{{PASSWORD}}}"}
    assert source == {"mqtt": expected}


def test_files_that_a_shell_has_named_are_their_pattern(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("t,v\n1,2\n")
    assert named_by(str(tmp_path / "a.csv"), [str(tmp_path / "b.csv")]).address == str(tmp_path / "*.csv")
    (tmp_path / "c.csv").write_text("t,v\n1,2\n")
    with pytest.raises(ConfigError, match="these are 2 sources"):
        named_by(str(tmp_path / "a.csv"), [str(tmp_path / "b.csv")])


# -------------------------------------------------------------------------------------------------------------- broker


@pytest.fixture
def plant(mosquitto: Callable[..., Mosquitto]) -> Iterator[str]:
    """A broker under which two pumps publish, a value for each topic, until the test is over."""
    broker = mosquitto()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    over = threading.Event()

    def publish() -> None:
        n = 0
        while not over.wait(0.02):
            n += 1
            for pump in ("pump-1", "pump-2"):
                client.publish(f"hall/{pump}/pressure", f"{4 + n % 7 / 10:.1f}", qos=1)
                client.publish(f"hall/{pump}/state", "on", qos=1)

    thread = threading.Thread(target=publish)
    thread.start()
    yield broker.url
    over.set()
    thread.join()
    client.loop_stop()


def test_a_broker_is_listened_to_and_then_watched(plant: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tocsin.cli", "watch", f"{plant}/hall/#", "--listen", "2", "--no-page"]
    watch = subprocess.Popen([*command, "--folder", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    assert watch.stderr is not None
    told = []
    for line in watch.stderr:
        told.append(line)
        if "runs" in line:
            break
    until, rows = threading.Event(), 0
    for _ in range(600):
        if (tmp_path / "readings").is_dir():
            rows = query("select * from readings where value is not null", tmp_path).num_rows
        if rows > 100 or watch.poll() is not None:
            break
        until.wait(0.1)
    watch.send_signal(signal.SIGINT)
    told.append(watch.communicate(timeout=60)[1])
    said = "".join(told)
    assert rows > 100, said
    assert "level 2 of the topic: 2 names (pump-1, pump-2)" in said
    assert watch.returncode == 0, said
    kept = query("select distinct key, signal from readings where value is not null order by key", tmp_path).to_pylist()
    assert kept == [{"key": "pump-1", "signal": "pressure"}, {"key": "pump-2", "signal": "pressure"}]
    quarantined = tmp_path / "quarantine"
    assert not quarantined.is_dir() or query("select * from quarantine", tmp_path).num_rows == 0


def test_a_silent_broker_says_what_to_do(mosquitto: Callable[..., Mosquitto]) -> None:
    told = invoked("watch", f"{mosquitto().url}/hall/#", "--listen", "0.5", "--no-page", code=1).stderr
    assert "nothing came within 0.5 s" in told
    assert "--listen 60" in told


# ----------------------------------------------------------------------------------------------------- other servers


def test_a_topic_of_kafka_is_looked_at(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic()
    lines = [f'{{"pump": "p{i % 2}", "ts": {1_770_000_000 + i}, "flow": {i / 7}}}'.encode() for i in range(60)]
    kafka.send(topic, lines)
    seen = look(Named(f"kafka://{kafka.address}/{topic}"), tmp_path, listen_s=2.0)
    pipeline, _, sentence = checked(seen.text, tmp_path, seen.sample)
    assert sentence == "60 of 60 rows of the sample are read"
    assert seen.made is not None
    assert (seen.made.machine.path, seen.made.time.unit, seen.made.signals.names) == ("pump", "s", ("flow",))
    assert not pipeline.sources["source"].source.bounded()


def test_a_table_of_postgres_is_looked_at(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = f"{postgres.schema()}.readings"
    postgres.execute(f"create table {table} (id bigserial primary key, pump text, at timestamptz, flow float8)")
    postgres.execute(
        f"insert into {table} (pump, at, flow) select 'p' || i % 3, to_timestamp(1770000000 + i), i / 7.0 "
        "from generate_series(1, 60) i"
    )
    monkeypatch.delenv(PASSWORD, raising=False)
    host = postgres.url.removeprefix("postgresql://")
    seen = look(Named(f"postgresql://{USER}:{POSTGRES_PASSWORD}@{host}/{table}"), tmp_path)
    monkeypatch.setenv(PASSWORD, POSTGRES_PASSWORD)
    _, plan, _ = checked(seen.text, tmp_path, seen.sample)
    assert seen.made is not None
    assert (seen.made.machine.path, seen.made.time.paths, seen.made.signals.names) == ("pump", ("at",), ("flow",))
    assert POSTGRES_PASSWORD not in seen.text
    assert plan.sources[0].schemas["out"].names == ["key", "time", "id", "flow"]


@pytest.mark.parametrize(("topic", "groups"), [("spBv1.0/#", ("+",)), ("spBv1.0/plant/#", ("plant",))])
def test_sparkplug_needs_no_look_its_births_say_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topic: str, groups: tuple[str, ...]
) -> None:
    pytest.importorskip("google.protobuf", reason="the extra sparkplug")
    monkeypatch.setenv(PASSWORD, "")  # so that what is set here is taken back
    seen = look(Named(f"mqtt://me:secret@broker/{topic}"), tmp_path / "data")
    assert "secret" not in seen.text + str(seen.lines)
    pipeline, plan, _ = checked(seen.text, tmp_path / "data", None)
    (source,) = pipeline.sources.values()
    assert source.source.model_dump(include={"url", "groups", "user"}) == {
        "url": "mqtt://broker", "groups": groups, "user": "me",
    }  # fmt: skip
    assert [step.operator.name() for step in plan.steps] == [
        "keep", "derive", "rekey", "health", "keep", "alarm", "cases", "keep",
    ]  # fmt: skip
