"""A datafeed's aggregations: raw rows are summed up as it would, rows that are summaries already pass as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.batch import Floats
from tocsin.detect.job import _fields
from tocsin.detect.job._bucket import NUMBER, TEXT, TIME, WEIGHT, Bucket
from tocsin.detect.job._definition import Definition, seconds
from tocsin.detect.job._values import counts, distinct, numeric

METRICS = {"avg": "mean", "max": "max", "min": "min", "sum": "sum", "value_count": "count", "cardinality": "distinct"}
CALENDAR_S = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0, "week": 604_800.0, "month": 2_629_800.0}
SAME = {("avg", "mean"), ("sum", "sum"), ("max", "max"), ("min", "min")}
"""Kind of aggregation and function that give the same over raw rows as over their summaries."""


@dataclass(frozen=True)
class Sources:
    """Names that the job uses, and the fields of raw rows that they come from."""

    definition: Definition
    names: Mapping[str, tuple[str, str]] = field(init=False)
    """By name: kind of aggregation (``terms``, ``avg`` ...) and field."""
    interval_us: int = field(init=False)
    needed: Mapping[str, str] = field(init=False)
    """By name: kind of the aggregations that must be worked out before the function looks at them."""

    def __post_init__(self) -> None:
        names: dict[str, tuple[str, str]] = {}
        intervals: list[float] = [self.definition.job.analysis_config.bucket_span]
        _walk(self.definition.datafeed.aggregations or {}, names, intervals)
        used = [(d.field_name, d.base) for d in self.definition.job.analysis_config.detectors if d.field_name]
        needed = {
            name: names[name][0] for name, function in used
            if name in names and names[name][0] in METRICS and (names[name][0], function) not in SAME
        }  # fmt: skip
        count = self.definition.job.analysis_config.summary_count_field_name
        if count in names and names[count][0] in METRICS:
            needed[count] = names[count][0]
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "interval_us", max(round(intervals[-1] * 1e6), 1))
        object.__setattr__(self, "needed", needed)

    def raw(self, schema: pa.Schema) -> bool:
        """Whether rows are documents still to be summed up: they have not the count that summaries have."""
        count = self.definition.job.analysis_config.summary_count_field_name
        return bool(self.names) and not (count and _fields.has(schema, count))

    def of(self, name: str, schema: pa.Schema) -> str:
        """The field of a row to read for a name."""
        if name == "mlcategory":
            return self.definition.job.analysis_config.categorization_field_name or name
        return self.names[name][1] if name in self.names and self.raw(schema) else name

    def counted(self, schema: pa.Schema) -> set[str]:
        """The count of a summary, where it is an aggregation itself."""
        count = self.definition.job.analysis_config.summary_count_field_name
        return {count} if count is not None and count in self.needed and self.raw(schema) else set()

    def by_words(self, name: str) -> bool:
        """Whether a name counts different texts."""
        return self.needed.get(name) == "cardinality"

    def summarised(self, rows: pa.RecordBatch, raw: bool) -> pa.RecordBatch:
        """Rows by interval and by the texts that split them, with their aggregations and how many there were."""
        if not raw or not self.needed or not rows.num_rows:
            return rows
        bucket = Bucket(rows, 0, 1, False)
        texts = [n for n in rows.schema.names if n.startswith(TEXT) and not self.by_words(n.removeprefix(TEXT))]
        times = rows.column(TIME).to_numpy(zero_copy_only=False)
        keys = np.stack([times // self.interval_us, *(bucket.codes(n.removeprefix(TEXT))[0] for n in texts)])
        _, first, groups = np.unique(keys, axis=1, return_index=True, return_inverse=True)
        groups, count = groups.reshape(-1), len(first)
        columns: dict[str, Any] = {n: rows.column(n).take(pa.array(first)) for n in rows.schema.names}
        counted = self.definition.job.analysis_config.summary_count_field_name
        columns[WEIGHT] = (
            np.nan_to_num(self._metric(counted, bucket, groups, count))
            if counted is not None and counted in self.needed
            else counts(groups, count, bucket.weight)
        )
        for name in rows.schema.names:
            if name.startswith(NUMBER):
                columns[name] = self._metric(name.removeprefix(NUMBER), bucket, groups, count)
        return pa.record_batch(columns)

    def _metric(self, name: str, bucket: Bucket, groups: Any, count: int) -> Floats:
        how = METRICS[self.needed.get(name, self.names.get(name, ("avg", ""))[0])]
        if how == "distinct":
            return distinct(groups, count, bucket.codes(name)[0])
        x = bucket.numbers(name)
        return counts(groups, count, (~np.isnan(x)).astype(float)) if how == "count" else numeric(
            how, groups, count, x, bucket.weight
        )  # fmt: skip


def _walk(aggregations: Mapping[str, Any], names: dict[str, tuple[str, str]], intervals: list[float]) -> None:
    for name, body in aggregations.items():
        if not isinstance(body, Mapping):
            continue
        for kind, inner in body.items():
            if not isinstance(inner, Mapping):
                continue
            if kind in ("aggregations", "aggs"):
                _walk(inner, names, intervals)
            elif kind == "date_histogram":
                said = inner.get("fixed_interval") or inner.get("calendar_interval") or inner.get("interval")
                if said is not None:
                    intervals.append(CALENDAR_S.get("month" if said == "1M" else str(said)) or seconds(said))
            elif kind == "composite":
                for source in inner.get("sources", ()):
                    _walk(source, names, intervals)
            elif kind == "terms" or kind in METRICS:
                names[name] = (kind, str(inner.get("field", name)))
