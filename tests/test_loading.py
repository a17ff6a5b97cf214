"""What is imported to stay is left alone by the garbage collector, which is then as it was."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from tocsin.loading import load

LOADED = """
import gc
from tocsin.loading import load
before = gc.get_freeze_count()
module = load("plant_of_many")
print(len(module.MANY), gc.get_freeze_count() - before >= len(module.MANY), gc.isenabled(), module.PASSED)
"""


def test_what_is_loaded_is_never_gone_through(tmp_path: Path) -> None:
    """10,000 lists pass the collector's threshold many times; it has not been called while they were made."""
    (tmp_path / "plant_of_many.py").write_text(
        "import gc\n"
        "begun = sum(one['collections'] for one in gc.get_stats())\n"
        "MANY = [[i] for i in range(10_000)]\n"
        "PASSED = sum(one['collections'] for one in gc.get_stats()) - begun\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}){LOADED}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["10000", "True", "True", "0"]


def test_what_is_loaded_already_changes_nothing() -> None:
    frozen = gc.get_freeze_count()
    assert load("tocsin.loading") is sys.modules["tocsin.loading"]
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_the_collector_is_on_again_after_a_failure() -> None:
    with pytest.raises(ModuleNotFoundError):
        load("tocsin.no_such_module")
    assert gc.isenabled()
