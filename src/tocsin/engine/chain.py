"""From what a source gives to rows with key and time: one chain of operators for each split, each with its state."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from tocsin.batch import END, LATE, OUT, RECORD, REJECTED, START, Batch, rejected, times_us, with_records
from tocsin.contracts import Operator, State
from tocsin.decode._base import RecordDecoder, Traced
from tocsin.models.runtime import SPENT
from tocsin.pipeline.plan import SourceNode
from tocsin.world import FirstTime


class Node:
    """An operator with its state."""

    def __init__(self, id: str, operator: Operator) -> None:
        self.id = id
        self.operator = operator
        self.state: State = operator.initial()
        self.changed = False
        self.inferences, self.inference_s = 0, 0.0
        """How often trained models were asked in its steps, and how long they took."""

    def step(self, batch: Batch) -> list[Batch]:
        calls, seconds = SPENT.calls, SPENT.seconds
        self.state, out = self.operator.step(self.state, batch)
        self.changed = True
        left = list(out)
        self.inferences += SPENT.calls - calls
        self.inference_s += SPENT.seconds - seconds
        return left


class Chain:
    """One partition: its own decoder, rekey and event_time with their states, and how far its time has come."""

    def __init__(self, origin: SourceNode, partition: str) -> None:
        self.origin = origin
        self.id = f"{origin.id}/{partition}"
        self.nodes = [Node(f"{self.id}/{operator.name()}", operator) for operator in origin.chain]
        self.watermark_us = START
        self.idle = False
        self.has_keys_apart = any(operator.apart(None) is not None for operator in origin.chain)

    def through(self, batch: Batch, traced: Traced | None = None) -> list[Batch]:
        """What leaves the chain; rows on side ports leave it at once. ``traced``: what the decoder made of it ahead."""
        if not self.nodes or batch.port != OUT:
            return [batch]
        first = self.nodes[0]
        if not isinstance(first.operator, RecordDecoder):
            return self._from(batch, 0)
        first.changed = True
        first.state, decoded, origin = traced or first.operator.traced(first.state, batch)
        left: list[Batch] = []
        for out in decoded:
            if out.port != OUT:
                left.append(out)
                continue
            numbered = Batch(with_records(out.rows, origin), out.watermark_us, OUT, batch.lane, out.apart)
            for passed in self._from(numbered, 1):
                rows = passed.rows
                if passed.port == REJECTED:
                    left.append(passed.with_rows(_with_bytes(rows, batch.rows)))
                else:  # what a step tells beside the rows (new signals) is of no record
                    hidden = [RECORD] if RECORD in rows.schema.names else []
                    left.append(passed.with_rows(rows.drop_columns(hidden)))
        return left

    def _from(self, batch: Batch, at: int) -> list[Batch]:
        if at == len(self.nodes) or batch.port != OUT:
            return [batch]
        left = self.nodes[at].step(batch)
        if batch.lane is not None:
            left = [replace(out, lane=batch.lane) if out.port == OUT else out for out in left]
        return [passed for out in left for passed in self._from(out, at + 1)]

    def counters(self) -> Counter[str]:
        """Returns what its operators count."""
        counted: Counter[str] = Counter()
        for node in self.nodes:
            counted.update(node.operator.counters(node.state))
        return counted


def first_time(origin: SourceNode) -> FirstTime | None:
    """Returns what tells a source the time of its rows before it hands them over; None if they do not say it.

    A source that reads several files in turn can so begin with the oldest.
    """
    if not any(operator.tells_late() for operator in origin.chain):
        return None

    def first(parts: Sequence[pa.RecordBatch]) -> int:
        chain, least = Chain(origin, "ahead"), END
        for rows in parts:
            passed = [out for out in chain.through(Batch(rows)) if out.port in (OUT, LATE) and len(out)]
            least = min((int(times_us(out.rows).min()) for out in passed), default=END)
        return START if least == END else least

    return first


def _with_bytes(aside: pa.RecordBatch, records: pa.RecordBatch) -> pa.RecordBatch:
    """Rows set aside behind the decoder, with the bytes, topic and position of the record that each came from.

    Of a record with many rows the first one has the bytes, or a record of a megabyte might be kept a thousand times.
    """
    numbers = aside.column("position").to_numpy()
    some, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    payloads = records.column("payload").take(pa.array(some)).to_pylist()
    came = records.select(["topic", "position"]).take(pa.array(numbers))
    digests = [hashlib.sha256(payload).hexdigest() for payload in payloads]
    return rejected(
        aside.column("key"),
        aside.column("time"),
        aside.column("reason").to_pylist(),
        aside.column("detail").to_pylist(),
        [payloads[record] if first[record] == i else b"" for i, record in enumerate(which.tolist())],
        topics=came.column("topic"),
        positions=came.column("position"),
        digests=[digests[record] for record in which.tolist()],
    )


__all__ = ["Chain", "Node", "first_time"]
