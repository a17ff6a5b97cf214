"""Settings: frozen, strict, and told by the sentence under each of them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict
from pydantic_core import core_schema

T = TypeVar("T")


class Settings(BaseModel):
    """A model whose fields have a docstring under them; its JSON Schema holds them.

    They are read from the source when someone asks, not (as ``use_attribute_docstrings`` would) whenever the class is
    made: that was 0.15 s of each start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        schema = handler(core)
        settings = handler.resolve_ref_schema(schema).get("properties", {})
        for name, sentence in sentences(cls).items():
            key = name if name in settings else cls.model_fields[name].alias
            if key in settings:
                settings[key].setdefault("description", sentence)
        return schema


@cache
def sentences(model: type[BaseModel]) -> Mapping[str, str]:
    """What each setting of a model is for, inherited ones included."""
    told: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls is not Settings and issubclass(cls, Settings):
            told |= _under(cls)
    return {name: told[name] for name in model.model_fields if name in told}


def _under(cls: type) -> Mapping[str, str]:
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(made, ast.ClassDef)
    return under(made)


def under(made: ast.ClassDef) -> Mapping[str, str]:
    """Returns the text under each annotated name in a class."""
    return {
        setting.target.id: inspect.cleandoc(below.value.value)
        for setting, below in pairwise(made.body)
        if isinstance(setting, ast.AnnAssign) and isinstance(setting.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


class OneOrMany:
    """Takes one value where several may be given."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        several, one = handler(source), handler.generate_schema(get_args(source)[0])
        either = core_schema.union_schema([one, several])
        return core_schema.no_info_before_validator_function(_several, several, json_schema_input_schema=either)


def _several(value: Any) -> Any:
    return value if value is None or isinstance(value, list | tuple) else (value,)


Many = Annotated[tuple[T, ...], OneOrMany()]
"""One value or a list of them: ``by: machine`` as well as ``by: [site, machine]``; always a tuple in Python.

Examples
--------
>>> from pydantic import TypeAdapter
>>> TypeAdapter(Many[str]).validate_python("machine")
('machine',)
"""
