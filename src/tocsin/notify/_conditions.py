"""The conditions of `alarm`, worst first, and the compiled loop that finds where one begins or ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tocsin.batch import START, Codes, Floats, Ints
from tocsin.kernels import kernel
from tocsin.state import Columns, Field


@dataclass(frozen=True, slots=True)
class Level:
    """One condition: it begins beyond ``limit``, and ends when the number is back by ``deadband``."""

    name: str
    """high_high, high, low, low_low, rate_of_change, when or score."""
    column: str
    """The column that it looks at."""
    sign: float
    """1 if numbers above the limit are abnormal, -1 if those below it are."""
    limit: float
    deadband: float
    priority: int


class Conditions(NamedTuple):
    """All levels as arrays, shape (levels,), worst first."""

    column: Ints
    """Which row of `Readings.signals` the condition looks at."""
    sign: Floats
    limit: Floats
    deadband: Floats
    rate: int
    """The level that judges how fast the reading changes; -1 for none."""


class Counting(NamedTuple):
    """How many readings must break a limit before it counts; without ``of_last`` and ``within_us`` one is enough."""

    needed: int
    of_last: int
    """Among how many of the last readings."""
    within_us: int
    """In how much time."""


class ConditionRows(NamedTuple):
    """A batch's rows."""

    slots: Codes
    """The key of each row, shape (rows,)."""
    times: Ints
    """Event time in microseconds, shape (rows,)."""
    signals: Floats
    """The columns that conditions look at, shape (columns, rows)."""
    hide: Floats
    """Above 0.5 where the plant's own logic suppresses the alarm, NaN where it does not say, shape (rows,)."""


class Memory(NamedTuple):
    """What is remembered of each key, shape (keys,); the loop writes into it."""

    bits: Ints
    """Which conditions hold: bit k for level k."""
    level: Ints
    """The worst condition that holds and has been broken often enough, counted from 1; 0 for none."""
    suppressed: Ints
    """1 while the plant's own logic suppresses the alarm."""
    clock: Ints
    """The newest time of the key."""
    last: Floats
    """The last reading, for the rate of change."""
    last_time: Ints
    """When it was."""
    history: Ints
    """The last 64 readings as bits, the newest lowest: 1 for one beyond a limit."""
    broken: Ints
    """The times of the last ``needed`` readings beyond a limit, shape (keys, needed)."""
    worst: Ints
    """The worst level among the readings that are counted."""


class Outcome(NamedTuple):
    """What each row leads to, shape (rows,)."""

    level: Ints
    """The level that it leaves its key at."""
    time: Ints
    """The key's time then: a reading older than the key's newest counts as if it came with the newest."""
    hidden: Ints
    """1 if the alarm is suppressed then."""
    changed: npt.NDArray[np.bool_]
    """Whether level or suppression are other than before."""


def memory_fields(count: int) -> dict[str, Field]:
    """Returns the arrays of `Memory`, for a rule that counts ``count`` readings within a time."""
    return {
        "bits": Field(np.int64),
        "level": Field(np.int64),
        "suppressed": Field(np.int64),
        "clock": Field(np.int64, START),
        "last": Field(np.float64, np.nan),
        "last_time": Field(np.int64),
        "history": Field(np.int64),
        "broken": Field(np.int64, START, count),
        "worst": Field(np.int64),
    }


def memory_of(columns: Columns) -> Memory:
    """Returns the arrays of a keyed state as the compiled loop takes them."""
    arrays = {name: columns[name] for name in Memory._fields}
    return Memory(**arrays | {"broken": arrays["broken"].reshape(len(arrays["bits"]), -1)})


def as_conditions(levels: Sequence[Level], columns: Sequence[str]) -> Conditions:
    """Returns the levels as the compiled loop takes them; ``columns`` are the names of `Readings.signals`."""
    return Conditions(
        np.array([columns.index(level.column) for level in levels], np.int64),
        np.array([level.sign for level in levels]),
        np.array([level.limit for level in levels]),
        np.array([level.deadband for level in levels]),
        next((i for i, level in enumerate(levels) if level.name == "rate_of_change"), -1),
    )


@kernel
def find_changes(readings: ConditionRows, conditions: Conditions, counting: Counting, memory: Memory) -> Outcome:
    """Returns what each row leads to, and remembers it."""
    count = len(readings.slots)
    level, time, hidden = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    changed = np.empty(count, np.bool_)
    for i in range(count):
        s = readings.slots[i]
        t = max(readings.times[i], memory.clock[s])
        memory.clock[s] = t
        now = memory.level[s]
        if _looked_at(i, s, readings, conditions, memory):
            now = _worst(memory.bits[s], len(conditions.column))
            if counting.of_last > 0 or counting.within_us > 0:
                now = _often_enough(s, t, now, counting, memory)
        suppressed = memory.suppressed[s]
        hidden[i] = suppressed if np.isnan(readings.hide[i]) else np.int64(readings.hide[i] > 0.5)
        changed[i] = now != memory.level[s] or hidden[i] != suppressed
        memory.level[s], memory.suppressed[s] = now, hidden[i]
        level[i], time[i] = now, t
    return Outcome(level, time, hidden, changed)


@kernel
def _looked_at(i: int, s: int, readings: ConditionRows, conditions: Conditions, memory: Memory) -> bool:
    """Hold the conditions of key ``s`` against row ``i``; returns whether there was a number for any of them."""
    bits, judged = memory.bits[s], False
    for k in range(len(conditions.column)):
        x = readings.signals[conditions.column[k], i]
        if k == conditions.rate:
            passed_us = readings.times[i] - memory.last_time[s]
            rate = abs(x - memory.last[s]) / (passed_us * 1e-6) if passed_us > 0 else np.nan
            if np.isfinite(x) and passed_us > 0:
                memory.last[s], memory.last_time[s] = x, readings.times[i]
            x = rate
        if not np.isfinite(x):
            continue
        judged = True
        if conditions.sign[k] * x > conditions.sign[k] * conditions.limit[k]:
            bits |= np.int64(1) << k
        elif conditions.sign[k] * x <= conditions.sign[k] * conditions.limit[k] - conditions.deadband[k]:
            bits &= ~(np.int64(1) << k)
    memory.bits[s] = bits
    return judged


@kernel
def _worst(bits: int, levels: int) -> int:
    """Returns the worst level that holds, counted from 1; 0 for none."""
    for k in range(levels):
        if bits >> k & 1:
            return k + 1
    return 0


@kernel
def _often_enough(s: int, t: int, now: int, counting: Counting, memory: Memory) -> int:
    """Count a reading of key ``s`` at level ``now``; returns the level that has been broken often enough."""
    hit = now > 0
    if hit:
        memory.worst[s] = now
    if counting.of_last > 0:
        memory.history[s] = memory.history[s] << 1 | np.int64(hit)
        seen = 0
        for k in range(counting.of_last):
            seen += memory.history[s] >> k & 1
        enough = seen >= counting.needed
    else:
        if hit:
            for k in range(counting.needed - 1):
                memory.broken[s, k] = memory.broken[s, k + 1]
            memory.broken[s, counting.needed - 1] = t
        enough = memory.broken[s, 0] >= t - counting.within_us
    return memory.worst[s] if enough else 0
