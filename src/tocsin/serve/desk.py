"""Alarms for people: which there are, what to do with one, and how the alarm system as a whole is doing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tocsin.domain.alarm_kpis import kpis as figures
from tocsin.domain.alarms import ALARM_SCHEMA, CLOSED
from tocsin.domain.calendars import as_us
from tocsin.engine.actions import append_action
from tocsin.errors import ConfigError, UnknownName
from tocsin.lake import read as lake

ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "ack": "acknowledge",
        "acknowledge": "acknowledge",
        "shelve": "shelve",
        "unshelve": "unshelve",
        "suppress": "suppress",
        "unsuppress": "unsuppress",
        "out_of_service": "out_of_service",
        "in_service": "in_service",
        "reset": "reset",
    }
)
"""What may be done with an alarm, by the word that people use for it (hyphens or underscores)."""


def rows(lake_folder: Path | str, table: str = "alarms") -> pa.Table:
    """All alarm rows of a table, in the order of their time."""
    if table not in lake.tables(lake_folder):
        raise UnknownName("alarm table", table, lake.tables(lake_folder))
    found = lake.read(table, lake_folder)
    if missing := [name for name in ALARM_SCHEMA.names if name not in found.column_names]:
        raise ConfigError(f"table '{table}' holds no alarms: it lacks {', '.join(missing)}")
    found = found.select([*ALARM_SCHEMA.names]).cast(pa.schema([f.with_nullable(True) for f in ALARM_SCHEMA]))
    at = found["time"].combine_chunks().to_numpy(zero_copy_only=False)
    return found.take(pa.array(at.argsort(kind="stable")))


def list_alarms(lake_folder: Path | str, *, table: str = "alarms", everything: bool = False) -> pa.Table:
    """The newest row of each alarm, latest first: those that are open or kept silent, or ``everything`` there was.

    Cases are not listed: their alarms are.
    """
    found = rows(lake_folder, table)
    found = found.filter(pc.invert(pc.is_in(found["event"], pa.array(("case_opened", "case_worse", "case_closed")))))
    # By number, not by time: people's clocks are not the machines'.
    found = found.take(pc.sort_indices(found, sort_keys=[("number", "ascending")]))
    names = zip(found["rule"].to_pylist(), found["key"].to_pylist(), strict=True)
    newest = {name: i for i, name in enumerate(names)}
    latest = found.take(pa.array(newest.values(), pa.int64())).sort_by([("time", "descending")])
    if everything:
        return latest
    closed = pc.and_(pc.is_in(latest["state"], pa.array(CLOSED)), pc.equal(latest["mode"], ""))
    return latest.filter(pc.invert(closed))


def act(
    state_folder: Path | str, alarm: str, action: str, by: str, reason: str = "", until: datetime | None = None
) -> int:
    """Write down, durably, what somebody does with an alarm; the running pipeline applies and audits it.

    ``alarm`` is its id, or ``rule:key``. Shelving without ``until`` lasts until the alarm clears. Gives the number of
    the entry in the log of actions.
    """
    known = ACTIONS.get(action.replace("-", "_"))
    if known is None:
        raise UnknownName("action", action, ACTIONS)
    if not alarm.strip():
        raise ConfigError("say which alarm: its id, or rule:key")
    if not by.strip():
        raise ConfigError("say who does it: every action is audited")
    if until is not None and until.tzinfo is None:
        raise ConfigError("'until' needs a time zone")
    now = datetime.now(UTC)
    if until is not None and until <= now:
        raise ConfigError(f"{until.isoformat()} is over; shelve until a later time")
    return append_action(
        Path(state_folder), as_us(now), alarm.strip(), known, by, reason, None if until is None else as_us(until)
    )


def kpis(lake_folder: Path | str, *, table: str = "alarms") -> dict[str, Any]:
    """Alarms per ten minutes, chattering, stale, floods, over all rows of a table (see `alarm_kpis`)."""
    return figures(rows(lake_folder, table))
