"""Lines with fields between delimiters: which one, where the table begins, its names, units, and style of numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tocsin.decode._reasons import Bad
from tocsin.decode.csv import Csv
from tocsin.errors import ConfigError
from tocsin.infer.numbers import as_number, may_be_number, number_style
from tocsin.infer.sample import SampledField, spoken
from tocsin.infer.time import is_time
from tocsin.infer.vocabulary import UNITS

DELIMITERS = ("\t", ";", "|", ",", " ")
"""What is tried, the least likely to stand inside a field first."""
LINES_MAX, PREAMBLE_MAX, STYLE_ROWS = 600, 40, 200
"""How many lines are looked at; of them for a preamble; and how many rows for how numbers are written."""
WORDS_FOR = {"\t": "tabs", " ": "blanks", ",": "commas", ";": "semicolons", "|": "bars"}


@dataclass(frozen=True)
class DelimitedTable:
    """One table: its dialect, the names of its columns (made up, c1, c2 ..., where no line has them), and its cells."""

    delimiter: str
    decimal: str
    thousands: str
    comment: str
    skip: tuple[int, ...]
    """Which lines, from 1, are neither names nor values."""
    names: tuple[str, ...]
    has_header: bool
    rows: Sequence[Sequence[str]]
    fit: float
    """Share of the lines that have as many fields as the table."""
    units: Mapping[str, str] = field(default_factory=dict)
    """By the name of a column: its unit, from a line under the names or from behind the name."""
    twice: str = ""
    """A name that stands several times in the header; the columns have got names of their own."""

    def fields(self) -> list[SampledField]:
        """Return the columns; names that are empty or stand twice are left out, since nothing can be found by them."""
        count = Counter(self.names)
        return [
            SampledField(name, values, [as_number(value, self.decimal, self.thousands) for value in values])
            for i, name in enumerate(self.names)
            if name and count[name] == 1
            for values in ([row[i] for row in self.rows],)
        ]


def table_of(text: str) -> DelimitedTable | None:
    """Return the table in a text, None if it holds none (of at least two columns, or one column of numbers)."""
    lines = [line for line in text.splitlines() if line.strip()][:LINES_MAX]
    comment = "#" if sum(line.startswith("#") for line in lines[:PREAMBLE_MAX]) > 1 else ""
    kept = [line for line in lines if not (comment and line.startswith(comment))]
    if not kept:
        return None
    split = {mark: _fields(kept, mark) for mark in DELIMITERS}
    fits = {mark: _fit(rows) for mark, rows in split.items()}
    if not any(may_be_number(cell) for row in split[" "] for cell in row):
        fits[" "] = 0.0  # sentences have blanks, too
    best = max(DELIMITERS, key=lambda mark: (round(fits[mark], 2), -DELIMITERS.index(mark)))
    if len(split[best][0]) > 1 and sum(not row for row in split[best]) > 0.2 * len(kept):
        raise ConfigError("texts in quotes go over several lines; write each record in one line")
    if fits[best] < 0.5:
        return _one_column(kept, comment)
    return _table(split[best], best, comment, fits[best])


def _fields(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    decoder = Csv(columns={"value": "text"}, delimiter=delimiter, decimal="." if delimiter == "," else ",")
    rows = []
    for line in lines:
        try:
            rows.append(next(decoder.fields_of(line.strip() if delimiter == " " else line), []))
        except Bad:
            rows.append([])
    return [[cell.strip() for cell in row] for row in rows]


def _width(rows: Sequence[Sequence[str]]) -> int:
    """Return the number of fields of most lines, the later half counting alone: a preamble is no table."""
    counts = Counter(len(row) for row in rows[len(rows) // 2 :])
    return counts.most_common(1)[0][0]


def _fit(rows: Sequence[Sequence[str]]) -> float:
    """Return the share of the later lines that are as wide as the table, times that of cells that are one thing."""
    width = _width(rows)
    if width < 2:
        return 0.0
    later = rows[min(len(rows) // 2, PREAMBLE_MAX) :]
    fitting = [row for row in later if len(row) == width]
    cells = [cell for row in fitting[:50] for cell in row]
    plain = sum(not cell or may_be_number(cell) or is_time(cell) or _is_word(cell) for cell in cells)
    return len(fitting) / len(later) * plain / len(cells)


def _is_word(cell: str) -> bool:
    """Return whether a cell is text in which no field is left to be parted from another."""
    return not any(mark in cell for mark in "\t;|") and not (
        "," in cell and any(may_be_number(part) for part in cell.split(","))
    )


def _one_column(lines: Sequence[str], comment: str) -> DelimitedTable | None:
    rows = [[line.strip()] for line in lines]
    if sum(may_be_number(row[0]) for row in rows[1:] or rows) < 0.8 * len(rows[1:] or rows):
        return None
    return _table(rows, ";", comment, 1.0)


def _table(rows: list[list[str]], delimiter: str, comment: str, fit: float) -> DelimitedTable:
    width = _width(rows)
    first = next(i for i, row in enumerate(rows) if len(row) == width)
    body = rows[first:]
    has_header = len(body) > 1 and _is_text(body[0]) and not all(_is_text(row) for row in body[1:8])
    names = tuple(body[0]) if has_header else tuple(f"c{i + 1}" for i in range(width))
    begin = int(has_header)
    while has_header and begin < len(body) - 1 and begin < 4 and _is_beside(body[begin], body[begin + 1 :]):
        begin += 1
    skip = [*range(1, first + 1), *(first + i + 1 for i in range(1, begin))]
    cells = [row for row in body[begin:] if len(row) == width]
    style = number_style((cell for row in cells[:STYLE_ROWS] for cell in row if not is_time(cell)), delimiter)
    units = _units(names, body[1:begin]) if has_header else {}
    return DelimitedTable(delimiter, *style, comment, tuple(skip), names, has_header, cells, fit, units)


def told_apart(table: DelimitedTable) -> DelimitedTable:
    """Return a file's table with a name of its own for each column, where a name stands several times."""
    twice = next((name for name in table.names if name and table.names.count(name) > 1), "")
    if not table.has_header or not twice:
        return table
    names: list[str] = []
    for name in table.names:
        one, n = name, 2
        while name and one in names:
            one, n = f"{name}_{n}", n + 1
        names.append(one)
    header = next(n for n in range(1, len(table.skip) + 2) if n not in table.skip)
    skip = tuple(sorted((*table.skip, header)))
    units = {name: unit for name, unit in table.units.items() if table.names.count(name) == 1}
    return replace(table, names=tuple(names), skip=skip, has_header=False, units=units, twice=twice)


