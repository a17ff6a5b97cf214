"""A small plan over simulated parts, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import simulated_parts as parts

LINES = {"0": parts.payloads(1, 200, ["a", "b"]), "1": parts.payloads(2, 150, ["c", "d"])}


class World:
    """Tables and messages that outlive the runner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables: dict[str, dict[int, list[dict[str, Any]]]] = {}
        self.rung: list[str] = []

    def plan(self, cut: int = 3, **settings: Any) -> Any:
        lines = settings.pop("lines", LINES)
        source = parts.Lines(lines=lines, cut=cut)
        # model_construct: the table and the list must stay the same objects
        bell = parts.Bell.model_construct(rung=self.rung)
        return parts.plan(
            self.folder,
            source,
            lambda name: parts.Kept.model_construct(table=self.tables.setdefault(name, {})),
            bell,
            **settings,
        )

    def rows(self, name: str) -> list[str]:
        return sorted(str(sorted(row.items())) for rows in self.tables[name].values() for row in rows)
