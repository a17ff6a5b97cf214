"""What every sink must keep to, as functions that raise `AssertionError`: the kit for those who write one.

    for check in SINK_CHECKS:
        check(harness)

A `SinkHarness` makes the sink and reads back what everybody sees; the rest is done here, over the machine's own disk
and over a simulated world that is crashed, and whose power is cut, at every step.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from tocsin.contracts import Sink, Token, Writer
from tocsin.errors import SinkError, TocsinError
from tocsin.testing import refusal, rows, world
from tocsin.testing.simulated import Crash, PowerCut, SimulatedWorld
from tocsin.world import World


class SinkHarness(Protocol):
    """A sink, and a look at its table from outside."""

    simulated: bool
    """Whether the sink writes through the world's disk only, so that it can be crashed at every step."""

    def sink(self) -> Sink:
        """Returns the sink; each harness has a table of its own."""

    def visible(self, world: World) -> Sequence[Mapping[str, Any]]:
        """Returns the rows that a reader sees now, read without the sink's own code where that can be done."""

    def leaving(self) -> Sink | None:
        """Returns the sink with a path that leaves the data folder; None where it has no path."""


def _rows(first: int, count: int = 3) -> pa.RecordBatch:
    """No two with the same key and time: a sink may tell rows apart by these."""
    numbers = [float(first + i) for i in range(count)]
    return rows({"key": ["pump"] * count, "time": numbers, "value": pa.array(numbers, pa.float64())})


SCHEMA = _rows(0).schema


def _values(harness: SinkHarness, place: World) -> Counter[float]:
    return Counter(float(row["value"]) for row in harness.visible(place))


def _expected(*firsts: int) -> Counter[float]:
    return Counter(float(first + i) for first in firsts for i in range(3))


@contextmanager
def _opened(harness: SinkHarness, place: World, schema: pa.Schema = SCHEMA) -> Iterator[Writer]:
    harness.sink().accepts(schema)
    with closing(harness.sink().open(place, schema)) as writer:
        yield writer


def published_rows_are_visible_and_staged_ones_are_not(harness: SinkHarness) -> None:
    """What is staged is seen by nobody before it is published, and by everybody after it."""
    place = world()
    with _opened(harness, place) as writer:
        token = writer.stage(1, [_rows(0)])
        assert not _values(harness, place), "staged rows are visible"
        writer.publish(1, [token])
    assert _values(harness, place) == _expected(0)


def publishing_twice_is_once(harness: SinkHarness) -> None:
    """A second call with the same epoch changes nothing, from this writer or from one opened after a restart."""
    place = world()
    with _opened(harness, place) as writer:
        token = writer.stage(1, [_rows(0)])
        writer.publish(1, [token])
        writer.publish(1, [token])
    with _opened(harness, place) as again:
        assert again.published() == 1
        again.publish(1, [token])
    assert _values(harness, place) == _expected(0)


def _published(harness: SinkHarness, place: World) -> int | None:
    """What a writer opened anew finds."""
    with _opened(harness, place) as writer:
        return writer.published()


def published_is_read_from_the_table(harness: SinkHarness) -> None:
    """None before the first epoch, then the last one made visible, also for a writer opened anew."""
    place = world()
    with _opened(harness, place) as writer:
        assert writer.published() is None
        for epoch in (3, 7):
            writer.publish(epoch, [writer.stage(epoch, [_rows(epoch)])])
            assert writer.published() == epoch
            assert _published(harness, place) == epoch


def a_writer_that_was_replaced_does_no_harm(harness: SinkHarness) -> None:
    """One that lives on after another was opened in its place, as on a cluster: its rows are there once, whichever of
    the two is the first to publish them. The other one may raise, and asks the table then."""
    if not harness.sink().FENCED:
        return
    place, wanted = world(), list[int]()
    for epoch, order in ((1, (0, 1)), (2, (1, 0))):
        with _opened(harness, place) as old, _opened(harness, place) as new:
            old.published()
            token = old.stage(epoch, [_rows(10 * epoch)])
            new.published()
            for number in order:
                with suppress(SinkError):
                    (old, new)[number].publish(epoch, [token])
        with _opened(harness, place) as last:
            if last.published() != epoch:
                last.publish(epoch, [token])
        wanted.append(10 * epoch)
        assert _published(harness, place) == epoch
        assert _values(harness, place) == _expected(*wanted), f"order {order}"


def several_epochs_are_published_at_once(harness: SinkHarness) -> None:
    """A sink that was away takes all that waits, and then stands at the last epoch."""
    place = world()
    with _opened(harness, place) as writer:
        tokens = [writer.stage(epoch, [_rows(10 * epoch)]) for epoch in (1, 2, 3)]
        writer.publish(3, tokens)
        assert writer.published() == 3
    assert _values(harness, place) == _expected(10, 20, 30)


