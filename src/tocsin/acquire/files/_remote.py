"""Objects at an address as one split: each is fetched to the local disk in a thread, and read there."""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pyarrow as pa

from tocsin.acquire._lanes import natural
from tocsin.acquire.files._file import Manner, OpenFile, Place, format_of
from tocsin.batch import END, RAW, REJECTED, START, Batch, tick
from tocsin.contracts import Offset
from tocsin.ends import Follower
from tocsin.errors import SourceError
from tocsin.objects.store import Listed, Store
from tocsin.world import World

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tocsin.acquire.files import Files

log = logging.getLogger(__name__)
_FETCHED = "object-"
"""What the name of an object on the local disk begins with."""
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects a path means."""

    root: str
    """The address that names are relative to."""
    folder: str
    """What is listed of it."""
    pattern: re.Pattern[str]
    any_ending: bool
    """Whether objects of unknown endings are read, too."""

    def of(self, store: Store) -> list[Listed]:
        """Returns the objects there are now, in natural order of their names."""
        meant = [one for one in store.objects(self.folder) if self._means(one)]
        return sorted(meant, key=lambda one: natural(Path(one.name)))

    def topic(self, name: str) -> str:
        """Returns the object's path below the folder that is read."""
        return name.removeprefix(f"{self.folder}/") if self.folder else name

    def _means(self, one: Listed) -> bool:
        if not self.pattern.fullmatch(one.name) or one.name.endswith("/"):
            return False
        if one.name == self.folder:
            return True
        below = self.topic(one.name).split("/")
        is_hidden = any(part.startswith((".", "_")) for part in below)
        return not is_hidden and (self.any_ending or format_of(Path(one.name)) is not None)


def select(path: str, any_ending: bool) -> Selection:
    """Returns which objects an address with a pattern means, or one without: an object, or all below a folder.

    Examples
    --------
    >>> selection = select("s3://plant/in/2026-*/*.csv", any_ending=False)
    >>> selection.root, bool(selection.pattern.fullmatch("2026-01/a.csv")), bool(selection.pattern.fullmatch("a.csv"))
    ('s3://plant/in', True, False)
    """
    scheme, _, rest = path.rstrip("/").partition("://")
    parts = rest.split("/")
    magic = [number for number, part in enumerate(parts) if number and _MAGIC.search(part)]
    if magic:
        pattern = _regex("/".join(parts[magic[0] :]))
        return Selection(f"{scheme}://{'/'.join(parts[: magic[0]])}", "", pattern, any_ending=True)
    folder = parts.pop() if len(parts) > 1 else ""
    return Selection(f"{scheme}://{'/'.join(parts)}", folder, re.compile(r".*", re.DOTALL), any_ending)


