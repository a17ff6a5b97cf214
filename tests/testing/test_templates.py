"""The templates of a step and of a decoder pass the kit, as whatever is copied from them has to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tocsin.condition._template import Template as Step
from tocsin.contracts import Operator
from tocsin.decode._template import Template as Decoder
from tocsin.testing.checks import checks_for, examples, is_documented, sample

CASES = [pytest.param(cls, check, id=f"{cls.__module__}-{check.__name__}")
         for cls in (Step, Decoder) for check in checks_for(cls)]  # fmt: skip


@pytest.mark.parametrize(("cls", "check"), CASES)
def test_template(cls: type[Operator], check: Callable[..., None]) -> None:
    settings: Any = Step(by=3.0) if cls is Step else examples(Decoder)[0]
    check(settings, sample(cls))


@pytest.mark.parametrize("cls", [Step, Decoder])
def test_is_documented(cls: type[Operator]) -> None:
    is_documented(cls)
