"""How often `tocsin watch` concludes rightly, without help, what a source holds: format, time, machine, signals.

    python bench/first_minutes.py DIR       # tests/infer/samples holds some made from the documentation of devices

DIR has one folder for each sample: the file or files that a person would name (given to `tocsin watch` as one source),
or ``messages.ndjson``, with a line ``{"topic": "...", "payload": "..."}`` for each message of a broker; and
``expected.json``::

    {"machine": "device", "time": "ts", "signals": ["a", "b"]}

``machine`` is the column that names it, ``topic`` (or any other word that is no field) for a level of the topic, ``file
name`` for the name of the file, or null where all rows are of one, or none is named; ``time`` is a column (of a date
and a time of day either), ``file name``, ``any`` for whatever it may be, or null for none: arrival, or rows counted.
Where each row names its one signal, ``signals`` are the column with the value, or what the signals are called; ``.`` is
the own text of an XML element. Columns without a header are c1, c2 ..., or go by their place from 0 or 1; a name that
somebody gave them is not compared.

Compared is without letters' case, and by the last step of a path. Where null is expected a field may be the machine
that has one name in the whole sample, or that names each signal. All signals expected must be there, and of others at
most half as many, or two. Right also means that the file which `tocsin watch --save` writes passes `tocsin check`, and
that it reads at least nine of ten records of the sample.

Printed is a line for each sample and, last, JSON: samples, right, and the median of the seconds that one took.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tocsin.cli.sources import Named, read_sample
from tocsin.errors import TocsinError
from tocsin.infer.conclude import Conclusion, conclude
from tocsin.infer.sample import Piece, Sample, last_step
from tocsin.infer.writing import pipeline_file
from tocsin.pipeline.yamlfile import load_with_plan

MESSAGES, EXPECTED = "messages.ndjson", "expected.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folders = sorted(path.parent for path in parser.parse_args().folder.glob(f"*/{EXPECTED}"))
    right, seconds = 0, []
    for folder in folders:
        begin = time.perf_counter()
        wrong = mistakes(folder)
        seconds.append(time.perf_counter() - begin)
        right += not wrong
        print(f"{folder.name:<24}{'right' if not wrong else 'WRONG: ' + '; '.join(wrong)}")
    median = round(statistics.median(seconds), 3) if seconds else None
    print(json.dumps({"samples": len(folders), "right": right, "median_s": median}))


def mistakes(folder: Path) -> list[str]:
    """Return what is wrong about the conclusion for one sample; nothing if it is right."""
    expected = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))
    try:
        with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory() as written:
            sample, source = sample_of(folder, Path(data))
            made = conclude(sample, now_us=time.time_ns() // 1_000)
            wrong = list(compared(made, expected))
            file = Path(written) / "watch.yaml"
            file.write_text(pipeline_file(made, "watch", source, folder=f"{written}/data"), encoding="utf-8")
            _, plan = load_with_plan(file)
            read, seen, reasons = read_sample(plan, sample)
    except TocsinError as error:
        return [str(error)]
    if read < 0.9 * seen or not read:
        wrong.append(f"only {read} of {seen} rows are read: {', '.join(reasons)}")
    return wrong


def sample_of(folder: Path, scratch: Path) -> tuple[Sample, Mapping[str, Any]]:
    """Return the sample in a folder, and a source for the pipeline that reads it."""
    messages = folder / MESSAGES
    if not messages.exists():
        paths = [path for path in folder.iterdir() if path.name != EXPECTED]
        for path in paths:
            shutil.copy(path, scratch)
        named = Named(str(scratch / paths[0].name if len(paths) == 1 else scratch))
        sample = named.sample()
        return sample, named.source(conclude(sample).form)
    lines = [json.loads(line) for line in messages.read_text(encoding="utf-8").splitlines() if line]
    pieces = [Piece(line["topic"], line["payload"].encode()) for line in lines]
    return Sample(pieces), {"mqtt": {"url": "mqtt://127.0.0.1", "topic": "#"}}


def compared(made: Conclusion, expected: Mapping[str, Any]) -> list[str]:
    """Return where a conclusion differs from what is expected."""
    named = _Named(made)
    wrong = []
    machine, wanted = made.machine, expected["machine"]
    concluded = machine.path
    if concluded is None and machine.key is not None:
        concluded = "file name" if made.form.files else "topic"
    is_one = wanted is None and (len(machine.names) <= 1 or "series" in machine.reason)
    is_level = concluded == "topic" and wanted is not None and not named.is_field(wanted)
    if not (named.same(concluded, wanted) or is_one or is_level):
        wrong.append(f"machine {concluded}, not {wanted}")
    times, wanted = ["file name" if path == "topic" else path for path in made.time.paths], expected["time"]
    if wanted != "any" and not (any(named.same(path, wanted) for path in times) or (wanted is None and not times)):
        wrong.append(f"time {' and '.join(times) or None}, not {wanted}")
    signals = [one.path for one in made.signals.fields]
    told = set(map(_plain, made.signals.names)) | set(map(str.casefold, made.signals.names))
    if machine.signal_in_topic:
        told |= {
            _plain("/".join(topic.split("/")[i:])) for topic in made.form.topics for i in range(topic.count("/") + 1)
        }
    lacking = [
        str(name) for name in expected["signals"]
        if not {_plain(name), str(name).casefold()} & told and not any(named.same(path, name) for path in signals)
    ]  # fmt: skip
    if lacking:
        wrong.append(f"signals lack {', '.join(lacking)}")
    if len(signals) - len(expected["signals"]) > max(2, len(expected["signals"]) // 2):
        wrong.append(f"too many signals: {', '.join(signals)}")
    return wrong


class _Named:
    """How fields may be called by whoever wrote down what is expected."""

    def __init__(self, made: Conclusion) -> None:
        self._fields = {_plain(one.path) for one in made.form.fields}
        self._without_names = made.form.files.get("header") == "none"

    def is_field(self, name: Any) -> bool:
        return _plain(name) in self._fields

    def same(self, path: str | None, name: Any) -> bool:
        """Return whether a path is what was named; a column without a name may be called by its place, or anyhow."""
        if path is None or name is None:
            return path is name
        if _plain(path) == _plain(name) or path.casefold() == str(name).casefold():
            return True
        if not self._without_names or self.is_field(name):
            return False
        place = re.fullmatch(r"\D*(\d+)", str(name))
        return place is None or _plain(path) in (f"c{place[1]}", f"c{int(place[1]) + 1}")


def _plain(path: Any) -> str:
    return last_step(path).lstrip("@").casefold() if isinstance(path, str) and path != "." else str(path)


if __name__ == "__main__":
    main()
