"""Deadman: silence is told by the watermark or by the reading that ends it, the same either way."""

from __future__ import annotations

from tocsin.batch import END, Batch, tick
from tocsin.detect.deadman import Deadman
from tocsin.notify.alarm import Alarm
from tocsin.testing import BEGIN_US, feed, rows


def test_the_watermark_tells_it_and_a_reading_ends_it() -> None:
    operator = Deadman(after="5s")
    first = rows({"key": ["pump"], "time": [0.0]})
    state, out = operator.step(operator.initial(), Batch(first, BEGIN_US))
    state, out = operator.step(state, tick(first.schema, BEGIN_US + 5_000_000))
    assert len(out[-1]) == 0
    state, out = operator.step(state, tick(first.schema, BEGIN_US + 9_000_000))
    told = out[-1].rows
    state, out = operator.step(state, tick(first.schema, BEGIN_US + 99_000_000))
    assert len(out[-1]) == 0, "it is told once"
    back = rows({"key": ["pump"], "time": [100.0]})
    state, out = operator.step(state, Batch(back, BEGIN_US + 100_000_000))
    by_watermark = [*told.to_pylist(), *out[-1].rows.to_pylist()]
    by_reading = feed(operator, rows({"key": ["pump", "pump"], "time": [0.0, 100.0]})).to_pylist()
    assert by_watermark == by_reading
    assert [row["silent"] for row in by_reading] == [True, False]


def test_the_end_of_the_stream_and_readings_out_of_order_are_not_silence() -> None:
    operator = Deadman(after="5s")
    assert feed(operator, rows({"time": [0.0, 4.0, 1.0, 9.0]})).num_rows == 0
    _, out = operator.step(operator.initial(), Batch(rows({"time": [0.0]}), END))
    assert len(out[-1]) == 0


def test_an_alarm_behind_it_needs_no_condition() -> None:
    told = feed(Deadman(after="5s"), rows({"time": [0.0, 20.0]})).combine_chunks().to_batches()[0]
    assert feed(Alarm(rule="silent"), told)["event"].to_pylist() == ["raised", "cleared"]
