"""Who may import whom: a layer imports only to its left, and no part imports another part."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "tocsin"
LAYERS = (
    "errors",
    "settings",
    "batch",
    "kernels",
    "world state",
    "values",
    "contracts",
    "bases ends pipeline",
    "testing",
    "domain objects",
    "mqtt kafka kinesis postgres mongodb sparkplug influxdb lake",
    "redshift",
    "models",
    "acquire decode condition detect estimate notify output",
    "infer",
    "edge engine",
    "flink",
    "serve",
    "cli",
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
PARTS = {"acquire", "decode", "condition", "detect", "estimate", "notify", "output"}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name not in ("__init__.py",) or path.parent != SOURCE)


def owner(path: Path) -> tuple[str, str]:
    """The layer of a file, and the part in it."""
    steps = path.relative_to(SOURCE).with_suffix("").parts
    return steps[0], steps[1] if len(steps) > 1 else ""


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Layer and part of every tocsin module that a file imports at its top or inside."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            steps = name.split(".")
            if steps[0] == "tocsin" and len(steps) > 1 and not steps[1].startswith("__"):
                yield steps[1], steps[2] if len(steps) > 2 else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_only_to_the_left(path: Path) -> None:
    layer, part = owner(path)
    assert layer in LEVEL, f"say in LAYERS where {layer} stands"
    for other, other_part in imports(path):
        assert other in LEVEL, f"say in LAYERS where {other} stands"
        if other == layer:
            private = other_part.startswith("_") or layer not in PARTS
            assert private or other_part in ("", part), (
                f"{layer}/{part} imports {other}/{other_part}: parts stand alone"
            )
        else:
            assert LEVEL[other] < LEVEL[layer], f"{layer} imports {other}, which stands to its right"
