"""Programs from npm that the tests start, fetched once on a machine."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

from servers import CACHE, Needs


def npm_package(needs: Needs, name: str, version: str) -> Path:
    """Returns the folder of modules that holds a package; the first call on a machine fetches it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / f"{name}-{version}"
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            options = ["--prefix", str(part), "--no-audit", "--no-fund", "--ignore-scripts"]
            command = [needs("npm"), "install", *options, f"{name}@{version}"]
            subprocess.run(command, check=True, timeout=300, capture_output=True)
            part.rename(folder)
    return folder / "node_modules"
