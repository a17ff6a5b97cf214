"""Where machines stand, and what people call them and their signals."""

from __future__ import annotations

import csv
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from tocsin.errors import ConfigError
from tocsin.pipeline.plan import Asset
from tocsin.settings import Settings

COLUMNS = ("machine", "area", "line", "name")
"""Of a CSV file of machines; only the first must be there."""
MACHINES_TABLE, SIGNALS_TABLE = "assets", "signal_names"
"""The tables in the lake that say the same, for SQL and for others who read there."""
BESIDE = tuple(pa.field(name, pa.string()) for name in ("area", "line", "name", "signal_name", "unit"))
"""What goes with a row to who is told of it: where its machine stands, what it and its signal are called, its unit."""


class SignalName(Settings):
    """What people call a signal, and what it is measured in."""

    name: str = ""
    """As it should stand over its chart; else the column's name."""
    unit: str = ""
    """As °C or mm/s."""


class Assets(Settings):
    """The plant as people know it: areas with their lines with their machines, and the names of signals.

    Examples
    --------
    >>> plant = Assets(machines={"press shop": {"line 1": {"press-1": "North press", "press-2": None}}})
    >>> plant.by_machine()["press-1"]
    Asset(machine='press-1', area='press shop', line='line 1', name='North press')
    """

    machines: str | Mapping[str, Mapping[str, Mapping[str, str | None]]] = {}
    """Areas with their lines with their machines, each with what people call it (or nothing); or a CSV file that has a
    row for each, with the columns machine, area, line and name."""
    signals: Mapping[str, SignalName] = {}
    """By column, or by what a row names its signal."""

    def are_there(self) -> bool:
        """Returns whether anything is said at all."""
        return bool(self.machines or self.signals)

    def by_machine(self) -> Mapping[str, Asset]:
        """Returns all machines by the name that the rows have; `ConfigError` says what is wrong with a file."""
        known: dict[str, Asset] = {}
        for asset in _read(Path(self.machines)) if isinstance(self.machines, str) else self._in_tree(self.machines):
            if asset.machine in known:
                raise ConfigError(f"machine '{asset.machine}' stands at two places; leave one of them out")
            known[asset.machine] = asset
        return known

    @staticmethod
    def _in_tree(areas: Mapping[str, Mapping[str, Mapping[str, str | None]]]) -> Iterator[Asset]:
        for area, lines in areas.items():
            for line, machines in lines.items():
                for machine, name in machines.items():
                    yield Asset(machine, area, line, name or "")


def owner(key: str, machines: Container[str]) -> str:
    """Returns the machine that a key belongs to: itself, or what stands before a slash."""
    while key not in machines and "/" in key:
        key = key.rpartition("/")[0]
    return key


def lacking(schema: pa.Schema) -> list[pa.Field]:
    """Returns what of `BESIDE` such rows do not have."""
    return [field for field in BESIDE if field.name not in schema.names]


def with_names(
    rows: pa.RecordBatch, machines: Mapping[str, Asset], signals: Mapping[str, SignalName]
) -> pa.RecordBatch:
    """Returns rows with the columns of `BESIDE`; what they have of these stays, but a unit that is empty is filled.

    A loop over rows, some microseconds each: for alarms, which are few.
    """
    nothing = [""] * rows.num_rows
    keys, given = (
        rows.column(name).to_pylist() if name in rows.schema.names else nothing for name in ("key", "signal")
    )
    said = [
        _said(str(key or ""), str(signal or ""), machines, signals) for key, signal in zip(keys, given, strict=True)
    ]
    for field in lacking(rows.schema):
        rows = rows.append_column(field, pa.array([one[field.name] for one in said], pa.string()))
    if pa.types.is_string(rows.schema.field("unit").type):
        at = rows.schema.get_field_index("unit")
        units = [unit or one["unit"] for unit, one in zip(rows.column(at).to_pylist(), said, strict=True)]
        rows = rows.set_column(at, rows.schema.field(at), pa.array(units, pa.string()))
    return rows


def _said(key: str, signal: str, machines: Mapping[str, Asset], signals: Mapping[str, SignalName]) -> Mapping[str, str]:
    machine = owner(key, machines)
    if machine not in machines:  # nobody has said where it stands
        machine = key.rpartition("/")[0] if signal in ("", "value") and "/" in key else key.removesuffix(f"/{signal}")
    stand = machines.get(machine) or Asset(machine)
    if signal in ("", "value"):
        signal = key.removeprefix(machine).strip("/")
    known = signals.get(signal) or SignalName()
    called = {"name": stand.name or machine, "signal_name": known.name or signal, "unit": known.unit}
    return {"area": stand.area, "line": stand.line, **called}


def as_tables(machines: Mapping[str, Asset], signals: Mapping[str, SignalName]) -> Mapping[str, pa.Table]:
    """Returns the tables that say where machines stand, and what signals are called, by their names in the lake."""
    assets, names = list(machines.values()), list(signals.items())
    stands = {column: pa.array([getattr(one, column) for one in assets], pa.string()) for column in COLUMNS}
    called = {
        "signal": pa.array([signal for signal, _ in names], pa.string()),
        "name": pa.array([one.name or signal for signal, one in names], pa.string()),
        "unit": pa.array([one.unit for _, one in names], pa.string()),
    }
    return {MACHINES_TABLE: pa.table(stands), SIGNALS_TABLE: pa.table(called)}


def _read(path: Path) -> Iterator[Asset]:
    """The machines of a CSV file, with commas or semicolons between."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error
    lines = text.splitlines()
    delimiter = ";" if lines and ";" in lines[0] else ","
    rows = csv.DictReader(lines, delimiter=delimiter)
    if "machine" not in (rows.fieldnames or ()):
        raise ConfigError(f"{path} needs a header with the column machine, and may have {', '.join(COLUMNS[1:])}")
    for row in rows:
        machine, *others = ((row.get(name) or "").strip() for name in COLUMNS)
        if not machine:
            raise ConfigError(f"{path}:{rows.line_num}: this row names no machine")
        yield Asset(machine, *others)


__all__ = ["Assets", "SignalName", "as_tables", "owner", "with_names"]
