"""Windows by a local clock: where they begin, and which one a time belongs to."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.batch import END, START, Ints, as_times
from tocsin.errors import SchemaError

HOUR_US = 3_600_000_000


class LocalWindows:
    """Windows of a length by the clock of a zone (UTC if None), each beginning ``offset`` after a multiple of it.

    Examples
    --------
    >>> days = LocalWindows("Europe/Berlin", 24 * HOUR_US, 0)
    >>> spring = 1774735200_000_000  # 2026-03-28T22:00Z, the hour before the day on which clocks go forward
    >>> (days.end(spring + HOUR_US) - days.start(spring + HOUR_US)) // HOUR_US
    23
    """

    def __init__(self, zone: str | None, every: int, offset: int) -> None:
        self._zone, self._every, self._offset = zone or "UTC", every, offset
        try:
            self.numbers(np.zeros(1, np.int64))
        except pa.ArrowInvalid as error:
            raise SchemaError(f"there is no time zone {zone!r}; name one as Europe/Berlin or UTC") from error

    def starts(self, numbers: Ints) -> Ints:
        """Returns when windows of these numbers begin (a time that the clock skips is the one after it)."""
        local = pa.array(numbers * self._every + self._offset, pa.int64()).cast(pa.timestamp("us"))
        utc = pc.assume_timezone(local, self._zone, ambiguous="earliest", nonexistent="latest")
        return np.asarray(utc.cast(pa.int64()).to_numpy(zero_copy_only=False))

    def numbers(self, times: Ints) -> Ints:
        """Returns the number of the window that each time belongs to."""
        local = pc.local_timestamp(as_times(times).cast(pa.timestamp("us", self._zone))).cast(pa.int64())
        guess = (local.to_numpy(zero_copy_only=False) - self._offset) // self._every
        some, at = np.unique(guess, return_inverse=True)
        # Within an hour that happens twice the clock may be a window ahead, or behind.
        begins, ends = self.starts(some)[at], self.starts(some + 1)[at]
        return np.asarray(guess - (times < begins) + (times >= ends))

    def even(self, times: Ints) -> Ints:
        """Returns times as if all windows were of one length, in the same windows and the same order of windows."""
        within = (times != START) & (times != END)
        some = times[within]
        numbers = self.numbers(some)
        evened = times.copy()
        evened[within] = numbers * self._every + np.clip(some - self.starts(numbers), 0, self._every - 1)
        return evened

    def start(self, time_us: int) -> int:
        """Returns when the window of a time begins."""
        return int(self.starts(self.numbers(np.array([time_us])))[0])

    def end(self, time_us: int) -> int:
        """Returns when the window of a time ends."""
        return int(self.starts(self.numbers(np.array([time_us])) + 1)[0])
