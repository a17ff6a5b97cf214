"""The browser's side of the wire is the server's: types written down for it name the fields that there are."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tocsin.serve import graph_messages, messages
from tocsin.serve.words import RECEIVED, module, words

PAGES = Path(__file__).parents[2] / "src" / "tocsin" / "serve" / "pages"
TYPES = {
    name: set(re.findall(r"@property \{.*\} \[?(\w+)", body))
    for name, body in re.findall(
        r"@typedef \{Object\} (\w+)(.*?)(?=@typedef|\*/)", (PAGES / "wire.js").read_text(), re.DOTALL
    )
}


@pytest.mark.parametrize("name", TYPES)
def test_a_type_written_down_in_javascript_names_the_fields_that_are_sent(name: str) -> None:
    sent = vars(graph_messages) | vars(messages)
    assert TYPES[name] == set(sent[name].__struct_fields__)


def test_the_page_checks_all_that_it_receives() -> None:
    assert {"Tile", "Points", "ShownAlarm", "Figures", "Changes", "SessionInfo", "QueryAnswer"} <= set(TYPES)
    scripts = "".join(path.read_text() for path in PAGES.glob("*.js"))
    for received in RECEIVED:
        assert f'"{received.__name__}"' in scripts
        assert received.__name__ in words()["SCHEMAS"]


def test_the_module_is_plain_javascript() -> None:
    names = re.findall(r"^export const (\w+) = (.*);$", module().decode(), re.MULTILINE)
    assert [name for name, _ in names] == ["STATES", "SEVERITIES", "ROLES", "ACTIONS", "SCHEMAS"]
    for _, value in names:
        msgspec.json.decode(value)
