"""The client library's records as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.batch import RAW_WITH_METADATA, TIME_TYPE, as_times

_ATTRIBUTES = RAW_WITH_METADATA.field("attributes").type


def to_rows(stream: str, records: Sequence[Mapping[str, Any]], position: int, received_us: int) -> pa.RecordBatch:
    """Return records of one shard as `RAW_WITH_METADATA`; the first is the shard's ``position``-th that was read."""
    count = len(records)
    columns = [
        pa.array([record["Data"] for record in records], pa.binary()),
        pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([stream])),
        pa.array(np.arange(position, position + count)),
        as_times(np.full(count, received_us)),
        pa.array([record["PartitionKey"].encode() for record in records], pa.binary()),
        pa.array([record.get("ApproximateArrivalTimestamp") for record in records], TIME_TYPE),
        pa.nulls(count, _ATTRIBUTES),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RAW_WITH_METADATA)


def arrived_us(record: Mapping[str, Any]) -> int | None:
    """Return when a record came to the stream, in microseconds since 1970; None where it does not say."""
    arrived = record.get("ApproximateArrivalTimestamp")
    return None if arrived is None else round(arrived.timestamp() * 1_000_000)
