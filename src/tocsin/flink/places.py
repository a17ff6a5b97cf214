"""Readers and sinks of a plan by the names under which a job knows them, and where it tells how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tocsin.pipeline.plan import Plan, SourceNode


def readers_of(plan: Plan) -> dict[str, tuple[SourceNode, int]]:
    """Returns the shares of all sources, by name."""
    return {f"{origin.id}#{share}": (origin, share) for origin in plan.sources for share in range(origin.source.SHARES)}


def numbered(names: Iterable[str], before: Mapping[str, int]) -> dict[str, int]:
    """Returns a number for each name: the one it had, or one that none has ever had.

    Examples
    --------
    >>> numbered(["a", "c"], {"a": 0, "b": 1})
    {'a': 0, 'b': 1, 'c': 2}
    """
    numbers = dict(before)
    for name in names:
        numbers.setdefault(name, len(numbers))
    return numbers


def marker(plan: Plan, run: str, sink: str) -> Path:
    """Returns the file that says that a table has all rows of a run."""
    return plan.state_folder / "flink" / run / sink
