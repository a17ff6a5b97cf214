"""The commit point: one SQLite transaction that holds the epoch and the outbox; and the state file beside it."""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tocsin.contracts import Checkpoint, Message, Staged, StepState
from tocsin.errors import AlreadyRunning, CorruptState, DurabilityError
from tocsin.world import Disk, SystemDisk

logger = logging.getLogger(__name__)

REMEMBERED = 100_000
"""Delivered ids that are kept in each channel, so that a message can never be sent again under a known id."""
PRUNE_EPOCHS = 100
HELD = "held:"
"""Begins the place of a state that the checkpoint itself holds."""
_FOLD_BYTES = 4 << 20
"""After about so much SQLite's log is folded into the database, beside the epoch loop, for it takes a while."""
_TRANSACTION_BYTES = 16 << 10
"""About what a transaction of few rows adds to SQLite's log: a handful of pages."""
_FSYNC_FAILED = (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC)
RESTORE = "restore a backup of the state folder and the tables from the same time, or move both away to start afresh"
"""The remedy for a damaged state: one of the two alone would not fit the other."""

_TABLES = """
create table if not exists epochs (epoch integer primary key, checkpoint text not null, sha256 text not null);
create table if not exists outbox (
    number integer primary key autoincrement, channel text not null, id text not null, body blob,
    epoch integer not null, delivered integer not null default 0, unique (channel, id)
);
create table if not exists staged (
    sink text not null, epoch integer not null, token text not null, bytes integer not null, rows blob,
    primary key (sink, epoch)
) without rowid;
create index if not exists undelivered on outbox (channel, number) where not delivered;
"""


class SqliteStore:
    """`contracts.CheckpointStore` in ``checkpoints.db``; also holds the lock on the state folder.

    Any SQLite tool can look inside. One connection for all threads, a lock around it: a relay's transaction holds
    the epoch up for a millisecond at most.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._locks = _lock(folder)
        self._lock = threading.Lock()
        path = self._path = folder / "checkpoints.db"
        self._failed: DurabilityError | None = None
        self._unfolded, self._folding = 0, threading.Thread()
        try:
            _sync_what_is_there(path)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            self._db.execute("pragma wal_autocheckpoint = 0")
            self._db.executescript(_TABLES)
            if "rows" not in [name for _, name, *_ in self._db.execute("pragma table_info(staged)")]:
                self._db.execute("alter table staged add column rows blob")  # the version before had none
        except sqlite3.DatabaseError as error:
            _unlock(self._locks)
            if isinstance(error, sqlite3.OperationalError):
                raise self._trouble(error) from error
            raise CorruptState(f"{path} is damaged ({error}); {RESTORE}") from error
        except DurabilityError:
            _unlock(self._locks)
            raise

    def last(self) -> Checkpoint | None:
        last = _last(self._db, self._path)
        if last is None:
            return None
        staged: dict[str, list[Staged]] = {}
        query = "select sink, epoch, token, bytes, coalesce(rows, x'') from staged order by epoch"
        for sink, epoch, token, size, rows in self._db.execute(query):
            if epoch > last.published.get(sink, -1):
                staged.setdefault(sink, []).append(Staged(epoch, json.loads(token), size, rows))
        return replace(last, staged=staged) if staged else last

    def commit(self, checkpoint: Checkpoint, outbox: Mapping[str, Sequence[Message]]) -> None:
        # What waits for a sink that is away may be thousands of epochs: only what is new is written.
        text = encoded(replace(checkpoint, staged={}))
        staged = [
            (sink, one.epoch, json.dumps(one.token), one.bytes, one.rows or None)
            for sink, waiting in checkpoint.staged.items()
            for one in waiting
            if one.epoch == checkpoint.epoch
        ]
        rows = [(c, m.id, m.body, checkpoint.epoch) for c, messages in outbox.items() for m in messages]
        with self._transaction(len(text) + sum(len(one[-1] or b"") for one in staged)):
            digest = hashlib.sha256(text.encode()).hexdigest()
            self._db.execute("insert into epochs values (?, ?, ?)", (checkpoint.epoch, text, digest))
            self._db.executemany("insert or ignore into outbox (channel, id, body, epoch) values (?, ?, ?, ?)", rows)
            self._db.executemany("insert into staged (sink, epoch, token, bytes, rows) values (?, ?, ?, ?, ?)", staged)
            self._db.executemany("delete from staged where sink = ? and epoch <= ?", list(checkpoint.published.items()))
            self._db.execute("delete from epochs where epoch < ?", (checkpoint.epoch - 1,))
            if checkpoint.epoch % PRUNE_EPOCHS == 0:
                last = self._db.execute("select coalesce(max(number), 0) from outbox").fetchone()[0]
                self._db.execute("delete from outbox where delivered and number < ?", (last - REMEMBERED,))

    def pending(self, channel: str, limit: int) -> Sequence[Message]:
        query = "select id, body from outbox where channel = ? and not delivered order by number limit ?"
        with self._lock:
            return [Message(id, body) for id, body in self._db.execute(query, (channel, limit))]

    def delivered(self, channel: str, ids: Sequence[str]) -> None:
        with self._transaction():
            self._db.executemany(
                "update outbox set delivered = 1, body = null where channel = ? and id = ?", [(channel, i) for i in ids]
            )

    @contextmanager
    def _transaction(self, bytes: int = 0) -> Iterator[None]:
        """One that is durable at the end; after a failed fsync there is none any more, whichever thread asks."""
        with self._lock:
            if self._failed is not None:
                raise self._failed
            try:
                with self._db:
                    self._db.execute("begin immediate")
                    yield
            except sqlite3.OperationalError as error:
                raise self._trouble(error) from error
            self._unfolded += bytes + _TRANSACTION_BYTES
            if self._unfolded >= _FOLD_BYTES and not self._folding.is_alive():
                self._unfolded = 0
                self._folding = threading.Thread(target=self._fold, name="fold", daemon=True)
                self._folding.start()

    def _fold(self) -> None:
        """Write SQLite's log into the database, over a connection of its own: transactions go on meanwhile."""
        try:
            with closing(sqlite3.connect(self._path, isolation_level=None)) as db:
                db.execute("pragma synchronous = full")
                db.execute("pragma wal_checkpoint(passive)")
        except sqlite3.OperationalError as error:
            if not isinstance(self._trouble(error), DurabilityError):
                logger.warning("the log of %s grows: %s; tried again soon", self._path, error)

    def _trouble(self, error: sqlite3.OperationalError) -> Exception:
        """Returns a failed fsync under its own name: SQLite calls it an I/O error, which could be tried again."""
        if error.sqlite_errorcode in _FSYNC_FAILED:
            self._failed = DurabilityError(f"fsync of {self._path} failed ({error}); check the disk, then start again")
            return self._failed
        return error

    def close(self) -> None:
        if self._folding.is_alive():
            self._folding.join()
        with self._lock:
            self._db.close()
            _unlock(self._locks)


