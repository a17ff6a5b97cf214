"""The transaction log of a Delta table: replay it, follow it, add to it.

An entry is written to a temporary file, made durable, and given its number by link(2), which fails if another writer
took that number first: a compare-and-swap that any file system has. Other engines may append, optimise and vacuum
beside us. What we add stays cheap however long the log grows: the snapshot is kept in memory.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tocsin.errors import SinkError
from tocsin.world import Clock, Disk, SystemClock

Action = dict[str, Any]
"""One line of an entry: ``{"add": {...}}``, ``{"txn": {...}}`` ..."""

ENTRY = re.compile(r"(\d{20})\.json")
CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet")
_READER_FEATURES = {"timestampNtz"}
_WRITER_FEATURES = {"timestampNtz", "appendOnly", "invariants"}
_CREATED_PROTOCOL = {"minReaderVersion": 1, "minWriterVersion": 2}


@dataclass(slots=True)
class Snapshot:
    """What the table is at one version."""

    version: int = -1
    protocol: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The live files: path, as the log has it, to its ``add``."""
    removed: dict[str, int] = field(default_factory=dict)
    """Files no longer live but still there for readers of older versions: path to when (ms) they were removed."""
    transactions: dict[str, int] = field(default_factory=dict)
    """The last version of each application."""

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The columns as the log has them."""
        return list(json.loads(self.metadata["schemaString"])["fields"]) if self.metadata else []

    @property
    def partition_columns(self) -> list[str]:
        return list(self.metadata.get("partitionColumns", ()))

    def apply(self, actions: Iterable[Action]) -> None:
        """Take up the actions of one entry (or of a checkpoint)."""
        for action in actions:
            if add := action.get("add"):
                self.files[add["path"]] = add
                self.removed.pop(add["path"], None)
            elif remove := action.get("remove"):
                self.files.pop(remove["path"], None)
                self.removed[remove["path"]] = remove.get("deletionTimestamp") or 0
            elif txn := action.get("txn"):
                self.transactions[txn["appId"]] = txn["version"]
            elif metadata := action.get("metaData"):
                self.metadata = metadata
            elif protocol := action.get("protocol"):
                self.protocol = protocol


class Log:
    """An open log: its snapshot in memory, and how to follow and extend it.

    ``writer`` names who writes (an application id). Without it the log is only read: a torn last entry is then
    passed over, with it it is set aside and what is visible is made durable before it is trusted. With ``version`` the
    snapshot is that of then.
    """

    def __init__(
        self,
        folder: Path,
        disk: Disk,
        writer: str | None = None,
        clock: Clock | None = None,
        version: int | None = None,
    ) -> None:
        self.folder = folder
        self.path = folder / "_delta_log"
        self.disk = disk
        self.clock = clock or SystemClock()
        self.snapshot = Snapshot()
        self.checkpoint_version = -1
        self.prefix = f"_{hashlib.sha256((writer or '').encode()).hexdigest()[:16]}-"
        self._nonce = uuid.uuid4().hex
        self._replay(repair=writer is not None, until=version)
        self._check_protocol(writing=writer is not None)

    @property
    def exists(self) -> bool:
        """Whether there is a table."""
        return self.snapshot.version >= 0

    def now_ms(self) -> int:
        return self.clock.now_us() // 1_000

    def entry(self, version: int) -> Path:
        return self.path / f"{version:020d}.json"

    def data_path(self, path: str) -> Path:
        """Where a data file of the log lies; `SinkError` if that is outside of the table."""
        file = self.folder / unquote(path)
        if "://" in path or ".." in Path(unquote(path)).parts or not file.is_relative_to(self.folder):
            raise SinkError(f"{self.folder}: the log names a file outside of the table: {path}")
        return file

    def refresh(self) -> list[Action]:
        """Follow the log to its end; the actions that others have added since."""
        new: list[Action] = []
        while (actions := self._read(self.snapshot.version + 1)) is not None:
            self.snapshot.apply(actions)
            self.snapshot.version += 1
            new += actions
        if new:
            self._check_protocol(writing=True)
        return new

    def create(self, fields_string: str, partition_columns: Sequence[str]) -> None:
        """Write the first entry, unless another writer has done so meanwhile."""
        self.disk.make_folder(self.path)
        metadata = {
            "id": str(uuid.uuid4()),
            "name": None,
            "description": None,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": fields_string,
            "partitionColumns": list(partition_columns),
            "createdTime": self.now_ms(),
            "configuration": {},
        }

        def conflict(_: Sequence[Action]) -> bool:
            return False

        self.commit([{"protocol": _CREATED_PROTOCOL}, {"metaData": metadata}], conflict, "CREATE TABLE")

    def commit(
        self, actions: Sequence[Action], may_go_on: Callable[[Sequence[Action]], bool], operation: str = "WRITE"
    ) -> bool:
        """Add one entry, durably. Where others came first, ``may_go_on`` is asked with what they did; False if not."""
        info = {"timestamp": self.now_ms(), "operation": operation, "engineInfo": "tocsin"}
        body = b"\n".join(msgspec.json.encode(a) for a in ({"commitInfo": info}, *actions))
        temporary = self.path / f"{self.prefix}{self._nonce}.tmp"
        self.disk.write(temporary, body)
        self.disk.sync(temporary)
        while True:
            try:
                self.disk.link(temporary, self.entry(self.snapshot.version + 1))
                break
            except FileExistsError:
                if not may_go_on(self.refresh()):
                    self.disk.unlink(temporary)
                    return False
        self.disk.unlink(temporary)
        self.disk.sync_folder(self.path)
        self.snapshot.apply(actions)
        self.snapshot.version += 1
        return True

    def sync_tail(self) -> None:
        """Make the end of the visible log durable.

        A crash between link and the folder's fsync leaves an entry that is seen now and may be gone after a power
        cut: trusting it before this would lose or double an epoch.
        """
        if not self.exists:
            return
        last = self._read(self.snapshot.version)
        for action in last or ():
            if (add := action.get("add")) and add["path"] in self.snapshot.files:
                with suppress(FileNotFoundError):  # see `missing`
                    self.disk.sync(self.data_path(add["path"]))
        if last is not None:
            self.disk.sync(self.entry(self.snapshot.version))
        self.disk.sync_folder(self.folder)
        self.disk.sync_folder(self.path)

    def missing(self) -> list[str]:
        """Returns the data files that the log lists and that are not there, as it names them: somebody deleted them."""
        there: dict[Path, frozenset[str]] = {}
        gone = []
        for path in self.snapshot.files:
            place = self.data_path(path)
            if place.parent not in there:
                there[place.parent] = frozenset(self.disk.names(place.parent))
            if place.name not in there[place.parent]:
                gone.append(path)
        return gone

    def lacks(self) -> str:
        """Returns a sentence that names the data files that are gone, and what to do; empty if all are there."""
        if not (gone := self.missing()):
            return ""
        rows = sum(rows_of(self.snapshot.files[path]) for path in gone)
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        return (
            f"table '{self.folder.name}' has lost data files that its log lists, with {rows:,} rows: "
            f"{self.data_path(gone[0])}{more}; bring them back from a backup, or go on without them: "
            f"tocsin repair {self.folder.name} --folder {self.folder.parent}"
        )

    def actions(self, version: int) -> list[Action] | None:
        """Returns the actions of one entry; None if there is none of this number, or not yet whole."""
        try:
            return parse(self.disk.read(self.entry(version)))
        except FileNotFoundError:
            return None

    def _read(self, version: int) -> list[Action] | None:
        try:
            data = self.disk.read(self.entry(version))
        except FileNotFoundError:
            return None
        actions = parse(data)
        if actions is None:
            raise SinkError(f"{self.entry(version)} is not a log entry; restore it, or remove it if it is the last")
        return actions

    def _replay(self, *, repair: bool, until: int | None) -> None:
        names = self.disk.names(self.path)
        entries = sorted(int(match[1]) for name in names if (match := ENTRY.fullmatch(name)))
        if repair:
            for name in names:
                if name.startswith(self.prefix):
                    self.disk.unlink(self.path / name)
            entries = self._set_aside_torn(entries)
        for version, parts in _checkpoints(names):
            if (until is None or version <= until) and self._load_checkpoint(version, parts):
                break
        for version in entries:
            if version <= self.snapshot.version or (until is not None and version > until):
                continue
            if version != self.snapshot.version + 1:
                raise SinkError(
                    f"{self.path}: entry {self.snapshot.version + 1} is missing; bring it back from a backup, or "
                    f"remove entry {version} if nobody needs it"
                )
            actions = parse(self.disk.read(self.entry(version)))
            if actions is None:
                if version == entries[-1]:
                    break
                raise SinkError(
                    f"{self.entry(version)} is not a log entry: the table is damaged; bring it back from a backup"
                )
            self.snapshot.apply(actions)
            self.snapshot.version = version
        if repair:
            self.sync_tail()

    def _set_aside_torn(self, entries: list[int]) -> list[int]:
        """Take an unreadable last entry out of the log: a power cut tore what its writer had not made durable."""
        if entries and parse(self.disk.read(self.entry(entries[-1]))) is None:
            self.disk.rename(self.entry(entries[-1]), self.path / f"_{entries[-1]:020d}.torn")
            self.disk.sync_folder(self.path)
            return entries[:-1]
        return entries

    def _load_checkpoint(self, version: int, parts: Sequence[str]) -> bool:
        """Whether the checkpoint could be read; a torn one is passed over for an older one and more entries."""
        snapshot = Snapshot()
        for name in parts:
            try:
                table = pq.read_table(pa.BufferReader(self.disk.read(self.path / name)))
            except (pa.ArrowException, OSError):
                return False
            for column in ("protocol", "metaData", "txn", "add", "remove"):
                if column in table.column_names:
                    values = table.column(column).drop_null().to_pylist()
                    snapshot.apply({column: _plain(v)} for v in values)
        if not snapshot.metadata:
            return False
        snapshot.version = version
        self.snapshot, self.checkpoint_version = snapshot, version
        return True

    def _check_protocol(self, *, writing: bool) -> None:
        protocol = self.snapshot.protocol
        reader, writer = protocol.get("minReaderVersion", 1), protocol.get("minWriterVersion", 2)
        missing = set(protocol.get("readerFeatures") or ()) - _READER_FEATURES
        if reader not in (1, 3) or missing:
            raise SinkError(
                f"{self.folder}: the table needs Delta reader version {reader}{_with(missing)}, which is not "
                "supported here; write to a table of its own"
            )
        missing = set(protocol.get("writerFeatures") or ()) - _WRITER_FEATURES
        if writing and (writer not in (1, 2, 7) or missing):
            raise SinkError(
                f"{self.folder}: the table needs Delta writer version {writer}{_with(missing)}, which is not "
                "supported here; write to a table of its own"
            )


def rows_of(add: Mapping[str, Any]) -> int:
    """Returns how many rows a data file has, by its statistics; 0 where its writer noted none."""
    stats = json.loads(add.get("stats") or "{}")
    return int(stats.get("numRecords") or 0)


def _with(features: Collection[str]) -> str:
    return f" with {', '.join(sorted(features))}" if features else ""


def parse(data: bytes) -> list[Action] | None:
    """The actions of an entry; None if it is torn."""
    try:
        actions = [msgspec.json.decode(line) for line in data.splitlines() if line.strip()]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return actions if actions and all(isinstance(a, dict) for a in actions) else None


def _checkpoints(names: Sequence[str]) -> list[tuple[int, list[str]]]:
    """The complete checkpoints in a log folder, newest first."""
    parts_of: dict[tuple[int, int], list[str]] = {}
    for name in names:
        if match := CHECKPOINT.fullmatch(name):
            parts_of.setdefault((int(match[1]), int(match[3] or 1)), []).append(name)
    whole = [(version, sorted(parts)) for (version, count), parts in parts_of.items() if len(parts) == count]
    return sorted(whole, reverse=True)


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """An action from a checkpoint as an entry would have it: maps as dicts, without what is null."""
    result = {}
    for name, item in value.items():
        if isinstance(item, list) and all(isinstance(pair, tuple) for pair in item):
            item = dict(item) if item or name in ("partitionValues", "configuration", "options") else []
        elif isinstance(item, dict):
            item = _plain(item)
        if item is not None:
            result[name] = item
    return result
