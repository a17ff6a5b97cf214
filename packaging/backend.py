"""How a wheel is built (PEP 517): by hatchling, with the machine code that a first start would have to compile.

Compiling needs what tocsin needs, so a wheel asks for that too; an editable install does not, and compiles as it runs.
Where it cannot be compiled the wheel goes without, and a first start takes longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import hatchling.build
from hatchling.build import *  # noqa: F403  the other hooks are hatchling's

HERE = Path(__file__).parent


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    return [*hatchling.build.get_requires_for_build_wheel(config_settings), *project["dependencies"]]


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run([sys.executable, HERE / "machine_code.py", folder], check=True)
            os.environ["TOCSIN_MACHINE_CODE"] = folder
        except subprocess.CalledProcessError:
            print("the wheel is built without machine code; the lines above say why", file=sys.stderr)
        try:
            return hatchling.build.build_wheel(wheel_directory, config_settings, metadata_directory)
        finally:
            os.environ.pop("TOCSIN_MACHINE_CODE", None)
