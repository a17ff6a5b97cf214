"""What exists is documented, and what is documented exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tocsin.cli import main
from tocsin.pipeline.reference import markdown
from tocsin.pipeline.registry import FOLDERS, names

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)


def test_reference_is_made_from_the_parts() -> None:
    assert (ROOT / "docs" / "reference.md").read_text() == markdown(), "write it anew: tocsin components --markdown"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", [n for kind in FOLDERS for n in names(kind)])
def test_every_part_is_in_the_reference(name: str) -> None:
    assert re.search(rf"^### {name} \(", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_is_documented(command: str) -> None:
    assert f"tocsin {command}" in TEXT


@pytest.mark.parametrize("bench", sorted(p.name for p in (ROOT / "bench").glob("*.py")))
def test_every_benchmark_is_documented(bench: str) -> None:
    doc = (ROOT / "bench" / bench).read_text().partition('"""')[2].partition('"""')[0]
    if "python bench/" in doc:
        assert f"bench/{bench}" in TEXT
