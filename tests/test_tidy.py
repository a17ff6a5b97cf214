"""Habits as rules that run: short functions, nothing dead, no setting that nobody reads, no words that say nothing."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "tocsin"
MODULES = sorted(SOURCE.rglob("*.py"))
LINES_MAX = 70
WHOLE: dict[str, str] = {
    "decode/_scan.py:scan": "an array handed to another compiled function costs more than what is read in a slot",
}
"""Functions that are longer, and why they cannot be parted."""
NAMED_BY_OTHERS = re.compile(
    r"__\w+__|visit_\w+|do_[A-Z]+|[a-z]+_(received|made|lost)|handle|setup|finish|get_buffer|buffer_updated"
    r"|pause_writing|resume_writing|\w+_notification|on_(timer|start|end)|load_overload"
)
"""Names that a protocol of Python or of a library gives: they are called from there."""
BANNED = {
    r"\b(TODO|FIXME|XXX|HACK)\b": "say it in an issue, or do it",
    r"(?<!importlib\.)(?<!email\.)(?<!onnx\.)\b(utils?|helpers?)\b": "name the thing for what it does",
    r"\bmanager\b": "name the thing for what it does",
    r"\bpickle\.": "it runs code: Arrow, JSON and ONNX are the formats here",
    r"shell\s*=\s*True": "no shell",
    r"\bsleep\(0\.\d+\)  # (wait|give)": "wait for what is awaited, not for a while",
}


def _functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_functions_fit_on_a_screen(path: Path) -> None:
    place = str(path.relative_to(SOURCE))
    long = [f"{name}: {lines} lines" for name, lines in _functions(path) if lines > LINES_MAX]
    long = [text for text in long if f"{place}:{text.partition(':')[0]}" not in WHOLE]
    assert not long, f"part them, or say in WHOLE why they cannot be: {long}"


def test_what_is_whole_is_still_long() -> None:
    for place in WHOLE:
        file, _, name = place.partition(":")
        assert dict(_functions(SOURCE / file))[name] > LINES_MAX, f"{place} is short now: take it out of WHOLE"


def _words() -> Counter[str]:
    """How often each identifier occurs in sources, tests, benchmarks, examples and docs."""
    places = [SOURCE, ROOT / "tests", ROOT / "bench", ROOT / "examples", ROOT / "docs", ROOT / "README.md"]
    files = [f for place in places for f in ([place] if place.is_file() else place.rglob("*"))]
    text = [
        f.read_text(encoding="utf-8", errors="replace")
        for f in files
        if f.suffix in (".py", ".md", ".yaml", ".js", ".toml")
    ]
    text.append((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return Counter(re.findall(r"[A-Za-z_]\w*", "\n".join(text)))


def _defined(path: Path) -> list[str]:
    """Functions, methods, classes and constants that a file defines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            # What has a decorator of a library (a validator, a command) is called by that library.
            if all(isinstance(d, ast.Name) for d in node.decorator_list):
                found.append(node.name)
        elif isinstance(node, ast.Module):
            found += [
                t.id for s in node.body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)
            ]
    return [name for name in found if not NAMED_BY_OTHERS.fullmatch(name)]


def test_nothing_is_dead() -> None:
    words = _words()
    dead = [f"{p.relative_to(SOURCE)}: {name}" for p in MODULES for name in _defined(p) if words[name] < 2]
    assert not dead


def test_every_setting_is_read() -> None:
    from tocsin.pipeline.registry import FOLDERS, find, names

    text = "\n".join(p.read_text(encoding="utf-8") for p in MODULES)
    for kind in FOLDERS:
        for name in names(kind):
            for setting in find(kind, name).model_fields:
                assert re.search(rf"\.{setting}\b|\"{setting}\"", text), f"nothing reads {name}.{setting}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_words_that_say_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for pattern, why in BANNED.items():
        match = re.search(pattern, text)
        assert match is None, f"'{match and match[0]}' in line {text[: match.start()].count(chr(10)) + 1}: {why}"


def test_folders_are_named_for_what_they_are_for() -> None:
    top = {p.stem for p in SOURCE.iterdir() if p.suffix == ".py"}
    vocabulary = {"__init__", "contracts", "batch", "state", "kernels", "bases", "ends", "world", "errors"}
    assert top == vocabulary, "the top level is what the author of a part imports; all else lives in a folder"
