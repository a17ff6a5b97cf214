"""What the runner counts: rows, rejects by reason, late rows, lag and the cost of epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tocsin.batch import END, LATE, OUT, START
from tocsin.pipeline.plan import Port


class Counters:
    """Counted since the start of the process; read by the page, the metrics and the tests."""

    def __init__(self) -> None:
        self.rows_in: Counter[str] = Counter()
        """By source."""
        self.rows_out: Counter[Port] = Counter()
        """By source or step, and port."""
        self.rows_into: Counter[str] = Counter()
        """By sink or channel."""
        self.rung: Counter[str] = Counter()
        """By step that makes alarms: how often one of them rang."""
        self.rejected: Counter[tuple[str, str]] = Counter()
        """By source or step, and reason."""
        self.details: dict[tuple[str, str], str] = {}
        """Of the first row that was rejected for it: what was wrong, often with a remedy."""
        self.events: Counter[tuple[str, str]] = Counter()
        """By partition or sink, and name: what readers and channels counted that are closed now."""
        self.epochs = 0
        self.epoch_ms = 0.0
        """Of the last epoch."""
        self.epoch_ms_max = 0.0
        self.waiting_bytes = 0
        self.recoveries = 0
        self.config_taken = True
        self.trouble: str | None = None
        """Why nothing flows right now: the disk is full, a sink refuses ..."""

    def epoch(self, milliseconds: float) -> None:
        self.epochs += 1
        self.epoch_ms = milliseconds
        self.epoch_ms_max = max(self.epoch_ms_max, milliseconds)

    def snapshot(
        self,
        streams: Mapping[str, Sequence[Port]],
        watermarks: Mapping[str, int],
        events: Counter[tuple[str, str]],
        now_us: int,
    ) -> dict[str, Any]:
        """All of it as JSON: a lag is null before the first row and after the last."""
        all_events = Counter(self.events)
        all_events.update(events)  # + would leave out what is 0
        return {
            "rows_in": dict(self.rows_in),
            "rows_out": {name: sum(self.rows_out[port] for port in ports) for name, ports in streams.items()},
            "rows_into": dict(self.rows_into),
            "rung": dict(self.rung),
            "late": {id: n for (id, port), n in self.rows_out.items() if port == LATE},
            "rejected": [
                {"source": source, "reason": reason, "rows": n, "detail": self.details.get((source, reason)) or ""}
                for (source, reason), n in self.rejected.items()
            ],
            "events": [{"source": source, "event": event, "count": n} for (source, event), n in all_events.items()],
            "parts": {
                id: {"rows": self.rows_out[id, OUT], "lag_s": _lag_s(watermark_us, now_us)}
                for id, watermark_us in watermarks.items()
            },
            "lag_s": {
                name: _lag_s(min(watermarks.get(id, START) for id, _ in ports), now_us)
                for name, ports in streams.items()
            },
            "epochs": self.epochs,
            "epoch_ms": round(self.epoch_ms, 3),
            "epoch_ms_max": round(self.epoch_ms_max, 3),
            "waiting_bytes": self.waiting_bytes,
            "recoveries": self.recoveries,
            "config_taken": self.config_taken,
            "trouble": self.trouble,
        }


def _lag_s(watermark_us: int, now_us: int) -> float | None:
    """Returns how far a watermark is behind the clock; None before the first row and after the last."""
    return (now_us - watermark_us) / 1e6 if START < watermark_us < END else None
