"""What starting costs: the heavy libraries are imported when something needs them, not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "numba", "pyarrow", "pydantic", "duckdb", "httpx", "plotly", "sqlglot", "starlette", "apprise", "numpy",
    "confluent_kafka",
)  # fmt: skip
HELP = "from click.testing import CliRunner; from tocsin.cli import main; r = CliRunner().invoke(main, {args}); {then}"
THEN = "assert r.exit_code == 0 and 'Usage' in r.output, r.output"


@pytest.mark.parametrize(
    "statement",
    [
        "import tocsin",
        HELP.format(args=["--help"], then=THEN),
        HELP.format(args=["alarms", "--help"], then=THEN),
        HELP.format(args=["run", "--help"], then=THEN),
    ],
)
def test_starting_imports_nothing_heavy(statement: str) -> None:
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "tocsin" in loaded
    assert not loaded & set(HEAVY)


def test_run_stays_the_function(tmp_path: Path) -> None:
    """A submodule of the same name would take its place at the first import."""
    data = tmp_path / "in.ndjson"
    data.write_text('{"m": "a", "v": 1}\n')
    code = f"""
import sys
import tocsin
import tocsin.cli.launch
for name in ("one", "two"):
    tocsin.run(tocsin.Pipeline(
        name=name, source={{"files": {str(data)!r}}}, decode={{"json": {{"columns": {{"m": "text", "v": "float"}}}}}},
        key="m", folder={str(tmp_path)!r} + "/" + name, streams={{"r": {{"sinks": [{{"delta": "r"}}]}}}},
    ))
    assert tocsin.read("r", {str(tmp_path)!r} + "/" + name).num_rows == 1
unused = {{"starlette", "duckdb", "httpx", "plotly", "apprise", "sqlglot", "deltalake"}}
assert not unused & set(sys.modules), unused & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


PLANT = """
name: plant
source: {{files: {data}}}
decode: {{csv: {{columns: {{m: text, v: float}}}}}}
key: m
folder: {folder}
streams:
  judged: {{steps: [{{ewma: {{of: v}}}}], sinks: [{{delta: judged}}]}}
"""
ROOMS = ("acquire", "decode", "condition", "detect", "estimate", "notify", "output")


def test_a_run_loads_the_parts_of_its_pipeline_alone(tmp_path: Path) -> None:
    """Each part that is loaded is read, has its settings built and its loops known: so no other part is."""
    (tmp_path / "in.csv").write_text("m,v\na,1\n")
    (tmp_path / "plant.yaml").write_text(PLANT.format(data=tmp_path / "in.csv", folder=tmp_path / "tables"))
    code = f"""
import sys
from click.testing import CliRunner
from tocsin.cli import main
done = CliRunner().invoke(main, ["run", {str(tmp_path / "plant.yaml")!r}])
assert done.exit_code == 0, done.output
print(*sorted(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    named = [name.split(".") for name in loaded if name.startswith("tocsin.")]
    parts = {".".join(name[1:]) for name in named if len(name) == 3 and name[1] in ROOMS and name[2][0] != "_"}
    assert parts == {
        "acquire.files",
        "decode.csv",
        "condition.event_time",
        "condition.rekey",
        "detect.ewma",
        "output.delta",
    }
    top = {name.partition(".")[0] for name in loaded}
    assert not top & {
        "sqlglot",
        "duckdb",
        "rich",
        "httpx",
        "starlette",
        "uvicorn",
        "plotly",
        "apprise",
        "obstore",
        "deltalake",
    }
    rooms = {name[1] for name in named if len(name) > 1}
    assert not rooms & {"flink", "serve", "infer", "testing", "estimate", "mqtt", "kafka", "kinesis", "postgres"}
