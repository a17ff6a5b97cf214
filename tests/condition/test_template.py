"""The template of a step passes the kit, as whatever is copied from it has to."""

from __future__ import annotations

from typing import Any

import pytest

from tocsin.condition._template import Template
from tocsin.testing.checks import CHECKS, sample


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_template(check: Any) -> None:
    check(Template(by=3.0), sample(Template))
