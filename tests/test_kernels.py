"""Machine code is kept on disk, but never for longer than what it was made of."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tocsin

CALLER = """
from tocsin.kernels import kernel
from tocsin.twice_helper import OFFSET, twice

@kernel
def twice_and_offset(number):
    return twice(number) + OFFSET
"""
HELPER = """
from tocsin.kernels import inner
from tocsin.twice_settings import OFFSET

@inner
def twice(number):
    return 2 * number
"""
RUN = (
    "from tocsin.twice_caller import twice_and_offset as f; f(21);"
    "print(f(21), sum(f.stats.cache_hits.values()), f.stats.cache_path)"
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package with a kernel that calls one in another file, and takes a constant from a third."""
    copy = tmp_path / "installed" / "tocsin"
    shutil.copytree(Path(tocsin.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "twice_settings.py").write_text("OFFSET = 0")
    (copy / "twice_helper.py").write_text(HELPER)
    (copy / "twice_caller.py").write_text(CALLER)
    return copy


def call(package: Path) -> tuple[int, int, Path]:
    """Result in a new process, how often the cache had the code, and where it lies."""
    result, hits, path = run(package, RUN).split()
    return int(result), int(hits), Path(path)


def run(package: Path, code: str, **told: str) -> str:
    """What a new process with this package prints."""
    environment = os.environ | {"PYTHONPATH": str(package.parent), "XDG_CACHE_HOME": str(package.parent.parent)} | told
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_change_in_a_helper_or_a_constant_reaches_the_caller(package: Path) -> None:
    assert call(package)[:2] == (42, 0)
    assert call(package)[:2] == (42, 1)
    (package / "twice_helper.py").write_text(HELPER.replace("2 *", "3 *"))
    assert call(package)[:2] == (63, 0)
    (package / "twice_settings.py").write_text("OFFSET = 1")
    assert call(package)[:2] == (64, 0)
    assert call(package)[:2] == (64, 1)


def test_a_package_that_cannot_be_written_is_cached_for_the_user(package: Path) -> None:
    (package / "__pycache__").write_text("no folder can be made here")
    assert call(package)[:2] == (42, 0)
    result, hits, path = call(package)
    assert (result, hits) == (42, 1)
    assert package not in path.parents


BROUGHT = "from tocsin import kernels; print(*kernels.BROUGHT_FOR[kernels.platform.machine()])"
LESS = "import llvmlite.binding as b; b.get_host_cpu_features = b.targets.FeatureMap; "


def test_a_wheels_machine_code_is_run_where_the_processor_can_and_while_it_is_of_this_code(package: Path) -> None:
    processor, *_ = run(package, BROUGHT).split()
    assert run(package, RUN, NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES="").split()[:2] == ["42", "0"]
    for path in package.rglob("*.nb[ci]"):
        to = package / "machine_code" / path.relative_to(package).parent.parent / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        path.rename(to)
    assert call(package)[:2] == (42, 1)
    assert not list(package.glob("__pycache__/*.nbc"))
    if platform.machine() == "x86_64":
        assert run(package, LESS + RUN).split()[:2] == ["42", "0"]
        assert list(package.glob("__pycache__/*.nbc"))
    (package / "twice_helper.py").write_text(HELPER.replace("2 *", "3 *"))
    assert call(package)[:2] == (63, 0)


def test_a_type_that_is_no_longer_there_does_not_stop_what_was_compiled_with_it(package: Path) -> None:
    """As after an upgrade in place, which leaves the old code in the folder."""
    caller = package / "twice_caller.py"
    of_a_type = """
from typing import NamedTuple
from tocsin.kernels import kernel

class Number(NamedTuple):
    value: int

@kernel
def twice(number):
    return 2 * number.value

def twice_and_offset(number):
    return twice(Number(number))

twice_and_offset.stats = twice.stats
"""
    caller.write_text(of_a_type)
    assert call(package)[:2] == (42, 0)
    assert call(package)[:2] == (42, 1)
    caller.write_text(of_a_type.replace("Number", "Figure"))
    assert call(package)[:2] == (42, 0)


KEPT = """
import sys
from tocsin.twice_caller import of_hash, twice_and_offset as f

same = of_hash(40) == hash("40")
print(same, f(21), sum(of_hash.stats.cache_hits.values()), "numba.np.linalg" in sys.modules, f(1.5))
"""
OF_HASH = """
@kernel
def of_hash(number):
    return hash(str(number))
"""


def test_kept_machine_code_needs_no_compiler_and_does_not_keep_it_from_compiling(package: Path) -> None:
    """What the compiler knows of types is much of a start. A hash needs most of what machine code may call by name."""
    with (package / "twice_caller.py").open("a") as caller:
        caller.write(OF_HASH)
    assert run(package, KEPT) == "True 42 0 True 3.0"
    assert run(package, KEPT.replace("1.5", "True")) == "True 42 1 False 2"
