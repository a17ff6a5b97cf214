"""Playing rows back in the rhythm in which they happened."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.acquire._lines import Plain
from tocsin.errors import SourceError
from tocsin.values.times import parse_times
from tocsin.world import Clock


class Pace:
    """Lets rows pass a fixed number of times faster than they happened."""

    def __init__(self, speed: float, column: str, clock: Clock) -> None:
        self._speed, self._column, self._clock = speed, column, clock
        self._start: tuple[int, float] | None = None
        self._field: tuple[int, int] = (-1, 0)
        name = re.escape(column.rpartition(".")[2].encode())
        self._json = re.compile(rb'"' + name + rb'"\s*:\s*(?:"([^"]*)"|(-?[0-9.]+))')

    def due(self, rows: pa.RecordBatch, format: str, stream: Plain, timeout_s: float) -> int:
        """How many of the rows are due; waits for the first one, but not longer than the time-out."""
        times = self._times(rows, format, stream)
        if self._start is None:
            self._start = int(times[0]), self._clock.monotonic_s()
        first_us, start_s = self._start
        limit = first_us + int((self._clock.monotonic_s() - start_s) * 1e6 * self._speed)
        count = int(np.searchsorted(times, limit, side="right"))
        if count == 0:
            self._clock.sleep(min(timeout_s, (int(times[0]) - limit) / 1e6 / self._speed))
        return count

    def _times(self, rows: pa.RecordBatch, format: str, stream: Plain) -> Any:
        """The time of each row, never before that of an earlier one; rows without a time come with the one before."""
        if format == "parquet":
            column = rows.column(self._column)
        else:
            pick = self._csv_field(stream) if format == "csv" else self._json_field
            column = pa.array([pick(line) for line in rows.column("payload").to_pylist()], pa.string())
        times, _ = parse_times(column, "auto", "UTC")
        known = times.drop_null().cast(pa.int64())
        least = self._start[0] if self._start is not None else known[0].as_py() if len(known) else -(2**62)
        return np.maximum.accumulate(times.cast(pa.int64()).fill_null(least).to_numpy(zero_copy_only=False))

    def _json_field(self, line: bytes) -> str | None:
        match = self._json.search(line)
        return (match[1] or match[2]).decode("utf-8", "replace") if match else None

    def _csv_field(self, stream: Plain) -> Any:
        """What picks the time out of a line, by the names in the file's first one."""
        if self._field[0] != stream.descriptor:
            head = bytearray(65_536)
            stream.read_into(memoryview(head), 0)
            line = head.partition(b"\n")[0].decode("utf-8", "replace").lstrip("\ufeff").strip()
            self._mark = max(",;\t|", key=line.count)
            names = [name.strip('" ') for name in line.split(self._mark)]
            if self._column not in names:
                raise SourceError(f"there is no column '{self._column}' to replay by; there are {', '.join(names)}")
            self._field = stream.descriptor, names.index(self._column)
        at = self._field[1]

        def pick(line: bytes) -> str | None:
            fields = line.decode("utf-8", "replace").strip().split(self._mark)
            return fields[at].strip('" ') if at < len(fields) else None

        return pick
