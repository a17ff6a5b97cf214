"""Every part of every kind, through every check of the conformance kit: a part is checked because it exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tocsin.contracts import Operator
from tocsin.pipeline.registry import FOLDERS, find, names
from tocsin.testing.checks import checks_for, examples, is_documented, sample

PARTS = [pytest.param(kind, name, id=name) for kind in FOLDERS for name in names(kind)]


def _cases() -> list[Any]:
    found = []
    for kind in ("decoder", "operator"):
        for name in names(kind):
            try:
                cls = find(kind, name)
            except Exception:
                continue
            if issubclass(cls, Operator):
                found += [
                    pytest.param(cls, i, check, id=f"{name}-{i}-{check.__name__}")
                    for i in range(len(cls.EXAMPLES))
                    for check in checks_for(cls)
                ]
    return found


@pytest.mark.parametrize(("cls", "example", "check"), _cases())
def test_step_conforms(cls: type[Operator], example: int, check: Callable[..., None]) -> None:
    check(examples(cls)[example], sample(cls))


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_part_loads_and_is_documented(kind: str, name: str) -> None:
    is_documented(find(kind, name))


@pytest.mark.parametrize("cls", list(dict.fromkeys(case.values[0] for case in _cases())), ids=lambda cls: cls.__name__)
def test_what_keeps_the_state_is_a_setting(cls: type[Operator]) -> None:
    named = {name for base in cls.__mro__ for name in vars(base).get("KEEPS_STATE", ())}
    assert named <= cls.model_fields.keys()
