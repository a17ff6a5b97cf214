"""A thousand crash schedules, and the planted mistakes that they must find."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import simulation


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The runner's warnings about simulated trouble are no news; those of other tests are."""
    log = logging.getLogger("tocsin")
    before = log.level
    simulation.quiet()
    yield
    log.setLevel(before)


BEGINS = {
    "table not asked after an unknown outcome": 1100,
    "outbox outside of the transaction": 400,
    "tail not fsynced on recovery": 900,
    "Delta: tail not fsynced on recovery": 300,
}
"""Where the search for a rare mistake begins: the schedules before miss it, and take minutes."""


@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_seeds(first: int) -> None:
    for seed in range(first, first + 100):
        simulation.simulate(seed)


def test_delta_tables() -> None:
    for seed in range(10_000, 10_040):
        simulation.simulate(seed, tables="delta")


@pytest.mark.parametrize("mutant", [*simulation.MUTANTS, *simulation.DELTA_MUTANTS, *simulation.LOAD_MUTANTS])
def test_planted_mistakes_are_found(mutant: str) -> None:
    first = BEGINS.get(mutant, 0)
    assert simulation.caught(mutant, range(first, first + 2000)) is not None, f"2,000 schedules do not find: {mutant}"


def test_the_oracle_does_something() -> None:
    result = simulation.oracle(0)
    assert all(sum(table.values()) > 3 for table in result.tables.values())
    assert result.alerts
    assert len(result.states) == 4


def test_a_seed_gives_the_same_schedule_twice() -> None:
    traces = []
    for _ in range(2):
        world = simulation.Plant(7, faults=0)
        simulation._simulate(world, 7, "small")
        traces.append((world.trace, world.steps))
    assert traces[0] == traces[1]
    assert traces[0][0]