def peek(folder: Path) -> Checkpoint | None:
    """Returns the last checkpoint in a state folder without taking hold of it: an engine may be running there."""
    path = folder / "checkpoints.db"
    if not path.exists():
        return None
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        try:
            return _last(db, path)
        except sqlite3.DatabaseError as error:
            raise CorruptState(f"{path} cannot be read ({error})") from error


def _last(db: sqlite3.Connection, path: Path) -> Checkpoint | None:
    row = db.execute("select checkpoint, sha256 from epochs order by epoch desc limit 1").fetchone()
    if row is None:
        return None
    if hashlib.sha256(row[0].encode()).hexdigest() != row[1]:
        raise CorruptState(f"the last checkpoint in {path} does not match its checksum; {RESTORE}")
    return decoded(row[0])


def _sync_what_is_there(path: Path) -> None:
    """Make the database durable, log included, before it is trusted.

    After a kill -9 its last transaction may be seen and not be on disk; a table that follows it would be ahead of it
    after a power cut. SQLite syncs what it writes, not what it finds.
    """
    disk = SystemDisk()
    for one in (path.with_name(path.name + "-wal"), path):
        if one.exists():
            disk.sync(one)
    disk.sync_folder(path.parent)


def _lock(folder: Path) -> list[int]:
    """The state folder for this process alone; the system gives it back when the process dies, however it dies.

    Both the file ``lock``, which says who holds it, and the folder itself are locked: a file can be deleted by someone
    who means well, and then the next process would lock another one of the same name.
    """
    locked = [os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)]
    try:
        fcntl.flock(locked[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        fcntl.flock(locked[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(locked[0], 32).decode(errors="replace").strip()
        who = f"process {holder}" if holder else "another process, whose lock file was deleted"
        _unlock(locked)
        raise AlreadyRunning(
            f"{folder} is in use by {who}; stop that one, or give this pipeline another folder: --set folder=PATH"
        ) from None
    except OSError as error:
        if len(locked) < 2 or error.errno not in (errno.EBADF, errno.EOPNOTSUPP):
            _unlock(locked)
            raise
        # Some network file systems lock no folders.
    os.truncate(locked[0], 0)
    os.write(locked[0], f"{os.getpid()}\n".encode())
    return locked


def _unlock(locked: Sequence[int]) -> None:
    for descriptor in locked:
        os.close(descriptor)


def encoded(checkpoint: Checkpoint) -> str:
    """Returns the checkpoint as JSON."""
    values = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}  # asdict copies: 0.5 ms
    values["staged"] = {
        sink: [(one.epoch, one.token, one.bytes, _text(one.rows)) for one in waiting]
        for sink, waiting in checkpoint.staged.items()
    }
    return json.dumps(values, separators=(",", ":"), sort_keys=True)


def decoded(text: str) -> Checkpoint:
    """Returns the checkpoint that `encoded` wrote, or the one of the version before, which had no lagging sinks."""
    values = json.loads(text)
    values["states"] = {id: StepState(*state) for id, state in values["states"].items()}
    values.pop("fingerprint", None)
    if "tokens" in values:
        tokens, epoch = values.pop("tokens"), values["epoch"]
        values["published"] = values.pop("tables")
        values["staged"] = {sink: [(epoch, _merged(some), 0)] for sink, some in tokens.items() if some}
    values["staged"] = {
        sink: [Staged(epoch, token, size, base64.b64decode("".join(rows))) for epoch, token, size, *rows in waiting]
        for sink, waiting in values["staged"].items()
    }
    return Checkpoint(**values)


def _text(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")


def _merged(tokens: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the one token of an epoch; the version before kept a list, which never had more than one."""
    (token,) = tokens
    return token


def write_states(
    disk: Disk, folder: Path, epoch: int, tables: Mapping[str, pa.Table], held_bytes: int = 0
) -> dict[str, StepState]:
    """Make the states that have changed durable, in one file; returns where each one is.

    Where all of them together take no more than ``held_bytes``, the places hold the states themselves, and it is the
    checkpoint that makes them durable.
    """
    if not tables:
        return {}
    name = f"{epoch:012d}.state"
    sink, ends = pa.BufferOutputStream(), [0]
    for table in tables.values():
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        ends.append(sink.tell())
    data = memoryview(sink.getvalue())
    holds = len(data) <= held_bytes
    if not holds:
        disk.write(folder / name, data)
        disk.sync(folder / name)
        disk.sync_folder(folder)
    states = {}
    for id, begin, end in zip(tables, ends, ends[1:], strict=False):
        one = data[begin:end]
        place = HELD + _text(one) if holds else f"{name}:{begin}:{end}"
        states[id] = StepState(place, hashlib.sha256(one).hexdigest())
    return states


def read_states(disk: Disk, folder: Path, places: Mapping[str, StepState]) -> dict[str, pa.Table]:
    """The states of a checkpoint; `CorruptState` if one is not what was written."""
    files: dict[str, bytes] = {}
    tables = {}
    for id, state in places.items():
        if state.place.startswith(HELD):
            name, data = "checkpoints.db", base64.b64decode(state.place.removeprefix(HELD))
        else:
            name, begin, end = _parts(state.place)
            if name not in files:
                try:
                    files[name] = disk.read(folder / name)
                except FileNotFoundError as error:
                    raise CorruptState(f"{folder / name} with the state of '{id}' is gone; {RESTORE}") from error
            data = files[name][begin:end]
        if hashlib.sha256(data).hexdigest() != state.sha256:
            raise CorruptState(
                f"the state of '{id}' in {folder / name} does not match its checksum: it was changed, or the disk is "
                f"failing. Nothing was touched; {RESTORE}"
            )
        tables[id] = pa.ipc.open_stream(data).read_all()
    return tables


def state_files(places: Mapping[str, StepState]) -> set[str]:
    """The files that a checkpoint's states are in."""
    return {_parts(state.place)[0] for state in places.values() if not state.place.startswith(HELD)}


def delete_states(disk: Disk, folder: Path, keep: Collection[str]) -> None:
    """Delete the state files that no checkpoint refers to."""
    for name in disk.names(folder):
        if name.endswith(".state") and name not in keep:
            disk.unlink(folder / name)


def _parts(place: str) -> tuple[str, int, int]:
    name, begin, end = place.split(":")
    return name, int(begin), int(end)
