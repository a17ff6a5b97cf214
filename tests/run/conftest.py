"""The tests of the runner use the small parts of the simulation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "simulation"))
