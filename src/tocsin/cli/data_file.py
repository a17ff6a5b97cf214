"""Files of readings as people have them: CSV of any country, NDJSON, Parquet; read whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.errors import ConfigError
from tocsin.values.text import utf16_of
from tocsin.values.time_forms import advice, format_pattern
from tocsin.values.times import parse_times

TIME_NAMES = ("time", "timestamp", "@timestamp", "ts", "datetime", "date")
_NULLS = ["", "-", "--", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "N/A", "n/a", "#N/A", "NA", "inf", "-inf", "Inf"]
_COMMA = r"^[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?$"
_POINT = r"^[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?$"


@dataclass(frozen=True, slots=True)
class Writing:
    """How a file is written, where that cannot be seen in it."""

    decimal: str | None = None
    """What stands before decimals; if not told, a comma in columns of text that are all numbers so."""
    encoding: str | None = None
    """If not told, UTF-8, or UTF-16 where it is seen to be."""
    skip: Sequence[int] = ()
    """Lines to leave out, from 1."""
    format: str | None = None
    """Of times."""
    zone: str = "UTC"
    """Of times that name none."""


def read_data(path: Path, writing: Writing = Writing()) -> pa.Table:
    """Returns what a file of CSV, NDJSON or Parquet holds, by its suffix."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(path)
        if path.suffix in (".ndjson", ".jsonl"):
            import pyarrow.json

            return pyarrow.json.read_json(path)
        if path.suffix == ".csv":
            return _read_csv(path, writing)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    raise ConfigError(f"{path}: data is a file named .csv, .ndjson or .parquet")


def _read_csv(path: Path, writing: Writing) -> pa.Table:
    import pyarrow.csv

    lines = _text(path, writing.encoding).splitlines(keepends=True)
    text = "".join(line for number, line in enumerate(lines, 1) if number not in writing.skip)
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    read = pa.BufferReader(text.encode())
    # Times stay text, whole dates and hours as well: what they are is decided by `time_column`.
    options = pyarrow.csv.ConvertOptions(
        timestamp_parsers=["times stay text"], null_values=_NULLS, strings_can_be_null=True
    )
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter)
    table = pyarrow.csv.read_csv(read, parse_options=parse, convert_options=options)
    is_comma = writing.decimal == ","
    texts = [
        f for f in table.schema if pt.is_date(f.type) or pt.is_time(f.type) or (is_comma and pt.is_floating(f.type))
    ]
    if texts:
        options.column_types = {field.name: pa.string() for field in texts}
        table = pyarrow.csv.read_csv(pa.BufferReader(text.encode()), parse_options=parse, convert_options=options)
    if all(re.fullmatch(r"[+-]?\d+([.,]\d+)?", name.strip()) for name in table.column_names):
        raise ConfigError(f"{path}: its first line has numbers, but no names; write a line with the columns' names")
    guessed = (".", ",") if delimiter == "," else (",", ".")
    return _numbers(table, (writing.decimal,) if writing.decimal else guessed)


def _text(path: Path, encoding: str | None) -> str:
    data = path.read_bytes()
    told = encoding or utf16_of(data) or "utf-8"
    try:
        return data.decode(told).removeprefix("\ufeff")
    except LookupError as error:
        raise ConfigError(f"there is no encoding '{told}'; write one as utf-8, cp1252, utf-16 or shift_jis") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not {told}; say how it is written, as --encoding cp1252 (or shift_jis ...)"
        ) from error


def _numbers(table: pa.Table, points: Sequence[str]) -> pa.Table:
    """Columns of text in which all is a number with one of these before the decimals, as numbers."""
    for at, field in enumerate(table.schema):
        if not pt.is_string(field.type):
            continue
        column = pc.utf8_trim_whitespace(table.column(at))
        for point in points:
            pattern, mark = (_COMMA, ".") if point == "," else (_POINT, ",")
            if pc.all(pc.match_substring_regex(column, pattern)).as_py():
                plain = pc.replace_substring(pc.replace_substring(column, mark, ""), ",", ".")
                table = table.set_column(at, field.name, plain.cast(pa.float64()))
                break
    return table


def time_column(table: pa.Table, name: str | None, writing: Writing = Writing()) -> pa.Array:
    """Returns the times of all rows, from the column that is named (``date+time``: two), or has a usual name."""
    names = {column.lower(): column for column in table.column_names}
    usual = next((names[usual] for usual in TIME_NAMES if usual in names), "")
    told = name or usual
    chosen = [told] if told in table.column_names else told.split("+")
    if not set(chosen) <= set(table.column_names):
        raise ConfigError(f"say with --time which column has the time; there are [{', '.join(table.column_names)}]")
    column = table.column(chosen[0]).combine_chunks()
    if len(chosen) > 1:
        texts = [table.column(one).combine_chunks().cast(pa.string()) for one in chosen]
        column = pc.binary_join_element_wise(*texts, " ")
    if writing.format is not None:
        try:
            format_pattern(writing.format)
        except ValueError as error:
            raise ConfigError(f"--format: {error}") from error
        column = column.cast(pa.string())
    times, reasons = parse_times(column, "auto", writing.zone, writing.format)
    if times.null_count:
        row = times.is_null().index(True).as_py()
        said, reason = column[row].as_py(), reasons[row].as_py()
        hint = advice(str(said), reason, writing.format) if said is not None else "is missing"
        raise ConfigError(
            f"column '{'+'.join(chosen)}' has no time in row {row + 1}: {said!r} {hint}. As options: --format, --zone; "
            "two columns as --time date+time; a line that is none, such as units, is left out by --skip LINE"
        )
    return times
