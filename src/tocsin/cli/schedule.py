"""Jobs at their times: what each of them does, its retries, and a note of how it has ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from tocsin.batch import LATE, REJECTED
from tocsin.cli.launch import launch
from tocsin.contracts import Sink
from tocsin.engine.recovery import Effects
from tocsin.engine.signals import stopped_by_signals
from tocsin.errors import ConfigError, TocsinError, UnknownName
from tocsin.pipeline.model import ScheduledJob
from tocsin.pipeline.plan import Plan
from tocsin.pipeline.yamlfile import load_with_plan

NOTES = "jobs.json"
"""In the state folder: how each job has ended last."""
STOP_S = 30.0
"""How long a job that is asked to stop may take."""


class Schedule:
    """The jobs of a pipeline file."""

    def __init__(
        self, file: Path, settings: Sequence[str], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._file, self._settings, self._now = file, settings, now
        pairs = dict(pair.split("=", 1) for pair in settings if "=" in pair)
        pipeline, self.plan = load_with_plan(file, pairs)
        self.jobs: Mapping[str, ScheduledJob] = pipeline.jobs
        if not self.jobs:
            raise ConfigError(f"{file} has no jobs; add some, as jobs: {{nightly: {{cron: 30 2 * * *, do: load}}}}")
        for name, job in self.jobs.items():
            _require_fit(name, job, self.plan)
        self._stopping = threading.Event()

    def keep(self) -> None:
        """Do each job when it is due, until a signal; a job that is under way is stopped then."""
        due = {name: job.next_after(self._now()) for name, job in self.jobs.items()}
        with stopped_by_signals(self._stopping.set):
            while not self._stopping.is_set():
                name = min(due, key=lambda name: due[name])
                _say(f"{name}: next at {due[name]:%Y-%m-%d %H:%M} UTC")
                if self._stopping.wait(max((due[name] - self._now()).total_seconds(), 0.0)):
                    return
                self._do_in_a_process(name)
                due[name] = self.jobs[name].next_after(self._now())

    def do(self, name: str) -> None:
        """Do one job now; its error after the last try."""
        if name not in self.jobs:
            raise UnknownName("job", name, self.jobs)
        job, began = self.jobs[name], self._now()
        for tried in range(job.retries + 1):
            try:
                did = _do(job, self.plan)
            except (TocsinError, OSError) as error:
                self._note(name, began, tried + 1, str(error), is_right=False)
                if tried == job.retries or isinstance(error, ConfigError):
                    raise
                wait_s = job.retry_after / 1e6 * 2**tried
                _say(f"{name}: {error}; trying again in {wait_s:g} s")
                self._stopping.wait(wait_s)
            else:
                self._note(name, began, tried + 1, did, is_right=True)
                _say(f"{name}: {did}")
                return

    def table(self) -> pa.Table:
        """Return what is due when, and how it ended last."""
        notes = self._notes()
        rows = [
            {
                "job": name,
                "does": job.do,
                "next": job.next_after(self._now()),
                "last": notes.get(name, {}).get("began", "never"),
                "ended": {True: "well", False: "badly"}.get(notes.get(name, {}).get("right"), ""),
                "tries": notes.get(name, {}).get("tries", 0),
                "said": notes.get(name, {}).get("said", ""),
            }
            for name, job in self.jobs.items()
        ]
        return pa.Table.from_pylist(rows)

    def _do_in_a_process(self, name: str) -> None:
        """Do one job in a process of its own, whose memory and mistakes are its own."""
        options = [word for pair in self._settings for word in ("--set", pair)]
        command = [sys.executable, "-m", "tocsin.cli", "jobs", str(self._file), "--run", name, *options]
        child = subprocess.Popen(command)
        while child.poll() is None:
            if self._stopping.wait(0.1):
                child.terminate()
                try:
                    child.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    child.kill()
        if child.returncode:
            _say(f"{name}: has failed; tocsin jobs {self._file} --status says why")

    def _notes(self) -> dict[str, Any]:
        try:
            notes: dict[str, Any] = json.loads((self.plan.state_folder / NOTES).read_bytes())
        except (OSError, ValueError):
            return {}
        return notes

    def _note(self, name: str, began: datetime, tries: int, said: str, *, is_right: bool) -> None:
        """Keep how a job has ended; it is for people, so its loss would harm nobody."""
        self.plan.state_folder.mkdir(parents=True, exist_ok=True)
        note = {"began": f"{began:%Y-%m-%dT%H:%M:%SZ}", "right": is_right, "tries": tries, "said": said}
        path = self.plan.state_folder / NOTES
        fresh = path.with_suffix(f".{os.getpid()}.new")
        fresh.write_text(json.dumps({**self._notes(), name: note}, indent=1))
        fresh.replace(path)


def _require_fit(name: str, job: ScheduledJob, plan: Plan) -> None:
    """Raise `ConfigError` for a job that this pipeline cannot do."""
    if job.do not in ("load", "reload"):
        return
    if not plan.is_bounded():
        raise ConfigError(f"jobs.{name}: a {job.do} ends with its sources, and one of them follows; remove follow")
    for target in plan.sinks:
        is_set_aside = {port for _, port in target.inputs} <= {REJECTED, LATE}
        replaces = getattr(target.part, "upsert", ()) or is_set_aside
        if job.do == "reload" and isinstance(target.part, Sink) and not replaces:
            raise ConfigError(f"jobs.{name}: a reload would write the rows of '{target.id}' twice; give it upsert")


def _do(job: ScheduledJob, plan: Plan) -> str:
    """Do the job once; return what was done."""
    if job.do in ("load", "reload"):
        forget = [origin.id for origin in plan.sources] if job.do == "reload" else ()
        counted = launch(plan, forget=forget)
        return f"{sum(counted['rows_in'].values()):,} records read"
    done, effects = [], Effects()
    for target in plan.sinks:
        if isinstance(target.part, Sink):
            did = target.part.tend(job.do, effects.world(plan, "staged", target.id))
            done += [] if did is None else [f"{target.id}: {did}"]
    return "; ".join(done) or "nothing to do"


def _say(sentence: str) -> None:
    click.echo(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {sentence}", err=True)
