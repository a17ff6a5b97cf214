"""Windows of machines that each have a time of their own, and windows that late readings correct."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from tocsin.batch import END, LATE, OUT, START, Apart, Batch, tick, times_us
from tocsin.condition.event_time import EventTime
from tocsin.condition.resample import Resample
from tocsin.condition.window import Window
from tocsin.errors import ConfigError
from tocsin.pipeline.model import Pipeline
from tocsin.testing import BEGIN_US, rows

S = 1_000_000
HOUR = 3_600 * S
Counted = dict[tuple[str, int], int]


def one_after_the_other(seed: int = 3) -> pa.RecordBatch:
    """An hour of one machine, then the same hour of the next; each up to 5 s out of order."""
    random = np.random.default_rng(seed)
    seconds = np.concatenate([np.arange(0, 3600, 7) + random.uniform(0, 5, 515) for _ in range(3)])
    names = [name for name in ("a", "b", "c") for _ in range(515)]
    return rows({"key": names, "time": seconds, "value": np.arange(len(names), dtype=float)})


def through(time: EventTime, window: Window, given: pa.RecordBatch, chop: int, saved: bool = False) -> list[Batch]:
    """What leaves both, the states saved and loaded after each batch if asked for."""
    before, behind, left = time.initial(), window.initial(), []
    stamped = given.rename_columns(["stamp" if name == "time" else name for name in given.schema.names])
    pieces = [Batch(stamped.slice(at, chop)) for at in range(0, len(given), chop)]
    for piece in [*pieces, tick(stamped.schema, END)]:
        before, timed = time.step(before, piece)
        for batch in timed:
            if batch.port == OUT:
                behind, out = window.step(behind, Batch(batch.rows, batch.watermark_us, apart=time.apart(None)))
                left += out
            else:
                left.append(batch)
        if saved:
            before, behind = time.load(time.dump(before)), window.load(window.dump(behind))
    return left


def counted(batches: list[Batch]) -> Counted:
    """How many readings each window has; it must have left once."""
    told = [row for batch in batches if batch.port == OUT for row in batch.rows.to_pylist()]
    windows = {(row["key"], round(row["time"].timestamp() * S)): row["n"] for row in told}
    assert len(windows) == len(told)
    return windows


def wanted(given: pa.RecordBatch, every: int, size: int) -> Counted:
    windows: Counter[tuple[str, int]] = Counter()
    for key, us in zip(given.column("key").to_pylist(), times_us(given).tolist(), strict=True):
        for begin in range(us // every * every, us - size, -every):
            windows[key, begin] += 1
    return dict(windows)


@pytest.mark.parametrize("chop", [1_000_000, 211, 7])
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(("every", "size"), [(60, 60), (60, 180)])
def test_a_file_sorted_by_machine_has_all_its_windows(chop: int, saved: bool, every: int, size: int) -> None:
    given = one_after_the_other()
    window = Window(every=f"{every}s", size=f"{size}s", compute={"n": "count(*)"})
    time = EventTime(column="stamp", lateness="10s", keys_apart="2h")
    left = through(time, window, given, chop, saved)
    assert not any(len(batch) for batch in left if batch.port == LATE)
    assert counted(left) == wanted(given, every * S, size * S)
    assert all(a.watermark_us <= b.watermark_us for a, b in pairwise(left) if START not in (a.watermark_us,))


def test_windows_by_the_clock_of_a_zone() -> None:
    given = one_after_the_other()
    window = Window(every="1h", zone="Asia/Kolkata", compute={"n": "count(*)"})
    left = through(EventTime(column="stamp", lateness="10s", keys_apart="2h"), window, given, 100)
    half = HOUR // 2
    shifted = {(key, begin - half): n for (key, begin), n in _shifted(given, half).items()}
    assert counted(left) == shifted


def _shifted(given: pa.RecordBatch, by: int) -> Counted:
    windows: Counter[tuple[str, int]] = Counter()
    for key, us in zip(given.column("key").to_pylist(), times_us(given).tolist(), strict=True):
        windows[key, (us + by) // HOUR * HOUR] += 1
    return dict(windows)


def test_a_silent_machine_is_waited_for_only_so_long() -> None:
    given = rows({"key": ["a", "b", *["b"] * 40, "a", "a"], "time": [0, 0, *range(60, 2460, 60), 90, 2400]})
    window = Window(every="1m", compute={"n": "count(*)"})
    left = through(EventTime(column="stamp", lateness="0s", keys_apart="10m"), window, given, 1)
    assert [b.rows.column("time")[0].as_py().minute for b in left if b.port == LATE and len(b)] == [1]
    at = [(r["key"], b.watermark_us) for b in left if b.port == OUT for r in b.rows.to_pylist()]
    first = next(watermark for key, watermark in at if key == "a")
    assert first == BEGIN_US + 11 * 60 * S  # its minute and ten more have passed for the other one


def test_late_readings_correct_a_window_until_the_allowance_is_over() -> None:
    window = Window(every="1m", allowed_lateness="5m", compute={"n": "count(*)"})
    state, told = window.initial(), []
    for seconds, watermark in (
        ([0, 30], 0),
        ([70], 60),
        ([10], 70),
        ([20, 75], 75),
        ([200], 200),
        ([5], 360),
        ([1], 500),
    ):
        given = rows({"key": ["a"] * len(seconds), "time": seconds})
        state, left = window.step(state, Batch(given, BEGIN_US + watermark * S))
        state = window.load(window.dump(state))
        told += [
            (b.port, r["time"].minute, r.get("n"), r.get("late_readings")) for b in left for r in b.rows.to_pylist()
        ]
    assert told == [
        (OUT, 0, 2, 0),
        (OUT, 0, 3, 1),
        (OUT, 0, 4, 2),
        (OUT, 1, 2, 0),
        (OUT, 0, 5, 3),
        (OUT, 3, 1, 0),
        (LATE, 0, None, None),
    ]


def test_what_goes_by_one_time_is_refused_and_the_remedy_works() -> None:
    with pytest.raises(ConfigError, match="keys_apart"):
        Resample(every="1s").apart(Apart(0, 0))
    with pytest.raises(ConfigError, match="sessions"):
        Window(gap="1s", compute="count(*)").apart(Apart(0, 0))

    def plan(time: dict[str, str], step: dict[str, object]) -> None:
        Pipeline(
            name="p",
            source={"files": {"path": "x.ndjson"}},
            decode={"json": {"columns": {"m": "text", "ts": "timestamp", "v": "float"}}},
            key="m",
            time={"column": "ts", **time},
            streams={"s": {"steps": [step]}},
        ).plan()

    with pytest.raises(ConfigError, match="let lateness be as long"):
        plan({"keys_apart": "1h"}, {"resample": {"every": "1s", "of": "v"}})
    plan({"lateness": "1h"}, {"resample": {"every": "1s", "of": "v"}})
