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
