"""The pipelines of docs/fieldbuses.md are right."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_of_docs import PageOfDocs

from tocsin.pipeline.yamlfile import load_with_plan

PIPELINES = PageOfDocs("fieldbuses").pipelines()


def test_all_are_there() -> None:
    assert len(PIPELINES) == 3


@pytest.mark.parametrize("text", PIPELINES, ids=lambda text: text.split()[1])
def test_pipeline_is_right(text: str, tmp_path: Path) -> None:
    (tmp_path / "plant.yaml").write_text(text)
    _, plan = load_with_plan(tmp_path / "plant.yaml")
    assert plan.sinks
