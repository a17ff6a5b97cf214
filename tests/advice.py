"""What the messages of tocsin advise, as it stands in the source: for the tests that follow each of them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML

from tocsin.contracts import Channel, Component, Sink, Source
from tocsin.errors import ConfigError
from tocsin.pipeline.parts import build, sentences
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.testing import rows, world

SOURCE = Path(__file__).parent.parent / "src" / "tocsin"
VERBS = [
    "add",
    "ask",
    "bring",
    "call",
    "cast",
    "check",
    "chmod",
    "choose",
    "compare",
    "correct",
    "declare",
    "delete",
    "deploy",
    "drop",
    "end",
    "fetch",
    "fill",
    "find",
    "get",
    "give",
    "install",
    "judge",
    "keep",
    "leave",
    "let",
    "look",
    "lower",
    "make",
    "mend",
    "mount",
    "move",
    "name",
    "openssl",
    "pip",
    "promote",
    "put",
    "raise",
    "read",
    "reinstall",
    "remove",
    "rename",
    "restore",
    "roll",
    "run",
    "say",
    "see",
    "select",
    "send",
    "serve",
    "set",
    "sign",
    "start",
    "stop",
    "take",
    "tocsin",
    "train",
    "try",
    "turn",
    "undo",
    "uninstall",
    "unset",
    "use",
    "wait",
    "write",
]
ADVISES = re.compile(rf"(?:^|[;:.)] |, so |, or )(?:{'|'.join(VERBS)})\b")
NO_ADVICE = re.compile(
    r"(?:select|insert into|delete from|drop table|add column|set session|set constraints) "  # SQL
    r"|\s*set timezone|# Who may do|Readings, verdicts and alarms"  # statements, a file, what is told to an assistant
    r"|tocsin (?:mcp|edge|watch)?:? |tocsin(?: plant CA|: \{|, version| \{\}, Python)"  # the title of a line
    r"|wait a little: more was asked|wait: nobody answers|ask for a new iterator"  # what the code itself is to do
    r"|end must not|name and password|and step must"
)
"""What looks like advice and is none."""
NO_MESSAGES = ("testing/", "infer/writing", "cli/html", "kernels")
"""Modules whose texts are no messages to a user of a pipeline: written files, and checks for authors of parts."""


@dataclass(frozen=True)
class Advice:
    """A message that advises something."""

    module: str
    """Such as ``condition/window``."""
    text: str
    """The literal, with ``{}`` for what is filled in."""
    line: int

    def has(self, phrase: str) -> bool:
        return phrase in self.text


@dataclass(frozen=True)
class Remedy:
    """What a message advises, and what to do so that it can be followed."""

    module: str
    says: str
    """The advice as it stands in the source, with ``{}`` for what is filled in."""
    given: Callable[..., object]
    wrong: Any
    """What ``given`` refuses with the advice."""
    right: tuple[Any, ...]
    """The same after each of the things that are advised has been done."""

    def follow(self, *context: Any) -> None:
        """Have what is wrong told, then do what is advised; ``context`` is given first of all, such as a folder."""
        with pytest.raises(Exception) as told:  # noqa: PT011 (each has a class of its own; what it says is looked at)
            self.given(*context, self.wrong)
        said = " ".join(str(told.value).split())
        assert re.search(re.escape(self.says).replace(r"\{\}", ".*"), said), said
        assert self.right
        for one in self.right:
            self.given(*context, one)


def remedies(given: Callable[..., object], *cases: tuple[Any, ...]) -> list[Remedy]:
    """Cases ``(module, what it says, wrong, right, ...)`` of one thing that takes what is wrong and what is right."""
    return [Remedy(module, says, given, wrong, tuple(right)) for module, says, wrong, *right in cases]


def followed(cases: list[Remedy]) -> Any:
    """Marks a test that follows each of these."""
    return pytest.mark.parametrize("remedy", cases, ids=[f"{one.module}: {one.says}" for one in cases])


BASE = """
name: plant
source: {files: in.ndjson}
decode: {json: {columns: {site: text, machine: text, value: float, good: int, on: bool, at: timestamp, other: text}}}
key: machine
time: at
streams: {s: {sinks: [{delta: readings}]}}
"""


SCHEMA = rows({"value": [1.0], "other": ["a"]}).schema
"""What reaches a sink: key, time and these."""


def yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


def plan(changes: Any) -> None:
    """A pipeline with these top-level parts in place of those of `BASE`; a part that is null is left out."""
    tree = {**yaml(BASE), **(yaml(changes) if isinstance(changes, str) else changes)}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "p.yaml"
        path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))
        load_with_plan(path)


def steps(text: str) -> None:
    """A stream with these steps, in front of a table."""
    plan({"streams": {"s": {"steps": yaml(f"[{text}]"), "sinks": [{"delta": "readings"}]}}})


def decode(text: str) -> None:
    """A decoder in front of what asks for nothing but itself."""
    plan({"decode": yaml(text), "key": {"constant": "plant"}, "time": None})


def part(kind: str, *, checked: bool = False, schema: pa.Schema = SCHEMA) -> Callable[[str], Component]:
    """Makes what builds a part from its line in a pipeline file; a sink is asked whether it takes rows.

    ``checked``: as well it is asked what `tocsin check` asks, whether it can work at all.
    """

    def given(text: str) -> Component:
        try:
            one = build(kind, yaml(text))
        except PydanticCustomError as error:
            raise ConfigError("; ".join(sentences(error))) from error
        if isinstance(one, Sink | Channel):
            one.accepts(schema)
        if checked and isinstance(one, Source | Sink | Channel):
            one.check(world())
        return one

    return given


@cache
def advices() -> tuple[Advice, ...]:
    """All that is advised in the source, in the order of modules and lines."""
    return tuple(_advices())


def _advices() -> Iterator[Advice]:
    for path in sorted(SOURCE.rglob("*.py")):
        module = path.relative_to(SOURCE).with_suffix("").as_posix().removesuffix("/__init__")
        if not module.startswith(NO_MESSAGES):
            for text, line in _texts(ast.parse(path.read_text())):
                if ADVISES.search(text) and not NO_ADVICE.match(text) and len(text.split()) > 2:
                    yield Advice(module, text, line)


def _texts(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The literals of a module that are no docstrings, each once and whole."""
    passed = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            passed.add(node.value)
        if isinstance(node, ast.keyword) and node.arg in {"help", "epilog"}:
            passed.add(node.value)
        if isinstance(node, ast.JoinedStr):
            passed.update(part for part in node.values if isinstance(part, ast.Constant))
        if node in passed:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values), node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno
