"""Of a population: what one member did, told as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tocsin.detect.job._definition import JobDetector
from tocsin.detect.job._found import Finding, names
from tocsin.detect.job._score import together

CAUSES_MAX = 10


def by_member(detector: JobDetector, findings: Sequence[Finding]) -> list[Finding]:
    """One record for each member: its most improbable cause speaks, the others stand under ``causes``."""
    members: dict[tuple[str, str | None, str | None], list[Finding]] = {}
    for one in findings:
        members.setdefault((one.function, one.group[0], one.group[2]), []).append(one)
    out = []
    for listed in members.values():
        listed.sort(key=lambda f: -f.surprise)
        top = listed[0]
        top.causes = [
            {
                **{k: v for k, v in names(detector, f.group).items() if v is not None},
                "function": detector.function,
                "actual": f.actual,
                "typical": f.typical,
            }
            for f in listed[:CAUSES_MAX]
        ]
        if detector.base == "rare":  # the more rare things a member does, the less probable
            top.actual = [float(len(listed))]
        top.surprise = together([f.surprise for f in listed])
        top.probability = min(top.probability, 10.0**-top.surprise) if detector.base != "rare" else top.probability
        top.rows = np.concatenate([f.rows for f in listed])
        out.append(top)
    return out
