"""Sparkplug B: births, deaths and data of edge nodes and their devices, a row for each metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.bases import require
from tocsin.batch import KEY_TYPE, RAW, REJECTED, TIME_TYPE, Batch, as_one, as_times, empty, floats, times_us
from tocsin.decode._base import RecordDecoder, Traced, raw
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects
from tocsin.settings.quantities import Size
from tocsin.sparkplug.nodes import MISSED, STATE_TOPIC, BornDevice, Heard, Nodes
from tocsin.sparkplug.payload import (
    NAMESPACE,
    OTHERS,
    Topic,
    Unreadable,
    name_of,
    parse,
    payload_class,
    quality_of,
    read_topic,
    type_name,
    type_of,
    value_of,
)

_EVENTS = {"NBIRTH": "birth", "DBIRTH": "birth", "NDATA": "data", "DDATA": "data", "NDEATH": "death", "DDEATH": "death"}
_MS_MAX = 7_258_118_400_000
"""The year 2200."""
SCHEMA = pa.schema(
    [
        pa.field("machine", KEY_TYPE, nullable=False),
        pa.field("group_id", KEY_TYPE, nullable=False),
        pa.field("node", KEY_TYPE, nullable=False),
        pa.field("device", KEY_TYPE),
        pa.field("event", KEY_TYPE, nullable=False),
        pa.field("metric", KEY_TYPE),
        pa.field("at", TIME_TYPE, nullable=False),
        pa.field("value", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("type", KEY_TYPE),
        pa.field("quality", KEY_TYPE, nullable=False),
        pa.field("historical", pa.bool_(), nullable=False),
        RAW.field("received"),
    ]
)


class Sparkplug(RecordDecoder):
    """Births, deaths and data of Sparkplug B: a row for each metric, and one without a metric for each birth and death.

    Aliases and types are taken from the births, which are part of the state: a restart forgets none. Numbers and truth
    (0 and 1) are ``value``, all else is ``text``: a DateTime in ISO 8601, Bytes in Base64, arrays in JSON, and integers
    beyond 2⁵³ exactly. ``quality`` is ``good``, ``uncertain`` (known by an alias, and messages have been missed since
    the birth), ``bad`` or ``stale``; the last two have no value. The death of a node is that of its devices, and makes
    a ``stale`` row of each metric; ``at`` is then when it was heard. What is sent before its birth, or in a type that
    is not read, is set aside metric by metric. Read it from the source ``sparkplug``, which asks for births that were
    missed. Some 10 µs a metric. Needs ``pip install 'tocsin[sparkplug]'``.

    Examples
    --------
    >>> birth = payload_class()(timestamp=1767268800000, seq=0, metrics=[
    ...     {"name": b"celsius", "alias": 1, "datatype": 10, "double_value": 20.5}])
    >>> record = raw([birth.SerializeToString()], "spBv1.0/plant/NBIRTH/press-1")
    >>> feed(Sparkplug(), record).select(["machine", "event", "metric", "value"]).to_pylist()
    [{'machine': 'plant/press-1', 'event': 'birth', 'metric': None, 'value': None},
     {'machine': 'plant/press-1', 'event': 'birth', 'metric': 'celsius', 'value': 20.5}]

    Eclipse Foundation, "Sparkplug Specification 3.0.0" (2022).
    """

    payload_max: Size = 4 << 20
    """Larger payloads are set aside unread; one that is compressed may swell to so much."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for name in RAW.names:
            require(input, name, self.name())
        payload_class()  # a missing library is told before data flows
        return SCHEMA

    def initial(self) -> Nodes:
        return Nodes()

    def dump(self, state: Nodes) -> pa.Table:
        return state.dump()

    def load(self, table: pa.Table) -> Nodes:
        return Nodes.load(table)

    def counters(self, state: Nodes) -> Mapping[str, int]:
        return {"sequence_gaps": state.gaps}

    def traced(self, state: Nodes, batch: Batch) -> Traced:
        if not len(batch):
            return state, (batch.with_rows(empty(SCHEMA)),), None
        records, rejects, rows = batch.rows, Rejects(), _Rows()
        received = times_us(records, "received").tolist()
        payloads, topics = records.column("payload").to_pylist(), records.column("topic").to_pylist()
        for i, (data, topic) in enumerate(zip(payloads, topics, strict=True)):
            try:
                self._record(state, rows, rejects, i, data, topic, received[i])
            except Bad as bad:
                rejects.add(i, bad)
        origin = np.array(rows.origin, np.int64)
        out = Batch(rows.finish(records.column("received").take(pa.array(origin))), batch.watermark_us)
        if not rejects.rows:
            return state, (out,), origin
        return state, (Batch(rejects.quarantined(records), batch.watermark_us, REJECTED), out), origin

    def _record(
        self, state: Nodes, rows: _Rows, rejects: Rejects, i: int, data: bytes, name: str, received_us: int
    ) -> None:
        topic = read_topic(name)
        if topic is None:
            if name == STATE_TOPIC and data == MISSED:
                state.doubt()
            elif not name.startswith(f"{NAMESPACE}/") or OTHERS.isdisjoint(name.split("/")[1:3]):
                raise Bad("topic", f"not {NAMESPACE}/GROUP/KIND/NODE, nor one of a device below")
            return
        if not data:
            raise Bad("empty", "no bytes")
        if len(data) > self.payload_max:
            raise Bad("too_large", f"{len(data)} bytes, at most {self.payload_max} are taken")
        try:
            payload = parse(data, self.payload_max)
        except Unreadable as unreadable:
            raise Bad(unreadable.reason, unreadable.detail) from None
        # A node's death was written when it connected, so its time says nothing.
        sent_us = _sent_us(payload.timestamp, received_us) if topic.kind != "NDEATH" else received_us
        heard = state.hear(topic, payload)
        for device, had in heard.died:
            rows.death(i, topic, device, had, sent_us)
        if topic.kind in ("NDEATH", "DDEATH"):
            return
        if heard.device is None:
            raise Bad("sparkplug_birth", heard.lacks)
        if topic.kind in ("NBIRTH", "DBIRTH"):
            rows.add(i, topic, topic.device, None, sent_us, None, None, None, "good", False)
        for metric in payload.metrics:
            try:
                rows.metric(i, topic, heard, heard.device, metric, sent_us)
            except Unreadable as unreadable:
                rejects.add(i, Bad(unreadable.reason, unreadable.detail), metric.SerializeToString())

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        make, sent = payload_class(), []
        values = floats(rows.column("value"))
        for i, us in enumerate(times_us(rows).tolist()):
            born = i % 40 == 0
            metric: dict[str, Any] = {"alias": 1, "timestamp": us // 1000} | ({"name": b"v"} if born else {})
            metric |= {"is_null": True} if np.isnan(values[i]) else {"double_value": values[i]}
            dead = {"name": b"bdSeq", "long_value": 7}
            kind = "NBIRTH" if born else "NDEATH" if i % 40 == 39 else "NDATA"
            metrics = {"NBIRTH": [metric, dead], "NDEATH": [dead], "NDATA": [metric]}[kind]
            payload = make(timestamp=us // 1000, seq=i % 40 + (i % 40 > 20), metrics=metrics)
            sent.append(raw([payload.SerializeToString()], f"{NAMESPACE}/plant/{kind}/press", us))
        return as_one(sent)


def _sent_us(ms: int, received_us: int) -> int:
    if not ms:
        return received_us
    if ms >= _MS_MAX:
        raise Bad("ts_range", f"{ms} ms is after 2199")
    return ms * 1000


@dataclass(slots=True)
class _Rows:
    """Rows made one by one."""

    origin: list[int] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def add(
        self, i: int, topic: Topic, device: str, metric: str | None, at_us: int, value: float | None, text: str | None,
        kind: str | None, quality: str, historical: bool,
    ) -> None:  # fmt: skip
        self.origin.append(i)
        machine = f"{topic.edge}/{device}" if device else topic.edge
        place = (machine, topic.group, topic.node, device or None, _EVENTS[topic.kind], metric)
        self.rows.append((*place, at_us, value, text, kind, quality, historical))

    def death(self, i: int, topic: Topic, device: str, had: BornDevice | None, at_us: int) -> None:
        """What is no longer there, and its metrics, which have no value any more."""
        self.add(i, topic, device, None, at_us, None, None, None, "stale", False)
        for name, kind in () if had is None else had.types.items():
            self.add(i, topic, device, name, at_us, None, None, type_name(kind), "stale", False)

    def metric(self, i: int, topic: Topic, heard: Heard, device: BornDevice, metric: Any, sent_us: int) -> None:
        """A metric of a birth or of data."""
        name, by_alias = name_of(metric), False
        if not name:
            if not metric.HasField("alias") or metric.alias not in device.names:
                raise Unreadable("sparkplug_birth", f"no name, and the birth of {topic.machine} has no such alias")
            name, by_alias = device.names[metric.alias], True
        if name == "bdSeq":
            return
        number = type_of(metric, device.types.get(name))
        try:
            value, text = value_of(metric, number)
        except Unreadable as unreadable:
            raise Unreadable(unreadable.reason, f"{name}: {unreadable.detail}") from None
        quality = quality_of(metric)
        if quality in ("bad", "stale"):
            value = text = None
        elif value is None and text is None:
            quality = "bad"
        elif quality == "good" and by_alias and not heard.is_sure:
            quality = "uncertain"
        if metric.timestamp >= _MS_MAX:
            raise Unreadable("ts_range", f"{name}: {metric.timestamp} ms is after 2199")
        at_us = metric.timestamp * 1000 or sent_us
        historical = metric.is_historical
        self.add(i, topic, topic.device, name, at_us, value, text, type_name(number), quality, historical)

    def finish(self, received: pa.Array) -> pa.RecordBatch:
        columns = list(zip(*self.rows, strict=True)) or [()] * (len(SCHEMA) - 1)
        return pa.RecordBatch.from_arrays([*map(_column, columns, SCHEMA), received], schema=SCHEMA)


def _column(values: tuple[Any, ...], wanted: pa.Field) -> pa.Array:
    if wanted.type == TIME_TYPE:
        return as_times(np.array(values, np.int64))
    if wanted.type == KEY_TYPE:
        return pa.array(values, pa.string()).dictionary_encode()
    return pa.array(values, wanted.type)


__all__ = ["Sparkplug"]
