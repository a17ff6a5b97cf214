"""What exists is documented, and what is documented exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tocsin.cli import main
from tocsin.contracts import Channel, Sink, Source
from tocsin.pipeline.reference import markdown
from tocsin.pipeline.registry import FOLDERS, find, names
from tocsin.values.expressions import NAMES

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


def ends_page() -> str:
    """Returns the page on what the ends promise, as the kits' checks say it."""
    from tocsin.testing import channel_checks, sink_checks, source_checks

    parts = [
        "# What sources, sinks and channels promise\n",
        "Each promise is a check that every end passes because it exists, over its real server, and sinks also over a",
        "simulated world that is crashed, and whose power is cut, at every step. A plug-in runs the same kits:",
        "`tocsin.testing.source_checks`, `sink_checks` and `channel_checks`; a harness of some lines says how to reach",
        "the other side. Templates to copy: `acquire/_template.py` (source), `output/_template.py` (sink),",
        "`output/_template_channel.py` (channel), `decode/_template.py` (decoder), `condition/_template.py` (step).",
        "Why the ends are as they are: [decisions/ends.md](decisions/ends.md).",
        "\n## What each of them promises\n",
        "`python bench/guarantees.py` holds them to it: [figures](benchmarks.md#nothing-lost-nothing-doubled).\n",
        "| end | its promise |\n| --- | --- |",
    ]
    for kind in ("source", "sink"):
        parts += [f"| {kind} `{name}` | {_promise(kind, name)} |" for name in names(kind)]
    for title, checks in (
        ("Sources", source_checks.SOURCE_CHECKS),
        ("Sinks", sink_checks.SINK_CHECKS),
        ("Channels", channel_checks.CHANNEL_CHECKS),
    ):
        parts += [f"\n## {title}\n"]
        for check in checks:
            parts.append(f"- **{check.__name__.replace('_', ' ')}**: {' '.join((check.__doc__ or '').split())}")
    return "\n".join(parts) + "\n"


def _promise(kind: str, name: str) -> str:
    part = find(kind, name)
    assert issubclass(part, Source | Sink | Channel)
    return part.PROMISE


def test_the_page_on_the_ends_is_made_from_their_kits() -> None:
    assert (ROOT / "docs" / "ends.md").read_text() == ends_page(), "write it anew: python tests/test_docs.py"


if __name__ == "__main__":
    (ROOT / "docs" / "ends.md").write_text(ends_page())


def test_every_function_is_documented() -> None:
    page = (ROOT / "docs" / "expressions.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page and f"`{name}(" not in page] == []
