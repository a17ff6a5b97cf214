"""Parts inside a pipeline: ``{window: {every: 20s}}`` in YAML, ``Window(every="20s")`` in Python, one and the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, PlainSerializer, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from tocsin.contracts import Channel, Component, Operator, Sink, Source
from tocsin.errors import ConfigError
from tocsin.pipeline.registry import adopt, find, names

_TYPE = re.compile(r"str|int|float|bool|[a-z-]+\[.*\]")
"""What pydantic puts into the place of a mistake to say which of several types it has tried."""


def build(kind: str, value: Any) -> Component:
    """A part from a name, ``{name: settings}``, ``{name: shorthand}``, or a part that is built already."""
    if isinstance(value, Component):
        adopt(value)
        return value
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise PydanticCustomError(
            "part", "a {kind} is written as one name with its settings, such as {example}",
            {"kind": kind, "example": f"{next(iter(names(kind)), 'name')}: {{...}}"},
        )  # fmt: skip
    ((name, settings),) = value.items()
    try:
        part = find(kind, str(name))
    except ConfigError as error:
        raise PydanticCustomError("part", "{sentence}", {"sentence": str(error)}) from error
    if settings is None:
        settings = {}
    elif not isinstance(settings, Mapping) or _is_shorthand(part, settings):
        if part.SHORTHAND is None:
            raise PydanticCustomError(
                "part", "{name} takes settings by name ({known})",
                {"name": name, "known": ", ".join(part.model_fields) or "it has none"},
            )  # fmt: skip
        settings = {part.SHORTHAND: settings}
    try:
        return part.model_validate(settings)
    except ValidationError as error:
        mistakes = [((str(name), *place), sentence) for place, sentence in _mistakes(part, error).items()]
        raise PydanticCustomError("parts", "{name} is not set right", {"name": name, "errors": mistakes}) from error
    except ConfigError as error:
        mistakes = [((str(name),), str(error))]
        raise PydanticCustomError("parts", "{name} is not set right", {"name": name, "errors": mistakes}) from error


def sentences(error: PydanticCustomError) -> list[str]:
    """What `build` has to say, a sentence for each mistake."""
    if error.type != "parts" or error.context is None:
        return [error.message()]
    return [f"{'.'.join(map(str, place))}: {sentence}" for place, sentence in error.context["errors"]]


def _is_shorthand(part: type[Component], settings: Mapping[str, Any]) -> bool:
    """Whether a mapping is the shorthand's value (``derive: {a: b + c}``): none of its keys is a setting."""
    if part.SHORTHAND is None or not settings or any(key in part.model_fields for key in settings):
        return False
    return _takes_mapping(part.model_fields[part.SHORTHAND].annotation)


def _takes_mapping(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (Mapping, dict) or any(map(_takes_mapping, get_args(kind)))


def _mistakes(part: type[BaseModel], error: ValidationError) -> dict[tuple[Any, ...], str]:
    """Returns a sentence for each place; where a setting may be of several types, what each of them wanted."""
    told: dict[tuple[Any, ...], list[str]] = {}
    for mistake in error.errors():
        place = tuple(step for step in mistake["loc"] if not _TYPE.fullmatch(str(step)) or step in part.model_fields)
        told.setdefault(place, []).append(_sentence(part, mistake))
    return {place: ", or: ".join(dict.fromkeys(sentences)) for place, sentences in told.items()}


def _sentence(part: type[BaseModel], error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        close = get_close_matches(str(error["loc"][-1]), part.model_fields, n=1) if len(error["loc"]) == 1 else ()
        hint = f"did you mean '{close[0]}'? " if close else ""
        return f"there is no such setting; {hint}there are: {', '.join(part.model_fields) or 'none'}"
    if error["type"] == "missing":
        return "this setting is needed"
    return str(error["msg"]).removeprefix("Value error, ")


def _written(part: Component) -> Any:
    settings = part.model_dump(mode="json", exclude_defaults=True)
    return {part.name(): settings}


def _part(kind: str) -> Any:
    return (
        BeforeValidator(lambda value: build(kind, value)),
        PlainSerializer(_written),
        WithJsonSchema({"part": kind}),
    )


def _settings_of(name: str) -> Any:
    """A step that the pipeline puts in itself: only its settings are written, or its shorthand."""

    def read(value: Any) -> Component:
        if isinstance(value, Component):
            return value
        try:
            return build("operator", {name: value})
        except PydanticCustomError as error:
            if error.type != "parts" or error.context is None:
                raise
            mistakes = [(place[1:], sentence) for place, sentence in error.context["errors"]]
            raise PydanticCustomError("parts", "{name} is not set right", {"name": name, "errors": mistakes}) from error

    shorthand = {"rekey": "of", "event_time": "column"}[name]
    written = [{"part": f"operator.{name}"}, {"part": f"operator.{name}/properties/{shorthand}"}]
    return (
        BeforeValidator(read),
        PlainSerializer(lambda part: part.model_dump(mode="json", exclude_defaults=True)),
        WithJsonSchema({"anyOf": written}),
    )


def delta_table(path: str) -> Sink:
    """Returns the sink for rows that nobody asked for but that must not be lost."""
    part = build("sink", {"delta": path})
    assert isinstance(part, Sink)
    return part


AKey = Annotated[Operator, *_settings_of("rekey")]
ATime = Annotated[Operator, *_settings_of("event_time")]
ASource = Annotated[Source, *_part("source")]
ADecoder = Annotated[Operator, *_part("decoder")]
AnOperator = Annotated[Operator, *_part("operator")]
ASink = Annotated[Sink | Channel, *_part("sink")]
