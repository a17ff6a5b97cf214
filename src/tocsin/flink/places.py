"""Readers and sinks of a plan by the names under which a job knows them, and where it tells how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tocsin.engine.keyed import spread_by
from tocsin.engine.recovery import ACTIONS_SPLIT, Effects
from tocsin.engine.remembered import Change, Remembered
from tocsin.flink.acting import Acting, takes_actions
from tocsin.flink.reading import AT_ONCE_S, Reading
from tocsin.pipeline.plan import Plan


def reader_names(plan: Plan) -> list[str]:
    """Returns what is read beside each other: the shares of all sources, and what operators do."""
    shares = [f"{origin.id}#{share}" for origin in plan.sources for share in range(origin.source.SHARES)]
    return [*shares, ACTIONS_SPLIT] if takes_actions(plan) else shares


def open_reader(
    name: str, number: int, plan: Plan, groups: int, run: str, change: Change, state: bytes | None
) -> Reading | Acting:
    """Open a reader by its name, at its state or from its beginning."""
    remembered = Remembered(plan, change)
    if state is not None:
        remembered.load(state)
    if name == ACTIONS_SPLIT:
        return Acting(number, plan, Effects().world(plan, "ingest", name), groups, run, remembered)
    id, _, share = name.rpartition("#")
    origin = next(one for one in plan.sources if one.id == id)
    world = Effects().world(plan, "ingest", id)
    return Reading(number, origin, int(share), world, groups, spread_by(plan), run, remembered, gather_s(plan))


def gather_s(plan: Plan) -> float:
    """Returns how long rows may wait for others: they are visible with the next checkpoint only."""
    return min(plan.checkpoint_us / 4e6, AT_ONCE_S)


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
