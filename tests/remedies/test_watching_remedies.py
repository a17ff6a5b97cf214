"""What commands say when they look, watch, replay and examine is done here as it stands in what they say."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from advice import Remedy, followed, remedies
from click.testing import CliRunner
from press import give, tocsin
from press import rows as kept_rows
from servers import Mosquitto, free_port
from test_http_remedies import ask

from tocsin.batch import ACTIONS, ACTIONS_SCHEMA, START, Batch
from tocsin.cli import main
from tocsin.cli.reload import _refuse
from tocsin.cli.sources import PASSWORD, Named
from tocsin.cli.watch import saved_lines
from tocsin.edge.bundle import pack
from tocsin.edge.device import Device, DeviceSettings
from tocsin.errors import ConfigError
from tocsin.estimate.model import EXAMPLE
from tocsin.models.store import Store
from tocsin.notify.alarm import Alarm
from tocsin.output.delta import Delta
from tocsin.pipeline import registry
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.serve.access import AccessKeys
from tocsin.serve.accounts import Accounts
from tocsin.serve.api import PageContext
from tocsin.serve.hub import Hub
from tocsin.serve.live import Live
from tocsin.testing import feed, stream, world
from tocsin.testing import rows as made_rows

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
KEY = bytes(range(32))


def command(folder: Path, line: str) -> str:
    """A command, with ``HERE`` for the folder; returns all that it says, or raises it if it does not end well."""
    done = CliRunner().invoke(main, shlex.split(line.replace("HERE", str(folder))), input="\n" * 9)
    if done.exit_code:
        raise ConfigError(done.output)
    return done.output


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that was run once with its tables, files of readings, models, a key, and folders in memory."""
    folder = tmp_path_factory.mktemp("plant")
    give(folder, 3)
    tocsin("run", folder / "p.yaml")
    lines = [f"{(BEGIN + timedelta(minutes=n)).isoformat()},press,{n % 7}" for n in range(400)]
    (folder / "data.csv").write_text("\n".join(["time,machine,value", *lines]))
    (folder / "steps.yaml").write_text("forecast: {of: value, method: persistence}")
    classes = [f"{n % 7},{n % 11},{'true' if n % 7 > 4 else 'false'}" for n in range(400)]
    (folder / "classes.csv").write_text("\n".join(["a,b,late", *classes]))
    (folder / "edge.key").write_bytes(KEY)
    shutil.copytree(EXAMPLE, folder / "models")
    with closing(sqlite3.connect(folder / "logger.db")) as opened, opened:
        opened.execute("create table readings (id integer primary key, ts text, machine text, v real)")
    return folder


COMMANDS = remedies(
    command,
    (
        "cli",
        "write a name and an address, as readings=s3://bucket/readings",
        "query 'select 1' --table readings --folder HERE/lake",
        "query 'select * from elsewhere' --table elsewhere=HERE/lake/readings --folder HERE/lake",
    ),
    (
        "cli/alarms",
        "say either --until or --for",
        "alarms shelve press:m --by me --for 1h --until 2999-01-01 --folder HERE/lake",
        "alarms shelve press:m --by me --for 1h --folder HERE/lake",
        "alarms shelve press:m --by me --until 2999-01-01 --folder HERE/lake",
    ),
    (
        "cli/alarms",
        "say which with --folder",
        "alarms shelve press:m --by me --for 1h --folder HERE",
        "alarms shelve press:m --by me --for 1h --folder HERE/lake",
    ),
    (
        "cli/explain",
        "make it first",
        "explain HERE/classes.csv --target late -o HERE/none/report.html",
        "explain HERE/classes.csv --target late -o HERE/report.html",
    ),
    (
        "cli/backtest",
        "try an earlier --since",
        "backtest HERE/steps.yaml HERE/data.csv --key machine --since 2027-01-01",
        "backtest HERE/steps.yaml HERE/data.csv --key machine --since 2026-01-01T03:00:00Z",
    ),
    (
        "cli/sources",
        "there is no source for {}://; write {}",
        "init ftp://plant/readings",
        "init HERE/data.csv --folder HERE/init",
    ),
)


@followed(COMMANDS)
def test_what_a_command_advises_of_its_words(remedy: Remedy, plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plant)
    if remedy.module == "cli/alarms":
        table = feed(Alarm(rule="press", high=1.0), made_rows({"key": ["m"], "value": [9.0]}))
        with closing(Delta(path="lake/alarms").open(world(plant), table.schema)) as writer:
            epoch = (writer.published() or 0) + 1
            writer.publish(epoch, [writer.stage(epoch, table.to_batches())])
    remedy.follow(plant)


@pytest.mark.parametrize(
    "address", ["mqtt://broker/plant/#", "kafka://broker/topic", "postgresql://host/database/table"]
)
def test_each_address_that_is_named_is_a_source(address: str) -> None:
    with pytest.raises(ConfigError, match="there is no source for ftp://") as told:
        Named("ftp://plant/readings").source()
    assert address in str(told.value)
    assert Named(address).source()


