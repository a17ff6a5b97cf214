"""What operators have done, as a test looks at it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tocsin.engine.actions import Actions
from tocsin.testing import read_from


class ActionLog:
    """The actions written down after the given number."""

    def __init__(self, state_folder: Path, after: int) -> None:
        self._reader = read_from(Actions(state_folder=state_folder), after)

    def poll(self) -> pa.RecordBatch | None:
        polled = self._reader.poll(1_000, 0.0)
        return None if polled is None else polled[0].rows

    def close(self) -> None:
        self._reader.close()