def discarding_keeps_what_it_is_told(harness: SinkHarness) -> None:
    """A start deletes what belongs to no token, and nothing else."""
    place = world()
    with _opened(harness, place) as writer:
        kept = [writer.stage(epoch, [_rows(10 * epoch)]) for epoch in (1, 2)]
        writer.stage(3, [_rows(30)])
    with _opened(harness, place) as again:
        again.discard(kept)
        again.publish(2, kept)
        assert _values(harness, place) == _expected(10, 20)
        other = again.stage(3, [_rows(40)])
        again.publish(3, [other])
    assert _values(harness, place) == _expected(10, 20, 40)


def an_epoch_without_rows_is_no_error(harness: SinkHarness) -> None:
    """No batches, and batches without rows."""
    place = world()
    with _opened(harness, place) as writer:
        for epoch, batches in ((1, []), (2, [_rows(0, 0)]), (3, [_rows(0), _rows(0, 0)])):
            writer.publish(epoch, [writer.stage(epoch, batches)])
            assert writer.published() == epoch
    assert _values(harness, place) == _expected(0)


def two_names_do_not_touch(harness: SinkHarness) -> None:
    """Another pipeline's writer is refused with a sentence, or has a position of its own."""
    place = world(name="one/part")
    with _opened(harness, place) as writer:
        writer.publish(5, [writer.stage(5, [_rows(0)])])
        other_place = replace(place, name="two/part", scratch=place.folder / ".state" / "two_part")
        said = ""
        try:
            with _opened(harness, other_place) as other:
                assert other.published() is None, "the other name's epoch"
                other.publish(2, [other.stage(2, [_rows(100)])])
        except TocsinError as error:
            said = str(error)
    if said:
        assert len(said) > 20, "the refusal does not say what to do"
        return
    assert _published(harness, place) == 5
    assert _values(harness, place) == _expected(0, 100)


def a_column_more_is_taken(harness: SinkHarness) -> None:
    """A pipeline that has gained a column goes on writing; what is there stays."""
    place = world()
    with _opened(harness, place) as writer:
        writer.publish(1, [writer.stage(1, [_rows(0)])])
    more = _rows(10).append_column("more", pa.array(["a", None, "b"]))
    with _opened(harness, place, more.schema) as again:
        again.publish(2, [again.stage(2, [more])])
    assert _values(harness, place) == _expected(0, 10)


def housekeeping_changes_no_rows(harness: SinkHarness) -> None:
    """However often it is done."""
    place = world()
    with _opened(harness, place) as writer:
        for epoch in range(1, 41):
            writer.publish(epoch, [writer.stage(epoch, [_rows(10 * epoch)])])
            if epoch % 8 == 0:
                writer.housekeep()
    assert _values(harness, place) == _expected(*range(10, 401, 10))
    assert _published(harness, place) == 40


def rows_are_staged_while_others_are_published(harness: SinkHarness) -> None:
    """The loop stages the next epoch while a thread publishes the last."""
    place, failed = world(), []
    with _opened(harness, place) as writer:

        def publish(epoch: int, token: Token) -> None:
            try:
                writer.publish(epoch, [token])
                writer.housekeep()
            except Exception as error:
                failed.append(error)

        token = writer.stage(1, [_rows(10)])
        for epoch in range(1, 21):
            thread = threading.Thread(target=publish, args=(epoch, token))
            thread.start()
            token = writer.stage(epoch + 1, [_rows(10 * (epoch + 1))])
            thread.join()
    assert not failed, failed[0]
    assert _values(harness, place) == _expected(*range(10, 201, 10))


def every_type_arrives_or_is_refused_by_name(harness: SinkHarness) -> None:
    """Each Arrow type is kept, nulls too, or `accepts` refuses the schema and names the column."""
    for number, (name, column) in enumerate(_columns(), 1):
        batch = _rows(10 * number, len(column)).append_column(name, column)
        place = world()
        said = _refused(harness, batch.schema)
        if said:
            assert name in said, f"the refusal does not name '{name}': {said}"
            continue
        before = len(harness.visible(place))  # of the columns before, where the table is not in the place
        with closing(harness.sink().open(place, batch.schema)) as writer:
            writer.publish(number, [writer.stage(number, [batch])])
        arrived = len(harness.visible(place)) - before
        assert arrived == len(column), f"rows with a column of {column.type} were lost"


def _refused(harness: SinkHarness, schema: pa.Schema) -> str:
    return refusal(lambda: harness.sink().accepts(schema))


