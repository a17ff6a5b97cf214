"""What each part of `guarantees.py` is, and what its parts share."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cut_network import CutNetwork

DECODED = {"decode": {"json": {"columns": {"machine": "text", "n": "int"}}}, "key": "machine"}


class Part(Protocol):
    """An end to be tried, and its other side."""

    promise: str

    @property
    def network(self) -> CutNetwork | None:
        """What stands between tocsin and the server, if the part can be cut off."""

    def pipeline(self) -> Mapping[str, Any]:
        """Return source and sink, as a pipeline file says them."""

    def send(self, numbers: Sequence[int]) -> None:
        """Send these records; when it returns, the other side has them for good."""

    def restart(self) -> None:
        """Stop the server, if there is one, and start it again."""

    def received(self) -> Counter[int]:
        """Return how often each record has come out."""

    def close(self) -> None: ...


def line(n: int) -> bytes:
    return json.dumps({"machine": f"m{n % 5}", "n": n}).encode()


def program(name: str, package: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise SystemExit(f"{name} is missing; install it with: apt-get install {package}")
    return program


def in_delta(path: Path) -> Counter[int]:
    if not (path / "_delta_log").is_dir():
        return Counter()
    from deltalake import DeltaTable

    return Counter(DeltaTable(path).to_pyarrow_table(columns=["n"])["n"].to_pylist())
