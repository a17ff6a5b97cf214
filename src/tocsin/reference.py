"""What exists, told from the parts themselves: for the command line, for docs/reference.md, for editors."""

from __future__ import annotations

import inspect
from typing import Any, get_args

from pydantic.fields import FieldInfo

from tocsin.contracts import Component
from tocsin.errors import UnknownName
from tocsin.pipeline import Pipeline
from tocsin.registry import FOLDERS, find, names

_TITLES = {"source": "Sources", "decoder": "Decoders", "operator": "Steps", "sink": "Sinks and channels"}


def overview() -> str:
    """Every part with the first line of its docstring, by kind."""
    lines = []
    for kind, title in _TITLES.items():
        lines += [title, *(f"  {name:<16}{_summary(find(kind, name))}" for name in names(kind)), ""]
    return "\n".join(lines).rstrip()


def page(name: str) -> str:
    """One part: what it does, an example, its settings with their defaults."""
    return "\n\n".join(_page(kind, found) for kind, found in _called(name))


def markdown() -> str:
    """The reference of all parts."""
    parts = [
        "# Reference of the parts",
        "Made from the parts themselves by `tocsin components`.",
        _settings_of(Pipeline),
    ]
    for kind, title in _TITLES.items():
        parts.append(f"## {title}")
        parts += [_page(kind, find(kind, name), "###") for name in names(kind)]
    return "\n\n".join(parts) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema of a pipeline file."""
    schema = Pipeline.model_json_schema(by_alias=True)
    definitions = schema.setdefault("$defs", {})
    for kind in FOLDERS:
        options: list[dict[str, Any]] = [{"enum": list(names(kind))}]
        for name in names(kind):
            part = find(kind, name)
            settings = part.model_json_schema()
            definitions |= settings.pop("$defs", {})
            definitions[f"{kind}.{name}"] = settings
            value: dict[str, Any] = {"$ref": f"#/$defs/{kind}.{name}"}
            if part.SHORTHAND:
                value = {"anyOf": [value, {"description": f"short for {part.SHORTHAND}"}]}
            options.append(
                {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}
            )
        definitions[kind] = {"anyOf": options}
    schema["properties"] |= definitions["Input"]["properties"]
    schema["required"] = ["name", "streams"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _called(name: str) -> list[tuple[str, type[Component]]]:
    found = [(kind, find(kind, name)) for kind in FOLDERS if name in names(kind)]
    if not found:
        raise UnknownName("component", name, {n for kind in FOLDERS for n in names(kind)})
    return found


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
        told = " ".join((field.description or "").split())
        rows.append("| " + " | ".join((f"`{field.alias or name}`", _type(field), _default(field), told)) + " |")
    return "\n".join(rows) if part.model_fields else "No settings."


def _type(field: FieldInfo) -> str:
    def named(kind: Any) -> str:
        options = get_args(kind)
        if options and "Literal" in str(kind):
            return " or ".join(f"`{o}`" for o in options)
        text = getattr(kind, "__name__", None) if not options else str(kind)
        return str(text).replace("typing.", "").replace("tocsin.", "").replace("|", "or")

    return named(field.annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    return "" if value is None or value == () else f"`{value}`"
