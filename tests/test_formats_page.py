"""The page on formats: the pipeline that it shows is right."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_of_docs import PageOfDocs

from tocsin.pipeline.yamlfile import load_with_plan


@pytest.mark.parametrize("text", PageOfDocs("formats").pipelines())
def test_pipelines_that_the_page_shows_whole_are_right(text: str, tmp_path: Path) -> None:
    (tmp_path / "plant.yaml").write_text(text, encoding="utf-8")
    _, plan = load_with_plan(tmp_path / "plant.yaml")
    assert {sink.id for sink in plan.sinks} >= {"told.0.notify", "readings.0.delta"}
