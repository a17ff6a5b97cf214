"""What every docstring example may use without an import."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tocsin.testing import feed, rows


@pytest.fixture(autouse=True)
def _examples(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(feed=feed, rows=rows, pa=pa)
