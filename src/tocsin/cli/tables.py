"""Tables for people and for other programs: on the terminal, as CSV, as JSON lines."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any, TextIO

import pyarrow as pa

from tocsin.values.text import printable, unformula

WIDTH_MAX, TEXT_MAX, LISTED_MAX = 40, 200, 6
"""How much of a value people are shown: of raw bytes and lists, of text, and of the elements of a list."""


def show(table: pa.Table, title: str = "") -> None:
    """Print a table for people; control characters from devices are escaped."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title) if title else None, title_justify="left")
    for field in table.schema:
        number = pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
        # The first column, by which people name a row, is never broken.
        drawn.add_column(
            Text(_text(field.name)),
            justify="right" if number else "left",
            overflow="fold",
            no_wrap=field.name == table.column_names[0],
        )
    for row in table.to_pylist():
        drawn.add_row(*(Text(_shown(value)) for value in row.values()))
    console = Console()
    if not console.is_terminal:
        # A pipe or a file is as wide as the table; without this it would be 80.
        console = Console(width=max(console.width, (TEXT_MAX + 3) * table.num_columns))
    console.print(drawn)


def write(table: pa.Table, form: str, file: TextIO | None = None) -> None:
    """Write a table to a file or stdout as ``table``, ``csv`` or ``json`` (one object a line)."""
    file = file or sys.stdout
    if form == "csv":
        import csv

        writer = csv.writer(file)
        writer.writerow(table.column_names)
        writer.writerows([_cell(value) for value in row.values()] for row in table.to_pylist())
    elif form == "json":
        for row in table.to_pylist():
            file.write(json.dumps(row, default=_text) + "\n")
    else:
        show(table)


def _cell(value: Any) -> Any:
    """Returns a value for CSV; text that a spreadsheet would run as a formula is quoted."""
    if isinstance(value, str):
        return unformula(value)
    return value if isinstance(value, int | float) or value is None else _text(value)


def _shown(value: Any) -> str:
    """A value for people, cut where it is long."""
    most = WIDTH_MAX if isinstance(value, bytes | list) else TEXT_MAX
    if isinstance(value, list) and len(value) > LISTED_MAX:
        text = f"[{', '.join(map(_text, value[:LISTED_MAX]))}, ...]"
    else:
        text = _text(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(value: Any) -> str:
    """A value for a file or another program, whole."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    elif isinstance(value, datetime):
        value = value.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")
    elif isinstance(value, list):
        value = f"[{', '.join(map(_text, value))}]"
    return printable(str(value))
