"""Submits a pipeline as one job, and waits for its end; started again it goes on from the last checkpoint."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tocsin.bases import Stateless
from tocsin.contracts import Checkpoint, Runner, Sink, StepState
from tocsin.engine.checkpoint import peek
from tocsin.engine.fitting import fit
from tocsin.engine.keyed import spread_by
from tocsin.engine.recovery import Effects
from tocsin.engine.signals import stopped_by_signals
from tocsin.errors import ConfigError, ForeignCommit, StateMismatch, TocsinError, Unavailable
from tocsin.flink.delivering import Delivering
from tocsin.flink.distribution import BRIEF, environment, flink_home, link_jars, pack
from tocsin.flink.keeping import TROUBLE
from tocsin.flink.outbox import with_outboxes
from tocsin.flink.places import numbered, reader_names
from tocsin.flink.rest import Rest
from tocsin.pipeline.plan import Plan
from tocsin.world import replace as write_whole

logger = logging.getLogger(__name__)

GROUPS = 32
"""Groups that the keys of a new pipeline are parted into: the most tasks that its steps can have."""
LOOK_S = 0.25
"""How often it is looked whether all is read."""
ASK_S = 1.0
"""How often the JobManager is asked for the job: both sides take some 10 ms for it."""
BUNDLE_MS = 50
"""So long an element may wait for others, with which it goes to a Python worker and its state comes back from there."""
SUBMIT_S = 600.0
"""So long Flink may take for it: several Java and Python processes start, on a machine that may be busy."""
_SUBMITTED = re.compile(r"JobID ([0-9a-f]{32})")
_ERROR = re.compile(r"([\w$]+\.)*(errors\.\w+|\w+(Error|Exception))(: |$)")
_BY = {"key": "the whole key", "path": "the first step of its path"}
_RUNNING = ("INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "FAILING", "RECONCILING")


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a pipeline between two starts, in its state folder."""

    run: str
    """The name of the run that is under way, or of the last one."""
    job: str
    """The job's id in the cluster that it was given to."""
    groups: int
    prints: Mapping[str, Sequence[str]]
    """What each state is known by again (fingerprint, settings), by step."""
    numbers: Mapping[str, Mapping[str, int]]
    """Of all readers and sinks that there ever were, by kind and name."""
    change: str = ""
    """The start that was the last one."""
    forget: Sequence[str] = ()
    """Steps that it has let begin anew."""
    ended: bool = False
    by: str = "key"
    """What keys are spread by: a state is where its keys are."""


