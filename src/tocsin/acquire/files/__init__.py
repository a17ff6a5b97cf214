"""Files: lines, documents or Parquet rows; whole, or as they grow."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import SecretStr, field_validator, model_validator

from tocsin.acquire._lanes import natural
from tocsin.acquire.files._file import format_of
from tocsin.acquire.files._reader import FilesReader
from tocsin.acquire.files._remote import RemoteReader, Selection, first_schema, select
from tocsin.batch import RAW
from tocsin.contracts import Source
from tocsin.ends import OneSplit
from tocsin.errors import SourceError
from tocsin.objects.store import Store, is_remote, open_store
from tocsin.settings.addresses import without_password
from tocsin.settings.quantities import Duration
from tocsin.world import World


class Files(Source):
    """Reads a file, the files that a pattern matches, or a folder; by lines, whole documents (XML), or Parquet rows.

    Where rows say when they happened, several files are read in the order of their rows' times, each judged by
    itself: one file for each machine loses nothing to ``late``, and time goes on with the file that is behind.
    Otherwise, and at the same time, they are read in natural order of their names (``log2`` before ``log10``). Those
    ending in ``.gz`` are unpacked; of a damaged one, all that can be unpacked, and the damage is a row in the
    quarantine. The topic of a file is its path below the folder that is read. With ``follow`` it
    waits for more: new files, and lines added to old ones; a line counts once it is complete. A file that is renamed
    goes on where it was; one that is truncated or replaced starts again. Links, pipes and devices are passed over
    with a warning. Not for files that are edited in the middle.

    At an address, all objects below a folder are read, or those that a pattern matches, one after another in natural
    order of their names, each once; one that is replaced is read again, whole. With ``follow`` it looks for new ones.
    Which were read is part of the checkpoint, for as long as they are there: let a rule of the store delete old ones.

    Examples
    --------
    >>> Files(path="readings/*.ndjson").bounded()
    True
    >>> Files(path="log", follow=True, format="text").bounded()
    False
    """

    SHORTHAND: ClassVar[str | None] = "path"
    EXAMPLES: ClassVar[Any] = ({"path": "readings.ndjson"},)

    path: str
    """A file, a pattern (``data/**/*.csv``) or a folder; in a folder, files of known endings that do not start with
    ``.`` or ``_``. Or an address: ``s3://bucket/folder``, ``gs://``, ``abfss://`` (``pip install 'tocsin[remote]'``),
    or ``hdfs://namenode:9870/folder``, the port of the web interface."""
    storage: Mapping[str, SecretStr] = {}
    """How to reach an address, by the names that sink `delta` takes, secrets as ``${env:NAME}``; for ``hdfs://``,
    ``user``."""
    format: Literal["ndjson", "json", "csv", "xml", "parquet", "text"] | None = None
    """What the files hold, if their endings do not say it: ``ndjson`` has a document in each line, ``json`` one that
    is the whole file. A file ``.json`` shows by its first lines which it is."""
    header: bool = True
    """Whether CSV files begin with a line of names, by which `csv` finds its columns; ``none`` if they have none."""
    follow: bool = False
    """Whether to wait for more at the end."""
    every: Duration = 5_000_000
    """Time between two looks for new objects at an address, with ``follow``."""
    replay: float | None = None
    """How many times faster than real time to play the rows, as ``10x``; else as fast as can be."""
    time_column: str | None = None
    """The column (of CSV: named in the header) with the time to replay by."""

    _no_password = field_validator("path")(without_password)

    @field_validator("replay", mode="before", json_schema_input_type=float | str | None)
    @classmethod
    def _times(cls, value: Any) -> Any:
        return value.removesuffix("x") if isinstance(value, str) else value

    @field_validator("header", mode="before", json_schema_input_type=bool | Literal["none"])
    @classmethod
    def _none_is_no(cls, value: Any) -> Any:
        return False if value == "none" else value

    @model_validator(mode="after")
    def _replay_needs_a_time(self) -> Files:
        if self.replay is not None and (self.replay <= 0 or self.time_column is None):
            raise ValueError("replay must be above 0, and needs time_column")
        if self.replay is not None and "://" in self.path:
            raise ValueError("replay is for files on this computer; fetch the objects first")
        return self

    def bounded(self) -> bool:
        return not self.follow

    def check(self, world: World) -> None:
        if is_remote(self.path):
            self._store().close()

    def output_schema(self) -> pa.Schema:
        if is_remote(self.path):
            return self._remote_schema
        first = next(iter(self.paths()), None)
        if (self.format or format_of(first or Path(self.path))) == "parquet":
            import pyarrow.parquet as pq

            if first is None:
                raise SourceError(f"no file matches {self.path}; the columns come from the first Parquet file")
            return pq.read_schema(first).remove_metadata()
        return RAW

    def open(self, world: World) -> OneSplit:
        if is_remote(self.path):
            return OneSplit(lambda offset: RemoteReader(self, self._store(), world, offset))
        return OneSplit(lambda offset: FilesReader(self, offset, world.clock, world.first_time, world.idle_us))

    def selection(self) -> Selection:
        """Returns which objects an address means."""
        return select(self.path, any_ending=self.format is not None)

    @cached_property
    def _remote_schema(self) -> pa.Schema:
        """Of what is at the address; asked of the other side once, and only where it may be Parquet."""
        if (self.format or format_of(Path(self.path)) or "parquet") != "parquet":
            return RAW
        with closing(self._store()) as store:
            return first_schema(self, store) or RAW

    def _store(self) -> Store:
        storage = {name: value.get_secret_value() for name, value in self.storage.items()}
        return open_store(self.selection().root, storage, SourceError)

    def base(self) -> Path:
        """Returns the folder that topics start from: the folder named, or what stands before the first pattern."""
        whole = Path(self.path)
        if whole.is_dir():
            return whole
        parts = list(whole.parent.parts)
        patterns = [i for i, part in enumerate(parts) if glob.has_magic(part)]
        return Path(*parts[: patterns[0]]) if patterns else whole.parent

    def paths(self) -> list[Path]:
        """The files there are now, in natural order."""
        whole = Path(self.path)
        if whole.is_dir():
            names = [p for p in whole.iterdir() if not p.name.startswith((".", "_"))]
            files = [p for p in names if not p.is_dir() and (self.format is not None or format_of(p) is not None)]
        elif glob.has_magic(self.path):
            files = [p for p in map(Path, glob.iglob(self.path, recursive=True)) if not p.is_dir()]  # noqa: PTH207
        else:
            files = [whole] if whole.exists() or whole.is_symlink() else []
        return sorted(files, key=natural)


__all__ = ["Files", "FilesReader"]
