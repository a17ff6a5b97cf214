"""Scores told earlier, told once more when the job has seen worse since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tocsin.detect.job._definition import Definition
from tocsin.detect.job._found import Finding
from tocsin.detect.job._state import JobState
from tocsin.domain.alarms import severity

REVISED_FROM, REVISED_BY, REVISED_MAX = 10.0, 1.0, 200
"""Smallest score to be followed, smallest change to be told, and how many records are followed."""


def follow(state: JobState, findings: Sequence[Finding], records: Sequence[dict[str, Any]]) -> None:
    """Remember the records worth revising, with how improbable each was."""
    recent: list[list[Any]] = state.memory.setdefault("recent", [])
    recent += [
        [f.surprise, dict(row)] for f, row in zip(findings, records, strict=True) if row["record_score"] >= REVISED_FROM
    ]


def renormalised(definition: Definition, state: JobState, now_us: int) -> list[dict[str, Any]]:
    """Records of the last weeks whose score has changed, now that the job has seen more."""
    days = definition.job.renormalization_window_days
    window_s = max(30 * 86_400.0, 100 * definition.job.analysis_config.bucket_span) if days is None else days * 86_400.0
    window_us = round(window_s * 1e6)
    recent = [one for one in state.memory.get("recent", ()) if one[1]["time"] >= now_us - window_us][-REVISED_MAX:]
    state.memory["recent"] = recent
    changed = []
    for surprise, row in recent:
        score = round(state.scores["record"].score(surprise), 6)
        if abs(score - row["record_score"]) >= REVISED_BY:
            row |= {"record_score": score, "severity": severity(score)}
            changed.append(dict(row))
    return changed
