"""Backup and restore of a pipeline's folder: tables and state of the same epoch, also while the engine runs.

What the folder holds is either never changed once it is there (data files, entries of a Delta log, states), or only
added to (the ingest log), or a database with a snapshot of its own (SQLite). So a copy is made twice: first all of it,
for as long as that takes; then what is new since, until one such pass falls between two commits of the engine. That
copy is what a crash at this moment would have left, and a start brings it in order as it does after every crash.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tocsin import __version__
from tocsin.engine import audit
from tocsin.engine.checkpoint import peek, read_states
from tocsin.errors import ConfigError, CorruptState, SinkError, StateError
from tocsin.lake.log import Log
from tocsin.lake.read import tables
from tocsin.world import SystemDisk

STATE = ".state"
LOG = "_delta_log"
MANIFEST = "backup.json"
TRIES_S = 60.0
"""For how long a moment between two commits is looked for."""
_PAUSE_S = 0.05
_FAULTS_MAX = 5
_DATABASES = ("checkpoints.db", "actions.db", "access.db")
_OF_THIS_PROCESS = ("lock", "page.sock", "member.json")
"""What a copy must not have: the lock and the socket of a process, and its name in a group of Kafka."""
_CHUNK = 2**20


class Manifest(msgspec.Struct):
    """What a backup says of itself."""

    version: str
    epoch: int
    made_us: int
    files: dict[str, tuple[int, str]]
    """By path: bytes and SHA-256."""

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.files.values())


@dataclass(frozen=True)
class _Mark:
    """By what a file is known to be the same."""

    size: int
    changed_ns: int


def backup(folder: Path, to: Path) -> Manifest:
    """Copy a pipeline's folder; ``to`` appears when all of it is there and durable, or not at all."""
    if peek(folder / STATE) is None:
        raise ConfigError(f"{folder} is no pipeline's folder, or it has no checkpoint yet; say which with --folder")
    _refuse_inside(folder, to)
    partial = _anew(to)
    audit.write_down(folder / STATE, audit.this_user(), "backup", str(to.absolute()))
    copied: dict[str, _Mark] = {}
    with suppress(FileNotFoundError):  # tidied up meanwhile: the passes that count see what is there
        _copy_new(folder, partial, copied)
    epoch = _between_commits(folder, partial, copied)
    _drop_databases_leftovers(partial)
    manifest = Manifest(__version__, epoch, time.time_ns() // 1000, dict(_hashed(partial)))
    (partial / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    _appear(partial, to)
    return manifest


def restore(source: Path, folder: Path) -> Manifest:
    """Put a backup where a pipeline's folder is to be; it appears whole, or not at all, and replaces nothing."""
    manifest = _manifest(source)
    for path in manifest.files:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise CorruptState(f"{source / MANIFEST} names a file outside of the backup: {path}")
    _refuse_inside(source, folder)
    partial = _anew(folder)
    for path, (_, digest) in manifest.files.items():
        if _copy(source / path, partial / path) != digest:
            shutil.rmtree(partial)
            raise CorruptState(f"{source / path} is not what was backed up: it was changed, or the disk is failing")
    audit.write_down(partial / STATE, audit.this_user(), "restored", str(source.absolute()))
    _appear(partial, folder)
    return manifest


def _between_commits(folder: Path, partial: Path, copied: dict[str, _Mark]) -> int:
    """Copy what is new until the engine has committed nothing meanwhile; returns the epoch."""
    faults = 0
    ends_s = time.monotonic() + TRIES_S
    while time.monotonic() < ends_s:
        before = peek(folder / STATE)
        try:
            for name in _DATABASES:
                _copy_database(folder / STATE / name, partial / STATE / name)
            _copy_new(folder, partial, copied)
        except FileNotFoundError:  # tidied up meanwhile: the next pass does not see it
            continue
        after = peek(folder / STATE)
        assert before is not None
        assert after is not None
        if before.epoch == after.epoch == _epoch(partial):
            try:
                _check_whole(partial)
            except (CorruptState, SinkError):  # a table was merged while its files were listed, or it is so
                faults += 1
                if faults == _FAULTS_MAX:
                    raise
            else:
                return after.epoch
        time.sleep(_PAUSE_S)
    raise StateError(
        f"{folder} changes faster than it can be copied; stop the pipeline for the backup, or let it make checkpoints "
        "less often: --set checkpoint=10s"
    )


def _copy_new(folder: Path, partial: Path, copied: dict[str, _Mark]) -> None:
    """Copy all files that were not copied yet, or have changed; of the state, also take away what has gone."""
    there, gone = dict(_files(folder)), ""
    for path, mark in there.items():
        if copied.get(path) != mark:
            try:
                _copy(folder / path, partial / path)
            except FileNotFoundError:
                if path.startswith(STATE):
                    gone = path
                continue  # else a data file that was staged and discarded; `_check_whole` would miss one that counts
            copied[path] = mark
    for path in [path for path in copied if path.startswith(STATE) and path not in there]:
        (partial / path).unlink(missing_ok=True)
        del copied[path]
    if gone:
        raise FileNotFoundError(gone)


def _files(folder: Path) -> Iterator[tuple[str, _Mark]]:
    """Gives the files of a folder but databases and what is of a process alone; links are not followed.

    The logs of tables come first: what an entry lists is there before the entry is.
    """
    logs = [(Path(place), names) for place, _, names in os.walk(folder) if Path(place).name == LOG]
    rest = [(Path(place), names) for place, _, names in os.walk(folder) if Path(place).name != LOG]
    for place, names in (*logs, *rest):
        for name in names:
            path = place / name
            of_state = path.relative_to(folder).parts[0] == STATE
            if of_state and (name in _OF_THIS_PROCESS or name.partition("-")[0] in _DATABASES):
                continue
            if name.endswith(".tmp") or path.is_symlink():
                continue
            try:
                about = path.stat()
            except FileNotFoundError:
                continue
            yield path.relative_to(folder).as_posix(), _Mark(about.st_size, about.st_mtime_ns)


def _copy(source: Path, to: Path) -> str:
    """Copy a file, readable by its owner as it was; returns the hash of what was copied."""
    digest = hashlib.sha256()
    with source.open("rb") as read:
        to.parent.mkdir(parents=True, exist_ok=True)
        mode = os.fstat(read.fileno()).st_mode & 0o777
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as written:
            while chunk := read.read(_CHUNK):
                digest.update(chunk)
                written.write(chunk)
    return digest.hexdigest()


def _copy_database(source: Path, to: Path) -> None:
    """Copy a SQLite database as of one moment, whoever writes to it."""
    if not source.exists():
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, source.stat().st_mode & 0o777))
    with closing(sqlite3.connect(source, timeout=5.0)) as read, closing(sqlite3.connect(to)) as written:
        written.execute("pragma synchronous = off")  # all is made durable together, at the end
        read.backup(written)
        written.execute("pragma journal_mode = delete")  # one file, without a log beside it


