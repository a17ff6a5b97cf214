"""What every docstring example may use without an import."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pytest

from tocsin.testing import feed, rows

collect_ignore = [] if find_spec("pyflink") else ["src/tocsin/flink/functions.py", "src/tocsin/flink/job.py"]
"""Modules of an environment of its own: what PyFlink pins is older than what the others need."""


@pytest.fixture(autouse=True)
def _examples(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(feed=feed, rows=rows, pa=pa)
