"""Every example that is not refused on a real Flink cluster: the tables of the embedded run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from example_inputs import EXAMPLES
from real_flink import MARKS, Machine, ended_well, started
from tried_examples import is_aside, planned, rows_of, surroundings, written

from tocsin.engine.embedded import EmbeddedRunner

pytestmark = MARKS
__all__ = ["surroundings"]
RUN = [name for name, example in EXAMPLES.items() if not example.stays and not name.startswith("plugin/")]
"""Parts of another package would have to be installed in Flink's environment."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with started(tmp_path_factory.mktemp("flink")) as made:
        yield made


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("name", RUN)
def test_its_rows_are_those_of_one_process(name: str, machine: Machine, tmp_path: Path) -> None:
    file = written(name, EXAMPLES[name], tmp_path)
    plan = planned(file, tmp_path / "embedded")
    EmbeddedRunner(plan).run()
    ended_well(machine.run(file, tmp_path / "flink", "checkpoint=500ms", parallelism=2))
    wanted = rows_of(plan, tmp_path / "embedded")
    assert any(rows for table, rows in wanted.items() if not is_aside(table))
    for table, rows in rows_of(plan, tmp_path / "flink", outboxes=True).items():
        assert not wanted[table] - rows, f"{table}: lost"
        assert not rows - wanted[table], f"{table}: doubled, or wrong"
