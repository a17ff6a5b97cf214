"""Tests of the checks: sound parts pass them all, and a part broken on purpose fails the right one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tocsin.bases import Detector, Keyed, Stateless, Tells, require
from tocsin.batch import END, Batch, Codes, Floats, Ints, as_keys, floats, times_us
from tocsin.state import Columns, Field
from tocsin.testing import checks


class Doubled(Stateless):
    """Doubles the value; the smallest stateless part.

    >>> feed(Doubled(), rows({"value": [1.0]}))["value"].to_pylist()
    [2.0]
    """

    of: str = "value"
    """The column to double."""

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        require(input, self.of, self.name(), number=True)
        return input

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        at = rows.schema.get_field_index(self.of)
        return rows.set_column(at, rows.schema.field(at), pc.multiply(rows.column(at), 2.0))


class Total(Keyed):
    """Adds the running total; the smallest part with state.

    >>> feed(Total(), rows({"value": [1.0, 2.0]}))["total"].to_pylist()
    [1.0, 3.0]
    """

    def fields(self) -> Mapping[str, Field]:
        return {"total": Field()}

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        require(input, "value", self.name(), number=True)
        return input.append(pa.field("total", pa.float64()))

    def update(self, state: Columns, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        totals = np.empty(len(slots))
        for i, (slot, value) in enumerate(zip(slots, floats(rows.column("value")), strict=True)):
            if math.isfinite(value):
                state["total"][slot] += value
            totals[i] = state["total"][slot]
        schema = self.output_schema(rows.schema)
        return pa.RecordBatch.from_arrays([*rows.columns, pa.array(totals)], schema=schema)


class Deviation(Detector):
    """Distance from the mean so far, by the standard deviation so far.

    >>> feed(Deviation(), rows({"value": [1.0, 2.0]}))["score"].to_pylist()
    [None, None]
    """

    TELLS: ClassVar[Tells] = "surprise"

    def fields(self) -> Mapping[str, Field]:
        return {"n": Field(), "mean": Field(), "m2": Field()}

    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Any:
        out = np.full((4, len(values)), np.nan)
        for i, (s, x) in enumerate(zip(slots, values, strict=True)):
            if math.isnan(x):
                continue
            self.verdict(state, s, x, out[:, i])
            self.learn(state, s, x)
        return tuple(out)

    def verdict(self, state: Columns, s: int, x: float, out: Floats) -> None:
        n, mean, m2 = state["n"][s], state["mean"][s], state["m2"][s]
        if n >= 10:
            sd = max(math.sqrt(m2 / n), 1e-9)
            out[:] = mean, mean - 4 * sd, mean + 4 * sd, min(100.0, 12.5 * abs(x - mean) / sd)

    def learn(self, state: Columns, s: int, x: float) -> None:
        if abs(x) > 1e100:
            return
        state["n"][s] += 1
        delta = x - state["mean"][s]
        state["mean"][s] += delta / state["n"][s]
        state["m2"][s] += delta * (x - state["mean"][s])


@pytest.mark.parametrize("cls", [Doubled, Total, Deviation])
def test_a_sound_part_passes_every_check(cls: Any) -> None:
    for check in checks.checks_for(cls):
        check(cls(), checks.sample(cls))


# ------------------------------------------------------------------------------------------------------ broken parts


class PromisesMore(Doubled):
    def output_schema(self, input: pa.Schema) -> pa.Schema:
        return super().output_schema(input).append(pa.field("more", pa.float64()))


class FindsOutLate(Doubled):
    def output_schema(self, input: pa.Schema) -> pa.Schema:
        return input


class Random(Doubled):
    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        at = rows.schema.get_field_index(self.of)
        return rows.set_column(at, rows.schema.field(at), pa.array(np.random.default_rng().normal(size=rows.num_rows)))


class ByBatch(Doubled):
    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        at = rows.schema.get_field_index(self.of)
        centred = pc.subtract(rows.column(at), pc.mean(rows.column(at)))
        return rows.set_column(at, rows.schema.field(at), centred)


class OneForAll(Total):
    def update(self, state: Columns, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        return super().update(state, rows, np.zeros_like(slots))


class Renames(Doubled):
    """Gives each machine's rows the key of another one, and does not tell that rows of several may meet behind it."""

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        at, names = rows.schema.get_field_index("key"), rows.column("key").cast(pa.string())
        return rows.set_column(at, rows.schema.field(at), as_keys(pc.binary_join_element_wise("new", names, "-")))


