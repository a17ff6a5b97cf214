"""What most operators start from: `Stateless`, `Keyed`, `Detector`."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from tocsin.batch import OUT, Batch, Codes, Floats, Ints, as_numbers, floats, in_words, times_us
from tocsin.contracts import Operator
from tocsin.errors import SchemaError
from tocsin.state import NO_STATE, Columns, Field


def require(schema: pa.Schema, column: str, part: str, *, number: bool = False) -> pa.Field:
    """The field of a column, or a `SchemaError` that says what was wanted and what was there."""
    if column not in schema.names:
        raise SchemaError(f"{part} needs column '{column}'; what reaches it is [{', '.join(schema.names)}]")
    field = schema.field(column)
    if number and not (pt.is_integer(field.type) or pt.is_floating(field.type) or pt.is_boolean(field.type)):
        raise SchemaError(f"{part} needs a number in column '{column}', which is {in_words(field.type)}; cast it first")
    return field


def added(schema: pa.Schema, fields: Sequence[pa.Field], part: str) -> pa.Schema:
    """A schema with further columns; refuses to overwrite one."""
    for new in fields:
        if new.name in schema.names:
            raise SchemaError(f"{part} adds a column '{new.name}', but there is one already; rename it with select")
        schema = schema.append(new)
    return schema


def promised(operator: Operator, input: pa.Schema) -> pa.Schema:
    """`Operator.output_schema`, worked out anew only when another schema reaches the step."""
    known: tuple[pa.Schema, pa.Schema] | None = operator.__dict__.get("_promised")
    if known is None or not known[0].equals(input):
        known = (input, operator.output_schema(input))
        # Beside the settings, as functools.cached_property does it: no part of them, nor of what == compares.
        operator.__dict__["_promised"] = known
    return known[1]


class Stateless(Operator):
    """An operator that looks at one row at a time."""

    TIMELESS: ClassVar[bool] = True

    @abstractmethod
    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that leave for the rows that came."""

    def initial(self) -> None:
        return None

    def step(self, state: None, batch: Batch) -> tuple[None, Sequence[Batch]]:
        return None, (batch.with_rows(self.apply(batch.rows)),)

    def dump(self, state: None) -> pa.Table:
        return NO_STATE

    def load(self, table: pa.Table) -> None:
        return None


