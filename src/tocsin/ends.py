"""Bases for sources and sinks: a source that is read as one split, sinks on another machine."""

from __future__ import annotations

import queue
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import pyarrow as pa

from tocsin.contracts import Offset, Reader, Split, Token
from tocsin.errors import CorruptState, TocsinError
from tocsin.world import World

T = TypeVar("T")

LOOK_S = 0.05
"""How often a thread that waits for room looks whether it is still wanted."""


ONLY = "0"
"""The name of a connection's only split."""


class OneSplit:
    """A `contracts.Connection` with a single split, which is opened when it is read.

    Examples
    --------
    >>> connection = OneSplit(lambda offset: None)
    >>> connection.splits()
    (Split(name='0', after=()),)
    """

    def __init__(self, read: Callable[[Offset | None], Reader]) -> None:
        self._read = read

    def splits(self) -> Sequence[Split]:
        return (Split(ONLY),)

    def read(self, split: Split, offset: Offset | None) -> Reader:
        return self._read(offset)

    def close(self) -> None:
        """The reader holds all there is to close."""


class Follower(ABC, Generic[T]):
    """Fetches in a thread, some ahead of whoever takes: a reader that polls it never waits for the other side.

    What `fetch` hands over by `put` comes out of `take`, in order; a `TocsinError` that it raises is raised there.
    """

    def __init__(self, name: str, ahead: int) -> None:
        self.stopping = threading.Event()
        """Set once nobody wants more: `fetch` ends soon after."""
        self._ahead: queue.Queue[T | TocsinError] = queue.Queue(ahead)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def fetch(self) -> None:
        """Hand over what there is, until there is no more."""

    def start(self) -> None:
        """Fetch from now on; again it does nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def take(self, timeout_s: float) -> T | None:
        """Returns what comes next, or None if there is nothing yet; raises what has gone wrong."""
        try:
            taken = self._ahead.get(timeout=timeout_s) if timeout_s > 0 else self._ahead.get_nowait()
        except queue.Empty:
            return None
        if isinstance(taken, TocsinError):
            raise taken
        return taken

    def close(self, patience_s: float = 2.0) -> None:
        """Let the thread end; one that does not in time is left behind."""
        self.stopping.set()
        if self._thread.ident is not None:
            self._thread.join(patience_s)

    def put(self, what: T | TocsinError) -> bool:
        """Hand over, as soon as there is room; returns False where nobody wants it any more."""
        while not self.stopping.is_set():
            try:
                self._ahead.put(what, timeout=LOOK_S)
                return True
            except queue.Full:
                continue
        return False

    def _run(self) -> None:
        try:
            self.fetch()
        except TocsinError as error:
            self.put(error)


class Spooled(ABC):
    """A `contracts.Writer` for a table on another machine, whose transaction is that machine's own.

    `stage` writes one fsynced Arrow file into the sink's scratch folder, so that the other side may be away; `publish`
    hands the rows of all waiting epochs over in one transaction of the other side, with the epoch in it. A sink
    implements `apply` and `applied`, and connects in them, not before.
    """

    def __init__(self, world: World, schema: pa.Schema) -> None:
        self.world, self.schema = world, schema
        self._own, self._count = uuid.uuid4().hex[:8], 0
        """In the names of our files, so that a writer before us that lives on does not write over them."""
        world.disk.make_folder(world.scratch)

    @abstractmethod
    def apply(self, epoch: int, rows: pa.Table) -> None:
        """Write the rows, and that the table now reaches to ``epoch``, in one transaction; `Unavailable` if not now.

        An earlier transaction whose connection was lost may end after `applied` has answered: where the other side has
        locks, look at the epoch once more under one, and raise `Unavailable` if it has moved (`output.postgres`).
        """

    @abstractmethod
    def applied(self) -> int | None:
        """Returns the epoch of the last transaction, read from the other side; None if there was none."""

    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Token:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.schema) as stream:
            for batch in rows:
                stream.write_batch(batch)
        name = f"{epoch:012d}-{self._own}-{self._count:06d}.arrow"
        self._count += 1
        path = self.world.scratch / name
        self.world.disk.write(path, memoryview(sink.getvalue()))
        self.world.disk.sync(path)
        self.world.disk.sync_folder(self.world.scratch)
        return {"file": name}

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        done = self.applied()
        if done is None or epoch > done:
            self.apply(epoch, self.rows(tokens))
        for token in tokens:
            self.world.disk.unlink(self.world.scratch / str(token["file"]))

    def published(self) -> int | None:
        return self.applied()

    def discard(self, keep: Sequence[Token]) -> None:
        kept = {token["file"] for token in keep}
        for name in self.world.disk.names(self.world.scratch):
            if name.endswith(".arrow") and name not in kept:
                self.world.disk.unlink(self.world.scratch / name)

    def housekeep(self) -> None:  # noqa: B027 (a sink may, but need not)
        """Nothing, unless the sink says otherwise."""

    def counters(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:  # noqa: B027
        """Nothing, unless the sink says otherwise."""

    def rows(self, tokens: Sequence[Token]) -> pa.Table:
        """Returns what these tokens staged; null in columns that have come to be since."""
        tables = [self._staged(str(token["file"])) for token in tokens]
        return pa.concat_tables(tables or [self.schema.empty_table()], promote_options="default")

    def _staged(self, name: str) -> pa.Table:
        path = self.world.scratch / name
        try:
            return pa.ipc.open_stream(self.world.disk.read(path)).read_all()
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise CorruptState(f"{path}, which holds rows for '{self.world.name}', is gone or damaged") from error


def staged_epoch(token: Token) -> int:
    """Returns the epoch that `Spooled.stage` wrote these rows for."""
    return int(str(token["file"]).partition("-")[0].partition(".")[0])


class SpooledAndNoted(Spooled):
    """`Spooled` for a table that cannot keep an epoch: how far it reaches is noted here, on disk, after the rows.

    A crash between the two writes the rows once more: each is there at least once, and once where writing it again
    changes nothing. A sink implements `write`.
    """

    @abstractmethod
    def write(self, epoch: int, rows: pa.Table) -> None:
        """Write the rows, which reach to ``epoch``, for good; `Unavailable` if not now."""

    def apply(self, epoch: int, rows: pa.Table) -> None:
        self.write(epoch, rows)
        self.note(epoch)

    def applied(self) -> int | None:
        try:
            return int(self.world.disk.read(self.world.scratch / "position"))
        except FileNotFoundError:
            return None

    def note(self, epoch: int) -> None:
        """Make durable that the table reaches to ``epoch``."""
        disk, path = self.world.disk, self.world.scratch / "position"
        fresh = path.with_suffix(".new")
        disk.write(fresh, str(epoch).encode())
        disk.sync(fresh)
        disk.rename(fresh, path)
        disk.sync_folder(self.world.scratch)


__all__ = ["OneSplit", "Spooled", "SpooledAndNoted", "staged_epoch"]
