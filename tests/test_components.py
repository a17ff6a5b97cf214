"""Every part of every kind, through every check of the conformance kit: a part is checked because it exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tocsin.checks import checks_for, examples, is_documented, sample
from tocsin.contracts import Operator
from tocsin.registry import FOLDERS, find, names

STEPS = [(kind, name) for kind in ("decoder", "operator") for name in names(kind)]


def _cases() -> list[Any]:
    return [
        pytest.param(kind, name, i, check, id=f"{name}-{i}-{check.__name__}")
        for kind, name in STEPS
        if issubclass(cls := find(kind, name), Operator)
        for i in range(len(cls.EXAMPLES))
        for check in checks_for(cls)
    ]


@pytest.mark.parametrize(("kind", "name", "example", "check"), _cases())
def test_step_conforms(kind: str, name: str, example: int, check: Callable[..., None]) -> None:
    cls = find(kind, name)
    assert issubclass(cls, Operator)
    check(examples(cls)[example], sample(cls))


@pytest.mark.parametrize("part", [find(k, n) for k in FOLDERS for n in names(k)], ids=lambda cls: cls.name())
def test_part_is_documented(part: Any) -> None:
    is_documented(part)
