"""Commands that README and docs show are run: here, or where a test follows their page; the rest is named, with why."""

# ruff: noqa: E501 (a command stays in one line, as on its page)

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import httpx
import pytest
from click.testing import CliRunner
from page_of_docs import PageOfDocs
from servers import free_port
from test_commands_in_docs import PAGES, parsed, shown, split

from tocsin.cli import main
from tocsin.lake.read import query
from tocsin.models import SAMPLES
from tocsin.mqtt.authority import Authority
from tocsin.serve.accounts import Accounts

ROOT = Path(__file__).parent.parent
FOLLOWED = ("downtime", "failure", "forecasting", "models", "mongodb", "vibration", "watch")
"""Pages whose blocks of commands a test of their own runs as they stand, from top to bottom: ``test_PAGE_page.py``."""
PLANT = """
name: plant
source: {files: data.ndjson}
decode: {json: {columns: {machine: text, t: timestamp, vibration: float, temperature: float, load: float, failed: bool}}}
key: machine
time: t
assets: {machines: {hall: {line 1: {motor: The motor, pump: }}}}
watch: {of: vibration, detector: {health: {learn: 40}}, alarm: {rule: health}}
streams: {late: {from: alarms, steps: [{keep: ring}]}}
jobs: {tidy: {cron: "0 4 * * *", do: compact}}
"""
WINDOWS = """
name: x
folder: x
source: {files: data.ndjson}
decode: {json: {columns: {machine: text, t: timestamp, vibration: float}}}
key: machine
time: t
streams: {hot: {steps: [{window: {every: 1h, compute: mean(vibration)}}], sinks: [{delta: hot}]}}
jobs: {tidy: {cron: "0 4 * * *", do: compact}}
"""


