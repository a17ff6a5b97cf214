"""Source `host` on the computer that runs the tests."""

from __future__ import annotations

import time

import pyarrow.compute as pc

from tocsin.acquire.host import SCHEMA, Host, _rates
from tocsin.batch import times_us
from tocsin.testing import read_from


def test_this_computer_is_measured_again_and_again() -> None:
    reader = read_from(Host(every="50ms"))
    batches = []
    end = time.monotonic() + 30
    while len(batches) < 3 and time.monotonic() < end:
        if polled := reader.poll(1000, 0.01):
            batches.append(polled[0])
    reader.close()
    assert len(batches) == 3
    for batch in batches:
        assert batch.schema == SCHEMA
        assert batch.watermark_us == times_us(batch.rows)[0]
        values = dict(zip(batch.rows["signal"].to_pylist(), batch.rows["value"].to_pylist(), strict=True))
        assert 0 <= values["cpu.total"] <= 100
        assert 0 < values["memory.used_percent"] < 100
        assert values["processes"] >= 1
        assert pc.min(batch.rows["value"]).as_py() is not None
    assert batches[0].watermark_us < batches[1].watermark_us < batches[2].watermark_us


def test_nothing_comes_before_it_is_due() -> None:
    assert read_from(Host(every="1h")).poll(1000, 0.01) is None


def test_rates_are_differences_over_time() -> None:
    before = {"cpu.total": (10.0, 100.0), "net.sent": 1000, "disk.read": 500}
    after = {"cpu.total": (13.0, 104.0), "net.sent": 3000, "disk.read": 400, "net.received": 5}
    assert _rates(before, after, 2.0) == {"cpu.total": 75.0, "net.sent_bytes_per_s": 1000.0, "disk.read_bytes_per_s": 0}