def _epoch(partial: Path) -> int | None:
    last = peek(partial / STATE)
    return None if last is None else last.epoch


def _check_whole(partial: Path) -> None:
    """See that the states fit their checksums, and that each table has the files that its log lists."""
    last = peek(partial / STATE)
    assert last is not None
    read_states(SystemDisk(), partial / STATE, last.states)
    for place in tables(partial).values():
        if sentence := Log(place.absolute(), SystemDisk()).lacks():
            raise CorruptState(sentence)


def _drop_databases_leftovers(partial: Path) -> None:
    """Delete what looking into the copies has left beside them."""
    for name in _DATABASES:
        for end in ("-wal", "-shm", "-journal"):
            (partial / STATE / (name + end)).unlink(missing_ok=True)


def _hashed(folder: Path) -> Iterator[tuple[str, tuple[int, str]]]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with path.open("rb") as read:
                digest = hashlib.file_digest(read, "sha256").hexdigest()
            yield path.relative_to(folder).as_posix(), (path.stat().st_size, digest)


def _manifest(source: Path) -> Manifest:
    try:
        return msgspec.json.decode((source / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise ConfigError(f"{source} is no backup: it has no {MANIFEST}; tocsin backup makes one") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(f"{source / MANIFEST} cannot be read ({error})") from error


def _refuse_inside(source: Path, to: Path) -> None:
    if to.absolute().resolve().is_relative_to(source.absolute().resolve()):
        raise ConfigError(f"{to} lies in {source}, which is copied; choose a place outside of it")


def _anew(to: Path) -> Path:
    """Returns an empty folder beside ``to``, to be renamed to it; what an earlier try has left is deleted."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"{to} is there already; choose another place, or move it away first")
    partial = to.absolute().with_name(to.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, mode=0o700)
    return partial


def _appear(partial: Path, to: Path) -> None:
    """Make a folder durable, then give it its name."""
    os.sync()
    partial.rename(to)
    SystemDisk().sync_folder(to.absolute().parent)