def prepared(folder: Path) -> None:
    """Make a folder with what the pages speak of: a plant that has run, whose motor shakes, and files to judge."""
    rows = []
    for hour in range(9 * 24):
        for machine in ("motor", "pump"):
            shakes = machine == "motor" and hour > 150
            at = f"2026-03-{1 + hour // 24:02}T{hour % 24:02}:00:00Z"
            level = 2 + (hour * 7919 % 97) / 970 + (3 if shakes else 0)
            row = {"machine": machine, "t": at, "vibration": level, "temperature": 50 + hour % 5, "load": hour % 11}
            rows.append(row | {"failed": hour % 5 == 0})
    (folder / "data.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"machine": \n')
    (folder / "plant.yaml").write_text(PLANT)
    (folder / "pipeline.yaml").write_text(PLANT)
    (folder / "x.yaml").write_text(WINDOWS)
    (folder / "steps.yaml").write_text(
        "- health: {of: vibration, learn: 40}\n- alarm: {rule: health, of: vibration, score: 75}\n"
    )
    names = ("machine", "t", "vibration")
    written = "".join(",".join(str(row[name]) for name in names) + "\n" for row in rows)
    (folder / "readings.csv").write_text("machine,time,vibration\n" + written)
    one = [row for row in rows if row["machine"] == "motor"]
    (folder / "data.csv").write_text("time,value\n" + "".join(f"{row['t']},{row['vibration']}\n" for row in one))
    (folder / "pump.csv").write_text(
        "timestamp,pressure\n" + "".join(f"{row['t']},{row['vibration']}\n" for row in one)
    )
    modes = "TWF,HDF,PWF,OSF,RNF"
    lines = [f"{i},P{i},{row['load']},{row['vibration']},{int(row['failed'])},0,0,0,0,0" for i, row in enumerate(rows)]
    (folder / "ai4i2020.csv").write_text(f"UDI,Product ID,Torque,Speed,Machine_failure,{modes}\n" + "\n".join(lines))
    for example in (ROOT / "examples").glob("humidity*.yaml"):
        shutil.copy(example, folder)
    (press,) = (text for text in PageOfDocs("quickstart").shown("yaml") if text.startswith("# press.yaml"))
    (folder / "press.yaml").write_text(press)
    exec(PageOfDocs("watch").shown("python")[0], {})  # werk.csv
    shutil.copytree(SAMPLES, folder / "models")
    (folder / "readings").mkdir()
    reading = {"machine": "press-1", "ts": "2026-03-01T00:00:00Z", "force": 812.5}
    (folder / "readings" / "a.ndjson").write_text(json.dumps(reading) + "\n")


RUN = """
tocsin --help
tocsin components
tocsin components NAME
tocsin components novelty
tocsin schema > tocsin.schema.json
tocsin certs certs pump-1 pump-2 tocsin --broker broker.plant.local
tocsin certs certs --revoke pump-2
tocsin certs FOLDER DEVICE...
tocsin check humidity.yaml
tocsin check press.yaml
tocsin check press.yaml --expand
tocsin preview press.yaml
tocsin check plant.yaml
tocsin check FILE
tocsin check FILE --expand
tocsin check plant.yaml --on flink
tocsin preview FILE
tocsin run plant.yaml
tocsin doctor plant.yaml
tocsin query "select key, count(*) from readings group by key"
tocsin query "select key, event, severity, message from alarms order by time desc limit 5"
tocsin query "select * from alarms" --format csv > alarms.csv
tocsin query "select reason, count(*) from quarantine group by reason"
tocsin query "select reason, count(*) from quarantine group by 1"
tocsin query "select area, line, assets.name, count(*) from alarms join assets on key = machine or starts_with(key, machine || '/') group by all order by all"
tocsin alarms list
tocsin alarms kpis
tocsin alarms ack ALARM --by me --reason "bearing ordered"
tocsin alarms ack ID
tocsin alarms comment ID "bearing ordered"
tocsin access add ann --role admin
tocsin alarms assign ID PERSON
tocsin alarms label true ID
tocsin alarms ignore health:motor --for 2h
tocsin alarms relearn health:motor
tocsin alarms maintained health:motor
tocsin access list
tocsin access add ann --role operator --folder ...
tocsin access token grafana --role viewer
tocsin audit verify --noted NUMBER:HASH
tocsin run plant.yaml
tocsin backtest steps.yaml readings.csv --key machine --folder tocsin-data --since 2026-03-03
tocsin replay plant.yaml --set folder=tocsin-data --from 2026-03-02 --to 2026-03-09
tocsin explain ai4i2020.csv --target Machine_failure --drop UDI --drop "Product ID" --drop TWF --drop HDF --drop PWF --drop OSF --drop RNF -o explain.html
tocsin explain "SELECT load, temperature, failed, time FROM readings" --target failed --time time
tocsin score novelty data.csv -o out.csv
tocsin score novelty pump.csv -o scored.csv --time timestamp --value pressure
tocsin query "select reason, topic, payload from quarantine" --folder tocsin-data/warehouse
tocsin watch werk.csv --save werk.yaml
tocsin models show maintenance
tocsin models promote maintenance 1
tocsin repair TABLE
tocsin jobs FILE --run NAME
tocsin check x.yaml
tocsin --log-level info run x.yaml
tocsin run x.yaml --forget hot.0.window
tocsin backup /backup/monday --folder plant-data
tocsin restore /backup/monday --folder plant-data
""".strip().splitlines()
"""In this order, each as it stands on its page; the plant runs again, so that it takes what people did."""
GO_ON = """
tocsin run press.yaml --page
tocsin run x.yaml --page --host 0.0.0.0 --tls-cert page.pem --tls-key page.key
tocsin serve FILE
tocsin jobs x.yaml
tocsin jobs FILE
tocsin simulate scara-xml
tocsin simulate scara-xml --seconds 20000
tocsin edge FILE
""".strip().splitlines()
"""These go on until they are stopped, as by Ctrl-C."""
SYSTEMS_SCARA = "test_systems_scara.py::test_archive_train_forecast_and_alarm"
INFLUX = "acquire/test_influxdb_source.py::test_the_commands_of_the_page_take_over_what_there_is"
ON_FLINK = "flink/test_flink_cluster.py::test_every_table_is_that_of_the_embedded_run"
OVER_HTTP = "cli/test_mcp.py::test_over_http_each_token_has_the_tools_of_its_role"
ELSEWHERE = {
    "components celsius": "pipeline/test_plugins.py::test_it_is_listed_and_shown",
    "run examples/plugin/furnace.yaml": "pipeline/test_plugins.py::test_the_example_runs_and_goes_on",
    "demo": "cli/test_demo.py::test_demo_shows_live_data_and_rings",
    "flink down": ON_FLINK,
    "flink up": ON_FLINK,
    "run FILE --on flink": ON_FLINK,
    "run plant.yaml --on flink": ON_FLINK,
    "run downtime-flink.yaml": "flink/test_systems_downtime_cluster.py::test_the_whole_system_on_a_cluster",
    "import influxdb": INFLUX,
    "query 'select key, time, celsius from oven": INFLUX,
    "run examples/influxdb.yaml": "acquire/test_influxdb_source.py::test_history_into_the_lake",
    "run examples/humidity_stream.yaml": "test_systems_kinesis.py::test_humidity_by_way_of_a_stream",
    "mcp": OVER_HTTP,
    "preview humidity.yaml": "test_systems.py::test_humidity_preview_shows_each_step",
    "run humidity.yaml --page": "test_systems.py::test_humidity",
    "train trade.yaml": "models/test_training_kinds.py::test_texts_by_the_page_the_last_ones_judge",
    "models promote trade 1": "models/test_training_kinds.py::test_texts_by_the_page_the_last_ones_judge",
    "train scara/train.yaml --promote": SYSTEMS_SCARA,
    "run scara": SYSTEMS_SCARA,
    "watch mqtt://broker/plant/": "cli/test_watch.py::test_a_broker_is_listened_to_and_then_watched",
}
"""Commands that begin so are run by a test of their own, with names and numbers of its own; each of these begins one."""
PLACE = "dots or a name stand for what a person fills in"
FLINK = "wants a cluster of Flink; test_flink_sinks.py delivers without one"
AS_PRESS = "it is run here with another file: run press.yaml --page"
LEFT = {
    "query 'select ...": PLACE,
    "flink deliver": FLINK,
    "flink status": "wants a cluster of Flink",
    "models promote turbofan 1": "wants the model that is trained in minutes",
    "train turbofan.yaml": "trains for minutes; models/test_training_kinds.py trains the same with less effort",
    "run FILE --page": AS_PRESS,
    "run pipeline.yaml --page": AS_PRESS,
    "run plot.yaml --page": AS_PRESS,
    "serve downtime-flink.yaml": "it is served here with another file: serve FILE",
    "serve seen/watch.yaml": "it is served here with another file: serve FILE",
}
"""Why commands that begin so are not run; each of these begins one."""


def words_of(command: str, alarm: str, noted: str) -> list[str]:
    """The words of a command, with names that exist in place of those that stand for one."""
    job = "tidy" if " jobs " in command else "health"
    named = {"FILE": "plant.yaml", "NAME": job, "TABLE": "readings", "ALARM": alarm, "ID": alarm, "PERSON": "ann"}
    named |= {"NUMBER:HASH": noted, "FOLDER": "others", "DEVICE...": "pump-9", "/backup/monday": "backup/monday"}
    named |= {"...": "others"} | ({"FILE": "edge.json"} if command.startswith("tocsin edge") else {})
    return [named.get(word, word) for word in split(command)]


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise's matter
def test_commands_of_the_pages_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOCSIN_WATCH_PORT", str(free_port()))
    prepared(tmp_path)
    alarm = noted = ""
    wrong = []
    for command in RUN:
        if command.startswith("tocsin backup"):
            shutil.copytree("tocsin-data", "plant-data", ignore=shutil.ignore_patterns("werk"))
        if command.startswith("tocsin restore"):
            shutil.rmtree("plant-data")
        if command.endswith("tocsin-data/warehouse"):
            shutil.copytree("tocsin-data", "tocsin-data/warehouse", ignore=shutil.ignore_patterns("warehouse"))
        if command.startswith("tocsin audit"):
            said = CliRunner().invoke(main, ["audit", "verify"]).output
            noted = (re.findall(r"\d+:[0-9a-f]{16,}", said) or [said])[0]
        done = CliRunner().invoke(main, words_of(command, alarm, noted), input="a long enough passphrase\n" * 2)
        if command == "tocsin run plant.yaml" and alarm:
            run_until_labelled(words_of(command, alarm, noted))
        if done.exit_code:
            wrong.append(f"{command}: {done.exit_code} {done.output.strip()[-300:]} {done.exception!r}")
        if command == "tocsin alarms list":
            alarm = (re.findall(r"\b[0-9a-f]{8,}\b", done.output) or [done.output])[0]
    assert not wrong, "\n".join(wrong)
    assert (tmp_path / "explain.html").exists()
    assert (tmp_path / "plant-data" / "readings").is_dir()


def run_until_labelled(run: list[str], patience: int = 30) -> None:
    """Run anew: with nothing left to read it may be over before it takes what people did, which waits for the next."""
    labelled = "select count(*) as labels from alarms where event = 'labelled_true'"
    while query(labelled, Path("tocsin-data")).column("labels").to_pylist() == [0]:
        assert patience > 0, "no run took the label"
        patience -= 1
        assert CliRunner().invoke(main, run).exit_code == 0


@contextmanager
def stopped(goes_on: Callable[[], bool], patience_s: float = 60.0) -> Iterator[threading.Event]:
    """Ctrl-C once that is so, or after the patience; what it gives is set if it was so."""
    done, has_gone_on = threading.Event(), threading.Event()

    def watch() -> None:
        for _ in range(int(patience_s / 0.05)):
            if goes_on():
                has_gone_on.set()
                break
            if done.wait(0.05):
                return
        os.kill(os.getpid(), signal.SIGINT)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield has_gone_on
    finally:
        done.set()
        watching.join()


def answers(port: int, *, over_tls: bool) -> bool:
    """Whether a page answers: its port is open before it can be stopped in order."""
    try:
        httpx.get(f"http{'s' if over_tls else ''}://127.0.0.1:{port}/", timeout=5, verify=False)
    except httpx.TransportError:
        return False
    return True


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise's matter
@pytest.mark.parametrize("command", GO_ON)
def test_commands_that_go_on_end_well(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(tmp_path)
    port = free_port()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for name in ("RUN", "SERVE"):
        monkeypatch.setenv(f"TOCSIN_{name}_PORT", str(port))
    (tmp_path / "x.yaml").write_text(WINDOWS.replace("data.ndjson", "{path: data.ndjson, follow: true}"))
    if "--tls-cert" in command:
        pytest.importorskip("cryptography")
        Authority(tmp_path).server("127.0.0.1", 1)
        for made, shown in (("server.pem", "page.pem"), ("server.key", "page.key")):
            (tmp_path / made).rename(shown)
        Accounts(tmp_path / "x" / ".state").add("ann", "admin", "a long enough passphrase")
    (tmp_path / "edge.key").write_bytes(bytes(32))
    (tmp_path / "edge.json").write_text(json.dumps({"key": "edge.key", "url": f"mqtt://127.0.0.1:{port}"}))
    words = words_of(command, "", "")

    def goes_on() -> bool:
        if words[0] == "simulate":
            return any(Path("scara-xml").glob("*.xml"))
        waits_for_it = signal.getsignal(signal.SIGINT) is not before[signal.SIGINT]
        return waits_for_it and (words[0] not in ("run", "serve") or answers(port, over_tls="--tls-cert" in words))

    # Not by CliRunner: a web server sets up the log anew, and what libraries have of it would close the streams of pytest.
    aborted = False
    try:
        with stopped(goes_on) as has_gone_on:
            main.main(words, prog_name="tocsin", standalone_mode=False)
    except click.Abort:
        aborted = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert has_gone_on.is_set()
    assert aborted == (words[0] == "simulate")


def one_line(words: list[str]) -> str:
    return shlex.join(" ".join(word.split()) for word in words)


def typed() -> set[str]:
    """The commands of all pages that could be typed as they stand; a sentence also names some by their first word."""
    commands = set()
    for page in PAGES:
        for command, is_whole in shown(page.read_text(encoding="utf-8")):
            words = split(command)
            if not is_whole:
                if len(words) < 2 and command not in RUN:
                    continue
                try:
                    parsed(list(words), is_whole=True)
                except click.ClickException:
                    continue
            if not (is_whole and page.stem in FOLLOWED) and words:
                commands.add(one_line(words))
    return commands


def test_no_fewer_commands_are_run() -> None:
    run, all_of_them = {one_line(split(command)) for command in [*RUN, *GO_ON]}, typed()
    assert run <= all_of_them, "these stand on no page"
    left = sorted(all_of_them - run)
    begins = [*ELSEWHERE, *LEFT]
    without = [command for command in left if not any(f"{command} ".startswith(_whole(begin)) for begin in begins)]
    assert not without, "run these, or say why not:\n" + "\n".join(without)
    unused = [begin for begin in begins if not any(f"{command} ".startswith(_whole(begin)) for command in left)]
    assert not unused, f"no command that is left begins with {unused}"


@pytest.mark.parametrize("begin", ELSEWHERE)
def test_the_test_that_runs_it_exists(begin: str) -> None:
    path, name = ELSEWHERE[begin].split("::")
    tree = ast.parse((ROOT / "tests" / path).read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.walk(tree))


def _whole(begin: str) -> str:
    """A beginning that ends with a word, unless it stands within a text or a path."""
    return begin if begin.count("'") % 2 or begin.endswith(("/", "run scara")) else f"{begin} "