def _columns() -> Iterator[tuple[str, pa.Array]]:
    """A column of each type: a value, another, and a null."""
    whole = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
    numbers = (*whole, pa.float32(), pa.float64())
    for kind in numbers:
        yield f"a_{kind}", pa.array([1, 2, None], kind)
    yield "a_not_finite", pa.array([float("nan"), float("inf"), None])
    yield "a_bool", pa.array([True, False, None])
    yield "a_decimal", pa.array([Decimal("1.50"), Decimal("-2.25"), None], pa.decimal128(10, 2))
    yield "a_string", pa.array(["ü", "", None])
    yield "a_large_string", pa.array(["a", "b", None], pa.large_string())
    yield "a_category", pa.array(["a", "a", None]).dictionary_encode()
    yield "a_binary", pa.array([b"\x00\xff", b"", None])
    yield "a_date", pa.array([date(2026, 1, 1), date(1900, 1, 1), None])
    yield "a_time", pa.array([time(1, 2, 3), time(0), None], pa.time64("us"))
    yield "a_timestamp", pa.array([datetime(2026, 1, 1), datetime(1969, 1, 1), None], pa.timestamp("us"))
    yield "a_utc_timestamp", pa.array([datetime(2026, 1, 1), datetime(1969, 1, 1), None], pa.timestamp("us", "UTC"))
    yield "a_duration", pa.array([timedelta(seconds=1), timedelta(days=-1), None], pa.duration("us"))
    yield "a_list", pa.array([[1.0, None], [], None])
    yield "a_struct", pa.array([{"x": 1, "y": "a"}, {"x": None, "y": None}, None])
    yield "a_map", pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64()))
    yield "a_null", pa.nulls(3)


def a_path_that_leaves_is_refused(harness: SinkHarness) -> None:
    """`check` refuses it, before anything is written."""
    leaving = harness.leaving()
    if leaving is None:
        return
    assert ".." in refusal(lambda: leaving.check(world())), "check says nothing of a path that leaves the data folder"


def counters_are_numbers_and_closing_twice_is_no_error(harness: SinkHarness) -> None:
    """What the page asks of a writer, and what a stop does to it."""
    with _opened(harness, world()) as writer:
        assert all(isinstance(count, int) for count in writer.counters().values())
        writer.close()


def settings_survive_json(harness: SinkHarness) -> None:
    """The sink comes back from its own JSON, which holds no secret."""
    sink = harness.sink()
    again = type(sink).model_validate_json(sink.model_dump_json())
    told = sink.model_dump(mode="json")
    assert again.model_dump(mode="json") == told
    for name, value in sink:
        assert "**" in str(told.get(name)) or getattr(again, name) == value, f"'{name}' does not come back"


def a_crash_at_any_step_neither_loses_nor_doubles(harness: SinkHarness) -> None:
    """The process dies at every step of staging and publishing in turn; a start goes on."""
    _crashed(harness, cuts_power=False)


def a_power_cut_at_any_step_neither_loses_nor_doubles(harness: SinkHarness) -> None:
    """The same, and what was not synced is gone, torn or there, by chance."""
    _crashed(harness, cuts_power=True)


def _crashed(harness: SinkHarness, *, cuts_power: bool) -> None:
    if not harness.simulated:
        return
    for step in range(1, 10_000):
        simulated = SimulatedWorld(seed=step, faults=0)
        place = simulated.part(Path("/data"), "test/part")
        simulated.disk.make_folder(Path("/data"))
        simulated.crash_at, simulated.cuts_power = step, cuts_power
        committed: dict[int, Token] = {}
        try:
            _live(harness, place, committed)
        except PowerCut:
            simulated.disk.power_cut()
        except Crash:
            pass
        else:
            return  # later steps than these there are none
        simulated.boot()
        _live(harness, place, committed)
        held = _values(harness, place)
        assert held == _expected(10, 20, 30), f"crashed at step {step}: {held}"


def _live(harness: SinkHarness, place: World, committed: dict[int, Token]) -> None:
    """One life of an engine: finish what was committed, then the epochs that are not."""
    harness.sink().accepts(SCHEMA)
    writer = harness.sink().open(place, SCHEMA)  # a crash closes nothing
    done = writer.published() or 0
    waiting = {epoch: token for epoch, token in committed.items() if epoch > done}
    if waiting:
        writer.publish(max(waiting), list(waiting.values()))
    writer.discard(list(committed.values()))
    for epoch in (1, 2, 3):
        if epoch not in committed:
            token = writer.stage(epoch, [_rows(10 * epoch)])
            committed[epoch] = token
            writer.publish(epoch, [token])
    writer.close()


SINK_CHECKS: Sequence[Callable[[SinkHarness], None]] = (
    published_rows_are_visible_and_staged_ones_are_not,
    publishing_twice_is_once,
    published_is_read_from_the_table,
    several_epochs_are_published_at_once,
    a_writer_that_was_replaced_does_no_harm,
    discarding_keeps_what_it_is_told,
    an_epoch_without_rows_is_no_error,
    two_names_do_not_touch,
    a_column_more_is_taken,
    housekeeping_changes_no_rows,
    rows_are_staged_while_others_are_published,
    every_type_arrives_or_is_refused_by_name,
    a_path_that_leaves_is_refused,
    counters_are_numbers_and_closing_twice_is_no_error,
    settings_survive_json,
    a_crash_at_any_step_neither_loses_nor_doubles,
    a_power_cut_at_any_step_neither_loses_nor_doubles,
)

__all__ = ["SINK_CHECKS", "SinkHarness"]
