"""Entities seen in many buckets, of which ``exclude_frequent`` wants to hear nothing."""

from __future__ import annotations

from collections.abc import Sequence

from tocsin.detect.job._bucket import Group
from tocsin.detect.job._definition import JobDetector
from tocsin.detect.job._found import Finding, role
from tocsin.detect.job._state import JobState

FREQUENT = 0.1
"""Share of the buckets from which on an entity is frequent."""


def without_frequent(
    state: JobState, at: int, detector: JobDetector, entities: Sequence[Group], findings: list[Finding], warm: int
) -> list[Finding]:
    """What was found of other entities; counts this bucket's. Nothing is frequent before ``warm`` buckets."""
    roles = [r for r, n in (("by", 1), ("over", 2)) if detector.exclude_frequent in (r, "all") and role(detector, n)]
    for excluded in roles:
        at_value = 1 if excluded == "by" else 2
        memory = state.remembered(f"frequent {excluded}", at)
        memory.setdefault("n", 0)
        seen: dict[str, int] = memory.setdefault("seen", {})
        often = {
            v for v in {str(f.group[at_value]) for f in findings}
            if memory["n"] >= warm and seen.get(v, 0) >= FREQUENT * memory["n"]
        }  # fmt: skip
        findings = [f for f in findings if str(f.group[at_value]) not in often]
        for value in dict.fromkeys(str(e[at_value]) for e in entities):
            seen[value] = seen.get(value, 0) + 1
        memory["n"] += 1
        if len(seen) > 50_000:
            memory["seen"] = {v: n for v, n in seen.items() if n > 1}
    return findings
