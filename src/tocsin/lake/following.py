"""A Delta table read as it grows: first what it holds, then what each entry of its log adds, file by file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from tocsin.errors import SourceError
from tocsin.lake.files import read
from tocsin.lake.log import ENTRY, Log
from tocsin.lake.schema import arrow_schema, original_names
from tocsin.world import Disk


class Place(NamedTuple):
    """How far a table has been read."""

    version: int
    """Of the entry that is being read."""
    file: int = 0
    """How many of its files have been read."""
    whole: bool = False
    """Whether all that the table held at this version is read, not only what the entry added."""


class TableFollower:
    """Gives the rows of a table once each, in the order in which they came into it.

    It begins with all that the table holds, oldest file first, and goes on with what is added. Files that were merged
    are no news; rows that are deleted are not taken back. Where it stops and goes on, the entries in between must
    still be there: a writer keeps them for its ``retention``.
    """

    def __init__(self, folder: Path, disk: Disk, place: Place | None = None) -> None:
        self._folder, self._disk, self.place = folder, disk, place
        self._log: Log | None = None
        self._files: Sequence[Mapping[str, Any]] | None = None
        """What is to be read at this place; None if that is not known yet."""

    def take(self) -> pa.Table | None:
        """Returns the rows of the next file, which `place` then is behind; None if there is nothing new.

        Raises
        ------
        SourceError
            What comes next is no longer there.
        """
        while True:
            if self._log is None and not self._open():
                return None
            assert self.place is not None
            if self._files is None:
                self._files = self._listed(self.place)
            if self._files is None:
                return None
            if self.place.file < len(self._files):
                rows = self._read(self._files[self.place.file])
                self.place = self.place._replace(file=self.place.file + 1)
                return rows
            self.place, self._files = Place(self.place.version + 1), None

    def _open(self) -> bool:
        log = Log(self._folder, self._disk)
        if not log.exists:
            return False
        self._log = log
        if self.place is None:
            self.place = Place(log.snapshot.version, whole=True)
        return True

    def _listed(self, place: Place) -> Sequence[Mapping[str, Any]] | None:
        assert self._log is not None
        if place.whole:
            files = Log(self._folder, self._disk, version=place.version).snapshot.files.values()
            return sorted(files, key=lambda add: (add["modificationTime"], add["path"]))
        actions = self._log.actions(place.version)
        if actions is None:
            self._refuse_gap(place.version)
            return None
        self._log.refresh()  # columns may have been added
        return [add for action in actions if (add := action.get("add")) and add.get("dataChange", True)]

    def _refuse_gap(self, version: int) -> None:
        later = [int(match[1]) for name in self._entries() if (match := ENTRY.fullmatch(name))]
        if any(number > version for number in later):
            raise SourceError(
                f"{self._folder}: entry {version} of the log, which is to be read next, has been cleaned away; give "
                "the sink that writes the table a longer retention, and read it anew (--forget the source)"
            )

    def _entries(self) -> Iterator[str]:
        assert self._log is not None
        yield from self._disk.names(self._log.path)

    def _read(self, add: Mapping[str, Any]) -> pa.Table:
        assert self._log is not None
        try:
            rows = read(self._log, add)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(
                f"{self._folder}: {add['path']}, which is to be read next, cannot be read: {error}"
            ) from error
        return rows.rename_columns(list(original_names(self._log.snapshot.fields).values()))


def columns_of(folder: Path, disk: Disk) -> pa.Schema | None:
    """Returns the columns of a table, under the names that its rows came with; None if there is no table."""
    log = Log(folder, disk)
    if not log.exists:
        return None
    types = arrow_schema(log.snapshot.fields)
    return pa.schema([types.field(held).with_name(name) for held, name in original_names(log.snapshot.fields).items()])
