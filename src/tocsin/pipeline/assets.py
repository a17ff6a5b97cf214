"""Where machines stand, and what people call them and their signals."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from tocsin.errors import ConfigError
from tocsin.pipeline.plan import Asset
from tocsin.settings import Settings

COLUMNS = ("machine", "area", "line", "name")
"""Of a CSV file of machines; only the first must be there."""


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


__all__ = ["Assets", "SignalName"]
