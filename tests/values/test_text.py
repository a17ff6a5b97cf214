"""Texts from devices: what a spreadsheet would run, and what would move a terminal's cursor."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.values.text import printable, unformula, unformula_column

ODD = ["=a", "+", "-x", "@", "\tq", "\rq", "\n=", "^", "]", "a-b", ""]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1"])
def test_what_a_spreadsheet_would_run_stands_behind_a_quote(text: str) -> None:
    assert unformula(text) == "'" + text


@given(st.lists(st.text() | st.sampled_from(ODD), max_size=20))
def test_a_column_is_guarded_as_its_texts_are(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    assert unformula_column(pa.array([*texts, None], pa.string())).to_pylist() == [*map(unformula, texts), None]


def test_no_control_character_is_left() -> None:
    assert printable("a\x1b[2J\u202eb\n") == "a\\x1b[2J\\u202eb\\n"
    assert printable("Öl 5 °C") == "Öl 5 °C"
