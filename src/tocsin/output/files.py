"""Sink `files`: rows into files that people and other programs open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import SecretStr, field_validator

from tocsin.contracts import Sink, Token, Writer
from tocsin.errors import ForeignCommit, SinkError
from tocsin.objects.store import Store, is_remote, open_store
from tocsin.output._file_bytes import Compression, Format, compressed, encoded, header, suffix
from tocsin.output._remote_files import RemoteFilesWriter
from tocsin.settings.addresses import without_password
from tocsin.settings.quantities import Size
from tocsin.world import World

_GATHERS_S = 10.0
"""How long rows may wait for each other at an address: a file a second is costly to make and to list."""
_POSITION = ".position.json"
_STAGED = ".staged-"


class Files(Sink):
    """Keep rows in NDJSON, CSV or Parquet files, each row exactly once.

    Use it for what people open by hand or another program picks up; for what is to be asked about later, `delta` is
    better. Text files grow to ``rotate`` and are then followed by the next (``part-000001.csv`` ...); a part of them
    is never taken back, so that they can be followed while they grow. Parquet files are whole, one for each commit.
    One pipeline writes to a folder. In CSV a text that a spreadsheet would run as a formula begins with ``'``.

    At an address each file is whole, of about 10 s of rows, and never changed: it is made by a put that is refused
    where there is one of the name, or in HDFS by a rename. What begins with ``_`` there is not for readers. While the
    address cannot be reached, rows wait on the local disk.

    Files in an object store: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html; in HDFS:
    the WebHDFS REST API. RFC 4180 (CSV), https://github.com/ndjson/ndjson-spec, RFC 1952 (gzip), RFC 8878 (Zstandard).

    Examples
    --------
    >>> from tocsin.testing import world
    >>> rows = pa.record_batch({"key": ["pump", "=1+1"], "value": [1.5, None]})
    >>> writer = Files(path="out", format="csv").open(world(), rows.schema)
    >>> writer.publish(1, [writer.stage(1, [rows])])
    >>> print(writer.part.read_text(), end="")
    "key","value"
    "pump",1.5
    "'=1+1",
    """

    NAMES_EPOCHS: ClassVar[bool] = True
    SHORTHAND: ClassVar[str | None] = "path"

    path: str
    """Folder of the files; a relative one starts at the pipeline's data folder. Or an address: ``s3://bucket/folder``,
    ``gs://``, ``abfss://`` (``pip install 'tocsin[remote]'``), or ``hdfs://namenode:9870/folder``, the port of the web
    interface."""
    storage: Mapping[str, SecretStr] = {}
    """How to reach an address, by the names that sink `delta` takes, secrets as ``${env:NAME}``; for ``hdfs://``,
    ``user``."""
    format: Format = "ndjson"
    """How they are written."""
    compress: Compression = "none"
    """How text files are compressed; Parquet files always are."""
    rotate: Size = 64 * 2**20
    """From what size on a text file in a folder is followed by the next."""

    _no_password = field_validator("path")(without_password)

    def gathers_s(self) -> float:
        return _GATHERS_S if is_remote(self.path) else 0.0

    def place(self) -> Mapping[str, Any]:
        return {name: value for name, value in super().place().items() if name != "storage"}

    def check(self, world: World) -> None:
        if is_remote(self.path):
            self._store().close()
        else:
            world.inside(self.path)

    def open(self, world: World, schema: pa.Schema) -> Writer:
        if is_remote(self.path):
            return RemoteFilesWriter(world, schema, self._store(), self.path, self.format, self.compress)
        return FilesWriter(self, world, schema)

    def _store(self) -> Store:
        return open_store(
            self.path, {name: value.get_secret_value() for name, value in self.storage.items()}, SinkError
        )


class FilesWriter:
    """An open folder of files.

    A small file says which epoch was the last, and how long the current part was then. What stands behind that length
    was written before a crash; it is published again from the same staged bytes, and puts the same there.
    """

    def __init__(self, settings: Files, world: World, schema: pa.Schema) -> None:
        self._settings, self._disk, self._folder = settings, world.disk, world.inside(settings.path)
        app_id, disk, folder = world.name, world.disk, self._folder
        self._columns = schema.names
        self._staged = (-1, 0)
        """The epoch that was staged last, and how often before."""
        self._suffix = suffix(settings.format, settings.compress)
        disk.make_folder(folder)
        self._position: dict[str, Any] = {
            "app": app_id,
            "epoch": None,
            "part": 1,
            "length": 0,
            "columns": self._columns,
        }
        if _POSITION in disk.names(folder):
            self._position = json.loads(disk.read(folder / _POSITION))
            if self._position["app"] != app_id:
                raise ForeignCommit(
                    f"{folder} is written by '{self._position['app']}'; give '{app_id}' a folder of its own"
                )
            disk.sync(folder / _POSITION)
            disk.sync_folder(folder)

    @property
    def part(self) -> Path:
        """The text file being written."""
        return self._folder / f"part-{self._position['part']:06d}{self._suffix}"

    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Token:
        full = [batch for batch in rows if batch.num_rows]
        if not full:
            return {"name": None}
        data = encoded(full, self._settings.format, self._settings.compress)
        # The same name in each life. One that a crash has left may be a published file's other name by now.
        self._staged = (epoch, self._staged[1] + 1 if self._staged[0] == epoch else 0)
        name = f"{_STAGED}{epoch:012d}-{self._staged[1]:06d}"
        self._disk.unlink(self._folder / name)
        self._disk.write(self._folder / name, data)
        self._disk.sync(self._folder / name)
        self._disk.sync_folder(self._folder)
        return {"name": name, "rows": sum(batch.num_rows for batch in full)}

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        staged = [str(token["name"]) for token in tokens if token["name"]]
        done = self._position["epoch"]
        if done is None or epoch > done:
            if self._settings.format == "parquet":
                self._link(staged)
            elif staged:
                self._append(b"".join(self._disk.read(self._folder / name) for name in staged))
            self._position |= {"epoch": epoch, "columns": self._columns}
            self._keep_position()
        for name in staged:
            self._disk.unlink(self._folder / name)

    def published(self) -> int | None:
        epoch = self._position["epoch"]
        return None if epoch is None else int(epoch)

    def discard(self, keep: Sequence[Token]) -> None:
        kept = {token["name"] for token in keep}
        for name in self._disk.names(self._folder):
            if name.startswith(_STAGED) and name not in kept:
                self._disk.unlink(self._folder / name)

    def housekeep(self) -> None:
        """There is nothing to do: people and other programs take the files away."""

    def counters(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        """No file stays open."""

    def _link(self, staged: Sequence[str]) -> None:
        # A second name and not a new one: after a power cut a file being renamed may have neither. It comes from the
        # staged file's own name, so that whatever is published again, alone or with more, gets the same.
        there = set(self._disk.names(self._folder))
        for name in staged:
            final = f"part-{name.removeprefix(_STAGED)}.parquet"
            if final not in there:
                self._disk.link(self._folder / name, self._folder / final)
        self._disk.sync_folder(self._folder)

    def _append(self, data: bytes) -> None:
        size = self._size()
        length = self._position["length"]
        if length and (size is None or length >= self._settings.rotate or self._position["columns"] != self._columns):
            # Full, taken away by somebody, or of other columns than the rows to come.
            self._position |= {"part": self._position["part"] + 1, "length": 0}
            size, length = self._size(), 0
        if size is not None and size < length:
            raise SinkError(f"{self.part} has {size} bytes, {length} were written; restore it, or move it away")
        if size is not None and size > length:
            self._disk.truncate(self.part, length)
        if length == 0 and self._settings.format == "csv":
            data = compressed(header(self._columns), self._settings.compress) + data
        self._disk.append(self.part, data)
        self._disk.sync(self.part)
        if length == 0:
            self._disk.sync_folder(self._folder)
        self._position["length"] = length + len(data)
        # Lets go of the file, which a disk may keep open after `append`: people move and delete such files.
        self._disk.truncate(self.part, self._position["length"])

    def _size(self) -> int | None:
        try:
            return self._disk.size(self.part)
        except FileNotFoundError:
            return None

    def _keep_position(self) -> None:
        temporary = self._folder / f"{_POSITION}.tmp"
        self._disk.write(temporary, json.dumps(self._position).encode())
        self._disk.sync(temporary)
        self._disk.rename(temporary, self._folder / _POSITION)
        self._disk.sync_folder(self._folder)
