"""What the lake holds as answers that can be checked: each names the tables that it rests on, and their versions.

Everything here only reads. A version is that of a Delta table, as `delta_scan` of DuckDB or `deltalake` know it too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import write_csv

from tocsin.domain.alarms import COMMENTED, LABELLED, MAINTAINED, REMARKS
from tocsin.domain.labels import comment
from tocsin.engine.audit import done
from tocsin.engine.wire import StreamColumns
from tocsin.errors import ConfigError, TocsinError, UnknownName
from tocsin.lake.read import quoted, snapshot
from tocsin.pipeline.assets import owner
from tocsin.pipeline.plan import Asset
from tocsin.serve.desk import list_alarms, rows
from tocsin.serve.history import history
from tocsin.serve.onset import onset_of
from tocsin.serve.past import kept

log = logging.getLogger(__name__)
ROWS_MAX = 1_000
POINTS_MAX = 500
CASES_MAX = 10
"""So many earlier cases are told, and so many times of maintenance."""
QUERY_S = 20.0
BYTES_MAX = 64 * 2**20
IN_CSV = (
    "started", "time", "key", "signal", "rule", "severity", "state", "mode", "value", "expected", "limit", "unit",
    "message", "event", "by", "reason", "label", "assignee", "comment", "id",
)  # fmt: skip

NO_ASSETS: Mapping[str, Asset] = MappingProxyType({})
STAND = ("area", "line", "name")
"""Columns beside them that say where a machine stands, where that is known."""

Answer = dict[str, Any]
"""``rests_on``: the tables with their versions; and the answer, as JSON."""


def ask(folder: Path, sql: str, rows_max: int = 100) -> Answer:
    """Returns the first rows of what a query over the tables gives; it sees the tables and nothing else.

    Raises `ConfigError` for a query that is none, that takes longer than 20 s, or more than 2 GB.
    """
    table, versions, is_cut = limited(folder, sql, min(rows_max, ROWS_MAX))
    return {"rests_on": versions, "rows": _plain(table), "is_cut": is_cut}


def limited(folder: Path, sql: str, rows_max: int) -> tuple[pa.Table, Mapping[str, int], bool]:
    """Returns the first rows of what a query gives, the versions of the tables, and whether there were more rows.

    Raises `ConfigError` as `ask` does, and for an answer of more than 64 MB.
    """
    table, versions = snapshot(sql, folder, timeout_s=QUERY_S, rows_max=rows_max + 1)
    if table.nbytes > BYTES_MAX:
        raise ConfigError(f"the answer has {table.nbytes / 2**20:,.0f} MB, more than {BYTES_MAX >> 20}; ask for less")
    return table.slice(0, rows_max), versions, table.num_rows > rows_max


def machines(folder: Path) -> Answer:
    """Returns each machine with its tables: how many rows, from when to when, which signals; and its open alarms."""
    known: dict[str, dict[str, Any]] = {}
    rests_on: dict[str, int] = {}
    for stream in kept(folder):
        if stream.kind == "alarms":
            continue
        of_table = f"""
            SELECT CAST(key AS VARCHAR) AS key, count(*) AS rows, min(time) AS first, max(time) AS newest
            FROM {quoted(stream.name)} GROUP BY 1 ORDER BY 1"""  # noqa: S608
        table, versions = snapshot(of_table, folder, timeout_s=QUERY_S)
        rests_on |= versions
        for row in _plain(table):
            told = {"table": stream.name, "signals": list(stream.values), **row}
            known.setdefault(told.pop("key"), {"tables": []})["tables"].append(told)
    for name in _alarm_tables(folder):
        rests_on[name] = _version(folder, name)
        for alarm in list_alarms(folder, table=name).to_pylist():
            machine = known.setdefault(alarm["key"], {"tables": []})
            machine["open_alarms"] = machine.get("open_alarms", 0) + 1
    return {"rests_on": rests_on, "machines": [{"machine": name, **told} for name, told in sorted(known.items())]}


def alarms(folder: Path, machine: str = "", *, everything: bool = False, rows_max: int = 50) -> Answer:
    """Returns the newest row of each alarm, latest first: open ones, or ``everything``; of one machine, or of all."""
    listed: list[dict[str, Any]] = []
    rests_on = {}
    for name in _alarm_tables(folder):
        rests_on[name] = _version(folder, name)
        table = list_alarms(folder, table=name, everything=everything)
        if machine:
            table = table.filter(_is_of(table["key"], machine))
        listed += [{"table": name, **row} for row in _plain(table)]
    most = min(rows_max, ROWS_MAX)
    listed.sort(key=lambda row: str(row["time"]), reverse=True)
    return {"rests_on": rests_on, "alarms": listed[:most], "is_cut": len(listed) > most}


def series(folder: Path, machine: str, begin: datetime, end: datetime, points: int = 200) -> Answer:
    """Returns the signals of a machine in a range of time, as means, least and most values of equal parts of it."""
    ends_ms = [round(moment.timestamp() * 1000) for moment in (begin, end)]
    drawn = history(folder, (), machine, ends_ms[0], ends_ms[1], min(points, POINTS_MAX))
    rests_on = {name: _version(folder, name) for name in sorted({one.stream for one in drawn})}
    told = [{"signal": one.signal, "table": one.stream, "points": msgspec.to_builtins(one.points)} for one in drawn]
    return {"rests_on": rests_on, "machine": machine, "series": told}


def evidence(folder: Path, state_folder: Path, alarm: str, around: timedelta = timedelta(hours=1)) -> Answer:
    """Returns all that is known of an alarm, by its id, or by ``rule:key`` for its latest occurrence.

    Its rows from the onset on (``history``), the signals of its machine from ``around`` before it until as long after,
    what else rang in that time (``beside``), its own signal with its band before and after it began (``onset``), the
    same alarm's earlier cases and how they ended (``before``), and what maintenance people have said was done at its
    machine, by the audit in the state folder (``maintenance``, latest first; null where the audit cannot be read).

    Raises
    ------
    UnknownName
        No table of alarms has it.
    """
    for name in _alarm_tables(folder):
        every = rows(folder, name).sort_by("number").to_pylist()
        mine = [row for row in every if alarm in (row["id"], f"{row['rule']}:{row['key']}")]
        if mine:
            break
    else:
        raise UnknownName("alarm", alarm, [row["id"] for row in alarms(folder, everything=True)["alarms"]][:10])
    id, key, rule = (mine[-1][column] for column in ("id", "key", "rule"))
    of_it = [row for row in every if row["id"] == id]
    onset = of_it[0]["started"] or of_it[0]["time"]
    of_state = [row for row in of_it if row["event"] not in REMARKS] or of_it
    begin, end = onset - around, max(row["time"] for row in of_state) + around
    machine, drawn = _readings(folder, key, str(of_it[0].get("signal") or ""), begin, end)
    beside = {row["id"]: row for row in every if row["id"] != id and begin <= row["time"] <= end}
    before = _cases([row for row in every if (row["key"], row["rule"]) == (key, rule) and row["id"] != id])
    return {
        "rests_on": {name: _version(folder, name), **drawn["rests_on"]},
        "alarm": _as_json(of_state[-1]),
        "history": _as_json(of_it),
        "series": drawn["series"],
        "onset": msgspec.to_builtins(onset_of(folder, of_it[0], machine, onset)),
        "beside": _as_json(list(beside.values())[:ROWS_MAX]),
        "before": _as_json(before),
        "maintenance": _maintenance(state_folder, machine),
    }


def _readings(folder: Path, key: str, signal: str, begin: datetime, end: datetime) -> tuple[str, Answer]:
    """The machine of an alarm, as the tables name it, and its signals.

    Keys of alarms go down to the signal where each is a series of its own and readings are of the machine; the tables
    may hold other things by that key, such as windows.
    """
    parent, _, last = key.rpartition("/")
    if parent and last == signal:
        drawn = series(folder, parent, begin, end)
        if any(one["signal"] == signal for one in drawn["series"]):
            return parent, drawn
    drawn = series(folder, key, begin, end)
    return (key, drawn) if drawn["series"] or not parent else (parent, series(folder, parent, begin, end))


def alarms_as_csv(folder: Path, assets: Mapping[str, Asset] = NO_ASSETS) -> bytes:
    """Returns the newest row of each alarm there was, latest first, as CSV with a header, for a spreadsheet.

    Where it is known where machines stand, columns ``area``, ``line`` and ``name`` say it.

    A text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    tables = [list_alarms(folder, table=name, everything=True) for name in _alarm_tables(folder)]
    if not tables:
        return (",".join(f'"{name}"' for name in IN_CSV) + "\n").encode()
    listed = pa.concat_tables(tables)
    columns = {name: listed[name].cast(pa.string()) for name in IN_CSV}
    if assets:
        stand = [assets.get(owner(key, assets)) or Asset(key) for key in columns["key"].to_pylist()]
        columns |= {name: pa.array([getattr(one, name) for one in stand], pa.string()) for name in STAND}
    for name, texts in columns.items():
        kind = pa.string() if name in STAND else listed.schema.field(name).type
        if kind == pa.string() or pa.types.is_dictionary(kind):
            columns[name] = pc.replace_substring_regex(texts, r"^([=+\-@\t\r])", r"'\1")
    sink = pa.BufferOutputStream()
    write_csv(pa.table(columns), sink)
    return bytes(sink.getvalue())


