"""The rows that leave: records, influencers, buckets and model bounds, with Elastic's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from tocsin.batch import KEY, TIME

_TEXT = (
    "function", "function_description", "field_name", "by_field_name", "by_field_value", "over_field_name",
    "over_field_value", "partition_field_name", "partition_field_value", "influencer_field_name",
    "influencer_field_value",
)  # fmt: skip
_NUMBER = (
    "probability", "record_score", "initial_record_score", "multi_bucket_impact", "anomaly_score",
    "initial_anomaly_score", "influencer_score", "initial_influencer_score", "model_lower", "model_upper",
    "model_median",
)  # fmt: skip
SCHEMA = pa.schema(
    [
        KEY,
        TIME,
        pa.field("result_type", pa.string(), nullable=False),
        pa.field("timestamp", TIME.type, nullable=False),
        pa.field("job_id", pa.string(), nullable=False),
        pa.field("bucket_span", pa.float64(), nullable=False),
        pa.field("detector_index", pa.int32()),
        *(pa.field(name, pa.string()) for name in _TEXT),
        pa.field("actual", pa.list_(pa.float64())),
        pa.field("typical", pa.list_(pa.float64())),
        *(pa.field(name, pa.float64()) for name in _NUMBER),
        pa.field("influencers", pa.string()),
        pa.field("causes", pa.string()),
        pa.field("severity", pa.string()),
        pa.field("is_interim", pa.bool_(), nullable=False),
        pa.field("event_count", pa.int64()),
        pa.field("warming", pa.string()),
    ]
)
"""One schema for all kinds of result; ``result_type`` says which columns a row fills."""


def as_rows(results: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Results as a batch; a column that a result does not name is null."""
    columns = []
    for field in SCHEMA:
        values = [one.get(field.name) for one in results]
        if field.name == "key":
            columns.append(pa.array(values, pa.string()).dictionary_encode().cast(KEY.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
