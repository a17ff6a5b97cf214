"""What the messages of commands advise is done here, and the command works."""

# ruff: noqa: E501 (what stands in a pipeline file, and what a message says, stays in one line)

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from advice import Remedy, followed, remedies, yaml
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.cli.backtest import since_us
from tocsin.cli.data_file import Writing, read_data, time_column
from tocsin.cli.options import settings_of
from tocsin.cli.replay import _time
from tocsin.cli.schedule import Schedule
from tocsin.cli.sources import Named, named_by
from tocsin.cli.watch import write_file
from tocsin.errors import ConfigError

HEATER = {
    "detectorModelName": "Heater",
    "detectorModelDefinition": {"states": [{"stateName": "Only"}], "initialStateName": "Only"},
    "key": "id",
}


def command(folder: Path, line: str) -> None:
    """A command, with ``HERE`` for a folder that holds some files; a passphrase is typed where it is asked for."""
    (folder / "heater.json").write_text(json.dumps(HEATER))
    lines = ["time,value", *(f"2026-01-01T00:{n:02d}:00Z,{n % 7}" for n in range(60))]
    (folder / "data.csv").write_text("\n".join(lines))
    (folder / "job.yaml").write_text("forecast: {of: value, method: persistence}")
    done = CliRunner().invoke(main, line.replace("HERE", str(folder)).split(), input="several words make one\n" * 2)
    if done.exit_code:
        raise ConfigError(done.output)


COMMANDS = remedies(
    command,
    (
        "cli/scoring",
        "make it first",
        "backtest HERE/job.yaml HERE/data.csv -o HERE/none/report.html",
        "backtest HERE/job.yaml HERE/data.csv -o HERE/report.html",
    ),
    (
        "cli/access",
        "say what to change: --role ROLE, --password, or both",
        "access change me --folder HERE",
        "access change me --role admin --folder HERE",
        "access change me --role viewer --password --folder HERE",
    ),
    ("cli/access", "say which with --folder", "access list --folder HERE/none/none", "access list --folder HERE"),
)


def imported(folder: Path, how: str) -> None:
    if how == "again":
        command(folder, "import iot-events HERE/heater.json --folder HERE/out")
    elif how == "moved":
        (folder / "out").rename(folder / "away")
    command(folder, f"import iot-events HERE/heater.json --folder HERE/{'new' if how == 'elsewhere' else 'out'}")


def written(folder: Path, content: bytes | str) -> Path:
    path = folder / "data.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder: Path, given: tuple[bytes | str, Writing]) -> None:
    read_data(written(folder, given[0]), given[1])


def timed(folder: Path, name: str | None) -> None:
    time_column(read_data(written(folder, "moment,value\n2026-01-01T00:00:00Z,1\n")), name)


LATIN = "time,grad\n2026-01-01T00:00:00Z,1 \N{DEGREE SIGN}C\n".encode("cp1252")
JAPANESE = "time,温度\n2026-01-01T00:00:00Z,1\n".encode("shift_jis")
DATA = [
    *remedies(imported, ("cli", "move it away, or write elsewhere with --folder", "again", "moved", "elsewhere")),
    *remedies(
        read,
        (
            "cli/data_file",
            "write a line with the columns' names",
            ("1,2\n3,4\n", Writing()),
            ("time,value\n1,2\n3,4\n", Writing()),
        ),
        (
            "cli/data_file",
            "write one as utf-8, cp1252, utf-16 or shift_jis",
            (LATIN, Writing(encoding="ebcdic!")),
            ("a\nb\n", Writing(encoding="utf-8")),
            (LATIN, Writing(encoding="cp1252")),
            ("a\nb\n".encode("utf-16"), Writing(encoding="utf-16")),
            (JAPANESE, Writing(encoding="shift_jis")),
        ),
        (
            "cli/data_file",
            "say how it is written, as --encoding cp1252 (or shift_jis ...)",
            (LATIN, Writing()),
            (LATIN, Writing(encoding="cp1252")),
            (JAPANESE, Writing(encoding="shift_jis")),
        ),
    ),
    *remedies(timed, ("cli/data_file", "say with --time which column has the time; there are [{}]", None, "moment")),
]


def settings(_: Path, pair: str) -> None:
    settings_of([pair])


def replayed(folder: Path, text: str) -> None:
    _time("--from", text)


