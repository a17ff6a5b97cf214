"""Something improbable in a bucket, before it has a score, and how the group it happened to is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tocsin.batch import Ints
from tocsin.detect.job._bucket import Group
from tocsin.detect.job._definition import JobDetector


@dataclass(slots=True)
class Finding:
    """Something improbable, before it has a score."""

    detector: int
    function: str
    group: Group
    actual: list[float]
    typical: list[float]
    surprise: float
    probability: float
    rows: Ints
    bounds: tuple[float, float, float] | None = None
    impact: float = -5.0
    causes: list[dict[str, Any]] = field(default_factory=list)
    influencers: dict[str, list[str]] = field(default_factory=dict)


def role(detector: JobDetector, at: int) -> str | None:
    """The field of a role: 0 for partition, 1 for by, 2 for over."""
    return (detector.partition_field_name, detector.by_field_name, detector.over_field_name)[at]


def fields(detector: JobDetector, group: Group) -> dict[str, str | None]:
    """What a group has in the fields that split the analysis."""
    return {name: group[at] for at in range(3) if (name := role(detector, at)) is not None}


def names(detector: JobDetector, group: Group) -> dict[str, str | None]:
    """The same, as a record tells it."""
    named: dict[str, str | None] = {}
    for at, which in enumerate(("partition", "by", "over")):
        if role(detector, at) is not None:
            named |= {f"{which}_field_name": role(detector, at), f"{which}_field_value": group[at]}
    return named