class Keyed(Operator):
    """An operator that remembers a fixed number of values for each key, and answers each row at once."""

    WHOLE: ClassVar[str] = ""
    """Why `update` must be given a batch whole; empty where its rows may be parted by key, and the parts be given to it
    by several threads at once: it then writes to no key's values but those of its rows, and answers a row by the same
    bits whatever rows are beside it."""

    @abstractmethod
    def fields(self) -> Mapping[str, Field]:
        """What is remembered for each key."""

    @abstractmethod
    def update(self, state: Columns, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        """The rows with an answer each, in their order; row i belongs to the key in ``slots[i]`` of the arrays."""

    def initial(self) -> Columns:
        return Columns(self.fields())

    def step(self, state: Columns, batch: Batch) -> tuple[Columns, Sequence[Batch]]:
        slots = state.slots(batch.rows.column("key"))
        return state, (batch.with_rows(self.update(state, batch.rows, slots)),)

    def dump(self, state: Columns) -> pa.Table:
        return state.dump()

    def load(self, table: pa.Table) -> Columns:
        return Columns.load(self.fields(), table)


VERDICT = (
    pa.field("expected", pa.float64()),
    pa.field("lower", pa.float64()),
    pa.field("upper", pa.float64()),
    pa.field("score", pa.float64()),
)
"""What a detector adds to each row: the value it expected, the band around it, and a score from 0 to 100.

All four are null where it cannot tell (yet): no number, still learning, or not in the operating state it watches."""


Judgement = tuple[Floats, Floats, Floats, Floats, *tuple[pa.Array, ...]]
"""Expected, lower, upper and score, then the columns of `Detector.EXTRA`; each shape (rows,)."""
_JUDGES = b"judges"


def judging(fields: Sequence[pa.Field], column: str) -> Sequence[pa.Field]:
    """Returns fields of a verdict that carry the name of the column they are about, as Arrow metadata."""
    return [field.with_metadata({_JUDGES: column}) for field in fields]


def judged(schema: pa.Schema, field: str = "score") -> str | None:
    """Returns the column that the verdict in these rows is about; None if no detector has said so.

    Examples
    --------
    >>> judged(pa.schema([pa.field("t_out", pa.float64()), *judging(VERDICT, "t_out")]))
    't_out'
    """
    metadata = schema.field(field).metadata if field in schema.names else None
    return None if not metadata or _JUDGES not in metadata else str(metadata[_JUDGES].decode())


CONTRIBUTIONS = pa.field("contributions", pa.list_(pa.float64()))
"""How much each of several columns has contributed to a verdict; null where nobody says it."""
_EXPLAINS, _BY = b"explains", b"by"


def explaining(verdicts: Sequence[str], by: Sequence[str]) -> pa.Field:
    """Returns `CONTRIBUTIONS` that carry which verdicts they explain, and by which columns, as Arrow metadata."""
    return CONTRIBUTIONS.with_metadata({_EXPLAINS: json.dumps(list(verdicts)), _BY: json.dumps(list(by))})


def explanation(schema: pa.Schema, verdict: str) -> tuple[str, Sequence[str]] | None:
    """Returns the column with the contributions to a verdict, and of which columns they are; None if there is none.

    Examples
    --------
    >>> explanation(pa.schema([pa.field("score", pa.float64()), explaining(["score"], ["flow", "current"])]), "score")
    ('contributions', ['flow', 'current'])
    """
    for field in schema:
        metadata = field.metadata or {}
        if _EXPLAINS in metadata and verdict in json.loads(metadata[_EXPLAINS]):
            return str(field.name), list(map(str, json.loads(metadata[_BY])))
    return None


Tells = Literal["lasting", "surprise", "standstill"]


class Detector(Keyed):
    """Judges each reading before it learns from it, and adds `VERDICT` to each row: one verdict a row."""

    of: str = "value"
    """The column with the reading."""
    when: str | None = None
    """A true-or-false column that says when the machine is in the state to judge; other readings are not learned."""
    direction: Literal["both", "above", "below"] = "both"
    """Which side of the expected value is abnormal."""
    deviation_min: float = 0.0
    """Smallest distance from the expected value, in the reading's unit, that may score."""
    deviation_min_percent: float = 0.0
    """Smallest distance from the expected value, in percent of it, that may score."""

    KEEPS_STATE: ClassVar[Collection[str]] = ("direction", "deviation_min", "deviation_min_percent")
    EXTRA: ClassVar[Sequence[pa.Field]] = ()
    """Columns that this detector adds beside the verdict."""
    TELLS: ClassVar[Tells]
    """What it tells, for each detector to declare.

    ``lasting``: it holds a level against what was normal, and what lasts stays told. ``surprise``: it tells what is
    new, and what lasts becomes usual. ``standstill``: it tells that nothing moves for as long as nothing does.
    """
    LIMITS_ITSELF: ClassVar[bool] = False
    """Whether `judge` has called `limited` already: by the level that it judges, not by the single reading."""
    FAULT: ClassVar[Literal["spike", "shift", "drift", "stuck", "none"]] = "spike"
    """The kind of fault it is for: the conformance kit plants one and expects it to be found."""

    @abstractmethod
    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Judgement:
        """Returns expected, lower, upper and score (NaN where it cannot tell), then the columns of `EXTRA`.

        ``values`` holds NaN for readings that must be neither judged nor learned.
        """

    @property
    def signals(self) -> tuple[str, ...]:
        """The columns that are judged."""
        return (self.of,)

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        for column in self.signals:
            require(input, column, self.name(), number=True)
        if self.when is not None:
            require(input, self.when, self.name())
        verdict = judging(VERDICT, self.signals[0]) if len(self.signals) == 1 else VERDICT
        return added(input, (*verdict, *self.adds(input)), self.name())

    def adds(self, input: pa.Schema) -> Sequence[pa.Field]:
        """Returns the columns of `EXTRA` that it adds to such rows."""
        return self.EXTRA

    def readings(self, rows: pa.RecordBatch) -> Floats:
        """Returns what `judge` is given; NaN for readings that must be neither judged nor learned."""
        return self.usable(rows, self.of)

    def usable(self, rows: pa.RecordBatch, column: str) -> Floats:
        """Returns a column's numbers, shape (rows,); NaN where there is none, or the machine is in another state."""
        values = floats(rows.column(column))
        if not np.isfinite(values).all():
            values = np.where(np.isfinite(values), values, np.nan)
        if self.when is not None:
            values = np.where(rows.column(self.when).fill_null(False).to_numpy(zero_copy_only=False), values, np.nan)
        return values

    def update(self, state: Columns, rows: pa.RecordBatch, slots: Codes) -> pa.RecordBatch:
        values = self.readings(rows)
        expected, lower, upper, score, *beside = self.judge(state, slots, times_us(rows), values)
        if not self.LIMITS_ITSELF:
            score = self.limited(values, expected, score)
        verdict = map(as_numbers, (expected, lower, upper, score))
        wanted = self.adds(rows.schema)
        extra = (column for field, column in zip(self.EXTRA, beside, strict=True) if field in wanted)
        return pa.RecordBatch.from_arrays([*rows.columns, *verdict, *extra], schema=promised(self, rows.schema))

    def limited(self, values: Floats, expected: Floats, score: Floats) -> Floats:
        """Returns the score, 0 where the deviation is too small or on the side that does not matter."""
        if self.direction == "both" and not self.deviation_min and not self.deviation_min_percent:
            return score
        off = values - expected
        small = np.abs(off) < np.maximum(self.deviation_min, self.deviation_min_percent / 100 * np.abs(expected))
        wrong = {"both": np.zeros(len(off), bool), "above": off < 0, "below": off > 0}[self.direction]
        return np.where((small | wrong) & ~np.isnan(score), 0.0, score)


__all__ = [
    "OUT",
    "VERDICT",
    "Detector",
    "Judgement",
    "Keyed",
    "Stateless",
    "added",
    "judged",
    "judging",
    "promised",
    "require",
]
