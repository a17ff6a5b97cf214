"""The audit: who did what, in a table whose rows are chained by their hashes; and the check of that chain.

Each row holds the hash of the one before it and its own over all that it says, as a transparency log or a block chain
does. Who changes, removes or inserts a row has to make all later ones anew; that is seen by the head, the hash of the
newest row, if somebody has noted it elsewhere. It lies in ``actions.db`` of the state folder, so that an action and its
row in the audit are one transaction.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from tocsin.errors import ConfigError, CorruptState

_TABLES = """
create table if not exists actions (
    number integer primary key autoincrement, time_us integer not null, alarm text not null, action text not null,
    by text not null, reason text not null, until_us integer, assignee text not null default ''
);
create table if not exists audit (
    number integer primary key autoincrement, time_us integer not null, who text not null, role text not null,
    through text not null, what text not null, subject text not null, details text not null,
    previous text not null, hash text not null
);
"""
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Actor:
    """Who does something, as we know it and not as they say it."""

    name: str
    """Of the account, the token or, on the command line, the system's user."""
    role: str
    """Empty on the command line, where the rights are those of the files."""
    through: str
    """``page``, ``token`` or ``command line``."""


@dataclass(frozen=True)
class AuditRow:
    """A row of the audit."""

    number: int
    time_us: int
    who: str
    role: str
    through: str
    what: str
    subject: str
    details: str
    previous: str
    """The hash of the row before; empty in the first."""
    hash: str

    def digest(self, number: int) -> str:
        """Returns what its hash is if its number is this one."""
        said = [number, *astuple(self)[1:-1]]
        return hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()


def this_user() -> Actor:
    """Returns who runs this process."""
    try:
        name = getpass.getuser()
    except (ImportError, KeyError, OSError):
        name = f"uid {os.getuid()}"  # a container often has no name for its user
    return Actor(name, "", COMMAND_LINE)


@contextmanager
def opened(state_folder: Path) -> Iterator[sqlite3.Connection]:
    """Gives ``actions.db`` with its tables."""
    state_folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(state_folder / "actions.db", timeout=5.0)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")
        db.executescript(_TABLES)
        _add_what_came_later(db)
        yield db


def _add_what_came_later(db: sqlite3.Connection) -> None:
    """Give a table of actions from before alarms were assigned the column for it."""

    def lacks() -> bool:
        return all(name != "assignee" for _, name, *_ in db.execute("pragma table_info(actions)"))

    if lacks():
        with db:
            db.execute("begin immediate")
            if lacks():  # nobody else has added it meanwhile
                db.execute("alter table actions add column assignee text not null default ''")


def write_down(state_folder: Path, actor: Actor, what: str, subject: str = "", details: str = "") -> None:
    """Add a row, durably; any process may."""
    with opened(state_folder) as db, db:
        db.execute("begin immediate")
        chain(db, time.time_ns() // 1000, actor, what, subject, details)


def chain(db: sqlite3.Connection, time_us: int, actor: Actor, what: str, subject: str, details: str) -> None:
    """Add a row within a transaction that was begun as ``immediate``, so that nobody comes between."""
    last = db.execute("select hash from audit order by number desc limit 1").fetchone()
    given = db.execute("select seq from sqlite_sequence where name = 'audit'").fetchone()
    number = (given[0] if given else 0) + 1
    previous = last[0] if last else ""
    row = AuditRow(number, time_us, actor.name, actor.role, actor.through, what, subject, details, previous, "")
    values = (*astuple(row)[:-1], row.digest(number))
    db.execute("insert into audit values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def newest(state_folder: Path, count: int) -> Sequence[AuditRow]:
    """Returns the newest rows, the newest first."""
    with _reading(state_folder) as db:
        return [AuditRow(*row) for row in db.execute("select * from audit order by number desc limit ?", (count,))]


def done(state_folder: Path, what: str) -> Sequence[AuditRow]:
    """Returns every row of one kind, the newest first; none where nobody has done anything yet."""
    if not (state_folder / "actions.db").is_file():
        return ()
    query = "select * from audit where what = ? order by number desc"
    with _reading(state_folder) as db:
        return [AuditRow(*row) for row in db.execute(query, (what,))]


def signed_in(state_folder: Path) -> set[str]:
    """Returns who has signed in to the page by a name, except for accounts that were removed."""
    removed = {row.subject for row in done(state_folder, "account_removed")}
    return {row.who for row in done(state_folder, "signed_in") if row.through == "page"} - removed


@dataclass(frozen=True)
class Verdict:
    """What the check of the chain came to."""

    rows: int
    head: str
    """``number:hash`` of the newest row; empty if there is none."""
    fault: str = ""
    """The first row that is not as it was written, and how; empty if all are."""


def verify(state_folder: Path, noted: str = "") -> Verdict:
    """Check the chain from its first row on; ``noted`` is a head of earlier, which must still be in it."""
    wanted, _, wanted_hash = noted.partition(":")
    if noted and not (wanted.isdigit() and wanted_hash):
        raise ConfigError(
            f"'{noted}' is no head; give it as an earlier tocsin audit verify has printed it: NUMBER:HASH"
        )
    rows, before, is_noted = 0, AuditRow(0, 0, "", "", "", "", "", "", "", ""), not noted
    with _reading(state_folder) as db:
        for values in db.execute("select * from audit order by number"):
            row = AuditRow(*values)
            if fault := _fault(row, before):
                return Verdict(rows, _head(before), fault)
            if row.number == int(wanted or -1):
                if row.hash != wanted_hash:
                    return Verdict(
                        rows, _head(before), f"row {row.number} or one before it was changed: it had another hash"
                    )
                is_noted = True
            rows, before = rows + 1, row
        given = db.execute("select seq from sqlite_sequence where name = 'audit'").fetchone()
    if (given and given[0] > before.number) or not is_noted:
        return Verdict(rows, _head(before), f"row {before.number + 1} was removed: there were more rows at the end")
    return Verdict(rows, _head(before))


def _fault(row: AuditRow, before: AuditRow) -> str:
    """Returns how a row does not follow the one before it, or is not what was written; empty if it does and is."""
    expected = before.number + 1
    if row.hash != row.digest(row.number):
        if (row.hash, row.previous) == (before.hash, before.previous):
            return f"row {row.number} was inserted: it is a copy of row {before.number}"
        # Rows that were numbered anew still have the hash of their old number.
        if row.hash == row.digest(row.number - 1):
            return f"row {before.number} was inserted: the rows from {row.number} on were moved"
        if row.hash == row.digest(row.number + 1):
            return f"row {row.number} was removed: the rows from {row.number + 1} on were moved"
        return f"row {row.number} was changed or inserted: its hash is not that of what it says"
    if row.number > expected:
        return f"row {expected} was removed: row {row.number} comes after row {before.number}"
    if row.number < expected:
        return f"row {row.number} was inserted: no row has such a number"
    if row.previous != before.hash:
        return f"row {before.number} was changed: row {row.number} was written after another one"
    return ""


def _head(row: AuditRow) -> str:
    return f"{row.number}:{row.hash}" if row.number else ""


@contextmanager
def _reading(state_folder: Path) -> Iterator[sqlite3.Connection]:
    if not (state_folder / "actions.db").is_file():
        raise ConfigError(
            f"there is no audit in {state_folder}: nobody has done anything there; say which with --folder"
        )
    try:
        with opened(state_folder) as db:
            yield db
    except sqlite3.DatabaseError as error:
        raise CorruptState(
            f"{state_folder / 'actions.db'} cannot be read ({error}); bring it back from a backup"
        ) from error
