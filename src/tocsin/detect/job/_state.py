"""What a job remembers: rows of buckets still open, a row of numbers for each series, and counts of categories."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.batch import START, Floats
from tocsin.detect.job._memory import Categories
from tocsin.detect.job._model import AT, WIDTH, start
from tocsin.detect.job._score import Normaliser

Entity = tuple[str | None, str | None]
"""Values of the partition and the by field; of a population the members share a model."""
SCORED = ("record", "bucket", "influencer")

DUMP = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("numbers", pa.list_(pa.float64())),
        pa.field("rows", pa.binary()),
    ]
)


class SeriesModels:
    """The models of one detector (and one of its parts): entity to row of a matrix."""

    def __init__(self) -> None:
        self.slots: dict[Entity, int] = {}
        self.models: Floats = np.empty((4, WIDTH))

    def slot(self, entity: Entity) -> int:
        """The row of an entity; of one never seen a fresh row."""
        slot = self.slots.get(entity)
        if slot is None:
            slot = self.slots[entity] = len(self.slots)
            if slot == len(self.models):
                self.models = np.concatenate([self.models, np.empty_like(self.models)])
            start(self.models[slot])
        return slot

    def keep(self, entities: list[Entity]) -> None:
        """Forget all other entities."""
        rows = [self.slots[entity] for entity in entities]
        self.models = np.ascontiguousarray(self.models[rows]) if rows else np.empty((4, WIDTH))
        self.slots = {entity: at for at, entity in enumerate(entities)}


class JobState:
    """All of it. Models are by (detector, part); ``memory`` holds what is JSON: categories, centres, frequencies."""

    def __init__(self) -> None:
        self.pending: list[pa.RecordBatch] = []
        self.series: dict[tuple[int, str], SeriesModels] = {}
        self.memory: dict[str, Any] = {}
        self.scores = {name: Normaliser() for name in SCORED}
        self.next: int | None = None
        """The next bucket to close; None before the first."""
        self.closed = START
        """Buckets that begin before this (µs) are closed: the output's watermark."""
        self.revised: list[dict[str, Any]] = []
        """Records to be told again at the end of this step; empty between steps."""
        self.buckets = 0
        """Buckets analysed so far."""

    def of(self, detector: int, part: str) -> SeriesModels:
        return self.series.setdefault((detector, part), SeriesModels())

    def remembered(self, part: str, detector: int, *entity: str | None) -> dict[str, Any]:
        """The memory of one entity, or of a partition; using it keeps it from being forgotten."""
        kept: dict[str, Any] = self.memory.setdefault(json.dumps([part, detector, *entity]), {})
        kept["at"] = self.next
        return kept

    def forget(self, before_s: float, span_s: float) -> None:
        """Forget series, memories and rare categories not seen since."""
        for series in self.series.values():
            kept = [e for e, slot in series.slots.items() if series.models[slot, AT] >= before_s]
            if len(kept) < len(series.slots):
                series.keep(kept)
        before = int(before_s / span_s)
        stale = [n for n, m in self.memory.items() if isinstance(m, dict) and m.get("at", before) < before]
        for name in stale:
            del self.memory[name]
        for name, memory in self.memory.items():
            if name.startswith('["rare"'):
                Categories(memory).prune(before)

    def dump(self) -> pa.Table:
        rows: list[dict[str, Any]] = [{"key": "job", "text": json.dumps([self.next, self.closed, self.buckets])}]
        for name, kept in self.scores.items():
            rows.append({"key": f"score {name}", "numbers": [kept.worst, *kept.counts]})
        for name, value in self.memory.items():
            rows.append({"key": f"memory {name}", "text": json.dumps(value)})
        for (detector, part), series in self.series.items():
            for entity, slot in series.slots.items():
                key = "model " + json.dumps([detector, part, *entity])
                rows.append({"key": key, "numbers": series.models[slot]})
        for at, batch in enumerate(self.pending):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            rows.append({"key": f"rows {at}", "rows": sink.getvalue().to_pybytes()})
        return pa.table({f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in DUMP}, schema=DUMP)

    @classmethod
    def load(cls, table: pa.Table) -> JobState:
        state = cls()
        for row in table.to_pylist():
            kind, _, name = row["key"].partition(" ")
            match kind:
                case "job":
                    state.next, state.closed, state.buckets = json.loads(row["text"])
                case "score":
                    state.scores[name] = Normaliser(row["numbers"][1:], row["numbers"][0])
                case "memory":
                    state.memory[name] = json.loads(row["text"])
                case "model":
                    detector, part, *entity = json.loads(name)
                    series = state.of(detector, part)
                    slot = series.slot((entity[0], entity[1]))  # before the matrix is looked at: it may grow
                    series.models[slot] = row["numbers"]
                case _:
                    state.pending += pa.ipc.open_stream(row["rows"]).read_all().to_batches()
        return state
