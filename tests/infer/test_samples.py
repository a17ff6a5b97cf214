"""What devices send, written down from their documentation: each is concluded rightly, without help."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SAMPLES = Path(__file__).parent / "samples"


def _bench() -> Callable[[Path], list[str]]:
    """The comparison of `bench/first_minutes.py`, so that both count the same."""
    spec = importlib.util.spec_from_file_location("first_minutes", ROOT / "bench" / "first_minutes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    judge: Callable[[Path], list[str]] = module.mistakes
    return judge


mistakes = _bench()


@pytest.mark.parametrize("folder", sorted(SAMPLES.iterdir()), ids=lambda folder: folder.name)
def test_a_sample_is_concluded_rightly(folder: Path) -> None:
    assert mistakes(folder) == []


def test_a_wrong_conclusion_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("machine,time,force\n" + "m1,2026-01-01T00:00:00Z,1.5\n" * 3)
    for expected in (
        '{"machine": "time", "time": "time", "signals": ["force"]}',
        '{"machine": "machine", "time": null, "signals": ["force"]}',
        '{"machine": "machine", "time": "time", "signals": ["torque"]}',
    ):
        (tmp_path / "expected.json").write_text(expected)
        assert len(mistakes(tmp_path)) == 1
