"""`tocsin score`: any detector or anomaly job over a file, as a stream, single pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic_core import PydanticCustomError

from tocsin.bases import Detector
from tocsin.batch import END, KEY, OUT, START, TIME, Batch, as_keys, tick, times_us
from tocsin.cli.data_file import Writing, read_data, time_column
from tocsin.contracts import Operator
from tocsin.errors import ConfigError
from tocsin.pipeline.parts import build, sentences

ROWS = 8_192


def score(
    job: Path, data: Path, out: Path, time: str | None = None, value: str | None = None, key: str | None = None,
    writing: Writing = Writing(),  # noqa: B008 (frozen)
) -> int:  # fmt: skip
    """Run what ``job`` describes over ``data`` in the order of its rows; writes ``out``, returns its number of rows.

    For a detector ``out`` has the input's rows and columns and the detector's; else the rows that leave the steps.
    Files are CSV, NDJSON or Parquet, by their suffix. Without ``key`` all rows are one series; without ``time`` it is
    the column of a usual name. The steps know the two as ``key`` and ``time``; other
    columns of these names do not reach them.
    """
    table = read_data(data, writing)
    steps = read_steps(job, value)
    if time is None and (described := getattr(steps[0], "time_field", None)) in table.column_names:
        time = described  # an anomaly job says itself which column has the time
    if key is None and steps[0].ACROSS_KEYS and "key" in table.column_names:
        # To such a step the key is a field like any other; an object is none that splits.
        key = None if pa.types.is_nested(table.schema.field("key").type) else "key"
    rows = as_stream(table, time_column(table, time, writing), key)
    schema = schema_after(steps, rows.schema)
    result = pa.Table.from_batches(list(through(steps, rows)), schema=schema)
    # A detector gives a verdict a row, and may add rows of its own, of machines that are silent.
    if len(steps) == 1 and isinstance(steps[0], Detector) and result.num_rows == table.num_rows:
        new = [name for name in result.column_names if name not in rows.schema.names]
        result = pa.table({**dict(zip(table.column_names, table.columns, strict=True)), **{n: result[n] for n in new}})
    _write(result, out)
    return int(result.num_rows)


def read_steps(job: Path, value: str | None = None) -> list[Operator]:
    """The steps of a YAML file (one part, or a list of parts), an Elastic job (JSON), or a part by its bare name."""
    described: Any
    if job.suffix == ".json":
        described = {"job": {"definition": str(job)}}
    elif job.suffix in (".yaml", ".yml"):
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            described = YAML(typ="safe").load(job.read_text(encoding="utf-8"))
        except (OSError, YAMLError) as error:
            raise ConfigError(f"{job}: cannot be read ({error})") from error
    else:
        described = str(job)
    listed: Sequence[Any] = described if isinstance(described, list) else [described]
    return [_with_value(entry, value) for entry in listed]


def ends_with(job: Path, kind: type[Operator]) -> bool:
    """Returns whether the last of the steps of a file is of a kind."""
    return isinstance(read_steps(job)[-1], kind)


def _with_value(entry: Any, value: str | None) -> Operator:
    try:
        part = build("operator", entry)
    except PydanticCustomError as error:
        raise ConfigError("; ".join(sentences(error))) from error
    assert isinstance(part, Operator)
    if value is not None and isinstance(part, Detector) and "of" not in part.model_fields_set:
        part = part.model_copy(update={"of": value})
    return part


def _write(table: pa.Table, path: Path) -> None:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path)
        return
    from tocsin.cli.tables import write

    with path.open("w", encoding="utf-8", newline="") as file:
        write(table, "csv" if path.suffix == ".csv" else "json", file)


def as_stream(table: pa.Table, times: pa.Array, key: str | None) -> pa.RecordBatch:
    """Returns the rows of a table with ``key`` and ``time``, as steps know them."""
    if key is not None and key not in table.column_names:
        raise ConfigError(f"there is no column '{key}'; there are [{', '.join(table.column_names)}]")
    keys = table.column(key).combine_chunks() if key else pa.array(["series"] * table.num_rows, pa.string())
    columns: Mapping[str, pa.Array] = {
        name: table.column(name).combine_chunks() for name in table.column_names if name not in ("key", "time")
    }
    fields = [KEY, TIME, *(pa.field(name, column.type) for name, column in columns.items())]
    return pa.RecordBatch.from_arrays(
        [as_keys(keys.cast(pa.string())), times, *columns.values()], schema=pa.schema(fields)
    )


def schema_after(steps: Sequence[Operator], schema: pa.Schema) -> pa.Schema:
    """Returns the schema that leaves the last step."""
    for step in steps:
        schema = step.output_schema(schema)
    return schema


def through(steps: Sequence[Operator], rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows that leave the last step; the watermark follows the newest row, so rows out of order are late."""
    states = [step.initial() for step in steps]
    watermark = START
    batches = []
    for start in range(0, rows.num_rows, ROWS):
        some = rows.slice(start, ROWS)
        watermark = max(watermark, int(times_us(some).max()))
        batches.append(Batch(some, watermark))
    for batch in (*batches, tick(rows.schema, END)):
        flowing = [batch]
        for i, step in enumerate(steps):
            left: list[Batch] = []
            for one in flowing:
                states[i], out = step.step(states[i], one)
                left += [b for b in out if b.port == OUT]
            flowing = left
        yield from (b.rows for b in flowing if len(b))
