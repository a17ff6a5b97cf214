"""Windows whose end is judged row by row: each key by a time of its own, or with an allowance for late readings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tocsin.batch import END, LATE, START, Apart, Batch, Codes, Ints, times_us
from tocsin.condition._pending import Pending

AFTER = "\0after"
"""Hidden column of readings that wait: whether one came after its window had left."""
NEWEST = "\0newest"
"""Hidden column of a saved state: the newest time of the reading's key."""
Bools = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Open(Pending):
    """Readings whose windows are not closed yet."""

    next_end_us: int = END
    """No window with readings in it ends earlier."""
    newest: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """By key: how far it has come, where each has a time of its own."""
    next_ends: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """By key, where windows are judged row by row: nothing is to be done before."""

    def reserve(self) -> None:
        """Make room for all keys."""
        more = self.keys.count - len(self.newest)
        if more > 0:
            self.newest = np.concatenate([self.newest, np.full(more, START)])
            self.next_ends = np.concatenate([self.next_ends, np.full(more, END)])

    def begin(self, newest: Ints) -> None:
        """Judge the readings that wait row by row from now on; ``newest`` is of the key of each."""
        self.reserve()
        np.maximum.at(self.newest, self.merge()[0], newest)
        self.next_ends[:] = START

    def dump(self) -> pa.Table:
        table = Pending.dump(self)
        if not self.times or len(self.newest) < self.keys.count:
            return table
        return table.append_column(NEWEST, pa.array(self.newest[self.slots[0]]))

    @classmethod
    def load(cls, table: pa.Table) -> Open:
        saved = None
        if NEWEST in table.schema.names:
            saved = table[NEWEST].to_numpy()
            table = table.drop_columns([NEWEST])
        state = super(Open, cls).load(table)  # bare, super would mean the class that slots has replaced
        if saved is not None:
            state.begin(saved)
        return state


@dataclass(frozen=True, slots=True)
class Groups:
    """The windows that leave: ``order[starts[g]:starts[g + 1]]`` are the readings of window g, in time order."""

    order: Ints
    starts: Ints
    begins_us: Ints
    ends_us: Ints
    keep: Bools
    """The readings that a later window needs."""
    next_end_us: int


@dataclass(frozen=True, slots=True)
class WindowFrame:
    """Where windows lie."""

    number: Callable[[Ints], Ints]
    """Which is the last one that begins at or before a time."""
    bounds: Callable[[Ints], tuple[Ints, Ints]]
    """Where those of some numbers begin and end."""
    overlap: int
    """How many a time can be in."""
    allowance: int
    """How long after its end a window is corrected."""


def marks(state: Open, apart: Apart | None) -> Ints:
    """Returns by key how far its time has come: no reading before it is waited for."""
    overall = state.watermark_us
    if apart is None or overall == END:
        return np.full(state.keys.count, overall)
    least = max(overall - apart.most_us, START) if overall > START + apart.most_us else START
    begun = state.newest > START
    return np.maximum(np.where(begun, np.where(begun, state.newest, 0) - apart.lateness_us, START), least)


def take(state: Open, batch: Batch, frame: WindowFrame, kept: list[str]) -> tuple[list[Batch], Ints, Ints, int]:
    """Let the readings of a batch wait, but for those that come too late.

    Returns the late ones, by key how far time had come and has come now, and how many readings are new.
    """
    if state.times and not len(state.newest):
        state.begin(state.merge()[1])
    rows, left = batch.rows, []
    slots, times = state.keys.slots(rows.column("key")), times_us(rows)
    state.reserve()
    before = marks(state, batch.apart)
    _, ends = frame.bounds(frame.number(times))
    came_after = ends <= before[slots]
    late = ends + frame.allowance <= before[slots] if frame.allowance else times < before[slots]
    if late.any():
        left.append(Batch(rows.filter(pa.array(late)), batch.watermark_us, LATE))
        rows, slots, times = rows.filter(pa.array(~late)), slots[~late], times[~late]
        ends, came_after = ends[~late], came_after[~late]
    waiting = rows.select(kept)
    if frame.allowance:
        waiting = waiting.append_column(AFTER, pa.array(came_after))
    state.add(rows.column("key"), times, waiting)
    np.maximum.at(state.newest, slots, times)
    first_end = frame.bounds(frame.number(times) - (frame.overlap - 1))[1]
    np.minimum.at(state.next_ends, slots, np.where(came_after, START, np.maximum(first_end, before[slots])))
    state.watermark_us = max(state.watermark_us, batch.watermark_us)
    return left, before, marks(state, batch.apart), len(times)


def close(state: Open, frame: WindowFrame, before: Ints, now: Ints, new: int) -> Groups:
    """Returns the windows that leave, or leave again, since readings among the last ``new`` ones came after them."""
    slots, times, columns = state.merge()
    due = state.next_ends <= now
    rows = np.flatnonzero(due[slots])
    keep = np.ones(len(times), bool)
    last = frame.number(times[rows])
    ends = frame.bounds(last)[1]
    keep[rows] = ends + frame.allowance > now[slots[rows]] if now.max(initial=START) < END else False
    picked, numbers = [], []
    corrects = np.zeros(len(times), bool)
    if frame.allowance:
        corrects[len(times) - new :] = columns.column(AFTER).to_numpy(zero_copy_only=False)[len(times) - new :]
    upcoming = np.full(len(now), END)
    for back in range(frame.overlap):
        ends = frame.bounds(last - back)[1]
        holds = ends > times[rows]
        mark = now[slots[rows]]
        leaves = holds & ((ends > before[slots[rows]]) & (ends <= mark) | bool(frame.allowance))
        picked.append(rows[leaves])
        numbers.append(last[leaves] - back)
        coming = holds & (ends > mark)
        np.minimum.at(upcoming, slots[rows][coming], ends[coming])
    if frame.allowance:
        gone = frame.bounds(last)[1] + frame.allowance
        np.minimum.at(upcoming, slots[rows[keep[rows]]], gone[keep[rows]])
    state.next_ends[due] = upcoming[due]
    row, number = np.concatenate(picked), np.concatenate(numbers)
    by = np.lexsort((row, times[row], slots[row], number))
    return _groups(frame, row[by], number[by], slots, before, now, corrects, keep)


def _groups(
    frame: WindowFrame, order: Ints, number: Ints, slots: Codes, before: Ints, now: Ints, corrects: Bools, keep: Bools
) -> Groups:
    if not len(order):
        none = np.empty(0, np.int64)
        return Groups(none, np.zeros(1, np.int64), none, none, keep, END)
    changes = np.flatnonzero((np.diff(number) != 0) | (np.diff(slots[order]) != 0)) + 1
    starts = np.concatenate([[0], changes])
    begins, ends = frame.bounds(number[starts])
    of = slots[order[starts]]
    leaves = (ends > before[of]) & (ends <= now[of]) | np.logical_or.reduceat(corrects[order], starts)
    sizes = np.diff(starts, append=len(order))
    left = np.concatenate([[0], np.cumsum(sizes[leaves])])
    return Groups(order[np.repeat(leaves, sizes)], left, begins[leaves], ends[leaves], keep, END)
