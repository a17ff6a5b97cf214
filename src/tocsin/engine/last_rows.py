"""The newest rows that leave a part, kept for as long as somebody on the page looks at it, and only then."""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.batch import REJECTED, Batch
from tocsin.engine.wire import COLUMNS_MAX, HEADER, LOOK, Cell, LastRows, RowColumn, decode_looked_at
from tocsin.pipeline.plan import Port

ROWS_MAX = 20
PARTS_MAX = 16
"""So many parts are looked at at a time."""
TEXT_MAX = 200
_ITEMS_MAX = 8
"""Of a list in a cell."""
_ASKED_BYTES_MAX = 64 * 2**10
_EXACT = 2**53
"""Above this an integer would not be the same in a browser; it goes there as text."""
_OF_REJECTED = ("reason", "detail", "payload", "topic", "position", "key", "time")
"""What is shown of a row that was set aside."""


class LastRowsKept:
    """What the page looks at. The engine asks `parts` for each batch that leaves a part; nobody there: that is all."""

    def __init__(self) -> None:
        self.parts: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._kept: dict[Port, deque[pa.RecordBatch]] = {}
        self._new: set[Port] = set()
        self._asked = b""

    def add(self, part: str, batch: Batch) -> None:
        """Keep the newest rows of a batch, which are a view of it; never more than `ROWS_MAX` of a port."""
        rows = batch.rows
        if not rows.num_rows:
            return
        port = part, batch.port
        with self._lock:
            kept = self._kept.setdefault(port, deque(maxlen=ROWS_MAX))
            if kept and not kept[-1].schema.equals(rows.schema):
                kept.clear()
            kept.append(rows.slice(max(rows.num_rows - ROWS_MAX, 0)))
            while sum(one.num_rows for one in kept) - kept[0].num_rows >= ROWS_MAX:
                kept.popleft()
            self._new.add(port)

    def hear(self, data: bytes) -> None:
        """Take in what the page has sent; ConnectionResetError where it is no `LOOK`, as if it had hung up."""
        self._asked += data
        while len(self._asked) >= HEADER.size:
            length, kind = HEADER.unpack_from(self._asked)
            if kind != LOOK or length > _ASKED_BYTES_MAX:
                raise ConnectionResetError
            if len(self._asked) < HEADER.size + length:
                return
            try:
                self.look_at(decode_looked_at(self._asked[HEADER.size : HEADER.size + length]))
            except msgspec.DecodeError as error:
                raise ConnectionResetError from error
            self._asked = self._asked[HEADER.size + length :]

    def look_at(self, parts: Collection[str]) -> None:
        """Keep rows of these parts from now on, and those of no other."""
        with self._lock:
            self.parts = frozenset(list(parts)[:PARTS_MAX])
            for port in [port for port in self._kept if port[0] not in self.parts]:
                del self._kept[port]
                self._new.discard(port)

    def forget(self) -> None:
        """The page has gone."""
        self._asked = b""
        self.look_at(())

    def take(self) -> list[LastRows]:
        """Returns the newest rows of each port where some have come since the last call."""
        with self._lock:
            new = {port: list(self._kept[port]) for port in self._new}
            self._new.clear()
        return [told(port, batches) for port, batches in new.items()]


def told(port: Port, batches: Sequence[pa.RecordBatch]) -> LastRows:
    """Returns the newest `ROWS_MAX` of these rows as cells, the newest first, each cell within `TEXT_MAX`."""
    table = pa.Table.from_batches(batches)
    table = table.slice(max(table.num_rows - ROWS_MAX, 0))
    if port[1] == REJECTED:
        table = table.select([name for name in _OF_REJECTED if name in table.column_names])
    table = table.select(table.column_names[:COLUMNS_MAX])
    columns = [RowColumn(field.name, _kind(field.type)) for field in table.schema]
    cells = [list(_cells(column.combine_chunks()))[::-1] for column in table.columns]
    return LastRows(port[0], port[1], columns, [list(row) for row in zip(*cells, strict=True)])


def _kind(type: pa.DataType) -> str:
    if pt.is_dictionary(type):
        type = type.value_type
    return "number" if pt.is_integer(type) or pt.is_floating(type) else "time" if pt.is_timestamp(type) else "text"


def _cells(column: pa.Array) -> Iterator[Cell]:
    """Gives a column as JSON has it: times as text in UTC, numbers that are none as null, what is long cut short."""
    if pt.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pt.is_timestamp(column.type):
        column = pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
    elif pt.is_binary(column.type) or pt.is_large_binary(column.type):
        column = pc.binary_slice(column, 0, TEXT_MAX)
    elif pt.is_list(column.type) or pt.is_large_list(column.type) or pt.is_fixed_size_list(column.type):
        yield from _lists(column)
        return
    for value in column.to_pylist():
        yield _cell(value)


def _lists(column: pa.Array) -> Iterator[Cell]:
    """Gives the first few items of each list, and how many there are."""
    counts = pc.list_value_length(column).to_pylist()
    for items, count in zip(pc.list_slice(column, 0, _ITEMS_MAX).to_pylist(), counts, strict=True):
        if items is None:
            yield None
            continue
        text = _cut(json.dumps(items, default=str, ensure_ascii=False))
        yield text if count <= _ITEMS_MAX else f"{text} of {count}"


def _cell(value: object) -> Cell:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if abs(value) <= _EXACT else str(value)
    if isinstance(value, bytes):
        return _cut(value.decode("utf-8", "replace"))
    return _cut(value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode())


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"
