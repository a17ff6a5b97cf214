"""A datafeed's aggregations: which field stands behind which name, so that raw rows do as well as summaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tocsin.detect.job import _fields
from tocsin.detect.job._definition import Definition, seconds

METRICS = ("avg", "max", "min", "sum", "value_count", "cardinality")
CALENDAR_S = {
    "second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0, "week": 604_800.0,
    "1s": 1.0, "1m": 60.0, "1h": 3_600.0, "1d": 86_400.0, "1w": 604_800.0,
}  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """Names that the job uses, and the fields of raw rows that they come from."""

    definition: Definition
    names: Mapping[str, tuple[str, str]] = field(init=False)
    """By name: kind of aggregation (``terms``, ``avg`` ...) and field."""
    interval_s: float | None = field(init=False)

    def __post_init__(self) -> None:
        names: dict[str, tuple[str, str]] = {}
        intervals: list[float] = []
        _walk(self.definition.datafeed.aggregations or {}, names, intervals)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "interval_s", intervals[0] if intervals else None)

    def raw(self, schema: pa.Schema) -> bool:
        """Whether rows are documents still to be summarised: they do not have the count that summaries have."""
        count = self.definition.job.analysis_config.summary_count_field_name
        return bool(self.names) and not (count and _fields.has(schema, count))

    def of(self, name: str, schema: pa.Schema) -> str:
        """The field of a row to read for a name."""
        if name == "mlcategory":
            return self.definition.job.analysis_config.categorization_field_name or name
        if self.raw(schema) and name in self.names and not _fields.has(schema, name):
            return self.names[name][1]
        return name

    def terms(self, schema: pa.Schema) -> set[str]:
        return set()

    def metrics(self, schema: pa.Schema) -> set[str]:
        return set()

    def summarised(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows


def _walk(aggregations: Mapping[str, Any], names: dict[str, tuple[str, str]], intervals: list[float]) -> None:
    for name, body in aggregations.items():
        if not isinstance(body, Mapping):
            continue
        for kind, inner in body.items():
            if kind in ("aggregations", "aggs"):
                _walk(inner, names, intervals)
            elif not isinstance(inner, Mapping):
                continue
            elif kind == "date_histogram":
                said = inner.get("fixed_interval") or inner.get("calendar_interval") or inner.get("interval")
                if said is not None:
                    intervals.append(CALENDAR_S.get(str(said)) or seconds(said))
            elif kind == "composite":
                for source in inner.get("sources", ()):
                    _walk(source, names, intervals)
            elif kind == "terms" or kind in METRICS:
                names[name] = (kind, str(inner.get("field", name)))
