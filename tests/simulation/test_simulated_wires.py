"""Other sides that are machines of their own, simulated; and the planted mistakes that the schedules must find."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sharing
import wires


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The runner's warnings about simulated trouble are no news; those of other tests are."""
    with caplog.at_level("ERROR", "tocsin"):
        yield


def test_shards_senders_and_foreign_transactions() -> None:
    # 103 found that a shard whose children could not be asked for had its last rows dropped.
    for seed in (*range(20), 103):
        wires.simulate(seed)


def test_two_engines_share_partitions() -> None:
    # 5 found that a checkpoint forgot a partition that it gave away before the group knew how far it was read.
    for seed in range(25):
        sharing.simulate(seed)


@pytest.mark.parametrize(
    ("module", "mutant"), [(module, mutant) for module in (wires, sharing) for mutant in module.MUTANTS]
)
def test_planted_mistakes_are_found(module: Any, mutant: str) -> None:
    assert module.caught(mutant, range(500)) is not None, f"five hundred schedules do not find: {mutant}"


def test_a_seed_gives_the_same_schedule_of_two_engines_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []
    monkeypatch.setattr(sharing, "_compare", lambda group, members: traces.append([m.trace for m in members]))
    for _ in range(2):
        sharing.simulate(7)
    assert traces[0] == traces[1]
    assert any(traces[0])


def test_partitions_do_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both engines have rows of a partition, and none is excused, in at least one schedule of five."""
    moved = []

    def compare(group: Any, members: Any) -> None:
        keys = [{row["key"] for row in member.database.tables.get("rows", ())} for member in members]
        moved.append(bool(keys[0] & keys[1]))

    monkeypatch.setattr(sharing, "_compare", compare)
    for seed in range(5):
        sharing.simulate(seed)
    assert any(moved)


def test_the_oracle_of_the_wires_does_something() -> None:
    tables, states = wires.oracle(0)
    assert all(table.total() > 3 for table in tables.values())
    assert states["sum"].num_rows == len(wires.KEYS) + 2
