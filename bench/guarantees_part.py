"""What each part of `guarantees.py` is, and what its parts share."""

from __future__ import annotations

import json
import shutil
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cut_network import CutNetwork, CutNetworks

DECODED = {"decode": {"json": {"columns": {"machine": "text", "n": "int"}}}, "key": "machine"}


class Part(Protocol):
    """An end to be tried, and its other side. What tells a row from all others is its number, unless a part says so."""

    network: CutNetwork | CutNetworks | None = None
    """What stands between tocsin and the server, if the part can be cut off."""
    life_s: float = 1.5
    """How long the engine lives on average before it is killed, from when it reads its sources."""

    @abstractmethod
    def pipeline(self) -> Mapping[str, Any]:
        """Return source and sink, as a pipeline file says them."""

    @abstractmethod
    def send(self, numbers: Sequence[int]) -> None:
        """Send these records; when it returns, the other side has them for good."""

    def restart(self) -> None:
        """Stop the server, if there is one, and start it again."""

    def killed(self, state: Path) -> None:
        """The engine has been killed; its state is in this folder."""

    def promised(self, records: int) -> Collection[Any]:
        """Return the rows that the promise covers."""
        return range(records)

    @abstractmethod
    def received(self) -> Counter[Any]:
        """Return how often each row has come out."""

    def besides(self) -> Mapping[str, int]:
        """Return what else is to be told of this part, by name."""
        return {}

    @abstractmethod
    def close(self) -> None: ...


def line(n: int) -> bytes:
    return json.dumps({"machine": f"m{n % 5}", "n": n}).encode()


def program(name: str, package: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise SystemExit(f"{name} is missing; install it with: apt-get install {package}")
    return program


def in_delta(path: Path, *columns: str) -> Counter[Any]:
    """Return how often each number is in a table, or each combination of these columns."""
    if not (path / "_delta_log").is_dir():
        return Counter()
    from deltalake import DeltaTable

    table = DeltaTable(path).to_pyarrow_table(columns=[*columns] or ["n"])
    values = [column.to_pylist() for column in table.columns]
    return Counter(zip(*values, strict=True) if columns else values[0])