class ForgetsOnLoad(Total):
    def load(self, table: pa.Table) -> Columns:
        return self.initial()


class LoadsByPosition(Total):
    """The keys are not restored: rows of the state find their machine by position only."""

    def load(self, table: pa.Table) -> Columns:
        state = self.initial()
        state.slots(pa.array(["pump", "fan", "motor"]))
        state["total"][: table.num_rows] = table["total"].to_numpy()
        return state


class HoldsBackNothing(Doubled):
    """Keeps the last row for the next batch, but passes the watermark on."""

    def initial(self) -> Any:
        return None

    def step(self, state: Any, batch: Batch) -> tuple[Any, Sequence[Batch]]:
        held = [] if state is None else [Batch(state, batch.watermark_us)]
        if batch.watermark_us == END:
            return None, (*held, batch)
        last = batch.rows.slice(max(len(batch) - 1, 0))
        first = batch.with_rows(batch.rows.slice(0, max(len(batch) - 1, 0)))
        return last, (*held, first)


class SwallowsTheEnd(Doubled):
    def step(self, state: None, batch: Batch) -> tuple[None, Sequence[Batch]]:
        return super().step(state, batch.until(min(batch.watermark_us, END - 1)))


class SaysNothing(Doubled):
    def step(self, state: None, batch: Batch) -> tuple[None, Sequence[Batch]]:
        return None, [] if not len(batch) and batch.watermark_us < END else super().step(state, batch)[1]


class FallingWatermark(Doubled):
    def step(self, state: None, batch: Batch) -> tuple[None, Sequence[Batch]]:
        if len(batch) and int(times_us(batch.rows)[0]) // 500_000 % 2 and batch.watermark_us != END:
            batch = batch.until(batch.watermark_us - 5_000_000)
        return super().step(state, batch)


class NoNulls(Doubled):
    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        assert rows.column(self.of).null_count < rows.num_rows / 2 + 1
        assert not pc.any(pc.is_inf(rows.column(self.of))).as_py()
        return super().apply(rows)


class Remembers(Doubled):
    def initial(self) -> Any:
        return []

    def step(self, state: Any, batch: Batch) -> tuple[Any, Sequence[Batch]]:
        state.append(batch.rows)
        return state, super().step(None, batch)[1]

    def dump(self, state: Any) -> pa.Table:
        return pa.Table.from_batches(state).select(["key", "time", "value"]) if state else pa.table({"key": []})

    def load(self, table: pa.Table) -> Any:
        return table.to_batches()


class NotJson(Doubled):
    of: str = "value"

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]


class Bare(Doubled):
    pass


class Undocumented(Doubled):
    """A docstring that is long enough, with an example.

    >>> 1 + 1
    2
    """

    factor: float = 2.0


def untrue() -> type[Doubled]:
    class Untrue(Doubled):  # inside a function, where the doctests of this module do not find it
        """Doubles.

        >>> feed(Doubled(), rows({"value": [1.0]}))["value"].to_pylist()
        [3.0]
        """

    return Untrue