def judged(_: Path, text: str) -> None:
    since_us(text, np.array([0, 10**15]))


def named(folder: Path, address: str) -> None:
    with closing(sqlite3.connect(folder / "plant.db")) as database:
        database.execute("create table if not exists readings (value real)")
    Named(address.replace("HERE", str(folder))).source()


def shown(folder: Path, address: str) -> None:
    named(folder, "host:")
    Named(address.replace("HERE", str(folder))).form()


def together(folder: Path, names: Sequence[str]) -> None:
    for name in ("a.csv", "b.csv", "c.ndjson"):
        (folder / name).touch()
    named_by(*[str(folder / name) for name in names][:1], [str(folder / name) for name in names][1:])


def saved(folder: Path, name: str) -> None:
    (folder / "p.yaml").exists() or (folder / "p.yaml").touch()
    if name == "moved":
        (folder / "p.yaml").rename(folder / "away.yaml")
        name = "p.yaml"
    elif name == "made/p.yaml":
        (folder / "made").mkdir()
    write_file("name: plant", folder / name)


def scheduled(folder: Path, changes: str) -> None:
    tree = yaml(
        "{name: p, source: {files: in.csv}, decode: {csv: {columns: {key: text, value: float}}}, streams: {s: {sinks: [delta: t]}}}"
    )
    (folder / "p.yaml").write_text(json.dumps({**tree, **yaml(changes)}))
    Schedule(folder / "p.yaml", [])


NIGHTLY = "jobs: {nightly: {cron: 30 2 * * *, do: load}}"
GIVEN = [
    *remedies(
        settings, ("cli/options", "write it as place=value, such as --set checkpoint=5s", "checkpoint", "checkpoint=5s")
    ),
    *remedies(
        replayed,
        ("cli/replay", "write it as 2026-01-31 or 2026-01-31T06:00:00Z", "noon", "2026-01-31", "2026-01-31T06:00:00Z"),
    ),
    *remedies(
        judged,
        (
            "cli/backtest",
            "write it as 2026-01-31 or 2026-01-31T06:00:00Z",
            "noon",
            "2026-01-31",
            "2026-01-31T06:00:00Z",
        ),
    ),
    *remedies(
        named,
        (
            "cli/sources",
            "write broker and topic, as kafka://broker:9092/plant.telemetry",
            "kafka://broker",
            "kafka://broker:9092/plant.telemetry",
        ),
        (
            "cli/sources",
            "write broker and topics, as mqtt://broker:1883/plant/#",
            "mqtt://",
            "mqtt://broker:1883/plant/#",
        ),
        (
            "cli/sources",
            "write database and table, as postgresql://host/plant/public.readings?cursor=id",
            "postgresql://host",
            "postgresql://host/plant/public.readings?cursor=id",
        ),
        (
            "cli/sources",
            "write a file and a table of it, as sqlite://plant.db/readings",
            "sqlite://readings",
            "sqlite://HERE/plant.db/readings",
        ),
    ),
    *remedies(
        together,
        (
            "cli/sources",
            "name one, or a pattern for several files in quotes: 'readings/*.csv'",
            ["a.csv", "c.ndjson"],
            ["a.csv"],
            ["*.csv"],
        ),
    ),
    *remedies(
        saved,
        ("cli/watch", "move it away, or save under another name", "p.yaml", "moved", "q.yaml"),
        ("cli/watch", "make it first", "none/p.yaml", "made/p.yaml"),
    ),
    *remedies(
        scheduled,
        ("cli/schedule", "add some, as jobs: {nightly: {cron: 30 2 * * *, do: load}}", "{}", NIGHTLY),
        ("cli/schedule", "remove follow", f"{{source: {{files: {{path: in.csv, follow: true}}}}, {NIGHTLY}}}", NIGHTLY),
        (
            "cli/schedule",
            "give it upsert",
            NIGHTLY.replace("do: load", "do: reload"),
            f"{{{NIGHTLY.replace('do: load', 'do: reload')}, streams: {{s: {{sinks: [postgres: {{url: 'postgresql://h/d', table: t, upsert: key}}]}}}}}}",
        ),
    ),
]


@followed(COMMANDS + DATA + GIVEN)
def test_what_a_command_advises(remedy: Remedy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if remedy.module == "cli/access":
        command(tmp_path, "access add me --role viewer --folder HERE")
    remedy.follow(tmp_path)