def _is_text(row: Sequence[str]) -> bool:
    """Return whether no cell of a line is a number or a time, and some cell is there."""
    return any(row) and not any(cell and (may_be_number(cell) or is_time(cell)) for cell in row)


def _is_beside(row: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Return whether a line below the names holds no values, but units or types, while those below it hold numbers."""
    if any(cell and (is_time(cell) or (may_be_number(cell) and cell != "-")) for cell in row):
        return False
    places = [i for i, cell in enumerate(row) if cell]
    return any(i < len(one) and may_be_number(one[i]) and one[i] for one in below[:6] for i in places)


def _units(names: Sequence[str], below: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the units of columns: from behind their names, else from the line below them of which most are units."""
    units = {name: split[1] for name in names if (split := split_name(name))[1]}
    for row in below:
        given = [(name, cell.strip("[]()")) for name, cell in zip(names, row, strict=False) if cell and cell != "-"]
        known = [(name, unit) for name, unit in given if unit in UNITS]
        if 2 * len(known) > len(given):
            both = {**dict(known), **units}
            return {name: both[name] for name in names if name in both}
    return units


def split_name(name: str) -> tuple[str, str]:
    """Return the name of a column and the unit behind it, empty if there is none.

    Letters alone are a unit in brackets only: the A of "Phase A" is none.

    Examples
    --------
    >>> split_name("Druck (bar)"), split_name("Temperatur °C"), split_name("speed [rpm]"), split_name("Phase A")
    (('Druck', 'bar'), ('Temperatur', '°C'), ('speed', 'rpm'), ('Phase A', ''))
    """
    in_brackets = re.fullmatch(r"(.*\S)\s*(?:\[\s*(\S+?)\s*\]|\(\s*(\S+?)\s*\))", name)
    if in_brackets and (unit := in_brackets[2] or in_brackets[3]) in UNITS:
        return in_brackets[1], unit
    before, _, last = name.rpartition(" ")
    if before.strip() and last in UNITS and not last.isalpha():
        return before.strip(), last
    return name, ""


def dialect(table: DelimitedTable, *, is_files: bool) -> dict[str, object]:
    """Return the settings of decoder `csv` that differ from its defaults."""
    settings: dict[str, object] = {}
    if table.delimiter != ",":
        settings["delimiter"] = table.delimiter
    if table.decimal != ".":
        settings["decimal"] = table.decimal
    if table.thousands:
        settings["thousands"] = table.thousands
    if table.comment:
        settings["comment"] = table.comment
    if table.skip and is_files:
        plain = table.skip == tuple(range(1, len(table.skip) + 1))
        settings["skip"] = len(table.skip) if plain else list(table.skip)
    if not table.has_header and is_files:
        settings["header"] = "none"
    if not table.has_header and len(table.names) > 1:
        settings["fields"] = list(table.names)
    if table.has_header and not is_files:
        settings["header"] = "each"
    return settings


def told(table: DelimitedTable) -> list[str]:
    """Return what was concluded of a table, as parts of a sentence."""
    parts = [
        f"{len(table.names)} columns apart by {WORDS_FOR[table.delimiter]}" if len(table.names) > 1 else "1 column"
    ]
    parts.append(f"decimal '{table.decimal}'" + (f", thousands '{table.thousands}'" if table.thousands else ""))
    if table.twice:
        one = table.twice
        parts.append(f"{one} stands several times in the header, so they are called {one}, {one}_2 ...")
    else:
        parts.append("names in the header" if table.has_header else "no header, so columns are called c1, c2 ...")
    if table.skip and not table.twice:
        parts.append(f"passes over line {', '.join(map(str, table.skip))} (no values)")
    if table.units:
        parts.append(f"units {spoken(list(dict.fromkeys(table.units.values())))}")
    return parts
