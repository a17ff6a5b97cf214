"""Rows to messages: which input a row belongs to, and where its attributes stand."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.errors import SchemaError
from tocsin.notify.detector_model._compiled import CompiledModel
from tocsin.notify.detector_model._expression import Path, path_text
from tocsin.notify.detector_model._values import INTEGER_MAX

Message = dict[str, Any]
"""The attributes that the model refers to, by path; those that did not come are not in it."""


@dataclass(frozen=True, slots=True)
class BadMessage:
    """A row that is no message."""

    reason: str
    detail: str
    payload: bytes


Finding = Sequence[tuple[str, Message | BadMessage]]
"""The messages in a row: usually one."""


@dataclass(frozen=True, slots=True)
class _Attribute:
    path: Path
    column: str | None
    rest: Path
    """What remains of the path inside the column's values."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A model's inputs, mapped to the columns of a schema."""

    inputs: Mapping[str, Sequence[_Attribute]]
    where: Mapping[str, Mapping[str, str]]
    by_column: bool
    """Whether the column ``input`` names the input."""
    message: str | None
    identity: frozenset[str]
    """Columns that say nothing of which input a row belongs to."""

    def messages(self, rows: pa.RecordBatch) -> Sequence[Finding]:
        """Returns the messages of every row."""
        by_row: list[list[tuple[str, Message | BadMessage]]] = [[] for _ in range(rows.num_rows)]
        texts = None if self.message is None else _texts(rows.column(self.message))
        for name, attributes in self.inputs.items():
            chosen = self._chosen(name, attributes, rows)
            made = _from_cells(attributes, rows) if texts is None else _from_json(attributes, texts)
            if chosen is None and texts is not None and len(self.inputs) > 1:
                chosen = [isinstance(m, BadMessage) or bool(m) for m in made]
            for i, message in enumerate(made):
                if chosen is None or chosen[i]:
                    by_row[i].append((name, message))
        if texts is not None:
            by_row = [_once(row) for row in by_row]
        return by_row

    def _chosen(self, name: str, attributes: Sequence[_Attribute], rows: pa.RecordBatch) -> list[bool] | None:
        """Returns which rows are messages of an input; None for all."""
        if self.where.get(name):
            masks = [pc.equal(_as_text(rows.column(c)), value) for c, value in self.where[name].items()]
        elif self.by_column:
            masks = [pc.equal(_as_text(rows.column("input")), name)]
        elif len(self.inputs) == 1 or self.message is not None:
            return None
        else:
            own = [a.column for a in attributes if a.column is not None and a.column not in self.identity]
            if not own:
                return [False] * rows.num_rows
            any_value = pc.is_valid(rows.column(own[0]))
            for column in own[1:]:
                any_value = pc.or_(any_value, pc.is_valid(rows.column(column)))
            masks = [any_value]
        mask = masks[0]
        for other in masks[1:]:
            mask = pc.and_(mask, other)
        chosen: list[bool] = pc.fill_null(mask, False).to_pylist()
        return chosen


def map_inputs(
    machine: CompiledModel,
    chosen: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]],
    message: str | None,
    schema: pa.Schema,
) -> Mapped:
    """Returns where every attribute stands; `SchemaError` if a named column is missing, or no attribute has one."""
    names = schema.names
    wanted: list[str] = [message] if message is not None else []
    wanted += [c for where, columns in chosen.values() for c in (*where, *columns.values())]
    for column in wanted:
        if column not in names:
            raise SchemaError(f"detector_model needs column '{column}'; what reaches it is [{', '.join(names)}]")
    inputs: dict[str, list[_Attribute]] = {name: [] for name in sorted(machine.inputs)}
    for name, path in sorted(machine.references, key=lambda r: (r[0], path_text(r[1]))):
        columns = chosen[name][1] if name in chosen else {}
        if message is None:
            inputs[name].append(_Attribute(path, *_column(path, columns, names, machine.key)))
        else:
            inputs[name].append(_Attribute(path, message, path))
    where = {name: where for name, (where, _) in chosen.items() if where}
    if machine.references and not any(a.column for attributes in inputs.values() for a in attributes):
        paths = sorted({path_text(path) for _, path in machine.references})
        raise SchemaError(
            f"detector_model needs at least one of the columns [{', '.join(paths)}], which its model refers to; "
            f"what reaches it is [{', '.join(names)}]"
        )
    identity = frozenset(c for c in ("key", "time", machine.key) if c)
    return Mapped(inputs, where, "input" in names and not where, message, identity)


def _column(path: Path, columns: Mapping[str, str], names: Sequence[str], key: str | None) -> tuple[str | None, Path]:
    """Returns the column that holds an attribute, and the path inside its values."""
    if path_text(path) in columns:
        return columns[path_text(path)], ()
    for end in range(len(path), 0, -1):
        for name in (path_text(path[:end]), ".".join(map(str, path[:end]))):
            if name in names:
                return name, path[end:]
    leaf = next((step for step in reversed(path) if isinstance(step, str)), "")
    joined = "_".join(map(str, path))
    for name in (joined, re.sub(r"\W+", "_", joined), leaf):
        if name in names and not isinstance(path[-1], int):
            return name, ()
    return ("key", ()) if path_text(path) == key else (None, ())


# ------------------------------------------------------------------------------------------------------------- values


def _from_cells(attributes: Sequence[_Attribute], rows: pa.RecordBatch) -> Sequence[Message]:
    known = [a for a in attributes if a.column is not None]
    if not known:
        return [{} for _ in range(rows.num_rows)]
    names = [path_text(a.path) for a in known]
    columns = [_values(rows.column(a.column), a.rest) for a in known]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(column: pa.Array, rest: Path) -> list[Any]:
    if pt.is_floating(column.type):
        column = pc.if_else(pc.is_finite(column), column, None)
    values: list[Any] = column.to_pylist()
    if rest:
        return [_plain(_inside(value, rest, None)) for value in values]
    simple = pt.is_floating(column.type) or pt.is_string(column.type) or pt.is_boolean(column.type)
    return values if simple else [_plain(value) for value in values]


def _inside(value: Any, path: Path, absent: Any) -> Any:
    for step in path:
        known = len(value) > step if isinstance(step, int) and isinstance(value, list) else False
        if not known and not (isinstance(step, str) and isinstance(value, dict) and step in value):
            return absent
        value = value[step]
    return value


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it: what no JSON number can be is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if abs(value) <= INTEGER_MAX else float(value)
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime | date):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value if value is None or isinstance(value, str) else str(value)


def _texts(column: pa.Array) -> list[Any]:
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pt.is_string(column.type) or pt.is_large_string(column.type) or pt.is_binary(column.type)):
        column = column.cast(pa.string())
    texts: list[Any] = column.to_pylist()
    return texts


def _from_json(attributes: Sequence[_Attribute], texts: Sequence[Any]) -> Sequence[Message | BadMessage]:
    named = [(path_text(a.path), a.path) for a in attributes]
    return [_message(named, text) for text in texts]


def _message(named: Sequence[tuple[str, Path]], text: Any) -> Message | BadMessage:
    data = text.encode() if isinstance(text, str) else (text or b"")
    if not data:
        return BadMessage("empty", "the message is empty", data)
    try:
        tree = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        reason = "number_range" if "out of range" in str(error) else "json_syntax"
        return BadMessage(reason, f"the message is not JSON ({error})"[:500], data)
    if not isinstance(tree, dict):
        return BadMessage("shape", "the message is not a JSON object", data)
    message = {}
    for name, path in named:
        value = _inside(tree, path, _NOTHING)
        if value is not _NOTHING:
            message[name] = _plain(value)
    return message


_NOTHING = object()


def _once(row: list[tuple[str, Message | BadMessage]]) -> list[tuple[str, Message | BadMessage]]:
    """Returns a row's messages; a row that is no JSON is set aside once, not once for each input."""
    bad = [message for message in row if isinstance(message[1], BadMessage)]
    return bad[:1] or row


def _as_text(column: pa.Array) -> pa.Array:
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string())
