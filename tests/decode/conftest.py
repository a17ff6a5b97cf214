"""The scanner is compiled before the tests, so that it is what they test."""

import pytest

from tocsin.decode import _layout


@pytest.fixture(scope="session", autouse=True)
def _scanner_is_compiled() -> None:
    assert _layout.ready(_layout.WAIT_ROWS)
