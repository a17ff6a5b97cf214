"""Key figures of an alarm system (ISA-18.2, EEMUA 191) over its table of alarm rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.batch import Ints, as_times
from tocsin.domain.alarms import ACTIVE, RAISING, REMARKS, SEVERITIES

TEN_MINUTES_US = 600_000_000
FLOOD_ABOVE, FLOOD_BELOW = 10, 5
"""A flood begins with more than 10 alarms in ten minutes and ends with fewer than 5."""
CHATTER_RAISES, CHATTER_WITHIN_US = 3, 60_000_000
"""An alarm chatters if it is raised three times within a minute."""
STALE_US = 86_400_000_000
"""An alarm is stale if it has been active for a day."""


def kpis(alarms: pa.Table, until_us: int | None = None) -> dict[str, Any]:
    """Returns alarms per ten minutes, chattering, stale and flood, from all alarm rows up to a moment (else the last).

    Shelved and suppressed alarms are counted apart: they did not ring.

    Examples
    --------
    >>> from tocsin.domain.alarm_rows import ALARM_SCHEMA
    >>> kpis(ALARM_SCHEMA.empty_table())["raised"]
    0
    """
    alarms = alarms.filter(pc.invert(pc.is_in(alarms["event"], pa.array(REMARKS))))
    times = np.asarray(alarms["time"].cast(pa.int64()).to_numpy())
    order = np.argsort(times, kind="stable")
    alarms, times = alarms.take(pa.array(order)), times[order]
    if until_us is not None:
        alarms, times = alarms.slice(0, int(np.searchsorted(times, until_us, "right"))), times[times <= until_us]
    until = until_us if until_us is not None else int(times[-1]) if len(times) else 0
    raising = pc.is_in(alarms["event"], pa.array(RAISING))
    heard = pc.and_(raising, pc.equal(alarms["mode"], ""))
    raised = alarms.filter(raising)
    rung: Ints = times[np.asarray(heard.to_numpy(zero_copy_only=False), bool)]
    per_window = _per_ten_minutes(rung, int(times[0]) if len(times) else 0, until)
    points = [f"{r}:{k}" for r, k in zip(raised["rule"].to_pylist(), raised["key"].to_pylist(), strict=True)]
    counts = dict(zip(*np.unique(points, return_counts=True), strict=True)) if points else {}
    stale, open_now = _open(alarms, until)
    floods = _floods(rung)
    return {
        "from": as_times(times[:1])[0].as_py() if len(times) else None,
        "until": as_times(np.array([until], np.int64))[0].as_py() if len(times) else None,
        "raised": int(raised.num_rows),
        "rung": len(rung),
        "silent": int(raised.num_rows) - len(rung),
        "open": open_now,
        "per_ten_minutes_mean": float(per_window.mean()) if len(per_window) else 0.0,
        "per_ten_minutes_max": int(per_window.max()) if len(per_window) else 0,
        "flood_percent_of_time": float(100 * (per_window > FLOOD_ABOVE).mean()) if len(per_window) else 0.0,
        "floods": floods,
        "chattering": _chattering(raised),
        "stale": stale,
        "most_frequent": [
            {"alarm": str(name), "raised": int(n)}
            for name, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:10]
        ],
        "by_severity": {
            band.name: int(pc.sum(pc.equal(raised["severity"], band.name)).as_py() or 0)
            for band in reversed(SEVERITIES)
        },
    }


def _per_ten_minutes(rung: Ints, begin: int, end: int) -> Ints:
    """Returns the number of alarms in each whole or begun ten minutes of the time looked at."""
    if end < begin or not (begin or end):
        return np.empty(0, np.int64)
    first = begin // TEN_MINUTES_US
    return np.bincount(rung // TEN_MINUTES_US - first, minlength=end // TEN_MINUTES_US - first + 1)


def _floods(rung: Ints) -> int:
    """Returns how many floods there were: each begins above `FLOOD_ABOVE` in ten minutes, ends below `FLOOD_BELOW`."""
    floods, flooding = 0, False
    recent = np.arange(1, len(rung) + 1) - np.searchsorted(rung, rung - TEN_MINUTES_US, "right")
    # Between two alarms the count only falls: it is lowest just before the next one.
    for now in recent.tolist():
        if flooding and now - 1 < FLOOD_BELOW:
            flooding = False
        if not flooding and now > FLOOD_ABOVE:
            floods, flooding = floods + 1, True
    return floods


def _chattering(raised: pa.Table) -> list[str]:
    """Returns the alarms raised `CHATTER_RAISES` times within a minute, as ``rule:key``."""
    chattering: set[str] = set()
    recent: dict[str, list[int]] = {}
    rows = zip(
        raised["rule"].to_pylist(), raised["key"].to_pylist(), raised["time"].cast(pa.int64()).to_pylist(), strict=True
    )
    for rule, key, at in rows:
        name = f"{rule}:{key}"
        recent[name] = [*recent.get(name, [])[-(CHATTER_RAISES - 1) :], at]
        if len(recent[name]) == CHATTER_RAISES and at - recent[name][0] <= CHATTER_WITHIN_US:
            chattering.add(name)
    return sorted(chattering)


def _open(alarms: pa.Table, until: int) -> tuple[list[str], int]:
    """Returns the alarms that have been active for a day, as ``rule:key``, and how many are active at all."""
    since: dict[str, int] = {}
    alarms = alarms.take(pc.sort_indices(alarms, sort_keys=[("number", "ascending")]))
    columns = (alarms[c].to_pylist() for c in ("rule", "key", "state"))
    for rule, key, state, at in zip(*columns, alarms["time"].cast(pa.int64()).to_pylist(), strict=True):
        if state in ACTIVE:
            since.setdefault(f"{rule}:{key}", at)
        else:
            since.pop(f"{rule}:{key}", None)
    return sorted(name for name, at in since.items() if until - at >= STALE_US), len(since)
