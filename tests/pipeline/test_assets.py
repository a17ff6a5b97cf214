"""Where machines stand, from a tree or a CSV file, and what is said of a file that is wrong."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.errors import ConfigError
from tocsin.lake.read import query
from tocsin.output.delta import Delta
from tocsin.pipeline.assets import Assets, owner
from tocsin.pipeline.plan import Asset
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.testing import world

FILE = """
name: plant
source: {files: {path: in.ndjson}}
decode: {json: {columns: {machine: text, ts: timestamp, t_out: float}}}
key: machine
time: ts
streams: {readings: {}}
"""
TREE = """
assets:
  machines:
    press shop:
      line 1: {press-1: North press, press-2: }
    oven hall:
      hall: {oven-1: The oven}
  signals:
    t_out: {name: Outlet, unit: °C}
"""
STAND = {
    "press-1": Asset("press-1", "press shop", "line 1", "North press"),
    "press-2": Asset("press-2", "press shop", "line 1"),
    "oven-1": Asset("oven-1", "oven hall", "hall", "The oven"),
}


def test_a_tree_and_a_file_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "tree.yaml").write_text(FILE + TREE)
    _, plan = load_with_plan(tmp_path / "tree.yaml")
    assert plan.machines == STAND
    assert {name: (one.name, one.unit) for name, one in plan.signals.items()} == {"t_out": ("Outlet", "°C")}
    for text in (
        "machine,area,line,name\npress-1,press shop,line 1,North press\npress-2,press shop,line 1,\n"
        "oven-1,oven hall,hall,The oven\n",
        "\ufeffname;machine;area;line\nNorth press;press-1;press shop;line 1\n;press-2;press shop; line 1 \n"
        "The oven;oven-1;oven hall;hall\n",
    ):
        (tmp_path / "plant.csv").write_text(text)
        assert Assets(machines=str(tmp_path / "plant.csv")).by_machine() == STAND
    (tmp_path / "plant.csv").write_text("machine\nm\n")
    assert Assets(machines=str(tmp_path / "plant.csv")).by_machine() == {"m": Asset("m")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "plant.csv cannot be read: No such file or directory"),
        ("area,line\na,b\n", "needs a header with the column machine, and may have area, line, name"),
        ("machine,area\n,hall\n", "plant.csv:2: this row names no machine"),
        ("machine\nm\nm\n", "machine 'm' stands at two places; leave one of them out"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_check_with_the_line(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "plant.csv").write_text(text)
    (tmp_path / "plant.yaml").write_text(f"{FILE}assets: {{machines: {tmp_path / 'plant.csv'}}}\n")
    with pytest.raises(ConfigError) as raised:
        load_with_plan(tmp_path / "plant.yaml")
    assert said in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path / 'plant.yaml'}:8: assets.machines: ")
    done = CliRunner().invoke(main, ["check", str(tmp_path / "plant.yaml")])
    assert (done.exit_code, said in done.output) == (2, True)


ALARMS = """
streams:
  readings: {sinks: [delta: readings]}
  alarms:
    from: readings
    steps: [alarm: {rule: hot, of: t_out, high: 90}]
    sinks:
      - delta: alarms
      - notify: {to: console, text: "TEXT"}
"""


def run(folder: Path, assets: str, text: str = "") -> None:
    """Run a plant of one reading that is too hot."""
    row = '{"machine": "press-1", "ts": "2026-01-01T00:00:00Z", "t_out": 99.5}'
    (folder / "in.ndjson").write_text(row + "\n")
    file = FILE.replace("in.ndjson", str(folder / "in.ndjson")).replace("streams: {readings: {}}", ALARMS)
    (folder / "plant.yaml").write_text(f"{file.replace('TEXT', text)}folder: {folder / 'data'}\n{assets}")
    EmbeddedRunner(load_with_plan(folder / "plant.yaml")[1]).run()


def test_who_is_told_reads_what_people_call_machine_and_signal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, TREE, "{area}/{line}: {name} {signal_name} {value:.1f} {unit}")
    assert "press shop/line 1: North press Outlet 99.5 °C" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    run(tmp_path / "other", TREE)  # without a text of one's own
    assert "North press (press shop, line 1): press-1 hot: high" in capsys.readouterr().err


def test_a_text_may_name_places_only_where_there_are_assets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the text of notify names column 'area'"):
        run(tmp_path, "", "{area}")


def test_sql_joins_what_people_call_machines_and_signals(tmp_path: Path) -> None:
    run(tmp_path, TREE)
    sql = """
        SELECT area, assets.name AS machine, signal_names.name AS signal, value, signal_names.unit FROM alarms
        JOIN assets ON alarms.key = machine OR starts_with(alarms.key, machine || '/')
        JOIN signal_names USING (signal)"""
    assert query(sql, tmp_path / "data").to_pylist() == [
        {"area": "press shop", "machine": "North press", "signal": "Outlet", "value": 99.5, "unit": "°C"}
    ]
    run(tmp_path, TREE.replace("North press", "Old press"))  # the next start says it anew
    presses = query("SELECT name FROM assets WHERE machine LIKE 'press%' ORDER BY machine", tmp_path / "data")
    assert presses["name"].to_pylist() == ["Old press", ""]


def test_the_tables_of_the_assets_are_nobody_elses(tmp_path: Path) -> None:
    (tmp_path / "plant.yaml").write_text(FILE.replace("{readings: {}}", "{all: {sinks: [delta: assets]}}") + TREE)
    with pytest.raises(ConfigError, match="table 'assets' is where assets: are kept"):
        load_with_plan(tmp_path / "plant.yaml")
    writer = Delta(path="assets").open(world(tmp_path / "data", "other"), pa.schema([("mine", pa.int64())]))
    writer.publish(1, [writer.stage(1, [pa.record_batch({"mine": [1]})])])
    with pytest.raises(ConfigError, match="holds a table of other columns"):
        run(tmp_path, TREE)
    assert query("SELECT mine FROM assets", tmp_path / "data").to_pylist() == [{"mine": 1}]


@pytest.mark.parametrize(("key", "machine"), [("press-1/t", "press-1"), ("a/b/c", "a/b"), ("x/y", "x"), ("z", "z")])
def test_a_key_belongs_to_the_machine_before_a_slash(key: str, machine: str) -> None:
    assert owner(key, {"press-1", "a/b"}) == machine