FILE = """
name: press
folder: {folder}
source: {{mqtt: {{url: "mqtt://127.0.0.1:{port}", topic: "plant/#"}}}}
decode: {{json: {{columns: {{machine: category, v: float}}}}}}
key: machine
streams: {{readings: {{sinks: [{{{sink}}}]}}}}
"""


def examined(folder: Path, words: str = "", port: int = 1, place: str = "data", sink: str = "delta: readings") -> str:
    (folder / "press.yaml").write_text(FILE.format(folder=folder / place, port=port, sink=sink))
    return CliRunner().invoke(main, ["doctor", str(folder / "press.yaml"), *words.split()]).output


def test_doctor_is_content_with_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    in_memory = SimpleNamespace(mountpoint=str(tmp_path / "memory"), fstype="tmpfs")
    remote = SimpleNamespace(mountpoint=str(tmp_path / "remote"), fstype="nfs4")
    disk = SimpleNamespace(mountpoint=str(tmp_path), fstype="ext4")
    monkeypatch.setattr("psutil.disk_partitions", lambda **_: [disk, in_memory, remote])
    for place, advice in (
        ("file", "name a folder: --set folder=PATH"),
        ("memory", "put the folder on a disk: --set folder=PATH"),
        ("remote", "put the folder on a local disk; sinks may write elsewhere"),
    ):
        if place != "file":
            (tmp_path / place).mkdir()
        assert advice in examined(tmp_path, place=place)
        assert advice not in examined(tmp_path, f"--set folder={tmp_path / 'data'}", place=place)


def test_doctor_is_content_with_what_is_corrected(mosquitto: Any, tmp_path: Path) -> None:
    port = free_port()
    said = examined(tmp_path, port=port, sink="notify: {to: somewhere}")
    assert "correct it in the file" in said
    assert "start it, or correct the address; rows wait until it is there" in said
    broker: Mosquitto = mosquitto()
    said = examined(tmp_path, port=broker.port, sink="delta: readings")
    assert "correct it in the file" not in said
    assert "start it, or correct the address" not in said
    broker.stop()
    broker.lines = f"allow_anonymous false\npassword_file {tmp_path}/users"
    (tmp_path / "users").touch()
    broker.start()
    assert "correct user, password or certificate" in examined(tmp_path, port=broker.port)
    broker.stop()
    broker.lines = "allow_anonymous true"
    broker.start()
    assert "correct user, password or certificate" not in examined(tmp_path, port=broker.port)


def test_rows_that_are_set_aside_are_looked_at_by_the_command_that_is_told(tmp_path: Path) -> None:
    give(tmp_path, 3)
    with (tmp_path / "1.ndjson").open("a") as file:
        file.write("rust\n" * 4)
    done = CliRunner().invoke(main, ["run", str(tmp_path / "p.yaml")])
    match = re.search(r"tocsin (query \".+?\")", done.output)
    assert match is not None, done.output
    looked = CliRunner().invoke(main, [*shlex.split(match[1]), "--folder", str(tmp_path / "lake"), "--format", "json"])
    assert looked.exit_code == 0, looked.output
    assert json.loads(looked.stdout.splitlines()[0])["count_star()"] == 4


def test_a_database_is_watched_by_its_table(plant: Path) -> None:
    with pytest.raises(Exception, match="name a table in it") as told:
        Named(str(plant / "logger.db")).sample(1)
    address = str(told.value).rpartition("name a table in it: ")[2].replace("TABLE", "readings")
    assert Named(address).source()["sqlite"]["table"] == "readings"
    with pytest.raises(
        ConfigError, match=r"there is no file .*plant\.db; write a file and a table of it, as sqlite://plant"
    ):
        Named(f"sqlite://{plant}/plant.db/readings").source()
    shutil.copy(plant / "logger.db", plant / "plant.db")
    assert Named(f"sqlite://{plant}/plant.db/readings").source()["sqlite"]["table"] == "readings"


def test_a_folder_of_another_source_is_left_for_another(plant: Path) -> None:
    words = ["watch", str(plant / "data.csv"), "--no-page", "--folder"]
    assert CliRunner().invoke(main, [*words, str(plant / "watched")]).exit_code == 0
    (plant / "other.csv").write_bytes((plant / "data.csv").read_bytes())
    words[1] = str(plant / "other.csv")
    refused = CliRunner().invoke(main, [*words, str(plant / "watched")])
    assert "choose another folder with --folder" in refused.output
    assert CliRunner().invoke(main, [*words, str(plant / "another")]).exit_code == 0


