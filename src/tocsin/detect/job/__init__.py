"""Job: anomaly-detection jobs of Elastic's machine learning, run as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import PrivateAttr, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from tocsin.batch import END, START, Batch, tick
from tocsin.contracts import Operator
from tocsin.detect.job import _fields
from tocsin.detect.job._aggregations import Sources
from tocsin.detect.job._analysis import Analysis
from tocsin.detect.job._bucket import TEXT, TIME, Bucket, projected
from tocsin.detect.job._categories import Messages
from tocsin.detect.job._definition import Definition, parse, read_json
from tocsin.detect.job._query import Predicate, compile_query
from tocsin.detect.job._renormalise import renormalised
from tocsin.detect.job._results import SCHEMA, as_rows
from tocsin.detect.job._state import JobState
from tocsin.detect.job._values import NUMERIC, TEXTUAL
from tocsin.errors import ConfigError, SchemaError

RENORMALISED = "renormalised"
"""The port by which a record leaves again when its score has changed."""
EMPTY_MAX = 1_000
"""After so many empty buckets in a row the job waits for the next row, rather than judge silence for ever."""


def _example(span: str, **detector: Any) -> Mapping[str, Any]:
    return {"analysis_config": {"bucket_span": span, "detectors": [detector], "influencers": ["text"]}}


class Job(Operator):
    """Runs an anomaly-detection job of Elastic's machine learning: its JSON as it is, datafeed and all.

    Rows are the documents: a field ``process.name`` is the column of that name, field ``name`` of a struct ``process``,
    or a path in a column of JSON text. The datafeed's query chooses rows, ``bucket_span`` parts time into buckets, and
    as the watermark passes a bucket's end each detector judges its value, series by series, before it learns it. What
    leaves are results with Elastic's names: ``record`` (an anomaly), ``influencer`` (who is to blame), ``bucket`` (one
    for every bucket) and, with ``model_plot_config`` or ``model_plot``, ``model_plot`` (typical value and bounds).

    Scores run from 0 to 100 in proportion to the job's own past; critical from 75. When something worse makes earlier
    records less, they leave once more by the port ``renormalised`` with a new ``record_score``.

    A job says nothing of a series before it has seen it for a day's buckets (30 to 100); feed old rows first, and it
    starts warm.

    Not for a single series without a job at hand: `novelty` needs no settings and answers every reading at once.

    Examples
    --------
    >>> calls = [100.0 + i % 5 for i in range(60)]
    >>> calls[50] = 900.0
    >>> job = Job(definition={"analysis_config": {
    ...     "bucket_span": "1h", "detectors": [{"function": "high_mean", "field_name": "calls"}]}})
    >>> left = feed(job, rows({"calls": calls}, every_s=3600))
    >>> [(r["actual"], r["severity"]) for r in left.to_pylist() if r["result_type"] == "record"]
    [([900.0], 'critical')]

    Elastic: "Anomaly detection" (function reference, custom rules, get records API). Models and scores are our own.
    """

    ONE_TIME: ClassVar[bool] = True
    SHORTHAND: ClassVar[str | None] = "definition"
    ACROSS_KEYS: ClassVar[str] = "a job splits by fields of the rows, and scores a bucket over all of its series"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"definition": _example("5s", function="mean", field_name="value", partition_field_name="text")},
        {"definition": _example("5s", function="rare", by_field_name="text"), "model_plot": True},
        {"definition": _example("2s", function="high_distinct_count", field_name="count", over_field_name="key")},
    )

    KEEPS_STATE: ClassVar[Collection[str]] = ("filters", "events", "model_plot")

    definition: Annotated[Mapping[str, Any], WithJsonSchema({"type": ["string", "object"], "examples": ["job.json"]})]
    """The job: the name of its file, or what stands in it, with its datafeed if there is one."""
    which: str | None = None
    """The job's id, if the file holds several."""
    filters: Mapping[str, tuple[str, ...]] = {}
    """Items of the filters that custom rules name, by filter id; an item may begin or end with a star."""
    events: tuple[Mapping[str, Any], ...] = ()
    """Calendar events (description, start_time, end_time): nothing is reported or learned meanwhile."""
    model_plot: bool = False
    """Whether every bucket of every series gives a row with its typical value and bounds."""

    _definition: Definition = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(given.get("definition"), str | Path):
            try:
                return {**given, "definition": read_json(Path(given["definition"]))}
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return given

    @model_validator(mode="after")
    def _understood(self) -> Job:
        try:
            tree = {**self.definition, "events": [*_listed(self.definition.get("events")), *self.events]}
            understood = parse(tree, self.which)
            self._definition = Definition(
                understood.job, understood.datafeed, {**understood.filters, **self.filters}, understood.events
            )
            _ = self.chosen, self.sources, self.analysis
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @cached_property
    def chosen(self) -> Predicate:
        """Which rows the datafeed takes."""
        return compile_query(self._definition.datafeed.query)

    @cached_property
    def sources(self) -> Sources:
        """Which field of a row stands behind a name that the job uses."""
        return Sources(self._definition)

    @cached_property
    def analysis(self) -> Analysis:
        """What judges a bucket."""
        plot = self._definition.job.model_plot_config
        return Analysis(self._definition, self.model_plot or (plot is not None and plot.enabled))

    @property
    def time_field(self) -> str:
        """The column of the documents' time, for those who read them from a file."""
        return self._definition.job.data_description.time_field

    @cached_property
    def span_us(self) -> int:
        return max(round(self._definition.job.analysis_config.bucket_span * 1e6), 1)

    def shape(self, input: pa.Schema) -> Mapping[str, Any]:
        """Rules and texts inside the job may change, too."""
        return {**super().shape(input), "definition": _shaping(self.definition)}

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        """Results; a column that a detector needs must be there, one that it only blames need not."""
        for detector in self._definition.job.analysis_config.detectors:
            for name in (detector.field_name, *detector.entity_fields):
                if name is None:
                    continue
                source = self.sources.of(name, input)
                if not _fields.has(input, source):
                    raise SchemaError(
                        f"job needs field '{source}' ({detector.function}); "
                        f"what reaches it is [{', '.join(input.names)}]"
                    )
        return SCHEMA

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {RENORMALISED: SCHEMA}

    def initial(self) -> JobState:
        return JobState()

    def step(self, state: JobState, batch: Batch) -> tuple[JobState, Sequence[Batch]]:
        if len(batch):
            taken = batch.rows.filter(pa.array(self.chosen(batch.rows)))
            if taken.num_rows:
                state.memory["raw"] = self.sources.raw(taken.schema)
                state.pending.append(self._kept(state, taken))
        latency_us = round(self._definition.job.analysis_config.latency * 1e6)
        records: list[dict[str, Any]] = []
        if batch.watermark_us == END:
            records = self._close(state, END)
            state.closed = END
        elif batch.watermark_us > START + latency_us:
            until = (batch.watermark_us - latency_us) // self.span_us
            records = self._close(state, until)
            state.closed = max(state.closed, until * self.span_us)
        if not records:
            return state, (tick(SCHEMA, state.closed),)
        left = [Batch(as_rows(records), state.closed)]
        if state.revised:
            left.insert(0, Batch(as_rows(state.revised), state.closed, RENORMALISED))
            state.revised = []
        return state, left

    def _kept(self, state: JobState, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The columns that the job needs of rows that the datafeed takes."""
        config = self._definition.job.analysis_config
        detectors = config.detectors
        numbers = {d.field_name for d in detectors if d.field_name and d.base in NUMERIC}
        texts = {d.field_name for d in detectors if d.field_name and d.base in TEXTUAL}
        texts |= {f for d in detectors for f in d.entity_fields} | set(config.influencers)
        schema = rows.schema
        numbers |= self.sources.counted(schema)
        texts |= {name for name in numbers if self.sources.by_words(name)}
        kept = projected(
            rows,
            [(n, self.sources.of(n, schema)) for n in sorted(numbers)],
            [(n, self.sources.of(n, schema)) for n in sorted(texts) if n != "mlcategory"],
            config.summary_count_field_name,
        )
        if config.categorization_field_name and "mlcategory" in texts:
            messages = Messages(state.memory.setdefault("messages", {}), config.categorization_filters)
            column = _fields.find(rows, config.categorization_field_name)
            said = _fields.texts(column).to_pylist() if column is not None else [None] * rows.num_rows
            # A Python loop, about 2 µs a message whose words were seen before.
            kept = kept.append_column(TEXT + "mlcategory", pa.array([messages.category(s) for s in said], pa.string()))
        return kept

    def _close(self, state: JobState, until: int) -> list[dict[str, Any]]:
        """Analyse all buckets before ``until``, in order, those without rows as well."""
        waiting = self._waiting(state)
        numbers = waiting.column(TIME).to_numpy(zero_copy_only=False) // self.span_us if waiting is not None else None
        if until == END:
            if numbers is None:
                return []
            until = int(numbers.max()) + 1
            at_end = True
        else:
            at_end = False
        if state.next is None:
            if numbers is None or int(numbers.min()) >= until:
                return []
            state.next = int(numbers.min())
        if state.next >= until:
            return []
        records: list[dict[str, Any]] = []
        order = np.argsort(numbers, kind="stable") if numbers is not None else np.empty(0, np.int64)
        ordered = waiting.take(pa.array(order)) if waiting is not None else self._nothing()
        sorted_numbers = numbers[order] if numbers is not None else order
        begins = int(np.searchsorted(sorted_numbers, state.next))  # what comes too late is left out
        silent = state.memory.setdefault("silent", 0)
        while state.next < until:
            ends = int(np.searchsorted(sorted_numbers, state.next, side="right"))
            silent = silent + 1 if ends == begins else 0
            if silent > EMPTY_MAX:
                state.next = int(sorted_numbers[begins]) if begins < len(sorted_numbers) else until
                state.next = min(state.next, until)
                silent = EMPTY_MAX
                if state.next == until:
                    break
                continue
            rows = ordered.slice(begins, ends - begins)
            rows = self.sources.summarised(rows, bool(state.memory.get("raw")))
            last = at_end and state.next == until - 1
            bucket = Bucket(rows, state.next * self.span_us, self.span_us, last)
            records += self.analysis.bucket(state, bucket)
            state.revised += renormalised(self._definition, state, bucket.begin_us)
            begins = ends
            state.next += 1
        state.memory["silent"] = silent
        left = ordered.slice(begins)
        state.pending = [left] if left.num_rows else []
        return [{**one, "timestamp": one["time"]} for one in records]

    def _waiting(self, state: JobState) -> pa.RecordBatch | None:
        if not state.pending:
            return None
        if len(state.pending) > 1:
            state.pending = pa.Table.from_batches(state.pending).combine_chunks().to_batches()
        return state.pending[0]

    def _nothing(self) -> pa.RecordBatch:
        return self._kept(JobState(), pa.record_batch({"time": pa.array([], pa.timestamp("us", tz="UTC"))}))

    def dump(self, state: JobState) -> pa.Table:
        return state.dump()

    def load(self, table: pa.Table) -> JobState:
        return JobState.load(table)


_FREE = {"custom_rules", "detector_description", "description", "groups", "events", "filters", "model_plot_config"}


def _shaping(tree: Any) -> Any:
    """Returns a definition without what does not shape what is learned."""
    if isinstance(tree, Mapping):
        return {name: _shaping(value) for name, value in tree.items() if name not in _FREE}
    return [_shaping(value) for value in tree] if isinstance(tree, list | tuple) else tree


def load_job(path: Path) -> Job:
    """The job in a JSON file; `ConfigError` with one sentence if it cannot be run."""

    from tocsin.pipeline.parts import build, sentences

    try:
        part = build("operator", {"job": {"definition": str(path)}})
    except PydanticCustomError as error:
        raise ConfigError(f"{path}: " + "; ".join(sentences(error))) from error
    assert isinstance(part, Job)
    return part


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [] if value is None else [value]


__all__ = ["Job", "load_job"]
