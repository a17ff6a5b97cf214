"""Where machines stand, from a tree or a CSV file, and what is said of a file that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.errors import ConfigError
from tocsin.pipeline.assets import Assets
from tocsin.pipeline.plan import Asset
from tocsin.pipeline.yamlfile import load_with_plan

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
