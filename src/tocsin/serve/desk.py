"""Alarms for people: which there are, what to do with one, and how the alarm system as a whole is doing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tocsin.domain.alarm_kpis import kpis as figures
from tocsin.domain.alarm_rows import ALARM_SCHEMA, KNOWN_BY
from tocsin.domain.alarms import CASE_EVENTS, CLOSED, REMARKS, OperatorAction, action_words, operator_action
from tocsin.domain.calendars import as_us
from tocsin.domain.labels import comments_by_id, labels_by_id
from tocsin.engine.actions import append_action
from tocsin.engine.audit import Actor, signed_in
from tocsin.errors import ConfigError, UnknownName
from tocsin.lake import read as lake
from tocsin.serve.accounts import Accounts
from tocsin.values.text import printable

PERSON_MAX = 200
"""So many letters has the name of a person at most."""


def rows(lake_folder: Path | str, table: str = "alarms") -> pa.Table:
    """Returns all alarm rows of a table, in the order of their time.

    A column that came with a later version is null in rows from before.
    """
    if table not in lake.tables(lake_folder):
        raise UnknownName("alarm table", table, lake.tables(lake_folder))
    read = lake.read(table, lake_folder)
    if missing := KNOWN_BY - set(read.column_names):
        raise ConfigError(f"table '{table}' holds no alarms: it lacks {', '.join(sorted(missing))}")
    schema = pa.schema([field.with_nullable(True) for field in ALARM_SCHEMA])
    columns = [
        read[field.name].cast(field.type) if field.name in read.column_names else pa.nulls(len(read), field.type)
        for field in schema
    ]
    alarms = pa.table(columns, schema=schema)
    at = alarms["time"].combine_chunks().to_numpy(zero_copy_only=False)
    return alarms.take(pa.array(at.argsort(kind="stable")))


def list_alarms(lake_folder: Path | str, *, table: str = "alarms", everything: bool = False) -> pa.Table:
    """Returns the newest row of each alarm, latest first: those open or kept silent, or ``everything`` there was.

    Cases are not listed: their alarms are. Column ``label`` has what somebody has said an alarm was, true or false,
    ``comment`` the last comment, behind the name of who wrote it.
    """
    alarms = rows(lake_folder, table)
    remarks = {"label": labels_by_id(alarms), "comment": comments_by_id(alarms)}
    alarms = alarms.filter(pc.invert(pc.is_in(alarms["event"], pa.array([*CASE_EVENTS, *REMARKS]))))
    # By number, not by time: people's clocks are not the machines'.
    alarms = alarms.take(pc.sort_indices(alarms, sort_keys=[("number", "ascending")]))
    names = zip(alarms["rule"].to_pylist(), alarms["key"].to_pylist(), strict=True)
    newest = {name: i for i, name in enumerate(names)}
    latest = alarms.take(pa.array(newest.values(), pa.int64())).sort_by([("time", "descending")])
    for name, said in remarks.items():
        of_each = [said.get(id, "") for id in latest["id"].to_pylist()]
        latest = latest.append_column(name, pa.array(of_each, pa.string()))
    if everything:
        return latest
    closed = pc.and_(pc.is_in(latest["state"], pa.array(CLOSED)), pc.equal(latest["mode"], ""))
    return latest.filter(pc.invert(closed))


def check_known(lake_folder: Path | str, alarm: str, action: str, *, table: str = "alarms") -> str:
    """Raise `UnknownName` unless the table knows the alarm (its id, or ``rule:key``); returns what to call it.

    What is for the detector before it goes by ``rule:key``, a label or comment by ``rule:key#id``: the occurrence that
    is named, or the latest. An alarm named by its place may be shelved or taken out of
    service before it has ever rung.
    """
    if ":" in alarm and _action(action).beforehand:
        return alarm
    known: list[str] = []
    places: list[str] = []
    if table in lake.tables(lake_folder):
        alarms = rows(lake_folder, table).sort_by("number")
        pairs = zip(alarms["rule"].to_pylist(), alarms["key"].to_pylist(), strict=True)
        places = [f"{rule}:{key}" for rule, key in pairs]
        known = [*alarms["id"].to_pylist(), *places]
    if alarm not in known:
        raise UnknownName("alarm", alarm, list(dict.fromkeys(reversed(known)))[:10])
    last = (len(known) - 1 - known[::-1].index(alarm)) % len(places)
    if _action(action).remarks:
        return f"{places[last]}#{known[last]}"
    return places[last] if _action(action).detector else alarm


def act(
    state_folder: Path | str,
    alarm: str,
    action: str,
    by: str,
    reason: str = "",
    until: datetime | None = None,
    actor: Actor | None = None,
    assignee: str = "",
) -> int:
    """Write down, durably, what somebody does with an alarm; the running pipeline applies and audits it.

    ``alarm`` is its id, or ``rule:key``. Shelving without ``until`` lasts until the alarm clears. ``by`` is who does it
    by their own word, ``actor`` by the audit, if not the user who runs this process; on the page both are the session's
    name. ``assignee`` is to whom the alarm is given. Returns the number of the entry in the log of actions.
    """
    known = _action(action)
    if not alarm.strip():
        raise ConfigError("say which alarm: its id, or rule:key")
    if not by.strip():
        raise ConfigError("say who does it: every action is audited")
    if known.detector and ":" not in alarm:
        raise ConfigError(f"{known.name} is for a detector: name the rule and the key, such as health:pump")
    if known.remarks and "#" not in alarm:
        raise ConfigError(f"{known.command} is of one occurrence: name it rule:key#id, such as hot:pump#3f2a")
    if known.asks == "text" and not reason.strip():
        raise ConfigError("a comment needs words: say what is to be known of the alarm")
    folder = Path(state_folder)
    assignee = _person(folder, assignee) if known.asks == "person" else ""
    if known.detector and known.timed and until is None:
        raise ConfigError(f"say until when to {known.name}")
    if until is not None and until.tzinfo is None:
        raise ConfigError("'until' needs a time zone")
    now = datetime.now(UTC)
    if until is not None and until <= now:
        raise ConfigError(f"{until.isoformat()} is over; give a later time")
    until_us = None if until is None else as_us(until)
    return append_action(folder, as_us(now), alarm.strip(), known.name, by, reason, until_us, actor, assignee)


def people(state_folder: Path) -> list[str]:
    """Returns to whom an alarm can be given: who has an account, and who has signed in to the page by a provider.

    It is empty where nobody has to sign in; then a name is not checked.
    """
    return sorted({*Accounts(state_folder).people(), *signed_in(state_folder)})


def _person(state_folder: Path, name: str) -> str:
    if not (name := name.strip()):
        raise ConfigError("say whom the alarm is for: the name of an account")
    if len(name) > PERSON_MAX or not name.isprintable():
        raise ConfigError(f"'{printable(name[:PERSON_MAX])}' is nobody's name: it has at most {PERSON_MAX} letters")
    known = people(state_folder)
    if known and name not in known:
        raise UnknownName("account", name, known)
    return name


def _action(word: str) -> OperatorAction:
    action = operator_action(word)
    if action is None:
        raise UnknownName("action", word, action_words())
    return action


def kpis(lake_folder: Path | str, *, table: str = "alarms") -> dict[str, Any]:
    """Returns alarms per ten minutes, chattering, stale, floods, over all rows of a table (see `alarm_kpis`)."""
    return figures(rows(lake_folder, table))
