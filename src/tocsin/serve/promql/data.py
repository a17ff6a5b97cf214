"""The lake's tables as metrics: ``TABLE_COLUMN{key=..., signal=...}`` for each column of numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from tocsin.lake.read import query, quoted, schema, tables
from tocsin.serve.promql.series import NAME, Labels, Samples

ROWS_MAX = 2_000_000
"""Of one column, in one question; with more the question is refused."""
_LABELS = ("key", "signal")
_QUERY_S = 20.0


class TooMuch(Exception):
    """A question that would read more than `ROWS_MAX` rows."""


@dataclass(frozen=True)
class Metric:
    """A column of a table."""

    name: str
    table: str
    column: str
    labels: tuple[str, ...]


def metrics(folder: Path) -> Iterator[Metric]:
    """Gives the metric of each column of numbers in each table that has a time."""
    for table in tables(folder):
        columns = schema(table, folder)
        if "time" not in columns.names:
            continue
        labels = tuple(name for name in _LABELS if name in columns.names and _is_text(columns.field(name).type))
        for field in columns:
            if pt.is_integer(field.type) or pt.is_floating(field.type) or pt.is_boolean(field.type):
                yield Metric(_metric_name(f"{table}_{field.name}"), table, field.name, labels)


def read(
    folder: Path, wanted: Sequence[Metric], matches: Callable[[Labels], bool], begin_ms: int, end_ms: int
) -> list[Samples]:
    """Returns the samples of these metrics after one time and up to another, of the series whose labels match.

    Raises
    ------
    TooMuch
        There are more than `ROWS_MAX` rows.
    """
    samples: list[Samples] = []
    for metric in wanted:
        columns = [*(quoted(label) for label in metric.labels), "epoch_ms(time) AS at", quoted(metric.column)]
        where = (
            f"time > make_timestamptz({begin_ms * 1000}) AND time <= make_timestamptz({end_ms * 1000}) "
            f"AND {quoted(metric.column)} IS NOT NULL"
        )
        sql = f"SELECT {', '.join(columns)} FROM {quoted(metric.table)} WHERE {where} LIMIT {ROWS_MAX + 1}"  # noqa: S608
        rows = query(sql, folder, timeout_s=_QUERY_S)
        if rows.num_rows > ROWS_MAX:
            raise TooMuch(f"{metric.name} has more than {ROWS_MAX:,} samples in this time; ask for less")
        samples += _series(rows, metric, matches)
    return samples


def _series(rows: pa.Table, metric: Metric, matches: Callable[[Labels], bool]) -> Iterator[Samples]:
    """The rows of a column, by their labels, each in the order of time."""
    if not rows.num_rows:
        return
    times = np.asarray(rows["at"].combine_chunks().to_numpy(zero_copy_only=False), np.int64)
    values = np.asarray(rows[metric.column].cast(pa.float64()).combine_chunks().to_numpy(zero_copy_only=False))
    texts = [
        rows[label].combine_chunks().cast(pa.string()).fill_null("").dictionary_encode() for label in metric.labels
    ]
    codes = np.zeros(len(times), np.int64)
    for text in texts:
        codes = codes * max(len(text.dictionary), 1) + text.indices.to_numpy()
    order = np.lexsort((times, codes))
    codes, times, values = codes[order], times[order], values[order]
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(codes)], strict=True):
        row = int(order[begin])
        labels = {NAME: metric.name}
        labels |= {
            label: text[row].as_py() for label, text in zip(metric.labels, texts, strict=True) if text[row].as_py()
        }
        if not matches(labels):
            continue
        at = times[begin:end]
        newest = np.flatnonzero(np.diff(at, append=at[-1] + 1))  # of several at one time the last
        yield Samples(labels, at[newest], values[begin:end][newest])


def label_sets(folder: Path, wanted: Sequence[Metric]) -> list[Labels]:
    """Returns the labels of every series of these metrics."""
    sets: list[Labels] = []
    for metric in wanted:
        if not metric.labels:
            sets.append({NAME: metric.name})
            continue
        columns = ", ".join(quoted(label) for label in metric.labels)
        sql = f"SELECT DISTINCT {columns} FROM {quoted(metric.table)} WHERE {quoted(metric.column)} IS NOT NULL"  # noqa: S608
        rows = query(sql, folder, timeout_s=_QUERY_S).to_pylist()
        sets.extend({NAME: metric.name, **{name: text for name, text in row.items() if text}} for row in rows)
    return sets


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_dictionary(kind))


def _metric_name(text: str) -> str:
    plain = re.sub(r"[^a-zA-Z0-9_:]", "_", text)
    return f"_{plain}" if plain[:1].isdigit() else plain