def _cases(of_rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Earlier occurrences, latest first: from when to when, how it ended, and what people have said of it."""
    cases: dict[str, dict[str, Any]] = {}
    for row in of_rows:
        new = {"id": row["id"], "started": row["started"] or row["time"], "said": [], "comments": []}
        case = cases.setdefault(row["id"], new)
        if row["event"] not in REMARKS or "until" not in case:
            case |= {"until": row["time"], "state": row["state"], "message": row["message"]}
        if row["event"] in LABELLED:
            case["said"].append(": ".join(filter(None, (LABELLED[row["event"]], row["reason"]))))
        elif row["event"] == COMMENTED:
            case["comments"].append(comment(row["by"], row["reason"]))
    return list(reversed(cases.values()))[:CASES_MAX]


def _maintenance(state_folder: Path, machine: str) -> list[dict[str, Any]] | None:
    """What people have said was maintained at a machine or a part of it, by the audit, latest first."""
    try:
        rows = done(state_folder, MAINTAINED)
    except TocsinError as error:
        log.warning("evidence has no maintenance: %s", error)
        return None
    told = []
    for row in rows:
        key = row.subject.partition(":")[2]
        if machine == key or machine.startswith(f"{key}/") or key.startswith(f"{machine}/"):
            at = datetime.fromtimestamp(row.time_us / 1e6, UTC).isoformat()
            reason = json.loads(row.details)["reason"]
            told.append({"time": at, "alarm": row.subject, "by": row.who, "reason": reason, "audit": row.number})
    return told[:CASES_MAX]


def _alarm_tables(folder: Path) -> list[str]:
    streams: list[StreamColumns] = list(kept(folder))
    return [stream.name for stream in streams if stream.kind == "alarms"]


def _version(folder: Path, table: str) -> int:
    return snapshot(f"SELECT 1 FROM {quoted(table)} LIMIT 1", folder, timeout_s=QUERY_S)[1][table]  # noqa: S608


def _is_of(keys: pa.ChunkedArray, machine: str) -> pa.ChunkedArray:
    texts = keys.cast(pa.string())
    return pc.or_(pc.equal(texts, machine), pc.starts_with(texts, f"{machine}/"))


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    return [dict(row) for row in _as_json(table.to_pylist())]


def _as_json(value: Any) -> Any:
    """Returns rows as JSON has them: times as text in UTC, numbers that are none as null."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))


def moment(text: str) -> datetime:
    """Returns a time that is written as RFC 3339, in UTC where it names no zone."""
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
