"""A small pipeline that is run as a person runs it, again and again, each time with something more to read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from tocsin.cli import main
from tocsin.lake.read import read

PRESS = """
name: press
folder: {folder}/lake
sources:
{sources}
streams:
  readings:
    from: [{names}]
    sinks: [delta: readings]
"""
SOURCE = (
    "  s{number}: {{source: {{files: {folder}/{number}.ndjson}}, "
    "decode: {{json: {{columns: {{machine: text, force: float}}}}}}, key: machine}}"
)


def give(folder: Path, count: int) -> None:
    """A further source with so many rows: what was read before is not read again.

    Each is of another machine with a long name: the state of two thousand is too large for the checkpoint to hold.
    """
    number = len(list(folder.glob("*.ndjson"))) + 1
    lines = (f'{{"machine": "{n:04d}{"a" * 100}", "force": 1.5}}\n' for n in range(count))
    (folder / f"{number}.ndjson").write_text("".join(lines))
    sources = "\n".join(SOURCE.format(number=i + 1, folder=folder) for i in range(number))
    names = ", ".join(f"s{i + 1}" for i in range(number))
    (folder / "p.yaml").write_text(PRESS.format(folder=folder, sources=sources, names=names))


def tocsin(*words: object, code: int = 0) -> str:
    """What is said of trouble, and of what was done, by the command in this process: a start costs seconds."""
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done.stderr


def unprivileged(*words: object, code: int = 0) -> str:
    """The same of a process that may not override permissions, even where the tests run as root."""
    may_less = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*may_less, sys.executable, "-m", "tocsin.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def rows(folder: Path) -> int:
    return read("readings", folder).num_rows
