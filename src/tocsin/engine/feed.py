"""What the live page listens to: the newest rows of each stream, four times a second, over a Unix socket.

The engine only puts references to batches into a bounded list. A thread of its own thins them out, encodes them and
sends them to the page's process; it may wait for a slow page, the engine never does: what is not taken in time is
dropped, oldest first.

The page says one thing: at which parts somebody looks closely. Their last rows are kept as long (`engine.last_rows`).

What is sent, and what the page may rely on, stands in `engine.wire`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin.batch import Batch
from tocsin.engine.last_rows import LastRowsKept
from tocsin.engine.wire import (
    COUNTERS,
    LAST_ROWS,
    ROWS,
    Counted,
    StreamColumns,
    describe,
    encode_counted,
    encode_last_rows,
    encode_rows,
    frame,
)

SOCKET = "page.sock"
"""The socket's name in the state folder."""

_SHARE_MAX = 0.01
"""Of one core, for thinning out and encoding: where much flows, the page moves less often."""
_STREAMS_MAX = 64
_HEARD_BYTES = 4096
_WINDOW = 8
"""How many times more rows are looked at than are sent, so that quiet keys are seen beside busy ones; where still more
have come, the next ones are looked at the next time."""


class PageFeed:
    """Shows the page what flows. `offer` costs about a microsecond, and nothing once a page has gone.

    At most ``rows_max`` rows of a stream are sent each ``every_s``; if there are more, the newest of each key and
    signal; if there are more of these, they take turns, and the page is told so. Only ``streams`` are shown, if given.
    """

    def __init__(
        self,
        socket_path: Path,
        *,
        streams: Collection[str] | None = None,
        rows_max: int = 2000,
        every_s: float = 0.25,
        timeout_s: float = 2.0,
    ) -> None:
        self._path = socket_path
        self._streams = streams
        self._rows_max = rows_max
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._turns: Counter[str] = Counter()
        """How often rows of a stream have been sent."""
        self._counters: Counted | None = None
        self._last_rows = LastRowsKept()
        self.listening = False
        """Whether a page listens."""
        self._came = False
        """Whether a page has ever listened; until then rows are kept for it, since it starts beside the engine."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def offer(self, stream: str, batch: Batch) -> None:
        """Show these rows, if there is time. Never blocks, never grows, never raises for what is in them."""
        rows = batch.rows
        if self._came and not self.listening:
            return
        if not rows.num_rows or (self._streams is not None and stream not in self._streams):
            return
        with self._lock:
            waiting = self._waiting.get(stream)
            if waiting is None:
                if len(self._waiting) >= _STREAMS_MAX:
                    return
                waiting = self._waiting[stream] = _Waiting(deque())
            waiting.add(rows, self._rows_max * _WINDOW)

    @property
    def looked_at(self) -> Collection[str]:
        """Returns the sources and steps whose last rows somebody wants to see; hardly ever any."""
        return self._last_rows.parts

    def look(self, part: str, batch: Batch) -> None:
        """Show these rows of a part that is looked at, whatever else flows."""
        self._last_rows.add(part, batch)

    def counters(self, snapshot: Mapping[str, object]) -> None:
        """Show these counters (`engine.counters.Counters.snapshot`); they say that the engine is alive, too."""
        self._counters = msgspec.convert(snapshot, Counted, str_keys=False)

    def close(self) -> None:
        """Send what waits and stop."""
        self._stop.set()
        self._thread.join(2 * self._timeout_s)

    def _run(self) -> None:
        connection: socket.socket | None = None
        last, rows_due_s = False, 0.0
        while not last:
            last = self._stop.wait(self._every_s)
            begun_s, with_rows = time.thread_time(), last or time.monotonic() >= rows_due_s
            try:
                if connection is None:
                    connection = connect(self._path, self._timeout_s)
                    self.listening = self._came = True
                for data in self._frames(with_rows):
                    connection.sendall(data)
                self._hear(connection)
            except OSError:  # no page, or one that does not read: try again at the next tick, with fresh rows
                self.listening = False
                self._last_rows.forget()
                if connection is not None:
                    connection.close()
                connection = None
                if self._came:
                    with self._lock:
                        self._waiting.clear()
                last = last or self._stop.wait(4 * self._every_s)
            if with_rows:  # counters go each time: they tell the page that the engine is alive
                rows_due_s = time.monotonic() + (time.thread_time() - begun_s) / _SHARE_MAX
        if connection is not None:
            connection.close()

    def _hear(self, connection: socket.socket) -> None:
        """Take in what the page looks at; ConnectionResetError where it has hung up."""
        while select.select([connection], [], [], 0)[0]:
            data = connection.recv(_HEARD_BYTES)
            if not data:
                raise ConnectionResetError
            self._last_rows.hear(data)

    def _frames(self, with_rows: bool) -> list[bytes]:
        taken: dict[str, _Waiting] = {}
        if with_rows:
            with self._lock:
                taken, self._waiting = self._waiting, taken
        frames = []
        for name, waiting in taken.items():
            for stream, batches in _described(name, waiting.batches).items():
                thin = thinned(stream, batches, self._rows_max, self._turns[name])
                frames.append(frame(ROWS, encode_rows(stream, thin.rows, thin.in_turn)))
            self._turns[name] += 1
        if with_rows:
            frames += [frame(LAST_ROWS, encode_last_rows(rows)) for rows in self._last_rows.take()]
        counters, self._counters = self._counters, None
        if counters is not None:
            frames.append(frame(COUNTERS, encode_counted(counters)))
        return frames


@dataclass(slots=True)
class _Waiting:
    """The newest batches of a stream, as many as hold the rows that will be looked at."""

    batches: deque[pa.RecordBatch]
    rows: int = 0

    def add(self, rows: pa.RecordBatch, rows_max: int) -> None:
        self.batches.append(rows)
        self.rows += rows.num_rows
        while self.rows - self.batches[0].num_rows >= rows_max:
            self.rows -= self.batches.popleft().num_rows


def _described(name: str, batches: Iterable[pa.RecordBatch]) -> Mapping[StreamColumns, list[pa.RecordBatch]]:
    """Returns batches by what their rows mean: in a stream that unites several, verdicts may be about other columns."""
    parted: dict[StreamColumns, list[pa.RecordBatch]] = {}
    schema: pa.Schema = None
    for rows in batches:
        if schema is None or not rows.schema.equals(schema, check_metadata=True):
            schema, mine = rows.schema, parted.setdefault(describe(name, rows.schema), [])
        mine.append(rows)
    return parted


@dataclass(frozen=True, slots=True)
class Thinned:
    """What is sent of the rows that have come."""

    rows: pa.Table
    in_turn: int = 0
    """Where not every key and signal has a row here: how many there were at least; 0 if each has."""


def thinned(stream: StreamColumns, batches: Sequence[pa.RecordBatch], rows_max: int, turn: int = 0) -> Thinned:
    """Returns at most ``rows_max`` rows, the columns that are shown.

    If there are more rows, the newest of each key and signal; if there are more of these, they take turns by their
    names: all have been sent after as many turns as that takes. Of alarms, which are told once, the newest go first.
    """
    alike = [rows for rows in batches if rows.schema == batches[-1].schema]
    shown = stream.columns()
    names = [f.name for f in batches[-1].schema if (f.name in shown if shown else _plain(f.type))]
    table, room = pa.Table.from_batches(alike).select(names), rows_max * _WINDOW
    by = ["id"] if stream.kind == "alarms" else ["key", *([stream.signal] if stream.signal else [])]
    beyond = max(table.num_rows - room, 0)
    looked_at, in_turn = table.slice(beyond), 0
    if looked_at.num_rows > rows_max:
        newest = _newest(looked_at, by)
        if newest.num_rows > rows_max and stream.kind != "alarms":
            windows = 1 + -(-beyond // room)
            looked_at = table.slice(max(beyond - turn % windows * room, 0), room)
            newest = _newest(looked_at, by)
            in_turn = newest.num_rows
            newest = newest.take(pc.sort_indices(newest, [(name, "ascending") for name in by]))
            newest = newest.take(pa.array((turn // windows * rows_max + np.arange(min(rows_max, in_turn))) % in_turn))
        places = newest.column("row_max")
        places = places.take(pc.sort_indices(places))
        looked_at = looked_at.take(places.slice(max(len(places) - rows_max, 0)))
    return Thinned(_undictionaried(looked_at).combine_chunks(), in_turn)


def _newest(table: pa.Table, by: Sequence[str]) -> pa.Table:
    """Returns the place of the newest row (``row_max``) of each group of rows that are alike in these columns."""
    rows = _undictionaried(table.select(by)).append_column("row", pa.array(np.arange(table.num_rows)))
    return rows.group_by(by, use_threads=False).aggregate([("row", "max")])


def _plain(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in (pt.is_integer, pt.is_floating, pt.is_boolean, pt.is_string, pt.is_timestamp))


def _undictionaried(table: pa.Table) -> pa.Table:
    """Returns plain values: the dictionary of a large plant would cost more than the rows."""
    for i, field in enumerate(table.schema):
        if pt.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table


@contextlib.contextmanager
def _near(path: Path) -> Iterator[str]:
    """Gives the path by a short name, for a socket's may have no more than about 100 bytes."""
    if len(os.fsencode(path)) < 100:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def connect(path: Path, timeout_s: float) -> socket.socket:
    """Returns a connection to the page's socket."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        with _near(path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return connection


def listen(path: Path) -> socket.socket:
    """Returns the open socket on which the page hears the engine; only this user may connect."""
    listener = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        with _near(path) as name:
            listener.bind(name)
    finally:
        os.umask(before)
    listener.listen(4)
    return listener
