"""Rekey: composed names, and what is no name is set aside."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tocsin.condition.rekey import Rekey
from tocsin.errors import SchemaError
from tocsin.testing import feed, rows

ODD = rows({"machine": ["pump", None, "", "a\x00b", "x" * 129, "Cafe\u0301", "Caf\u00e9"]})


def test_names_are_composed_and_what_is_no_name_is_set_aside() -> None:
    assert feed(Rekey(of="machine"), ODD)["key"].to_pylist() == ["pump", "Café", "Café"]
    aside = feed(Rekey(of="machine"), ODD, port="rejected")
    assert aside["reason"].to_pylist() == ["missing_key", "missing_key", "key_characters", "key_length"]
    assert b'"a\\u0000b"' in aside["payload"][2].as_py()


@pytest.mark.parametrize("word", ["  ", " ", "\u00a0\u2003", "\t"])
def test_nothing_but_blanks_is_no_name(word: str) -> None:
    given = rows({"machine": ["pump", word, "pump 1", "\u00e9"]})
    assert feed(Rekey(of="machine"), given)["key"].to_pylist() == ["pump", "pump 1", "\u00e9"]
    reason = feed(Rekey(of="machine"), given, port="rejected")["reason"].to_pylist()
    assert reason == ["missing_key"]
    only = rows({"machine": ["pump", word]})
    assert feed(Rekey(of="machine"), only)["key"].to_pylist() == ["pump"]
    assert feed(Rekey(of="{machine}/x"), only)["key"].to_pylist() == ["pump/x"]


UNSEEN = (
    *(0x202E, 0x202A, 0x2066, 0x2069, 0x200F, 0x61C, 0x200B, 0xFEFF, 0x2028, 0xAD),
    *(0x200C, 0x200D, 0x34F, 0x3164, 0x2800, 0x2063, 0x206A, 0x180E, 0xFFF9, 0xFE0F, 0xE0041, 0xE0101),
)  # fmt: skip


@pytest.mark.parametrize("sign", UNSEEN)
def test_signs_that_nobody_sees_or_that_turn_the_text_are_in_no_name(sign: int) -> None:
    given = rows({"machine": ["pump", f"pu{chr(sign)}mp", "\u067e\u0645\u067e"]})
    assert feed(Rekey(of="machine"), given)["key"].to_pylist() == ["pump", "\u067e\u0645\u067e"]
    assert feed(Rekey(of="machine"), given, port="rejected")["reason"].to_pylist() == ["key_characters"]


def test_signs_that_a_script_needs_stay() -> None:
    names = ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0915\u094d\u200d\u0937", "\u2699\ufe0f 1"]
    assert feed(Rekey(of="machine"), rows({"machine": names}))["key"].to_pylist() == names


def test_a_template_needs_all_its_parts() -> None:
    given = rows({"site": ["n", "", None], "machine": [1, 2, 3]})
    assert feed(Rekey(of="{site}/{machine}"), given)["key"].to_pylist() == ["n/1"]
    assert feed(Rekey(of="{site}/{machine}"), given, port="rejected")["reason"].to_pylist() == ["missing_key"] * 2


@pytest.mark.parametrize("chop", [1, 4, None])
def test_further_machines_are_set_aside_but_known_ones_pass(chop: int | None) -> None:
    given = rows({"machine": ["a", "b", "c", "a", "d", "b", "c"]})
    step = Rekey(of="machine", keys_max=2)
    assert feed(step, given, chop=chop)["key"].to_pylist() == ["a", "b", "a", "b"]
    assert feed(step, given, chop=chop, port="rejected")["reason"].to_pylist() == ["key_limit"] * 3


def test_a_hundred_thousand_machines_are_no_trouble() -> None:
    names = pa.array([f"machine-{i}" for i in range(100_000)])
    assert feed(Rekey(of="machine"), rows({"machine": names}), chop=30_000).num_rows == 100_000


def test_a_fraction_is_no_key() -> None:
    with pytest.raises(SchemaError, match="column 'value' is double"):
        Rekey(of="value").output_schema(rows({"value": [1.5]}).schema)
