"""What `downtime` remembers, and the compiled loops over readings: which of them matter, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tocsin.batch import START, Codes, Ints
from tocsin.kernels import kernel
from tocsin.state import Columns

SILENT = 5
"""After the last reading before a silence; 0 to 4 are the kinds that a reading can say."""
ALIVE = -1
"""A reading that says only that the machine is there."""
NOTHING = -2
"""No state is known yet."""
UNSURE = -3
"""The newest state was put in doubt by a reading out of order: look closely at what follows."""


@dataclass(slots=True)
class ToldEvent:
    """One event as it was last told."""

    start: int
    kind: str
    end: int | None
    reason: str
    revision: int = 0
    withdrawn: bool = False
    """There was no such event; kept for its revision, should a further correction bring it back."""


@dataclass(slots=True)
class Timeline:
    """The events of one machine that may still change, the reasons given lately, and the silence told of."""

    spans: dict[int, ToldEvent] = field(default_factory=dict)
    notes: list[tuple[int, str]] = field(default_factory=list)
    silent_since: int | None = None


@dataclass(slots=True)
class Readings:
    """Readings that the watermark has not passed, in order of arrival."""

    slots: Codes = field(default_factory=lambda: np.empty(0, np.int32))
    times: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    codes: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    first: int = 0
    """How many readings came before these."""
    _order: Ints | None = None

    def add(self, slots: Codes, times: Ints, codes: Ints) -> None:
        self.slots = np.concatenate([self.slots, slots])
        self.times = np.concatenate([self.times, times])
        self.codes = np.concatenate([self.codes, codes])
        self._order = None

    def of(self, slot: int, count: int) -> tuple[Ints, Ints]:
        """Returns times and codes of a key's readings among the first ``count``, in order of time."""
        if self._order is None:
            self._order = np.argsort(self.slots, kind="stable")
            self._sorted = self.slots[self._order]
        begin, end = np.searchsorted(self._sorted, [slot, slot + 1])
        mine = self._order[begin:end]
        mine = mine[: np.searchsorted(mine, count)]
        times = self.times[mine]
        if len(times) > 1 and (times[1:] < times[:-1]).any():
            mine = mine[np.argsort(times, kind="stable")]
            times = self.times[mine]
        return times, self.codes[mine]

    _sorted: Codes = field(default_factory=lambda: np.empty(0, np.int32))

    def settle(self, watermark: int, timeout: int, columns: Columns) -> None:
        """Fold the readings before the watermark into the settled state."""
        passed = self.times < watermark
        if not passed.any():
            return
        slots, times, codes = self.slots[passed], self.times[passed], self.codes[passed]
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            slots, times, codes = slots[order], times[order], codes[order]
        settle(slots, times, codes, timeout, columns["start"], columns["code"], columns["last"])
        self.slots, self.times, self.codes = self.slots[~passed], self.times[~passed], self.codes[~passed]
        self._order = None


@dataclass(slots=True)
class DowntimeState:
    """Settled state of every key, what may still change, and how far time has come."""

    columns: Columns
    readings: Readings = field(default_factory=Readings)
    lines: dict[int, Timeline] = field(default_factory=dict)
    watermark: int = START


@kernel
def follow(start: int, code: int, last: int, at: int, says: int, timeout: int) -> tuple[int, int, int, int]:
    """Follow a machine by one reading.

    Returns the start and the code of its state, the time of its last reading, and when a silence before this reading
    began (-1 for none).
    """
    silence = -1
    if timeout > 0 and code != NOTHING and code != SILENT and at - last > timeout:
        start, code, silence = last, SILENT, last
    if says != ALIVE and says != code:
        start, code = at, says
    return start, code, at, silence


@kernel
def settle(slots: Codes, times: Ints, codes: Ints, timeout: int, start: Ints, code: Ints, last: Ints) -> None:
    """Fold readings, in order of time, into the settled state of their keys."""
    for i in range(len(slots)):
        s = slots[i]
        start[s], code[s], last[s], _ = follow(start[s], code[s], last[s], times[i], codes[i], timeout)


@kernel
def trace(times: Ints, codes: Ints, timeout: int, start: int, code: int, last: int) -> tuple[Ints, Ints, int]:
    """Returns starts and codes of the states from a settled one on, and the time of the last reading.

    Of two states that start together the later one counts.
    """
    starts, kinds = np.empty(2 * len(times) + 1, np.int64), np.empty(2 * len(times) + 1, np.int64)
    n = 0
    if code != NOTHING:
        starts[0], kinds[0], n = start, code, 1
    for i in range(len(times)):
        before = code
        start, code, last, silence = follow(start, code, last, times[i], codes[i], timeout)
        if silence >= 0:
            starts[n], kinds[n] = silence, SILENT
            n += 1
            before = SILENT
        if code != before:
            starts[n], kinds[n] = start, code
            n += 1
    return starts[:n], kinds[:n], last


@kernel
def find_changes(
    slots: Codes, times: Ints, codes: Ints, timeout: int, clock: Ints, head_start: Ints, head_code: Ints
) -> npt.NDArray[np.bool_]:
    """Returns which readings may change what was told: another state, an end of silence, or one out of order.

    A reading that says again what its key's newest state is, in order or within that state, changes nothing.
    """
    matters = np.zeros(len(slots), np.bool_)
    for i in range(len(slots)):
        s, t, says = slots[i], times[i], codes[i]
        head = head_code[s]
        if t >= clock[s]:
            silent = timeout > 0 and head != NOTHING and head != SILENT and t - clock[s] > timeout
            if silent:
                matters[i] = True
                head, head_start[s] = SILENT, clock[s]
            if says != ALIVE and says != head:
                matters[i] = True
                head, head_start[s] = says, t
            head_code[s], clock[s] = head, t
        elif head == NOTHING or (says in (ALIVE, head) and t >= head_start[s] and head != SILENT):
            matters[i] = head == NOTHING and says != ALIVE
            if matters[i]:
                head_code[s] = UNSURE
        elif says != ALIVE or timeout > 0:
            matters[i] = True
            head_code[s], head_start[s] = UNSURE, clock[s]
        if head_code[s] == UNSURE:
            matters[i] = True
    return matters
