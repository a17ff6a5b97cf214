"""Runs small inputs as a user would, and compares what came of them with what is right.

python bench/cases.py FOLDER [EXPECTATIONS]

Each folder in FOLDER that holds a pipeline file and an ``expected.json`` is a case, copied to a place of its own and
run there by ``tocsin run``. Expectations may also stand in a second folder, under the same names: for input that
cannot be changed. ``expected.json`` says, for one pipeline file or by the names of several ("a.yaml": {...}):

- ``exit``: the exit code (0);
- ``message``: a phrase, or several, of what is printed;
- ``tables``: by name, the number of rows, or the rows; of these, only the columns named are compared, times as text.

- ``follows``: true where the pipeline does not end by itself: it is stopped once the tables are right;
- ``files``: what is written beforehand, text by path;
- ``then``: further expectations, each run in the same place after the one before; ``file`` names its pipeline.

A pipeline may also be given in the expectation itself, as ``pipeline``, in place of a file. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tocsin
from tocsin.errors import TocsinError
from tocsin.pipeline.yamlfile import load

TIMEOUT_S = 120
POLL_S = 0.3

Started = Callable[[Path, str, Mapping[str, Any]], tuple[int, str]]
"""Runs a pipeline file in a folder, as far as is expected: the exit code, and what was printed."""


def cases(folder: Path, expectations: Path | None) -> Iterator[tuple[str, Path, str, Mapping[str, Any]]]:
    """Name, input folder, pipeline file and expectation of each case."""
    for inputs in sorted(path for path in folder.iterdir() if path.is_dir()):
        stated = [inputs / "expected.json", *([expectations / inputs.name / "expected.json"] if expectations else [])]
        for path in stated:
            if not path.is_file():
                continue
            expected = json.loads(path.read_text(encoding="utf-8"))
            named = {k: v for k, v in expected.items() if k.endswith((".yaml", ".yml"))}
            if not named:
                files = sorted(inputs.glob("*.y*ml"))
                chosen = next(
                    (f.name for f in files if f.stem == "pipeline"), files[0].name if files else "pipeline.yaml"
                )
                named = {chosen: expected}
            for file, wanted in named.items():
                if "pipeline" in wanted or (inputs / file).is_file():
                    yield f"{inputs.name}/{file}", inputs, file, wanted


def run(inputs: Path, file: str, expected: Mapping[str, Any], started: Started | None = None) -> str:
    """What is wrong with a case, started in a process of its own or as told; nothing if all is right."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "case"
        shutil.copytree(inputs, home, copy_function=shutil.copyfile)
        for path in [home, *home.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        return next(
            filter(None, (step(home, one.get("file", file), one, started or process) for one in steps_of(expected))), ""
        )


def steps_of(expected: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The runs of a case, in order."""
    return [expected, *expected.get("then", [])]


def step(home: Path, file: str, expected: Mapping[str, Any], started: Started) -> str:
    """What is wrong with one run."""
    for path, text in expected.get("files", {}).items():
        (home / path).write_text(text, encoding="utf-8")
    if "pipeline" in expected:
        (home / file).write_text(expected["pipeline"], encoding="utf-8")
    code, printed = started(home, file, expected)
    if "Traceback" in printed:
        return f"a traceback: {printed.strip().splitlines()[-1]}"
    if code != expected.get("exit", 0):
        return f"{file}: exit {code}, not {expected.get('exit', 0)}: {printed.strip()[-300:]}"
    phrases = expected.get("message", [])
    for phrase in [phrases] if isinstance(phrases, str) else phrases:
        if phrase not in " ".join(printed.split()):
            return f"{file}: nothing says {phrase!r}: {printed.strip()[-300:]}"
    return differences(home, file, expected)


def process(home: Path, file: str, expected: Mapping[str, Any]) -> tuple[int, str]:
    """Run a pipeline to its end, or until its tables are right; returns its exit code and what it has printed."""
    command = [sys.executable, "-c", "from tocsin.cli import main; main()", "run", file]
    with subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        until = time.monotonic() + TIMEOUT_S
        while expected.get("follows") and running.poll() is None and time.monotonic() < until:
            if not differences(home, file, expected):
                running.send_signal(signal.SIGINT)
                break
            time.sleep(POLL_S)
        try:
            printed, _ = running.communicate(timeout=max(until - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            running.kill()
            printed, _ = running.communicate()
        return running.returncode, printed


def differences(home: Path, file: str, expected: Mapping[str, Any]) -> str:
    """How the first table that differs does."""
    return next(filter(None, (compare(home, file, *table) for table in expected.get("tables", {}).items())), "")


def compare(home: Path, file: str, name: str, wanted: int | list[dict[str, Any]]) -> str:
    """How a table differs."""
    try:
        rows = tocsin.read(name, home / load(home / file).folder).to_pylist()
    except TocsinError:
        rows = []
    if isinstance(wanted, int):
        return "" if len(rows) == wanted else f"{name}: {len(rows)} rows, not {wanted}"
    left = [{column: plain(value) for column, value in row.items()} for row in rows]
    for row in wanted:
        match = next((other for other in left if all(same(other.get(c), plain(v)) for c, v in row.items())), None)
        if match is None:
            return f"{name}: no row {json.dumps(row, ensure_ascii=False)} among {str(left)[:600]}"
        left.remove(match)
    return f"{name}: rows too many, {left[:3]}" if left else ""


def plain(value: Any) -> Any:
    """Times as text of one form, bytes as text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, str) and value.endswith("Z"):
        try:
            return datetime.fromisoformat(value).astimezone(UTC).isoformat().replace("+00:00", "Z")
        except ValueError:
            return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def same(value: Any, wanted: Any) -> bool:
    if isinstance(value, float) and isinstance(wanted, int | float) and not isinstance(wanted, bool):
        return math.isclose(value, wanted, rel_tol=1e-9)
    return type(value) is type(wanted) and value == wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("expectations", type=Path, nargs="?")
    given = parser.parse_args()
    listed = list(cases(given.folder, given.expectations))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda case: run(*case[1:]), listed))
    wrong = {name: said for (name, *_), said in zip(listed, results, strict=True) if said}
    for name, said in wrong.items():
        print(f"{name}: {said}")
    print(json.dumps({"cases": len(listed), "right": len(listed) - len(wrong), "wrong": sorted(wrong)}))


if __name__ == "__main__":
    main()
