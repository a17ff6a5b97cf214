"""A plan as the page shows it: its parts, what each reads from, and its settings without their secrets."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from tocsin.contracts import Channel, Component
from tocsin.pipeline.plan import Plan, Port, SinkNode
from tocsin.pipeline.reference import type_of
from tocsin.serve.graph_messages import ComponentDetails, ComponentOutline, Inlet, Outline, PartOutline, Setting
from tocsin.settings import Settings, under
from tocsin.settings.quantities import duration_text

HIDDEN = "(not shown)"
VALUE_MAX = 2_000
"""Characters of a setting that are shown."""
_SECRET = re.compile(r"passw|passphrase|secret|token|credential|authoriz|api_?key|access_?key|cookie", re.IGNORECASE)
_MAY_BE_SECRET = ("headers", "storage")
"""Settings whose values are for the other side alone, whatever their names."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")


def outline(plan: Plan) -> Outline:
    """Returns the parts of a plan, each behind those that it reads from."""
    loads = {sink.id: load for load, sinks in plan.loads().items() for sink in sinks}
    parts = [
        PartOutline(
            origin.id, "source", origin.source.name(), "", [],
            [component_outline(one) for one in (origin.source, *origin.chain)],
        )
        for origin in plan.sources
    ]  # fmt: skip
    parts += [
        PartOutline(
            step.id, "step", step.operator.name(), _stream(step.id), _inlets((*step.inputs, *step.late)),
            [component_outline(step.operator)],
        )
        for step in plan.steps
    ]  # fmt: skip
    parts += [
        PartOutline(
            sink.id, "channel" if isinstance(sink.part, Channel) else "sink", sink.part.name(), _stream(sink.id),
            _inlets(sink.inputs), [component_outline(sink.part)], loads.get(sink.id, ""), _table(sink),
        )
        for sink in plan.sinks
    ]  # fmt: skip
    return Outline(parts)


def component_outline(component: Component) -> ComponentOutline:
    """Returns what a component is, and its settings: what is not the default first, and nothing that is secret."""
    doc = inspect.getdoc(type(component)) or ""
    settings = []
    for name, field in type(component).model_fields.items():
        value = getattr(component, name)
        is_default = not field.is_required() and value == field.get_default(call_default_factory=True)
        shown = _text(component, name, value, is_duration=type_of(field) == "duration")
        settings.append(Setting(name, shown, is_default))
    settings.sort(key=lambda one: one.is_default)
    return ComponentOutline(
        component.name(), doc.partition("\nExamples\n--------")[0].strip(), settings, _written_in(type(component))
    )


def _written_in(component: type[Component]) -> list[tuple[str, str]]:
    """Returns the file and name of each class that a component's settings stand in, inherited ones first."""
    classes = [cls for cls in reversed(component.__mro__) if cls is not Settings and issubclass(cls, Settings)]
    files = [(getattr(sys.modules.get(cls.__module__), "__file__", None), cls.__qualname__) for cls in classes]
    return [(file, name) for file, name in files if file]


def details(component: ComponentOutline) -> ComponentDetails:
    """Returns a component with what each setting is for.

    It is read from the source where somebody asks: at the start it would cost as much as all else together, and an
    import of the components more memory than the page has.
    """
    told: dict[str, str] = {}
    for file, name in component.written_in:
        told |= _sentences(file).get(name, {})
    settings = [Setting(one.name, one.value, one.is_default, told.get(one.name, "")) for one in component.settings]
    return ComponentDetails(component.name, component.what, settings)


@cache
def _sentences(file: str) -> Mapping[str, Mapping[str, str]]:
    """Returns what the settings of each class in a file are for, by its name; nothing where it cannot be read."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {one.name: {name: " ".join(text.split()) for name, text in under(one).items()} for one in classes}


def _text(component: Component, name: str, value: Any, *, is_duration: bool) -> str:
    if is_duration and isinstance(value, int):
        return duration_text(value)
    shown = _shown(name, value, isinstance(component, Channel))
    text = shown if isinstance(shown, str) else "" if shown in (None, [], {}) else json.dumps(shown, ensure_ascii=False)
    return text if len(text) <= VALUE_MAX else f"{text[: VALUE_MAX - 1]}…"


def _shown(name: str, value: Any, is_channel: bool) -> Any:
    """Returns a value as JSON has it, without what is secret: by its type, by its name, and in addresses."""
    if isinstance(value, SecretStr) or (value and not isinstance(value, bool | int | float) and _SECRET.search(name)):
        return HIDDEN
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        inner = {(field.alias or key): _shown(key, getattr(value, key), is_channel) for key, field in fields.items()}
        inner = {key: one for key, one in inner.items() if one not in (None, [], {}, "")}
        return {value.name(): inner} if isinstance(value, Component) else inner
    if isinstance(value, Mapping):
        hides = name in _MAY_BE_SECRET
        return {str(key): HIDDEN if hides else _shown(str(key), one, is_channel) for key, one in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        return [_shown(name, one, is_channel) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _ADDRESS.sub(lambda match: _address(match[0], is_channel), str(value))


def _address(address: str, is_channel: bool) -> str:
    """Returns an address without user, password and query.

    Of a channel's hardly anything is left: tokens stand in every part of what chats and webhooks are called by.
    """
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return HIDDEN
    if is_channel:
        return f"{parts.scheme}://{host if parts.scheme in ('http', 'https') else ''}…"
    return (
        f"{parts.scheme}://{host}{parts.path}{'?…' if parts.query else ''}{f'#{parts.fragment}' * bool(parts.fragment)}"
    )


def _stream(id: str) -> str:
    name, dot, _ = id.partition(".")
    return name if dot else ""


def _inlets(ports: Iterable[Port]) -> list[Inlet]:
    return [Inlet(part, port) for part, port in ports]


def _table(sink: SinkNode) -> str:
    if sink.part.name() != "delta":
        return ""
    path = str(getattr(sink.part, "path", ""))
    return "" if "://" in path else path
