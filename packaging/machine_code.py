"""Compiles the loops of what most pipelines are made of, for a wheel: python packaging/machine_code.py FOLDER

What is compiled is what pipelines compile as they run (compiled.py), in a copy of the package that has compiled nothing
yet, for the processor that `tocsin.kernels.BROUGHT_FOR` names. FOLDER gets the files as numba keeps them.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 900
"""It takes a minute on a desktop. A device so slow that it takes longer than this compiles as it runs."""


def main() -> None:
    (folder,) = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as name:
        package = Path(name) / "tocsin"
        shutil.copytree(HERE.parent / "src" / "tocsin", package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(HERE.parent / "examples", package / "examples")
        sys.path.insert(0, name)
        from tocsin.kernels import BROUGHT_FOR

        if platform.machine() not in BROUGHT_FOR:
            sys.exit(f"no machine code is brought for {platform.machine()}")
        # pip's own build environment is in the path that there is.
        search = os.pathsep.join(filter(None, (name, os.environ.get("PYTHONPATH"))))
        told = {"PYTHONPATH": search, "NUMBA_CPU_NAME": BROUGHT_FOR[platform.machine()][0], "NUMBA_CPU_FEATURES": ""}
        kept = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
        command = [sys.executable, HERE / "compiled.py", name]
        try:
            subprocess.run(command, env=kept | told, check=True, timeout=SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            sys.exit(str(error))
        for path in package.rglob("*.nb[ci]"):
            to = folder / path.relative_to(package).parent.parent / path.name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


if __name__ == "__main__":
    main()
