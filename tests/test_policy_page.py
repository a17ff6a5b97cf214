"""The page on policies: what it shows runs, and learns CartPole by imitation."""

from __future__ import annotations

import pytest
from page_of_docs import PageOfDocs


def test_what_the_page_shows_runs_and_cartpole_is_above_195(capsys: pytest.CaptureFixture[str]) -> None:
    environment, cartpole = PageOfDocs("policy").shown("python")
    names: dict[str, object] = {}
    exec(environment, names)
    assert names["reward"] == 0
    assert names["terminated"] is names["truncated"] is False
    exec(cartpole, {})
    *rounds, mean = capsys.readouterr().out.splitlines()
    assert len(rounds) == 5
    assert float(mean) > 195
