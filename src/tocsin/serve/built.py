"""Which commit this tocsin was built from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Built:
    """A commit and its day, as the wheel has them; both empty where tocsin runs from its source tree."""

    commit: str = ""
    day: str = ""

    def __str__(self) -> str:
        return f"build {self.commit} of {self.day}" if self.commit else "from a source tree"


@cache
def built() -> Built:
    """Returns what stands in the wheel; it is read once."""
    told = files("tocsin") / "commit.json"
    return Built(**json.loads(told.read_text("utf-8"))) if told.is_file() else Built()
