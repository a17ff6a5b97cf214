"""What a page of docs/ shows: its blocks, by language."""

from __future__ import annotations

import re
from pathlib import Path


class PageOfDocs:
    """A page by its name, as ``models``."""

    def __init__(self, name: str) -> None:
        self.text = (Path(__file__).parent.parent / "docs" / f"{name}.md").read_text(encoding="utf-8")
        self._blocks = re.findall(r"^```(\w+)\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL)

    def shown(self, language: str) -> list[str]:
        """Returns its blocks in a language, as ``yaml``, from top to bottom."""
        return [text for kind, text in self._blocks if kind == language]

    def pipelines(self) -> list[str]:
        """Returns the pipeline files that it shows whole."""
        return [text for text in self.shown("yaml") if text.startswith("name:")]
