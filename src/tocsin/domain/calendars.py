"""Times that people agree on: maintenance, breaks, shifts; once or every week, in a named time zone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import field_validator, model_validator

from tocsin.settings import Settings

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Period(Settings):
    """A named time: once (``start``, ``end``) or every week (``days``, ``begins``, ``ends``, in ``zone``).

    Examples
    --------
    >>> night = Period(name="night", days="mon-fri", begins="22:00", ends="06:00", zone="Europe/Berlin")
    >>> at = as_us(datetime(2026, 3, 28, 2, 0, tzinfo=UTC))
    >>> [str(as_datetime(t)) for t in night.around(at)]
    ['2026-03-27 21:00:00+00:00', '2026-03-28 05:00:00+00:00']
    """

    name: str
    """What it is called: "night shift", "planned maintenance"."""
    start: datetime | None = None
    """When a single period begins; local to ``zone`` if it names no offset."""
    end: datetime | None = None
    """When a single period is over."""
    days: str = "mon-sun"
    """Days of the week on which a weekly period begins: ``mon-fri``, ``sat,sun``."""
    begins: time | None = None
    """Local time at which a weekly period begins."""
    ends: time | None = None
    """Local time at which it is over; on the next day if it is not after ``begins``."""
    zone: str = "UTC"
    """Time zone of the local times, such as ``Europe/Berlin``."""

    @field_validator("days")
    @classmethod
    def _known_days(cls, text: str) -> str:
        _weekdays(text)
        return text

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, text: str) -> str:
        try:
            ZoneInfo(text)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"there is no time zone {text!r}; write it like Europe/Berlin") from error
        return text

    @model_validator(mode="after")
    def _once_or_weekly(self) -> Self:
        once = self.start is not None and self.end is not None
        weekly = self.begins is not None and self.ends is not None
        if once == weekly:
            raise ValueError(f"period '{self.name}' needs either start and end, or begins and ends")
        if once and _once(self)[0] >= _once(self)[1]:
            raise ValueError(f"period '{self.name}' ends before it starts")
        return self

    def around(self, at_us: int) -> tuple[int, int] | None:
        """Returns start and end of the occurrence that holds this moment, or None."""
        for start, end in self._near(at_us):
            if start <= at_us < end:
                return start, end
        return None

    def after(self, at_us: int) -> int | None:
        """Returns when it next begins, strictly later; None if it does not within a week."""
        return min((start for start, _ in self._near(at_us) if start > at_us), default=None)

    def _near(self, at_us: int) -> Sequence[tuple[int, int]]:
        if self.begins is None:
            return (_once(self),)
        if not -(2**55) < at_us < 2**57:
            return ()
        return _occurrences(self, (at_us // 86_400_000_000))


def find(periods: Sequence[Period], at_us: int) -> tuple[Period, int] | None:
    """Returns the first period that holds this moment, and when it ends."""
    for period in periods:
        if span := period.around(at_us):
            return period, span[1]
    return None


def next_change(periods: Sequence[Period], at_us: int) -> int | None:
    """Returns the next moment, strictly later, at which a period begins or ends; None if none does within a week."""
    moments = [span[1] for period in periods if (span := period.around(at_us))]
    moments += [start for period in periods if (start := period.after(at_us)) is not None]
    return min(moments, default=None)


def as_us(moment: datetime) -> int:
    """Returns microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def as_datetime(us: int) -> datetime:
    """Returns the reverse of `as_us`."""
    return _EPOCH + us * _MICROSECOND


@lru_cache(maxsize=4096)
def _occurrences(period: Period, day: int) -> Sequence[tuple[int, int]]:
    """Returns the weekly occurrences that begin from two days before to nine days after a UTC day."""
    assert period.begins is not None
    assert period.ends is not None
    zone = ZoneInfo(period.zone)
    weekdays = _weekdays(period.days)
    first = as_datetime(day * 86_400_000_000).date()
    occurrences = []
    for offset in range(-2, 10):
        date = first + timedelta(days=offset)
        if date.weekday() in weekdays:
            last = date if period.ends > period.begins else date + timedelta(days=1)
            occurrences.append(
                (
                    as_us(datetime.combine(date, period.begins, zone)),
                    as_us(datetime.combine(last, period.ends, zone)),
                )
            )
    return tuple(occurrences)


def _once(period: Period) -> tuple[int, int]:
    assert period.start is not None
    assert period.end is not None
    zone = ZoneInfo(period.zone)
    start, end = (m if m.tzinfo else m.replace(tzinfo=zone) for m in (period.start, period.end))
    return as_us(start), as_us(end)


def _weekdays(text: str) -> frozenset[int]:
    weekdays: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = (piece.strip() for piece in part.partition("-"))
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{part!r} names no day of the week; write mon-fri or sat,sun")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        weekdays |= {(begin + i) % 7 for i in range((end - begin) % 7 + 1)}
    return frozenset(weekdays)
