"""System 9: by what machines fail, as a table and as a page: python examples/explain.py ai4i2020.csv

The data are the AI4I 2020 Predictive Maintenance Dataset (UCI, doi:10.24432/C5HS5C). Modes of failure are known only
afterwards, and the numbers of parts tell nothing of what comes: both are left out.
"""

from __future__ import annotations

import subprocess
import sys

LEFT_OUT = ("UDI", "Product ID", "TWF", "HDF", "PWF", "OSF", "RNF")

if __name__ == "__main__":
    drop = [word for name in LEFT_OUT for word in ("--drop", name)]
    command = [sys.executable, "-m", "tocsin.cli", "explain", sys.argv[1], "--target", "Machine_failure", *drop]
    raise SystemExit(subprocess.run([*command, "-o", "explain.html"], check=False).returncode)