def _regex(pattern: str) -> re.Pattern[str]:
    """``*`` and ``?`` stop at a ``/``, ``**/`` is any number of folders."""
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]/]+\])", pattern)
    texts = [signs.get(one) or (one.replace("[!", "[^") if one.startswith("[") else re.escape(one)) for one in pieces]
    return re.compile("".join(texts), re.DOTALL)


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object, and where it is on the local disk."""

    object: Listed
    path: Path


@dataclass(frozen=True, slots=True)
class Gone:
    """Marks of objects that were there and are no more."""

    marks: frozenset[str]


@dataclass(frozen=True, slots=True)
class End:
    """There are no more objects, and none are waited for."""


class Fetcher(Follower[Fetched | Gone | End]):
    """Lists and fetches, one object ahead of whoever takes them."""

    def __init__(self, source: Files, store: Store, folder: Path, done: Sequence[str], first: Listed | None) -> None:
        super().__init__("objects", 1)
        self._source, self._store, self._folder, self._first = source, store, folder, first
        self._asked = set(done)
        self.total = 0
        """Bytes of all that is to be read."""

    def close(self, patience_s: float = 1.0) -> None:
        super().close(patience_s)

    def fetch(self) -> None:
        try:
            while not self.stopping.is_set():
                self._look()
                if self._source.bounded():
                    self.put(End())
                    return
                self.stopping.wait(self._source.every / 1e6)
        except OSError as error:  # of the local disk
            told = f"{self._source.path}: an object could not be kept in {self._folder}: {error}"
            raise SourceError(told) from error
        finally:
            self._store.close()

    def _look(self) -> None:
        """Fetch what has come since the last look; first the one that was being read."""
        there = self._source.selection().of(self._store)
        if self._source.bounded() and not there:
            raise SourceError(f"no object matches {self._source.path}")
        marks = {mark(one) for one in there}
        if vanished := self._asked - marks:
            self._asked -= vanished
            self.put(Gone(frozenset(vanished)))
        new = [one for one in there if mark(one) not in self._asked]
        if self._first is not None and self._first in new:
            new.remove(self._first)
            new.insert(0, self._first)
        self._first = None
        self.total += sum(one.size for one in new)
        for one in new:
            if not self.stopping.is_set() and (fetched := self._download(one)) is not None:
                self._asked.add(mark(fetched.object))
                if not self.put(fetched):
                    fetched.path.unlink(missing_ok=True)

    def _download(self, one: Listed) -> Fetched | None:
        suffix = ".gz" if one.name.endswith(".gz") else ""
        descriptor, name = tempfile.mkstemp(suffix, _FETCHED, self._folder)
        path = Path(name)
        try:
            with open(descriptor, "wb") as file:
                now: Listed | None = one
                while now is not None and not self.stopping.is_set():
                    one = now
                    file.seek(0)
                    file.truncate()
                    for chunk in self._store.chunks(one.name):
                        file.write(chunk)
                        if self.stopping.is_set():
                            break
                    now = next(iter(self._store.objects(one.name)), None)
                    if now == one:
                        return Fetched(one, path)
        except FileNotFoundError:
            log.debug("%s was there a moment ago", one.name)
        except BaseException:
            path.unlink()
            raise
        if not self.stopping.is_set():
            log.warning("%s: %s was taken away before it was read", self._source.path, one.name)
        path.unlink()
        return None


class RemoteReader:
    """The objects as one split, one after another.

    An offset holds the object that is being read, with the place in it, and a mark of each that is done and is still
    there.
    """

    def __init__(self, source: Files, store: Store, world: World, offset: Offset | None) -> None:
        offset = offset or {"at": None, "done": []}
        self._source, self._schema = source, source.output_schema()
        self._done: list[str] = list(offset["done"])  # never changed: offsets that were given hold it
        self._at: Listed | None = None
        self._place = Place()
        if offset["at"] is not None:
            name, version, size, place = offset["at"]
            self._at, self._place = Listed(name, version, size), Place(*place)
        self._file: OpenFile | None = None
        self._clock = world.clock
        self._manner = Manner(Path(), self._schema, True, source.header, world.clock)
        self._skipped = self._damaged = self._bytes = 0
        world.disk.make_folder(world.scratch)
        for left in world.disk.names(world.scratch):
            if left.startswith(_FETCHED):
                world.disk.unlink(world.scratch / left)
        self._fetcher = Fetcher(source, store, world.scratch, self._done, self._at)

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        self._fetcher.start()
        until_s = self._clock.monotonic_s() + timeout_s
        while self._file is None:
            taken = self._fetcher.take(max(until_s - self._clock.monotonic_s(), 0.0))
            if taken is None:
                return None
            if isinstance(taken, End):
                return tick(self._schema, END), self._offset()
            if isinstance(taken, Gone):
                self._done = [one for one in self._done if one not in taken.marks]
            else:
                self._begin(taken)
        some = self._file.next_rows(self._place, rows_max)
        if some is None:
            if (damage := self._file.damage(self._place)) is not None:
                self._damaged += 1
                return Batch(damage, port=REJECTED), self._offset()
            self._end(self._file)
            return tick(self._schema, START), self._offset()
        self._file.advance(self._place, int(some.after[-1]))
        return (Batch(some.rows) if some.rows.num_rows else tick(self._schema, START)), self._offset()

    def acknowledge(self, offset: Offset) -> None:
        """Objects stay where they are."""

    def counters(self) -> Mapping[str, int]:
        return {"skipped_files": self._skipped, "damaged_files": self._damaged}

    def progress(self) -> tuple[int, int] | None:
        """Bytes of the objects that are done and of all; None where there is no end."""
        return (self._bytes, self._fetcher.total) if self._source.bounded() else None

    def close(self) -> None:
        self._fetcher.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _offset(self) -> Offset:
        at = self._at and [self._at.name, self._at.version, self._at.size, list(astuple(self._place))]
        return {"at": at, "done": self._done}

    def _begin(self, taken: Fetched) -> None:
        one = taken.object
        name = PurePosixPath(self._source.selection().topic(one.name))
        file = OpenFile(taken.path, self._source.format or format_of(Path(name)) or "text", self._manner)
        taken.path.unlink()  # what is open stays
        file.path = Path(name)
        if (file.format == "parquet") != (not self._schema.equals(RAW)):
            file.close()
            raise SourceError(f"{name}: Parquet files cannot be mixed with others; read them as a source of their own")
        if one != self._at:
            if self._at is not None:
                log.warning("%s: %s is no longer what was being read", self._source.path, self._at.name)
            self._place = Place()
        self._at, self._file = one, file

    def _end(self, file: OpenFile) -> None:
        assert self._at is not None
        if file.unreadable:
            self._skipped += 1
        file.close()
        self._bytes += self._at.size
        self._done = [*self._done, mark(self._at)]
        self._at, self._file, self._place = None, None, Place()


def mark(one: Listed) -> str:
    """Returns a short mark of an object as it is now: another one once it is replaced."""
    return hashlib.sha256(f"{one.name}\0{one.version}".encode()).hexdigest()[:16]


def first_schema(source: Files, store: Store) -> pa.Schema | None:
    """Returns the columns of the first object where that is a Parquet file, else None.

    Raises
    ------
    SourceError
        There are none, or it is no Parquet file.
    """
    import pyarrow.parquet as pq

    first = next(iter(source.selection().of(store)), None)
    if (source.format or format_of(Path(first.name if first else source.path))) != "parquet":
        return None
    if first is None:
        raise SourceError(f"no object matches {source.path}; the columns come from the first Parquet file")
    with tempfile.TemporaryFile() as file:
        for chunk in store.chunks(first.name):
            file.write(chunk)
        try:
            return pq.read_schema(file).remove_metadata()
        except pa.ArrowException as error:
            raise SourceError(f"{source.path}: {first.name} is no readable Parquet file: {error}") from error


__all__ = ["RemoteReader", "Selection", "first_schema", "select"]
