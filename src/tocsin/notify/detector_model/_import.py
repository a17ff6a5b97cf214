"""From a file of the service, or a template, to plain JSON files and the outline of a pipeline that runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tocsin.errors import ConfigError
from tocsin.notify.detector_model._compiled import CompiledModel
from tocsin.notify.detector_model._expression import path_text
from tocsin.notify.detector_model._model import TARGETS, Tree, events_of, read_models


def import_model(path: Path | str) -> dict[str, str]:
    """Returns file name to text: each detector model as plain JSON, and beside it a pipeline that runs it.

    Nothing is written. The pipelines are outlines: source, types of the columns and channels are to be filled in.
    """
    files: dict[str, str] = {}
    for model in read_models(path):
        try:
            machine = CompiledModel(model)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        name = _slug(model["detectorModelName"])
        while f"{name}.json" in files:
            name += "_again"
        files[f"{name}.json"] = json.dumps(model, indent=2, ensure_ascii=False) + "\n"
        files[f"{name}.yaml"] = _pipeline(name, model, machine)
    return files


_CHANNELS = {
    "iotTopicPublish": '{mqtt: {url: "mqtt://localhost:1883", topic: "{target}", payload: payload}}',
}
"""Where the actions of a kind go, if not to people."""


def _type(reference: str, texts: Sequence[str]) -> str:
    """Returns the type of an attribute, by what it is compared with."""
    escaped = re.escape(reference) + r"(?![\w.\[])"
    for pattern, kind in (
        (rf"{escaped}\s*[!=]=\s*['\"]|['\"]\s*[!=]=\s*{escaped}|(startsWith|endsWith|contains)\(\s*{escaped}", "text"),
        (rf"{escaped}\s*[!=]=\s*(true|false)\b|!\s*{escaped}", "bool"),
    ):
        if any(re.search(pattern, text) for text in texts):
            return kind
    return "float"


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()).strip("_")[:50]
    return slug if slug[:1].isalpha() else f"model_{slug}".strip("_")


def _pipeline(name: str, model: Tree, machine: CompiledModel) -> str:
    key = str(model.get("key") or "device").replace("`", "")
    attributes: dict[str, str] = {key: "text"}
    for input, path in sorted(machine.references, key=lambda r: path_text(r[1])):
        attributes.setdefault(".".join(map(str, path)), _type(f"$input.{input}.{path_text(path)}", machine.texts))
    if len(machine.inputs) > 1:
        attributes["input"] = "text"
    columns = "\n".join(
        f"      {json.dumps(column)}: {{type: {kind}, optional: {'false' if column == key else 'true'}}}"
        for column, kind in attributes.items()
    )
    kinds = sorted(set(_deliveries(model)))
    branches = "".join(
        f"""
  {_slug(kind)}:
    from: actions
    steps: [{{keep: "action = '{kind}'"}}]
    sinks: [{_CHANNELS.get(kind, "{notify: {to: console, text: '{key}: {event} {payload}'}}")}]
"""
        for kind in kinds
    )
    no_key = "" if model.get("key") else "  # the model has no key: one detector for each of these"
    return f"""\
# Runs the detector model {model["detectorModelName"]}. Fill in: the source, and the types of the columns.
name: {name}
source: {{mqtt: {{url: "mqtt://localhost:1883", topic: "{name}/#"}}}}
decode:
  json:
    columns:
{columns}
key: {json.dumps(key)}{no_key}
streams:
  actions:
    steps: [{{detector_model: {name}.json}}]
    sinks: [{{delta: {name}_actions}}]
{branches}"""


def _deliveries(model: Tree) -> list[str]:
    """Returns the kind of each action that leaves the detector."""
    return [
        kind
        for _, event, _ in events_of(model)
        for action in event.get("actions") or ()
        for kind, settings in action.items()
        if settings is not None and kind in TARGETS
    ]
