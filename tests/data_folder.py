"""Where the real data are that some tests need: ``$TOCSIN_DATA``, or ``shared/data`` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ.get("TOCSIN_DATA", Path(__file__).parents[2] / "shared" / "data"))
