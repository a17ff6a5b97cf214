"""A data set: rows of the lake by SQL, as series of each key on their periods, parted in time.

What is missing is missing: a row without a number and a period without a row leave a gap, and no window goes across it.
Windows look back only, and belong to the part that the reading they are to foretell lies in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator
from pydantic import Field as Setting

from tocsin.batch import TIME_TYPE, Floats, Ints, floats
from tocsin.errors import ConfigError
from tocsin.lake.read import snapshot
from tocsin.settings import Many, Settings
from tocsin.settings.quantities import Duration
from tocsin.values.times import parse_times

SHARES = (0.7, 0.85)
"""Where validation and test begin if nothing is said, as shares of the time that the rows span."""


def _as_text(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


Moment = Annotated[str, BeforeValidator(_as_text)]
"""A time in a file: YAML reads 2012-01-01 as a date."""


class TimedRows(Settings):
    """Rows by SQL, parted in time: the first ones teach, the next ones choose, the last ones judge."""

    query: str
    """SQL over the tables, as ``tocsin query`` takes it; the answer is put in order here."""
    target: str
    """The column that is to be foretold."""
    features: Many[str] = ()
    """Columns to look at: numbers, or true and false."""
    time: str = "time"
    """The column with the time."""
    key: str | None = None
    """The column that tells machines apart; without it all rows are one series."""
    validate_from: Moment | None = None
    """From when rows choose and do not teach; if not set, from 70 % of the time on."""
    test_from: Moment | None = None
    """From when rows judge, and nothing else; if not set, from 85 % of the time on."""
    until: Moment | None = None
    """Rows from then on are not looked at."""

    def cuts(self, times: Ints) -> tuple[int, int]:
        """Returns from when on (in microseconds) rows choose and from when on they judge."""
        begin, span = int(times.min()), int(times.max() - times.min())
        validate = moment(self.validate_from, "validate_from") if self.validate_from else begin + int(SHARES[0] * span)
        test = moment(self.test_from, "test_from") if self.test_from else begin + int(SHARES[1] * span)
        if not begin < validate < test <= begin + span:
            raise ConfigError(
                f"validation begins {told(validate)}, test {told(test)}, and rows span {told(begin)} to "
                f"{told(begin + span)}: they must come in this order; set validate_from and test_from"
            )
        return validate, test


class Dataset(TimedRows):
    """Which rows teach, which choose, which judge."""

    target: str
    """The column that is to be foretold; the model looks at its past, too."""
    features: Many[str] = ()
    """Further columns to look at: numbers, or true and false."""
    window: int = Setting(24, ge=1, le=10_000)
    """How many periods the model looks at."""
    horizon: int = Setting(1, ge=1, le=1_000)
    """How many periods ahead it foretells."""
    every: Duration | None = Setting(None, gt=0)
    """The period, as ``1h``: then a period without a row is a gap. If not set, each row is a period."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the model looks at, in the order of its input."""
        return (self.target, *(name for name in self.features if name != self.target))

    def load(self, folder: Path | str) -> Series:
        """Returns the series that the query answers; `ConfigError` where there is nothing to learn from."""
        table, versions = snapshot(self.query, folder)
        return self.series(table, versions)

    def series(self, table: pa.Table, versions: Mapping[str, int]) -> Series:
        """Returns a table as series; ``versions`` says which tables it is made from."""
        checked(table, (*self.inputs, self.time, *([self.key] if self.key else [])))
        columns = [numbers_of(table, column) for column in self.inputs]
        times = times_of(table, self.time)
        keys = table[self.key].combine_chunks().cast(pa.string()) if self.key else pa.repeat("series", len(table))
        codes = keys.dictionary_encode()
        names = sorted(codes.dictionary.to_pylist())
        slot = np.array([names.index(name) for name in codes.dictionary.to_pylist()], np.int64)
        key = slot[codes.indices.to_numpy(zero_copy_only=False)] if len(table) else np.empty(0, np.int64)
        order = np.lexsort((times, key))
        values, key, times = np.stack(columns, axis=1)[order], key[order], times[order]
        if self.until is not None:
            early = times < moment(self.until, "until")
            values, key, times = values[early], key[early], times[early]
        values = np.where(np.isfinite(values), values, np.nan)
        digest = hashlib.sha256(values.tobytes() + key.tobytes() + times.tobytes()).hexdigest()
        about = {"query": self.query, "tables": dict(versions), "rows": len(times), "sha256": digest}
        return self._parted(*self._on_periods(values, key, times), names, about)

    def _on_periods(self, values: Floats, key: Ints, times: Ints) -> tuple[Floats, Ints, Ints]:
        """Put rows without numbers where periods are missing, as many as a window or a horizon could reach across."""
        if len(times) < 2:
            return values, key, times
        first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
        if self.every is None:
            number = np.arange(len(times)) - np.repeat(first, np.diff(np.r_[first, len(times)]))
        else:
            begin = np.repeat(times[first], np.diff(np.r_[first, len(times)]))
            number = (times - begin + self.every // 2) // self.every
        fresh = np.r_[True, (key[1:] != key[:-1]) | (number[1:] != number[:-1])]
        values, key, times, number = values[fresh], key[fresh], times[fresh], number[fresh]
        lost = np.r_[np.where(key[1:] == key[:-1], number[1:] - number[:-1] - 1, self.horizon), 0]
        places = np.arange(len(times)) + np.r_[0, np.cumsum(np.minimum(lost, self.horizon))[:-1]]
        count = int(places[-1]) + 1
        spread = np.full((count, values.shape[1]), np.nan)
        spread[places] = values
        last = np.searchsorted(places, np.arange(count), side="right") - 1
        return spread, key[last], times[last]

    def _parted(self, values: Floats, key: Ints, times: Ints, names: Sequence[str], about: Mapping[str, Any]) -> Series:
        if not len(times):
            raise ConfigError("the query answers with no rows; ask it with: tocsin query")
        validate, test = self.cuts(times)
        about = {**about, "validate_from": told(validate), "test_from": told(test)}
        series = Series(self, values, key, times, tuple(names), validate, test, about)
        for part in ("train", "validate", "test"):
            if not len(getattr(series, part)):
                raise ConfigError(
                    f"no window of {self.window} periods without a gap lies in the part to {part}; take a shorter "
                    "window, fill what is missing in the query, or set validate_from and test_from"
                )
        return series


@dataclass(frozen=True, eq=False)
class Series:
    """Series of all keys one below the other, with rows of NaN in their gaps and between them."""

    dataset: Dataset
    values: Floats
    """Shape (periods, inputs), the target first."""
    key: Ints
    """Which key a period belongs to, an index of ``keys``."""
    times: Ints
    """In microseconds."""
    keys: tuple[str, ...]
    validate_us: int
    test_us: int
    about: Mapping[str, Any]
    """What it was made from, as the manifest says it."""

    @cached_property
    def ends(self) -> Ints:
        """The last period of each window that is whole and whose target is known."""
        window, horizon = self.dataset.window, self.dataset.horizon
        whole = np.isfinite(self.values[:, 0])
        for j in range(1, self.values.shape[1]):
            whole &= np.isfinite(self.values[:, j])
        run = np.cumsum(np.r_[0, whole])
        ends = np.arange(window - 1, len(whole) - horizon)
        ends = ends[run[ends + 1] - run[ends + 1 - window] == window]
        return np.asarray(ends[np.isfinite(self.values[ends + horizon, 0])])

    def _between(self, begin: int, end: int) -> Ints:
        due = self.times[self.ends + self.dataset.horizon]
        return self.ends[(due >= begin) & (due < end)]

    @cached_property
    def train(self) -> Ints:
        """Ends of the windows that teach."""
        return self._between(-(2**63), self.validate_us)

    @cached_property
    def validate(self) -> Ints:
        """Ends of the windows that say when to stop."""
        return self._between(self.validate_us, self.test_us)

    @cached_property
    def test(self) -> Ints:
        """Ends of the windows that judge."""
        return self._between(self.test_us, 2**63 - 1)

    def windows(self, ends: Ints) -> Floats:
        """Returns the windows that end there, shape (ends, window, inputs)."""
        return np.asarray(self.values[ends[:, None] + np.arange(1 - self.dataset.window, 1)])

    def targets(self, ends: Ints) -> Floats:
        """Returns what came ``horizon`` periods later, shape (ends,)."""
        return np.asarray(self.values[ends + self.dataset.horizon, 0])


def checked(table: pa.Table, columns: Sequence[str]) -> None:
    """Raises `ConfigError` where a query does not answer with one of these columns, or with no rows."""
    for column in columns:
        if column not in table.column_names:
            raise ConfigError(f"the query gives no column '{column}'; it gives [{', '.join(table.column_names)}]")
    if not len(table):
        raise ConfigError("the query answers with no rows; ask it with: tocsin query")


def numbers_of(table: pa.Table, column: str) -> npt.NDArray[np.float64]:
    """Returns a column as numbers, NaN where there is none, shape (rows,)."""
    kind = table.schema.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
            or pa.types.is_decimal(kind)):  # fmt: skip
        raise ConfigError(f"column '{column}' of the query is {kind}, and a model looks at numbers; turn it into one")
    return floats(table[column].combine_chunks())


def times_of(table: pa.Table, column: str) -> Ints:
    """Returns a column of times in microseconds, shape (rows,)."""
    kind = table.schema.field(column).type
    if not pa.types.is_timestamp(kind):
        raise ConfigError(f"column '{column}' of the query is {kind}, no time; write it as: {column}::timestamptz")
    times = pc.cast(table[column].combine_chunks(), pa.timestamp("us", kind.tz)).cast(TIME_TYPE)
    if times.null_count:
        raise ConfigError(
            f"column '{column}' of the query has {times.null_count:,} rows without a time; leave them out"
        )
    return np.asarray(times.view(pa.int64()).to_numpy(zero_copy_only=False))


def moment(text: str, setting: str) -> int:
    """Returns in microseconds the time that a setting names."""
    parsed, _ = parse_times(pa.array([text]), "auto", "UTC")
    if parsed.null_count:
        raise ConfigError(f"{setting}: {text}: write it as 2026-01-31 or 2026-01-31T06:00:00Z")
    return int(parsed.cast(pa.int64())[0].as_py())


def told(us: int) -> str:
    """Returns a time as people and manifests read it."""
    return f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ}"