def test_a_password_is_set_before_the_saved_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "")
    settings = json.dumps(Named("mqtt://me:secret@broker/plant").source())
    text = (
        f"name: plant\nsource: {settings}\ndecode: {{json: {{columns: {{machine: text}}}}}}\nkey: machine\n"
        "streams: {s: {sinks: [delta: readings]}}\n"
    )
    (tmp_path / "p.yaml").write_text(text)
    assert saved_lines(text, tmp_path / "p.yaml") == [
        ("saved", f"{tmp_path / 'p.yaml'}; set {PASSWORD} before you run it")
    ]
    monkeypatch.delenv(PASSWORD)
    with pytest.raises(ConfigError, match=PASSWORD):
        load_with_plan(tmp_path / "p.yaml")
    monkeypatch.setenv(PASSWORD, "secret")
    load_with_plan(tmp_path / "p.yaml")


def test_a_folder_that_is_changed_is_begun_there(tmp_path: Path) -> None:
    give(tmp_path, 3)
    before = load_with_plan(tmp_path / "p.yaml")[1]
    moved = {"folder": str(tmp_path / "other")}
    with pytest.raises(ConfigError, match="stop this one and start it there"):
        _refuse(before, load_with_plan(tmp_path / "p.yaml", moved)[1])
    tocsin("run", tmp_path / "p.yaml", "--set", f"folder={tmp_path / 'other'}")
    assert kept_rows(tmp_path / "other") == 3


def test_a_token_is_sent_as_it_is_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["access", "token", "robot", "--role", "viewer", "--folder", str(tmp_path)])
    assert "send it as 'Authorization: Bearer ...'; it counts in" in done.stderr
    page = PageContext("test", tmp_path, Live(), Hub(), AccessKeys(None))
    page.keys.accounts = Accounts(next(tmp_path.rglob("access.db")).parent)
    headers = {"authorization": f"Bearer {done.stdout.strip()}"}
    assert ask(page, "/api/machines", headers=headers).status_code == 200


def test_what_is_deployed_needs_a_topic(mosquitto: Any, plant: Path) -> None:
    to = mosquitto().url
    words = f"models deploy pair 1 --key HERE/edge.key --store HERE/models --to {to}"
    with pytest.raises(ConfigError, match="say the topic, too, as mqtt://broker:1883/edge/bundle"):
        command(plant, words)
    command(plant, f"{words}/edge/bundle")


def test_a_version_that_was_packed_before_is_deployed_again(tmp_path: Path) -> None:
    (tmp_path / "edge.key").write_bytes(KEY)
    device = Device(DeviceSettings(key=str(tmp_path / "edge.key"), folder=str(tmp_path / "edge")))
    store = Store(EXAMPLE)
    with closing(device.spool):
        assert device.take(pack(store, "pair", 1, KEY, 7))
        assert not device.take(pack(store, "tide", 1, KEY, 6))
        assert device.take(pack(store, "tide", 1, KEY, 8)), "packed anew, which deploy does"


def test_an_alarm_is_shelved_until_a_time_or_while_it_is_active() -> None:
    alarm = Alarm(rule="hot", high=80.0)
    state = alarm.initial()

    def step(batch: Batch) -> list[dict[str, Any]]:
        nonlocal state
        state, out = alarm.step(state, batch)
        return [row for one in out for row in one.rows.to_pylist()]

    def read(second: int, value: float) -> list[dict[str, Any]]:
        batch = next(iter(stream(made_rows({"key": ["m"], "value": [value], "time": [float(second)]}))))
        return step(batch)

    def shelve(second: int, until: int | None) -> list[str]:
        at = BEGIN + timedelta(seconds=second)
        row = {"time": at, "alarm": id, "action": "shelve", "by": "me", "reason": "", "assignee": ""}
        row["until"] = None if until is None else BEGIN + timedelta(seconds=until)
        made = step(Batch(pa.RecordBatch.from_pylist([row], schema=ACTIONS_SCHEMA), START, ACTIONS))
        return [f"{one['event']}: {one['reason']}" for one in made]

    id = read(1, 90.0)[0]["id"]
    read(2, 20.0)
    (refused,) = shelve(3, None)
    assert "give a time" in refused
    assert shelve(4, 60)[0].startswith("shelved")


def test_a_plug_in_is_taken_out_or_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "acme-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def forget() -> None:
        registry.names.cache_clear()
        registry._plugins.cache_clear()

    def names(line: str) -> Any:
        (info / "entry_points.txt").write_text(f"[tocsin.operator]\n{line}\n")
        forget()
        return registry.names("operator")

    with pytest.raises(ConfigError, match="uninstall its package, or register it under another name"):
        names("window = acme_steps:Own")
    assert "own" in names("own = acme_steps:Own")
    with pytest.raises(ConfigError, match=r"cannot be loaded .*; reinstall its package"):
        registry.find("operator", "own")
    (tmp_path / "acme_steps.py").write_text("from tocsin.condition.keep import Keep\n\nclass Own(Keep): ...\n")
    assert registry.find("operator", "own").name() == "own"
    shutil.rmtree(info)
    forget()
    assert "own" not in registry.names("operator")
