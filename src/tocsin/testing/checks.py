"""The conformance kit: what every operator must keep to, as functions that raise `AssertionError`.

    for check in checks_for(operator):
        check(operator, sample(type(operator)))

`CHECKS` hold for every operator, `DETECTOR_CHECKS` for detectors beside them. A part is tried with each of its
`EXAMPLES` on the kit's rows, which its `sample` may turn into what it needs.
"""

from __future__ import annotations

import doctest
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tocsin import testing
from tocsin.bases import VERDICT, Detector, Keyed
from tocsin.batch import END, OUT, START, STEP, Batch, Floats, as_times, times_us
from tocsin.contracts import Component, Operator
from tocsin.errors import SchemaError
from tocsin.settings import sentences
from tocsin.testing import feed, rows, stream

Check = Callable[[Operator, pa.RecordBatch], None]
Row = Mapping[str, Any]


def sample(cls: type[Operator], count: int = 150) -> pa.RecordBatch:
    """The kit's rows for a part: three machines that take turns, every kind of column, some nulls, a spike."""
    random = np.random.default_rng(7)
    i = np.arange(count)
    value = np.round(20 + np.sin(i / 9) + random.normal(0, 0.3, count), 3)
    value[-6] = 60.0
    standard = rows(
        {
            "key": [("pump", "fan", "motor")[k] for k in i % 3],
            "time": i * 0.5,
            "value": pa.array([None if k % 17 == 5 else float(v) for k, v in zip(i, value, strict=True)]),
            "other": value * 2,
            "count": i % 5,
            "flag": i % 11 != 0,
            "text": [("idle", "running", "fault")[k] for k in (i // 20) % 3],
            "sequence": i // 3,
            "values": [[float(v), float(v) + 1, float(v) - 2][: k % 4] for k, v in zip(i, value, strict=True)],
            "received": as_times(testing.BEGIN_US + 500_000 * i + 100_000),
        }
    )
    return cls.sample(standard)


def examples(cls: type[Component]) -> Sequence[Component]:
    """The part, built with each of its `EXAMPLES`."""
    return [cls.model_validate(settings) for settings in cls.EXAMPLES]


# ---------------------------------------------------------------------------------------------------------- driving


def _run(
    operator: Operator, batches: Sequence[Batch] | Any, *, reload: bool = False
) -> tuple[dict[str, list[Row]], list[Batch]]:
    """All rows by port, and all batches."""
    state, left = operator.initial(), []
    for batch in batches:
        state, out = operator.step(state, batch)
        left += list(out)
        if reload:
            state = operator.load(_through_a_file(operator.dump(state)))
    return _by_port(left), left


def _by_port(batches: Sequence[Batch]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for batch in batches:
        rows.setdefault(batch.port, []).extend(batch.rows.to_pylist())
    return {port: _grouped(left) for port, left in rows.items() if left}


def _grouped(left: list[Row]) -> list[Row]:
    """Rows by key; those of one key stay in their order."""
    return sorted(left, key=lambda row: str(row.get("key", "")))


def _through_a_file(table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_file(sink.getvalue()).read_all()


def _same(a: Any, b: Any) -> bool:
    """Equal, but for the last digits of a float (vectorised and scalar maths differ there)."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _expect_same(given: Mapping[str, list[Row]], wanted: Mapping[str, list[Row]], after: str) -> None:
    assert given.keys() == wanted.keys(), f"{after}: ports {sorted(given)} instead of {sorted(wanted)}"
    for port, left in wanted.items():
        assert len(given[port]) == len(left), f"{after}: {len(given[port])} rows on {port} instead of {len(left)}"
        for i, (a, b) in enumerate(zip(given[port], left, strict=True)):
            assert _same(a, b), f"{after}: row {i} on {port} is {a} instead of {b}"


def _shards(operator: Operator, table: Any) -> pa.Array:
    """Returns the shard of each row of a batch or of a state, by its column ``key``."""
    column = table.column("key")
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return operator.shard(column.cast(pa.string()))


def _all_shards(operator: Operator, sample: pa.RecordBatch) -> list[str]:
    """Returns the shards of a sample; none where the operator cannot be split, or knows no keys."""
    if operator.ACROSS_KEYS or "key" not in sample.schema.names:
        return []
    return sorted(set(_shards(operator, sample).to_pylist()))


def _of_shards(operator: Operator, table: Any, shards: Sequence[str]) -> Any:
    return table.filter(pc.is_in(_shards(operator, table), value_set=pa.array(shards, pa.string())))


# ----------------------------------------------------------------------------------------------- for every operator


def schema_promised_is_delivered(operator: Operator, sample: pa.RecordBatch) -> None:
    """Every batch has the schema of its port, and no port appears that was not named."""
    promised = {OUT: operator.output_schema(sample.schema), **operator.side_schemas(sample.schema)}
    for batch in _run(operator, stream(sample, 40))[1]:
        assert batch.port in promised, f"port {batch.port} was not promised, only {sorted(promised)}"
        delivered = batch.schema
        assert delivered.equals(promised[batch.port]), (
            f"on {batch.port}: {delivered}\ninstead of\n{promised[batch.port]}"
        )
        batch.rows.validate(full=True)


def missing_column_is_refused_by_name(operator: Operator, sample: pa.RecordBatch) -> None:
    """Without a column it either works, and keeps its promise, or raises `SchemaError` with the column's name."""
    for i, column in enumerate(sample.schema.names):
        if column in ("key", "time") and {"key", "time"} <= set(sample.schema.names):
            continue  # every stream has them
        less = pa.RecordBatch.from_arrays(
            [a for j, a in enumerate(sample.columns) if j != i], schema=sample.schema.remove(i)
        )
        try:
            operator.output_schema(less.schema)
        except SchemaError as error:
            said = str(error)
        else:
            schema_promised_is_delivered(operator, less)
            continue
        assert column in said, f"without '{column}' the error does not name it: {said}"


def same_in_same_out(operator: Operator, sample: pa.RecordBatch) -> None:
    """Two runs give the same rows."""
    twin = type(operator).model_validate(operator.model_dump())
    _expect_same(_run(twin, stream(sample, 40))[0], _run(operator, stream(sample, 40))[0], "run again")


def chopping_changes_nothing(operator: Operator, sample: pa.RecordBatch) -> None:
    """However the stream is cut into batches, the rows are the same."""
    wanted = _run(operator, stream(sample))[0]
    for chop in (1, 7, [3, 0, 50, 1, 20]):
        _expect_same(_run(operator, stream(sample, chop))[0], wanted, f"in batches of {chop}")


def keys_do_not_touch_each_other(operator: Operator, sample: pa.RecordBatch) -> None:
    """A key's rows are the same whether or not there are keys of other shards (see `Operator.shard`); rows that leave
    have no key that `Operator.meets` does not tell of."""
    shards = _all_shards(operator, sample)
    if not shards:
        return
    alone: list[Batch] = []
    for shard in shards:
        left = _run(operator, stream(_of_shards(operator, sample, [shard]), 40))[1]
        _expect_told(operator, shard, left)
        alone += left
    _expect_same(_by_port(alone), _run(operator, stream(sample, 40))[0], "each shard alone")


def _expect_told(operator: Operator, shard: str, left: Sequence[Batch]) -> None:
    """Rows that came of one shard's keys have these keys, or begin with the same step of a path."""
    meets = operator.meets()
    for batch in left if meets != "all" else ():
        for row in batch.rows.to_pylist():
            key = row.get("key", shard)
            told = key == shard if meets == "key" else key.partition(STEP)[0] == shard.partition(STEP)[0]
            assert told, f"a row of {shard!r} leaves as {key!r}: say by meets() which rows come together"


def dump_and_load_change_nothing(operator: Operator, sample: pa.RecordBatch) -> None:
    """After any batch the state may go through a file."""
    wanted = _run(operator, stream(sample, 13))[0]
    _expect_same(_run(operator, stream(sample, 13), reload=True)[0], wanted, "state through a file")


def state_can_be_split_by_key(operator: Operator, sample: pa.RecordBatch) -> None:
    """Half way, the state's rows part by shard, and two operators go on with a share each."""
    shards = _all_shards(operator, sample)
    if not shards:
        return
    batches = list(stream(sample, 25))
    first, rest = batches[: len(batches) // 2], batches[len(batches) // 2 :]
    state, left = operator.initial(), []
    for batch in first:
        state, out = operator.step(state, batch)
        left += list(out)
    table = operator.dump(state)
    assert table.schema.names[0] == "key", f"the state's first column is {table.schema.names[0]}, not key"
    for share in (shards[::2], shards[1::2]):
        state = operator.load(_of_shards(operator, table, share))
        for batch in rest:
            state, out = operator.step(state, batch.with_rows(_of_shards(operator, batch.rows, share)))
            left += list(out)
    _expect_same(_by_port(left), _run(operator, batches)[0], "split by shard")


def parting_by_key_changes_nothing(operator: Operator, sample: pa.RecordBatch) -> None:
    """Where nothing is said against it (`Keyed.WHOLE`), a batch may be answered in parts: by the same bits."""
    if not isinstance(operator, Keyed) or type(operator).step is not Keyed.step or operator.WHOLE:
        return
    whole, parts = operator.initial(), operator.initial()
    for batch in stream(sample, 40):
        whole, (left,) = operator.step(whole, batch)
        slots = parts.slots(batch.rows.column("key"))
        answers: list[Any] = [None] * len(batch)
        for part in (1, 0):
            at = np.flatnonzero(slots % 2 == part)
            for i, row in zip(
                at, operator.update(parts, batch.rows.take(pa.array(at)), slots[at]).to_pylist(), strict=True
            ):
                answers[i] = row
        assert str(answers) == str(left.rows.to_pylist()), f"in parts: {answers}\ninstead of\n{left.rows.to_pylist()}"
    assert str(operator.dump(parts).to_pylist()) == str(operator.dump(whole).to_pylist()), "in parts the state differs"


def watermark_is_true(operator: Operator, sample: pa.RecordBatch) -> None:
    """Every step ends with a batch on port out; its watermark never falls, no earlier row follows, and END passes."""
    for chop in (1, [3, 0, 50, 1, 20]):
        state, watermark = operator.initial(), START
        for batch in stream(sample, chop):
            state, left = operator.step(state, batch)
            out = [b for b in left if b.port == OUT]
            assert out, "a step must answer with a batch on port out, if only a tick"
            for b in out:
                if len(b) and "time" in b.schema.names:
                    first = int(times_us(b.rows).min())
                    assert first >= watermark, f"a row of {first} leaves after the watermark {watermark}"
            assert out[-1].watermark_us >= watermark, f"the watermark falls from {watermark}: {out[-1].watermark_us}"
            watermark = out[-1].watermark_us
        assert watermark == END, "the end does not pass"


def bad_values_are_no_error(operator: Operator, sample: pa.RecordBatch) -> None:
    """Null, NaN, infinity and the empty batch raise nothing, and the promise still holds."""
    schema_promised_is_delivered(operator, sample.slice(0, 0))
    for bad in (None, math.nan, math.inf, -math.inf):
        columns = []
        for field, column in zip(sample.schema, sample.columns, strict=True):
            fits = pt.is_floating(field.type) or (bad is None and field.name not in ("key", "time", "received"))
            if fits and field.nullable and not pt.is_dictionary(field.type):
                mixed = [bad if i % 3 else value for i, value in enumerate(column.to_pylist())]
                column = pa.array(mixed, field.type)
            columns.append(column)
        schema_promised_is_delivered(operator, pa.RecordBatch.from_arrays(columns, schema=sample.schema))


def state_is_bounded(operator: Operator, sample: pa.RecordBatch) -> None:
    """With the same keys for longer, the state stops growing."""
    if "time" not in sample.schema.names:
        return
    times = times_us(sample)
    span = int(times.max() - times.min()) + 1_000_000
    state, sizes = operator.initial(), []
    at = sample.schema.get_field_index("time")
    for i in range(16):
        later = sample.set_column(at, sample.schema.field(at), as_times(times + i * span))
        state, _ = operator.step(state, Batch(later, int(times.min()) + i * span))
        sizes.append(operator.dump(state).nbytes)
    assert sizes[-1] <= 1.25 * sizes[7] + 8192, f"the state grows with the stream: {sizes} bytes"


def settings_survive_json(operator: Operator, sample: pa.RecordBatch) -> None:
    """The settings, written as JSON and read back, are the same."""
    again = type(operator).model_validate_json(operator.model_dump_json())
    assert again == operator, f"{operator.model_dump_json()} comes back as {again}"


def is_documented(part: Component | type[Component], sample: pa.RecordBatch | None = None) -> None:
    """The class has a docstring with an example, and every setting a sentence."""
    cls = part if isinstance(part, type) else type(part)
    assert len(cls.__doc__ or "") > 40, f"{cls.__name__} has no docstring"
    assert ">>>" in (cls.__doc__ or ""), f"{cls.__name__} shows no example in its docstring"
    for name in cls.model_fields:
        assert sentences(cls).get(name), f"setting {name} of {cls.__name__} has no docstring under it"


def examples_are_true(operator: Component, sample: pa.RecordBatch | None = None) -> None:
    """What the docstring's example shows is what comes out."""
    cls = type(operator)
    given = {**vars(sys.modules[cls.__module__]), "rows": rows, "feed": feed, "pa": pa}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for test in doctest.DocTestFinder(recurse=False).find(cls, cls.__name__, globs=given):
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


# ------------------------------------------------------------------------------------------------- for detectors too


def _noise(count: int = 1200) -> np.ndarray[Any, np.dtype[np.float64]]:
    return 50 + np.random.default_rng(3).normal(0, 1, count)


def _judged(operator: Detector, values: Any, key: str = "machine") -> dict[str, list[Any]]:
    columns: dict[str, Any] = dict.fromkeys(operator.signals, pa.array(values, pa.float64(), from_pandas=True))
    columns["key"] = [key] * len(values)
    if operator.when is not None:
        columns[operator.when] = pa.array([True] * len(values))
    left: dict[str, list[Any]] = feed(operator, type(operator).sample(rows(columns)), chop=100).to_pydict()
    return left


def one_verdict_a_row(operator: Detector, sample: pa.RecordBatch) -> None:
    """Rows leave as they came, in order, with a verdict each: all null, or a score from 0 to 100."""
    left = feed(operator, sample, chop=40)
    assert left.num_rows == sample.num_rows, f"{sample.num_rows} rows came, {left.num_rows} left"
    assert left.select(sample.schema.names).equals(pa.Table.from_batches([sample])), "the rows that came were changed"
    for score in left["score"].to_pylist():
        assert score is None or 0 <= score <= 100, f"a score of {score}"


def finds_a_planted_fault(operator: Detector, sample: pa.RecordBatch) -> None:
    """The detector's own kind of fault, planted in plain noise, scores higher than what came before it."""
    values, at = _noise(), 1000
    match operator.FAULT:
        case "spike":
            values[at : at + 5] += 25
        case "shift":
            values[at:] += 8
        case "drift":
            values[at:] += np.linspace(0, 20, len(values) - at)
        case "stuck":
            values[at:] = values[at]
        case _:
            return
    if operator.direction == "below":
        values = 100 - values
    score = [s or 0.0 for s in _judged(operator, values)["score"]]
    before, after = sorted(score[500:at]), max(score[at:])
    usual = before[int(0.99 * len(before))]
    assert after > usual, f"a planted {operator.FAULT} scores {after}, usual is up to {usual}"
    assert after >= 50, f"a planted {operator.FAULT} scores only {after}"


def judges_before_it_learns(operator: Detector, sample: pa.RecordBatch) -> None:
    """What is expected of a reading does not depend on it, and a prefix's verdicts are the prefix of the verdicts."""
    values = _noise()
    whole = _judged(operator, values)
    changed = values.copy()
    changed[900] += 30
    other = _judged(operator, changed)
    for name in ("expected", "lower", "upper"):
        assert _same(whole[name][:901], other[name][:901]), f"'{name}' of a reading depends on the reading itself"
    assert _same(_judged(operator, values[:900])["score"], whole["score"][:900]), "a verdict depends on later readings"


def missing_readings_change_nothing(operator: Detector, sample: pa.RecordBatch) -> None:
    """Readings without a number get no score and leave the others' verdicts as they were."""
    values = _noise(900)
    gaps = np.insert(values, [500, 500, 700], np.nan)
    present = ~np.isnan(gaps)
    # The same instants for the same readings: only the rows without a number are new.
    time = np.empty(len(gaps))
    time[present] = np.arange(len(values))
    time[~present] = [499.2, 499.5, 699.5]
    base: dict[str, Any] = {**dict.fromkeys(operator.signals, values), "time": np.arange(len(values), dtype=float)}
    more: dict[str, Any] = {**dict.fromkeys(operator.signals, pa.array(gaps, from_pandas=True)), "time": time}
    if operator.when is not None:
        base[operator.when], more[operator.when] = np.ones(len(values), bool), np.ones(len(gaps), bool)
    cls = type(operator)
    wanted = feed(operator, cls.sample(rows(base)), chop=100).to_pydict()
    scored_columns = feed(operator, cls.sample(rows(more)), chop=100).to_pydict()
    for name in [field.name for field in VERDICT]:
        kept = [v for v, here in zip(scored_columns[name], present, strict=True) if here]
        assert _same(kept, wanted[name]), f"'{name}' changes after readings without a number"
    scored = [v for v, here in zip(scored_columns["score"], present, strict=True) if not here and v is not None]
    assert not scored, f"readings without a number score {scored}"


def a_constant_series_is_usual(operator: Detector, sample: pa.RecordBatch) -> None:
    """What never changes does not score, but where being stuck is the fault looked for."""
    if operator.FAULT == "stuck":
        return
    score = max((s or 0.0 for s in _judged(operator, np.full(900, 42.0))["score"]), default=0.0)
    assert score < 50, f"a constant series scores {score}"


def what_lasts_is_told_as_declared(operator: Detector, sample: pa.RecordBatch) -> None:
    """A new level is told as ``TELLS`` says: for as long as it lasts, or at its beginning and then no more."""
    tells = getattr(operator, "TELLS", None)
    assert tells is not None, "TELLS does not say whether what lasts stays told or is a surprise only"
    if tells == "standstill":
        _standstill_stays_told(operator)
        return
    values, at, over = _noise(4000), 1000, 3500
    values[at:over] += -12 if operator.direction == "below" else 12
    # So close that no time after which a level may be accepted has passed.
    told = _told(operator, values, every_s=1e-4)
    if tells == "lasting":
        assert told[at + 100 : over].all(), f"a lasting fault is told for {told[at:over].mean():.0%} of its time"
        assert not told[-100:].any(), "what is back where it was is still told"
        return
    share = told[over - 500 : over].mean()
    assert told[at : at + 200].any(), "a surprise is not told at its beginning"
    assert share < 0.5, f"what lasts is told for {share:.0%} of the time in the end: declare it as lasting"


def _standstill_stays_told(operator: Detector) -> None:
    values, at, over = _noise(4000), 1000, 3500
    values[at:over] = values[at]
    told = _told(operator, values, every_s=1.0)
    assert told[at + 1000 : over].all(), f"a standstill is told for {told[at:over].mean():.0%} of its time"
    assert not told[-100:].any(), "what moves again is still told"


def _told(operator: Detector, values: Floats, every_s: float) -> npt.NDArray[np.bool_]:
    """Whether each reading has a score of 75 or more."""
    columns: dict[str, Any] = dict.fromkeys(operator.signals, values)
    if operator.when is not None:
        columns[operator.when] = np.ones(len(values), bool)
    left = feed(operator, type(operator).sample(rows(columns, every_s=every_s)), chop=500)
    score: Floats = left["score"].fill_null(0).to_numpy()
    return score >= 75


CHECKS: Sequence[Check] = (
    schema_promised_is_delivered,
    missing_column_is_refused_by_name,
    same_in_same_out,
    chopping_changes_nothing,
    keys_do_not_touch_each_other,
    dump_and_load_change_nothing,
    state_can_be_split_by_key,
    parting_by_key_changes_nothing,
    watermark_is_true,
    bad_values_are_no_error,
    state_is_bounded,
    settings_survive_json,
    is_documented,
    examples_are_true,
)
DETECTOR_CHECKS: Sequence[Callable[[Detector, pa.RecordBatch], None]] = (
    one_verdict_a_row,
    finds_a_planted_fault,
    judges_before_it_learns,
    missing_readings_change_nothing,
    a_constant_series_is_usual,
    what_lasts_is_told_as_declared,
)


def checks_for(cls: type[Component]) -> Sequence[Callable[[Any, pa.RecordBatch], None]]:
    """The checks that a part must pass: an operator's, a detector's; of all others only that it is documented."""
    if issubclass(cls, Detector):
        return (*CHECKS, *DETECTOR_CHECKS)
    return CHECKS if issubclass(cls, Operator) else (is_documented,)


__all__ = ["CHECKS", "DETECTOR_CHECKS", "checks_for", "examples", "sample"]
