"""What every source must keep to, as functions that raise `AssertionError`: the kit for those who write one.

    for check in SOURCE_CHECKS:
        check(harness)

A `SourceHarness` makes the source and, where it can, records at the other side; it says None for what it cannot do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import pyarrow as pa

from tocsin.batch import END, REST, Batch
from tocsin.contracts import Connection, Offset, Reader, Source, Split
from tocsin.errors import SourceError, Unavailable
from tocsin.testing import refusal, world
from tocsin.world import SystemClock, World

SLACK_S = 1.0
"""What a busy machine may add to a timeout."""
PATIENCE_S = 15.0


class SourceHarness(Protocol):
    """A source, and its other side."""

    def source(self) -> Source:
        """Returns the source; each harness has an other side of its own."""

    def send(self, count: int) -> bool:
        """Make records 0, 1, 2 ... at the other side. Returns False where the source makes its own."""

    def restart(self) -> bool:
        """Stop the server and start it again. Returns False where there is none, or it cannot be restarted."""

    def silent(self) -> Source | None:
        """Returns the source with a peer that accepts and never answers; None where it has no peer."""

    def absent(self) -> Source | None:
        """Returns the source with a peer that is not there; None where it has no peer."""

    def wrong(self) -> tuple[Source, str] | None:
        """Returns the source with a setting that cannot work, and a word that `check` must say; None if none can."""


Polled = list[tuple[pa.RecordBatch, Offset]]


class _Opened:
    """A reader that closes its connection too."""

    def __init__(self, connection: Connection, reader: Reader) -> None:
        self._connection, self._reader = connection, reader
        self.poll, self.acknowledge, self.counters = reader.poll, reader.acknowledge, reader.counters
        self.progress = reader.progress

    def close(self) -> None:
        self._reader.close()
        self._connection.close()


def _open(source: Source, offset: Offset | None = None, place: World | None = None) -> Reader:
    connection = source.open(place or world())
    return _Opened(connection, connection.read(_splits(connection)[0], offset))


def _splits(connection: Connection) -> Sequence[Split]:
    """The splits, which a group gives only after a while."""
    clock = SystemClock()
    until_s = clock.monotonic_s() + PATIENCE_S
    while not (splits := connection.splits()) and clock.monotonic_s() < until_s:
        clock.sleep(0.05)
    return splits


def _poll(reader: Reader, rows: int, rows_max: int = 1_000) -> Polled:
    """Poll until so many rows have come, or the end."""
    clock, got, count = SystemClock(), [], 0
    until_s = clock.monotonic_s() + PATIENCE_S
    while count < rows and clock.monotonic_s() < until_s:
        polled = reader.poll(rows_max, 0.1)
        if polled is not None:
            got.append((polled[0].rows, polled[1]))
            count += len(polled[0])
            if polled[0].watermark_us in (END, REST):
                break
    return got


def _sent(harness: SourceHarness, count: int) -> tuple[Reader, int]:
    """A reader, and how many rows to wait for: those sent once it listens, or some that it makes itself."""
    reader = _open(harness.source())
    until_s = SystemClock().monotonic_s() + PATIENCE_S
    while reader.counters().get("connects") == 0 and SystemClock().monotonic_s() < until_s:
        reader.poll(1, 0.1)
    return reader, count if harness.send(count) else 1


def _content(got: Polled) -> list[Any]:
    """The rows, but for when they arrived."""
    return [{n: v for n, v in row.items() if n != "received"} for rows, _ in got for row in rows.to_pylist()]


def rows_have_the_promised_schema(harness: SourceHarness) -> None:
    """Every batch has the schema of `output_schema`."""
    reader, count = _sent(harness, 5)
    got = _poll(reader, count)
    reader.close()
    assert got, "nothing came"
    for rows, _ in got:
        assert rows.schema.equals(harness.source().output_schema()), rows.schema
        rows.validate(full=True)


def what_is_sent_comes_in_order(harness: SourceHarness) -> None:
    """All of it, once."""
    reader, count = _sent(harness, 50)
    got = _poll(reader, count)
    reader.close()
    if "payload" in harness.source().output_schema().names:
        numbers = [_number(json.loads(row["payload"])) for row in _content(got)]
        assert numbers == list(range(50)), numbers


def _number(payload: Any) -> int:
    """A record is its number, or an object with that and nothing else."""
    return int(next(iter(payload.values())) if isinstance(payload, dict) else payload)


def offsets_are_json(harness: SourceHarness) -> None:
    """A checkpoint keeps them as text."""
    reader, count = _sent(harness, 5)
    for _, offset in _poll(reader, count):
        assert json.loads(json.dumps(offset)) == offset
    reader.close()


def an_old_offset_gives_the_same_rest(harness: SourceHarness) -> None:
    """A source that can be read again gives the same rows after the same offset, however they are cut."""
    if not harness.source().REPLAYABLE:
        return
    reader, count = _sent(harness, 40)
    first = _poll(reader, count, rows_max=7)
    reader.close()
    for at in range(len(first)):
        again = _open(harness.source(), json.loads(json.dumps(first[at][1])))
        rest = _poll(again, sum(len(rows) for rows, _ in first[at + 1 :]), rows_max=11)
        again.close()
        wanted = _content(first[at + 1 :])
        assert _content(rest)[: len(wanted)] == wanted, f"after offset {first[at][1]}"


def _timed(reader: Reader, timeout_s: float) -> float:
    clock = SystemClock()
    began_s = clock.monotonic_s()
    with suppress(SourceError):  # a refusal is an answer, too
        reader.poll(1_000, timeout_s)
    return clock.monotonic_s() - began_s


def poll_keeps_its_timeout(harness: SourceHarness) -> None:
    """When there is nothing, and when there is something."""
    reader, count = _sent(harness, 5)
    _poll(reader, count)
    for timeout_s in (0.0, 0.2, 0.0):
        took_s = _timed(reader, timeout_s)
        assert took_s < timeout_s + SLACK_S, f"poll({timeout_s}) took {took_s:.2f} s"
    reader.close()


def a_silent_peer_holds_up_nobody(harness: SourceHarness) -> None:
    """A peer that accepts the connection and never answers: `poll` still keeps its timeout."""
    source = harness.silent()
    if source is not None:
        _keeps_its_timeout(source)


def an_absent_peer_holds_up_nobody(harness: SourceHarness) -> None:
    """A peer that is not there: `poll` keeps its timeout, and may say `Unavailable`."""
    source = harness.absent()
    if source is not None:
        _keeps_its_timeout(source)


def _keeps_its_timeout(source: Source) -> None:
    connection = source.open(world())
    readers: dict[str, Reader] = {}
    for _ in range(8):
        clock = SystemClock()
        began_s = clock.monotonic_s()
        with suppress(Unavailable):
            readers |= {s.name: connection.read(s, None) for s in connection.splits() if s.name not in readers}
        took_s = clock.monotonic_s() - began_s
        assert took_s < SLACK_S, f"to say which splits there are took {took_s:.2f} s"
        for reader in readers.values():
            took_s = _timed(reader, 0.1)
            assert took_s < 0.1 + SLACK_S, f"poll(0.1) took {took_s:.2f} s"
        clock.sleep(0.0 if readers else 0.1)
    for reader in readers.values():
        reader.close()
    connection.close()


class _Patient:
    """A reader that is opened again at its last position whenever the other side is away, as the runner does it."""

    def __init__(self, open: Callable[[Offset | None], Reader], reader: Reader) -> None:
        self._open, self._reader = open, reader
        self._offset: Offset | None = None
        self._counted: Counter[str] = Counter()
        self.acknowledge, self.progress = reader.acknowledge, reader.progress

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        try:
            polled = self._reader.poll(rows_max, timeout_s)
        except Unavailable:
            self._counted.update(self._reader.counters())
            self._reader.close()
            SystemClock().sleep(timeout_s)
            self._reader = self._open(self._offset)
            return None
        self._offset = self._offset if polled is None else polled[1]
        return polled

    def counters(self) -> Mapping[str, int]:
        return self._counted + Counter(self._reader.counters())

    def close(self) -> None:
        self._reader.close()


def a_restart_of_the_server_is_survived(harness: SourceHarness) -> None:
    """The source waits until the server is back, then goes on exactly: what was acknowledged does not come again."""
    opened, count = _sent(harness, 5)
    reader = _Patient(lambda offset: _open(harness.source(), offset), opened)
    before = _poll(reader, count)
    reader.acknowledge(before[-1][1])
    connects = reader.counters().get("connects", 0)
    if not harness.restart():
        reader.close()
        return
    if count == 1:  # it makes its readings itself
        resumed = _poll(reader, 1)
        reader.close()
        assert resumed, "no reading came after the restart"
        return
    until_s = SystemClock().monotonic_s() + PATIENCE_S
    while connects and reader.counters()["connects"] == connects and SystemClock().monotonic_s() < until_s:
        assert reader.poll(1_000, 0.1) is None, "what was acknowledged came again"
    harness.send(5)
    after = _poll(reader, 5)
    reader.close()
    moved = [{**row, "position": row["position"] + 5} for row in _content(before)]
    of_record = {"sent": None, "key": None}
    assert [row | of_record for row in _content(after)] == [row | of_record for row in moved]


def splits_stay_the_same(harness: SourceHarness) -> None:
    """Asked again at once, the same names, each once."""
    connection = harness.source().open(world())
    names = [split.name for split in _splits(connection)]
    assert names, "there are no splits"
    assert len(set(names)) == len(names)
    assert names == [split.name for split in connection.splits()]
    connection.close()


def acknowledging_again_is_harmless(harness: SourceHarness) -> None:
    """The runner may say the same twice, after a recovery."""
    reader, count = _sent(harness, 5)
    for _, offset in _poll(reader, count):
        reader.acknowledge(offset)
        reader.acknowledge(offset)
    reader.close()


def a_bounded_source_ends(harness: SourceHarness) -> None:
    """With a batch whose watermark is the end, or says that it rests until the next run."""
    if not harness.source().bounded():
        return
    harness.send(5)
    reader, ended = _open(harness.source()), False
    until_s = SystemClock().monotonic_s() + PATIENCE_S
    while not ended and SystemClock().monotonic_s() < until_s:
        polled = reader.poll(1_000, 0.1)
        ended = polled is not None and polled[0].watermark_us in (END, REST)
    reader.close()
    assert ended, "a bounded source never ended"


def counters_never_fall(harness: SourceHarness) -> None:
    """They are whole numbers, and go up only."""
    reader, count = _sent(harness, 5)
    before = reader.counters()
    _poll(reader, count)
    after = reader.counters()
    reader.close()
    assert all(isinstance(n, int) for n in after.values())
    assert all(after[name] >= n for name, n in before.items())


def closing_twice_is_no_error(harness: SourceHarness) -> None:
    """Nor is closing what was never polled; of readers and of connections."""
    connection = harness.source().open(world())
    reader = connection.read(_splits(connection)[0], None)
    reader.close()
    reader.close()
    connection.close()
    connection.close()


def settings_survive_json(harness: SourceHarness) -> None:
    """The source comes back from its own JSON, which holds no secret."""
    source = harness.source()
    again = type(source).model_validate_json(source.model_dump_json())
    told = source.model_dump(mode="json")
    assert again.model_dump(mode="json") == told
    for name, value in source:
        assert "**" in str(told.get(name)) or getattr(again, name) == value, f"'{name}' does not come back"


def what_cannot_work_is_named(harness: SourceHarness) -> None:
    """`check` says it before anything is opened."""
    wrong = harness.wrong()
    if wrong is None:
        return
    said = refusal(lambda: wrong[0].check(world()))
    assert wrong[1] in said, f"check says '{said}', which does not name {wrong[1]}"


SOURCE_CHECKS: Sequence[Callable[[SourceHarness], None]] = (
    rows_have_the_promised_schema,
    what_is_sent_comes_in_order,
    offsets_are_json,
    an_old_offset_gives_the_same_rest,
    poll_keeps_its_timeout,
    a_silent_peer_holds_up_nobody,
    an_absent_peer_holds_up_nobody,
    a_restart_of_the_server_is_survived,
    splits_stay_the_same,
    acknowledging_again_is_harmless,
    a_bounded_source_ends,
    counters_never_fall,
    closing_twice_is_no_error,
    settings_survive_json,
    what_cannot_work_is_named,
)

__all__ = ["SOURCE_CHECKS", "SourceHarness"]
