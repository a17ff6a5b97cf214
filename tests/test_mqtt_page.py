"""The pipeline of docs/mqtt.md is right."""

from __future__ import annotations

import re
from pathlib import Path

from tocsin.pipeline.yamlfile import load_with_plan

PAGE = Path(__file__).parent.parent / "docs" / "mqtt.md"


def test_pipeline_is_right(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(name:.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "status.yaml").write_text(text)
    _, plan = load_with_plan(tmp_path / "status.yaml")
    assert {"status.0.delta", "down.0.delta"} <= {sink.id for sink in plan.sinks}
