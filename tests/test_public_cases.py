"""Input as people have it, run as a user would (`bench/cases.py`), against what is right."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tocsin.cli import main

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))
import cases  # noqa: E402

OWN = list(cases.cases(ROOT / "tests" / "cases" / "own", None))
INPUTS = Path(os.environ.get("TOCSIN_CASES", ROOT.parent / "shared" / "cases"))
LISTED = list(cases.cases(INPUTS, ROOT / "tests" / "cases")) if INPUTS.is_dir() else []


def _here(home: Path, file: str, expected: Mapping[str, Any]) -> tuple[int, str]:
    """Run it in this process, where a start costs no seconds; in one of its own if it must be stopped."""
    if expected.get("follows"):
        return cases.process(home, file, expected)
    with chdir(home):
        done = CliRunner().invoke(main, ["run", file])
    told = "" if isinstance(done.exception, SystemExit | None) else f"Traceback: {done.exception!r}"
    return done.exit_code, done.output + told


@pytest.mark.parametrize("case", OWN, ids=lambda case: case[0])
def test_case_of_our_own(case: tuple[str, Path, str, dict[str, object]]) -> None:
    assert cases.run(*case[1:], started=_here) == ""


@pytest.mark.skipif(not LISTED, reason=f"there are no cases in {INPUTS}; TOCSIN_CASES names their folder")
@pytest.mark.parametrize("case", LISTED, ids=lambda case: case[0])
def test_case(case: tuple[str, Path, str, dict[str, object]]) -> None:
    assert cases.run(*case[1:], started=_here) == ""