class FlinkRunner(Runner):
    """Runs the pipeline of a file on a cluster, until its sources end or until `stop`.

    The cluster's machines must have the same Python environment, and see the pipeline's folder and files at the same
    paths.
    """

    def __init__(
        self,
        file: Path,
        settings: Mapping[str, str],
        plan: Plan,
        jobmanager: str,
        parallelism: int | None = None,
        forget: Collection[str] | str = (),
    ) -> None:
        self._plan, self._parallelism, self._forget = with_outboxes(plan), parallelism, forget
        self._delivering = Delivering(plan)
        self._file, self._settings = file.absolute(), {**settings, "folder": str(plan.folder.absolute())}
        self._rest = Rest(jobmanager)
        self._folder = plan.state_folder.absolute() / "flink"
        self._disk = Effects().disk
        self._stopping = False
        self._troubled_ms = 0
        self._lagging: dict[str, str] = {}
        """By sink: why nothing is published, as was told last."""

    def run(self) -> None:
        flink_home()  # says what to install
        self._refuse_other_engines()
        self._rest.overview()
        self._disk.make_folder(self._folder)
        with stopped_by_signals(self.stop):
            record, whole = self._begin(), False
            self._delivering.start()
            try:
                ask_s = 0.0
                while not self._stopping and not self._is_whole(record):
                    if time.monotonic() >= ask_s:
                        record = self._look(record)
                        ask_s = time.monotonic() + ASK_S
                    self._tell_lags(record)
                    time.sleep(LOOK_S)
                whole = self._end(record)
            finally:
                self._delivering.stop(whole=whole)

    def stop(self) -> None:
        """End the job; the next start goes on from its last checkpoint."""
        self._stopping = True

    def last_checkpoint(self) -> Path | None:
        """Returns the newest complete checkpoint; their numbers go up from job to job."""
        complete = [path.parent for path in (self._folder / "checkpoints").glob("*/chk-*/_metadata")]
        return max(complete, key=lambda one: int(one.name.removeprefix("chk-")), default=None)

    def _refuse_other_engines(self) -> None:
        """A folder belongs to the runner that began in it: the two do not read each other's state."""
        if peek(self._plan.state_folder) is not None:
            raise StateMismatch(
                f"'{self._plan.name}' has run embedded in {self._plan.folder}, and Flink cannot go on from its state; "
                "give it another folder with --set folder=..."
            )

    def _begin(self) -> Record:
        """Go on with the job that is running; or submit one, from the last checkpoint if there is one."""
        known = self._read()
        if known is not None and not known.ended and self._rest.state(known.job) in _RUNNING:
            logger.warning("'%s' is running already, as job %s; waiting for it", self._plan.name, known.job)
            if self._changed(known):
                logger.warning("it runs as it was submitted; to run what the file says now, stop it first (Ctrl-C)")
            return known
        forget: Sequence[str] = ()
        if known is None or self.last_checkpoint() is None:
            self._refuse_other_rows()
        else:
            forget = self._fitted(known)
        if known is None:
            known = Record("", "", GROUPS, {}, {}, ended=True)
        numbers = {kind: numbered(names, known.numbers.get(kind, {})) for kind, names in self._names().items()}
        # What is new must hear, too, that all is read: so it is asked again, as in a new run.
        run = uuid.uuid4().hex[:12] if known.ended or self._changed(known) else known.run
        change, prints = uuid.uuid4().hex[:12], self._prints()
        made = replace(known, run=run, prints=prints, numbers=numbers, change=change, forget=forget)
        return self._submit(replace(made, by=spread_by(self._plan)))

    def _fitted(self, known: Record) -> Sequence[str]:
        """Returns what is to begin anew; `StateMismatch` where something would that nobody has named."""
        if known.by != spread_by(self._plan):
            raise StateMismatch(
                f"'{self._plan.name}' spread its keys by {_BY[known.by]}, and its steps now need them by "
                f"{_BY[spread_by(self._plan)]} (as rekey to {{key}}/... and cases with a depth do), where its state is "
                "not; give it another folder with --set folder=..., or take back the change"
            )
        # A step is `stream.0.name`; what stands at a source is `source.name`, and has a state for each split.
        ids = [name if name.count(".") > 1 else name.replace(".", "/*/") for name in known.prints]
        states = {id: StepState("", "", *one) for id, one in zip(ids, known.prints.values(), strict=True)}
        fitted = fit(self._plan, Checkpoint(0, states=states), self._forget)
        if (mismatch := fitted.mismatch(self._folder)) is not None:
            raise StateMismatch(mismatch)
        for sentence in fitted.sentences():
            logger.warning("%s", sentence)
        return sorted(fitted.forgotten)

    def _prints(self) -> dict[str, list[str]]:
        """Of all that may remember something, by step."""
        stateless = {step.id for step in self._plan.steps if isinstance(step.operator, Stateless)}
        return {name: list(one) for name, one in self._plan.prints().items() if name not in stateless}

    def _names(self) -> dict[str, list[str]]:
        return {"readers": reader_names(self._plan), "sinks": [target.id for target in self._plan.sinks]}

    def _changed(self, known: Record) -> bool:
        """Returns whether steps, sources or sinks are others than those of the last start."""
        there = all(set(names) <= known.numbers.get(kind, {}).keys() for kind, names in self._names().items())
        return not there or known.prints != self._prints()

    def _refuse_other_rows(self) -> None:
        """Where there is no checkpoint, no table may have rows of this pipeline: they would come twice."""
        for target in self._plan.sinks:
            assert isinstance(target.part, Sink)
            writer = target.part.open(Effects().world(self._plan, "staged", target.id), target.schema)
            stands = writer.published()
            writer.close()
            if stands is not None:
                raise ForeignCommit(
                    f"the table of '{target.id}' stands at epoch {stands}, but there is no checkpoint in "
                    f"{self._folder} to go on from; bring it back, or give the pipeline another folder"
                )

    def _submit(self, record: Record) -> Record:
        present = {kind: {name: record.numbers[kind][name] for name in names} for kind, names in self._names().items()}
        job = {
            "name": self._plan.name, "file": str(self._file), "settings": self._settings,
            "directory": str(Path.cwd()), "run": record.run, "groups": record.groups, "numbers": present,
            "change": record.change, "forget": list(record.forget),
        }  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="tocsin-flink-") as folder:
            place = Path(folder)
            link_jars(place / "lib")
            (place / "conf").mkdir()
            (place / "log").mkdir()
            self._configure(place / "conf", record.groups)
            command = ["bash", str(flink_home() / "bin" / "flink"), "run", "--detached", "-m", self._rest.address]
            if (checkpoint := self.last_checkpoint()) is not None:
                command += ["--fromSavepoint", checkpoint.as_uri(), "--claimMode", "CLAIM"]
            if self._parallelism is not None:
                command += ["--parallelism", str(self._parallelism)]
            program = Path(__file__).parent / "job.py"
            command += ["--jarfile", str(pack(place)), "-py", str(program), json.dumps(job)]
            try:
                done = subprocess.run(
                    command, env=environment(place / "conf"), capture_output=True, text=True, timeout=SUBMIT_S,
                    check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise Unavailable(f"the job was not submitted within {SUBMIT_S:g} s; try it again") from None
        if done.returncode or (submitted := _SUBMITTED.search(done.stdout)) is None:
            raise TocsinError(f"the job could not be submitted:\n{_reason(done.stdout + done.stderr)}")
        made = replace(record, job=submitted[1], ended=False)
        self._write(made)
        return made

    def _configure(self, conf: Path, groups: int) -> None:
        home = flink_home()
        shipped = re.search(r"^      all: (.*)$", (home / "conf" / "config.yaml").read_text(), re.MULTILINE)
        assert shipped is not None
        host, _, port = self._rest.address.rpartition(":")
        settings: dict[str, Any] = {
            "rest.address": host, "rest.port": port, "env.java.opts.all": shipped[1], "env.java.opts.client": BRIEF,
            "python.executable": sys.executable, "python.client.executable": sys.executable,
            "python.execution-mode": "process", "python.fn-execution.bundle.size": groups,
            "python.fn-execution.bundle.time": BUNDLE_MS, "python.metric.enabled": False, "pipeline.object-reuse": True,
            "execution.checkpointing.interval": f"{self._plan.checkpoint_us // 1_000} ms",
            "execution.checkpointing.mode": "EXACTLY_ONCE",
            "execution.checkpointing.dir": (self._folder / "checkpoints").as_uri(),
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            "execution.checkpointing.num-retained": 2,
            "restart-strategy.type": "exponential-delay",
            "restart-strategy.exponential-delay.initial-backoff": "500 ms",
            "restart-strategy.exponential-delay.max-backoff": "10 s",
        }  # fmt: skip
        (conf / "config.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
        for one in (home / "conf").glob("log*"):
            (conf / one.name).write_bytes(one.read_bytes())

    def _look(self, record: Record) -> Record:
        """Tell what has failed; submit the job again where its JobManager has forgotten it."""
        try:
            state = self._rest.state(record.job)
            trouble = self._rest.trouble(record.job) if state is not None else None
        except Unavailable as error:
            logger.info("%s", error)
            return record
        if trouble is not None and trouble[0] > self._troubled_ms:
            self._troubled_ms, reason = trouble[0], _reason(trouble[1])
            logger.warning("%s: %s; going back to the last checkpoint", self._plan.name, reason)
            if any(f"{error.__name__}: " in trouble[1] for error in (ConfigError, StateMismatch)):
                self._rest.cancel(record.job)
                raise TocsinError(reason)
        if state in _RUNNING:
            return record
        if state in ("FAILED", "CANCELED", "CANCELLING", "FINISHED"):
            raise TocsinError(f"the job has ended as {state}; started again it goes on from its last checkpoint")
        logger.warning("the JobManager has forgotten the job; it goes on from its last checkpoint")
        return self._submit(record)

    def _tell_lags(self, record: Record) -> None:
        """Tell of sinks whose tables are away, or refuse."""
        folder, lagging = self._folder / record.run, dict[str, str]()
        for target in self._plan.sinks:
            with suppress(FileNotFoundError):
                lagging[target.id] = self._disk.read(folder / f"{target.id}{TROUBLE}").decode()
        for id, reason in lagging.items():
            if self._lagging.get(id) != reason:
                logger.warning("%s: %s; its rows wait on disk, the others go on", id, reason)
        self._lagging = lagging

    def _is_whole(self, record: Record) -> bool:
        """Returns whether every table has all rows of the run."""
        there = set(self._disk.names(self._folder / record.run))
        return all(target.id in there for target in self._plan.sinks)

    def _end(self, record: Record) -> bool:
        """End the job; returns whether it was at its end."""
        whole = self._is_whole(record)
        self._rest.cancel(record.job)
        while self._rest.state(record.job) in (*_RUNNING, "CANCELLING"):
            time.sleep(LOOK_S)
        self._write(replace(record, ended=whole))
        return whole

    def _read(self) -> Record | None:
        path = self._folder / "run.json"
        return Record(**json.loads(self._disk.read(path))) if path.exists() else None

    def _write(self, record: Record) -> None:
        told = {name: getattr(record, name) for name in Record.__slots__}
        write_whole(self._disk, self._folder / "run.json", json.dumps(told).encode())


def _reason(text: str) -> str:
    """Returns the line of a stack trace that names the innermost cause.

    Examples
    --------
    >>> _reason("java.lang.RuntimeException: it failed\\n\\tat x(Y.java)\\nCaused by: java.io.IOException: gone")
    'java.io.IOException: gone'
    """
    lines = [line.strip().removeprefix("Caused by: ") for line in text.splitlines() if line.strip()]
    told = [line for line in lines if _ERROR.match(line) and "Python process exits" not in line]
    return (told or lines or ["nobody said why"])[-1 if told else 0]
