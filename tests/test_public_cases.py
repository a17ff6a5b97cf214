"""Input as people have it, run as a user would (`bench/cases.py`), against what is right."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))
import cases  # noqa: E402

OWN = list(cases.cases(ROOT / "tests" / "cases" / "own", None))
INPUTS = Path(os.environ.get("TOCSIN_CASES", ROOT.parent / "shared" / "cases"))
LISTED = list(cases.cases(INPUTS, ROOT / "tests" / "cases")) if INPUTS.is_dir() else []


@pytest.mark.parametrize("case", OWN, ids=lambda case: case[0])
def test_case_of_our_own(case: tuple[str, Path, str, dict[str, object]]) -> None:
    assert cases.run(*case[1:]) == ""


@pytest.mark.skipif(not LISTED, reason=f"there are no cases in {INPUTS}; TOCSIN_CASES names their folder")
@pytest.mark.parametrize("case", LISTED, ids=lambda case: case[0])
def test_case(case: tuple[str, Path, str, dict[str, object]]) -> None:
    assert cases.run(*case[1:]) == ""
