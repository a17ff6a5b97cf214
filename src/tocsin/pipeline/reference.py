"""What exists, told from the parts themselves: for the command line, for docs/reference.md, for editors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from tocsin.contracts import Component
from tocsin.errors import UnknownName
from tocsin.pipeline.assets import Assets
from tocsin.pipeline.model import Input, Pipeline, Stream
from tocsin.pipeline.registry import FOLDERS, find, names
from tocsin.pipeline.watch import Watch
from tocsin.settings import OneOrMany, sentences
from tocsin.settings.quantities import duration_text

_TITLES = {"source": "Sources", "decoder": "Decoders", "operator": "Steps", "sink": "Sinks and channels"}

_SHAPES = {
    "A pipeline": Pipeline, "A source in it": Input, "The usual case, in one block (watch)": Watch,
    "A stream in it": Stream, "The plant as people know it (assets)": Assets,
}  # fmt: skip
"""What stands in a pipeline file beside parts, by title."""


def overview() -> str:
    """Every part with the first line of its docstring, by kind."""
    lines = []
    for kind, title in _TITLES.items():
        lines += [title, *(f"  {name:<16}{_summary(find(kind, name))}" for name in names(kind)), ""]
    return "\n".join(lines).rstrip()


def page(name: str) -> str:
    """One part: what it does, an example, its settings with their defaults."""
    return "\n\n".join(_page(kind, part) for kind, part in _called(name))


def markdown() -> str:
    """The reference of all parts."""
    parts = ["# Reference of the parts", "Made from the parts themselves; `tocsin components NAME` prints one of them."]
    for title, model in _SHAPES.items():
        parts += [f"## {title}", (inspect.getdoc(model) or "").partition("\n")[0], _settings_of(model)]
    for kind, title in _TITLES.items():
        parts.append(f"## {title}")
        parts += [_page(kind, find(kind, name), "###") for name in names(kind)]
    return "\n\n".join(parts) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema of a pipeline file."""
    schema = Pipeline.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    for kind in FOLDERS:
        options: list[dict[str, Any]] = [{"enum": list(names(kind))}]
        for name in names(kind):
            part = find(kind, name)
            place = f"{kind}.{name}"
            settings = part.model_json_schema(ref_template=f"#/$defs/{place}.{{model}}")
            definitions |= {f"{place}.{model}": inner for model, inner in settings.pop("$defs", {}).items()}
            definitions[place] = settings
            short = [{"$ref": f"#/$defs/{place}/properties/{part.SHORTHAND}"}] if part.SHORTHAND else []
            value = {"anyOf": [{"$ref": f"#/$defs/{place}"}, *short, {"type": "null"}]}
            options.append(
                {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}
            )
        definitions[kind] = {"anyOf": options}
    schema["properties"] |= definitions["Input"]["properties"]
    schema["required"] = ["name"]
    schema["anyOf"] = [{"required": ["streams"]}, {"required": ["watch"]}]
    _refer(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _refer(tree: Any) -> None:
    """Where a part stands (`parts`), refer to the parts of its kind; any value may come from the environment."""
    if isinstance(tree, dict):
        if tree.get("type") in ("integer", "number", "boolean"):
            value = {name: tree.pop(name) for name in tuple(tree) if name not in ("title", "description", "default")}
            tree["anyOf"] = [value, {"type": "string", "pattern": r"^\$\{.+\}$"}]
            return
        if isinstance(tree.get("part"), str):
            tree["$ref"] = f"#/$defs/{tree.pop('part')}"
        tree = list(tree.values())
    if isinstance(tree, list):
        for inner in tree:
            _refer(inner)


def _called(name: str) -> list[tuple[str, type[Component]]]:
    parts = [(kind, find(kind, name)) for kind in FOLDERS if name in names(kind)]
    if not parts:
        raise UnknownName("component", name, {n for kind in FOLDERS for n in names(kind)})
    return parts


def _summary(part: type[Component]) -> str:
    return (inspect.getdoc(part) or "").partition("\n")[0]


def _page(kind: str, part: type[Component], heading: str = "#") -> str:
    doc = (inspect.getdoc(part) or "").replace("Examples\n--------\n", "Example::\n\n    ", 1)
    before, mark, example = doc.partition("Example::\n\n    ")
    if mark:
        code = "\n".join(line.removeprefix("    ") for line in ("    " + example).splitlines())
        doc = f"{before}```python\n{code.rstrip()}\n```"
    return f"{heading} {part.name()} ({kind})\n\n{doc}\n\n{_settings_of(part)}"


def _settings_of(part: Any) -> str:
    rows = ["| setting | type | default | what it does |", "| --- | --- | --- | --- |"]
    for name, field in part.model_fields.items():
        told = " ".join(sentences(part).get(name, "").split())
        rows.append("| " + " | ".join((f"`{field.alias or name}`", type_of(field), _default(field), told)) + " |")
    return "\n".join(rows) if part.model_fields else "No settings."


def type_of(field: FieldInfo) -> str:
    """Returns what a setting is, in the words of a YAML file: ``duration``, ``list of text`` ..."""
    told = f"{field.annotation} {field.metadata}"
    for read, name in (("duration_us", "duration"), ("size_bytes", "size")):
        if read in told:
            return name
    if any(isinstance(one, OneOrMany) for one in field.metadata):
        (item, *_) = get_args(field.annotation)
        return f"{_named(item)} or {_named(field.annotation)}"
    return _named(field.annotation)


def _named(kind: Any) -> str:
    """A type in the words of a YAML file."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if any(isinstance(one, OneOrMany) for one in inner[1:]):
            return f"{_named(get_args(inner[0])[0])} or {_named(inner[0])}"
        return _named(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_named(option) for option in inner if option is not NoneType))
    if origin in (tuple, list, Sequence):
        return f"list of {_named(inner[0])}"
    if origin in (dict, Mapping):
        return f"mapping of {_named(inner[1])}"
    plain = {str: "text", int: "integer", float: "number", bool: "true or false", SecretStr: "text"}
    words = re.sub("(?<=[a-z])(?=[A-Z])", " ", getattr(kind, "__name__", str(kind)))
    return plain.get(kind, words.lower())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Component):
        return f"`{value.name()}`"
    if isinstance(value, int) and type_of(field) == "duration":
        value = duration_text(value)
    return "" if value in (None, (), "", {}) or isinstance(value, BaseModel) else f"`{value}`"
