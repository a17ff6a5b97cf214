"""Puts into a wheel which commit it was built from, for `tocsin --version`, and the machine code of backend.py.

A source package hands its commit on.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "commit.json"


class AdditionsHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        if self.target_name == "wheel" and (made := os.environ.get("TOCSIN_MACHINE_CODE")):
            build_data["force_include"][made] = "tocsin/machine_code"
        handed_on = Path(self.root) / NAME
        told = json.loads(handed_on.read_text()) if handed_on.is_file() else self._asked()
        if told is None:
            return
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / NAME
        path.write_text(json.dumps(told))
        build_data["force_include"][str(path)] = NAME if self.target_name == "sdist" else f"tocsin/{NAME}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def _asked(self) -> dict[str, str] | None:
        """The commit and its day; None where there is no git, or no repository."""
        try:
            command = ["git", "-C", self.root, "show", "-s", "--format=%h %cs", "HEAD"]
            commit, day = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError):
            return None
        return {"commit": commit, "day": day}