class DropsARow(Deviation):
    def update(self, state: Columns, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        judged = super().update(state, rows, slots)
        return judged.filter(pc.less_equal(judged.column("score").fill_null(0), 50))


class Blind(Deviation):
    def verdict(self, state: Columns, s: int, x: float, out: Floats) -> None:
        super().verdict(state, s, 50.0, out)


class LearnsFirst(Deviation):
    def verdict(self, state: Columns, s: int, x: float, out: Floats) -> None:
        self.learn(state, s, x)
        super().verdict(state, s, x, out)


class GapsAreZero(Deviation):
    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Any:
        judged = super().judge(state, slots, times, np.nan_to_num(values))
        return tuple(np.where(np.isnan(values), np.nan, a) for a in judged)


class ConstantIsOdd(Deviation):
    def verdict(self, state: Columns, s: int, x: float, out: Floats) -> None:
        super().verdict(state, s, x, out)
        if state["m2"][s] == 0:
            out[3] = 100.0


class LearnsTheFault(Deviation):
    """Claims to hold a level, and forgets it within some ten readings."""

    TELLS: ClassVar[Tells] = "lasting"

    def learn(self, state: Columns, s: int, x: float) -> None:
        super().learn(state, s, x)
        state["n"][s] = min(state["n"][s], 20)
        state["m2"][s] = min(state["m2"][s], 20 * (x - state["mean"][s]) ** 2 + 20)


class HoldsALevel(Deviation):
    """Claims to tell surprises only, and goes on telling what lasts."""

    def learn(self, state: Columns, s: int, x: float) -> None:
        if state["n"][s] < 100:
            super().learn(state, s, x)


class AnswersTogether(Total):
    """Answers each row with how many others came with it, too."""

    def update(self, state: Columns, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        answered = super().update(state, rows, slots)
        at = answered.schema.get_field_index("total")
        return answered.set_column(at, answered.schema.field(at), pc.add(answered.column(at), float(len(slots))))


class SaysNotWhatItTells(Deviation):
    TELLS: ClassVar[Any] = None


class ForgetsStandstill(Deviation):
    """Claims to tell that nothing moves, and judges readings."""

    TELLS: ClassVar[Tells] = "standstill"


MUTANTS: Mapping[Any, str] = {
    PromisesMore: "schema_promised_is_delivered",
    FindsOutLate: "missing_column_is_refused_by_name",
    Random: "same_in_same_out",
    ByBatch: "chopping_changes_nothing",
    OneForAll: "keys_do_not_touch_each_other",
    Renames: "keys_do_not_touch_each_other",
    ForgetsOnLoad: "dump_and_load_change_nothing",
    LoadsByPosition: "state_can_be_split_by_key",
    AnswersTogether: "parting_by_key_changes_nothing",
    HoldsBackNothing: "watermark_is_true",
    SwallowsTheEnd: "watermark_is_true",
    SaysNothing: "watermark_is_true",
    FallingWatermark: "watermark_is_true",
    NoNulls: "bad_values_are_no_error",
    Remembers: "state_is_bounded",
    NotJson: "settings_survive_json",
    Bare: "is_documented",
    Undocumented: "is_documented",
    untrue(): "examples_are_true",
    DropsARow: "one_verdict_a_row",
    Blind: "finds_a_planted_fault",
    LearnsFirst: "judges_before_it_learns",
    GapsAreZero: "missing_readings_change_nothing",
    ConstantIsOdd: "a_constant_series_is_usual",
    LearnsTheFault: "what_lasts_is_told_as_declared",
    HoldsALevel: "what_lasts_is_told_as_declared",
    SaysNotWhatItTells: "what_lasts_is_told_as_declared",
    ForgetsStandstill: "what_lasts_is_told_as_declared",
}


@pytest.mark.parametrize("cls", MUTANTS, ids=lambda cls: cls.__name__)
def test_a_broken_part_fails_the_check_that_is_for_it(cls: Any) -> None:
    check = getattr(checks, MUTANTS[cls])
    with pytest.raises(Exception) as failure:  # noqa: PT011 (each part breaks in its own way)
        check(cls(), checks.sample(cls))
    assert not isinstance(failure.value, NameError | ImportError)


def test_every_check_has_a_part_that_fails_it() -> None:
    assert {check.__name__ for check in (*checks.CHECKS, *checks.DETECTOR_CHECKS)} == set(MUTANTS.values())
