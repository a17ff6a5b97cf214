"""What every docstring example may use without an import."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pytest

from tocsin.testing import feed, rows

FLINK = ("functions", "job", "shipped")
collect_ignore = [] if find_spec("pyflink") else [f"src/tocsin/flink/{name}.py" for name in FLINK]
"""Modules of an environment of its own: what PyFlink pins is older than what the others need."""


@pytest.fixture(autouse=True)
def _examples(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(feed=feed, rows=rows, pa=pa)
