"""The file of a detector model, in every form that the service and its tools write, as one plain tree.

Read are: the request of ``create-detector-model`` and ``update-detector-model``, the answer of
``describe-detector-model``, the console's export, a bare definition, and CloudFormation or SAM templates (JSON or YAML)
with Fn::Sub, Ref, Fn::GetAtt, Fn::Join, Fn::Select and Fn::Split.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tocsin.errors import ConfigError, UnknownName

Tree = dict[str, Any]

_MODEL = "AWS::IoTEvents::DetectorModel"
_INPUT = "AWS::IoTEvents::Input"
_SIZE_MAX = 8 * 2**20
_DEPTH_MAX = 64
_PLACEHOLDER = re.compile(r"\$\{(!?)([A-Za-z0-9:._]+)\}")
_PSEUDO = {
    "AWS::StackName": "stack",
    "AWS::Region": "us-east-1",
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
}


def read_models(path: Path | str) -> list[Tree]:
    """Returns a file's detector models: ``{detectorModelName, detectorModelDefinition, key, evaluationMethod}``."""
    path = Path(path)
    tree = _read(path)
    try:
        models = models_of(tree, path.stem)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not models:
        what = "it holds AWS::IoTEvents::AlarmModel, which is not one" if _has_alarm_model(tree) else "it has no states"
        raise ConfigError(f"{path}: there is no detector model in it ({what})")
    return models


def _read(path: Path) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > _SIZE_MAX:
        raise ConfigError(f"{path}: {len(data)} bytes are too large for a detector model (at most {_SIZE_MAX})")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start})") from error
    if path.suffix.lower() not in (".yaml", ".yml", ".template") or text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    return _yaml(path, text)


def _yaml(path: Path, text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

    class Constructor(SafeConstructor):
        """YAML's own types, and CloudFormation's short forms: ``!Sub x`` is ``{Fn::Sub: x}``."""

    def short_form(loader: Any, suffix: str, node: Any) -> Any:
        if isinstance(node, ScalarNode):
            value = loader.construct_scalar(node)
        elif isinstance(node, SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        else:
            assert isinstance(node, MappingNode)
            value = loader.construct_mapping(node, deep=True)
        return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}

    def integer(loader: Any, node: Any) -> Any:
        """Returns ``!!int "60"``, and also ``!!int ${Seconds}``, which is a number only once it is replaced."""
        text = loader.construct_scalar(node)
        try:
            return loader.construct_yaml_int(node)
        except ValueError:
            return text

    Constructor.add_multi_constructor("!", short_form)
    Constructor.add_constructor("tag:yaml.org,2002:int", integer)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Constructor
    yaml.allow_duplicate_keys = True  # as CloudFormation does: the last one counts
    try:
        return yaml.load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())[:200]})") from error


# -------------------------------------------------------------------------------------------------- finding the models


def models_of(tree: Any, name: str) -> list[Tree]:
    """Returns the detector models in a tree; ``name`` is for one that says none itself."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"a detector model is a JSON object, not {_kind(tree)}")
    try:
        json.dumps(tree, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"it holds half a character (a lone surrogate: {error.object[error.start]!r})") from error
    except RecursionError as error:
        raise ConfigError("it is nested too deeply") from error
    resources = tree.get("Resources", tree)
    if isinstance(resources, Mapping) and any(_is_resource(r) for r in resources.values()):
        return _from_template(tree, resources)
    if _is_resource(tree):
        return _from_template({}, {name: tree})
    tree = _camel(tree)
    if isinstance(tree.get("detectorModel"), Mapping):
        tree = tree["detectorModel"]
    if "properties" in tree and isinstance(tree["properties"], Mapping):
        tree = tree["properties"]
    configuration = _object(tree.get("detectorModelConfiguration") or {}, "detectorModelConfiguration")
    if "detectorModelDefinition" in tree:
        return [_plain(tree | dict(configuration), name)]
    if "states" in tree:
        return [_plain({**tree, "detectorModelDefinition": tree}, name)]
    return []


def _is_resource(value: Any) -> bool:
    return isinstance(value, Mapping) and str(value.get("Type", "")).startswith("AWS::")


def _has_alarm_model(tree: Any) -> bool:
    return "AWS::IoTEvents::AlarmModel" in json.dumps(tree, default=str)


def _from_template(template: Mapping[str, Any], resources: Mapping[str, Any]) -> list[Tree]:
    names = dict(_PSEUDO)
    parameters = _object(template.get("Parameters") or {}, "Parameters")
    for parameter, described in parameters.items():
        default = described.get("Default") if isinstance(described, Mapping) else None
        names[parameter] = str(parameter if default is None else default)
    models: list[tuple[str, Mapping[str, Any]]] = []
    for logical, resource in resources.items():
        if not _is_resource(resource):
            continue
        properties = _object(resource.get("Properties") or {}, f"{logical}.Properties")
        names[logical] = logical
        if resource["Type"] == _INPUT and "InputName" in properties:
            names[logical] = str(_resolved(properties["InputName"], names, f"{logical}.Properties.InputName"))
        if resource["Type"] == _MODEL:
            models.append((logical, properties))
    resolved = []
    for logical, properties in models:
        wanted = {k: v for k, v in properties.items() if k not in ("RoleArn", "Tags")}
        try:
            resolved.append(_plain(_camel(_resolved(wanted, names, "Properties")), logical))
        except ConfigError as error:
            raise ConfigError(f"{logical}.{error}") from error
    return resolved


def _plain(tree: Mapping[str, Any], name: str) -> Tree:
    definition = tree.get("detectorModelDefinition")
    if isinstance(definition, str):  # a definition kept as text in a template
        try:
            definition = _camel(json.loads(definition))
        except ValueError as error:
            raise ConfigError(f"detectorModelDefinition is text, but not JSON ({error})") from error
    if not isinstance(definition, Mapping):
        raise ConfigError(f"detectorModelDefinition must be an object, not {_kind(definition)}")
    kept = {k: definition[k] for k in ("states", "initialStateName") if k in definition}
    plain: Tree = {"detectorModelName": str(tree.get("detectorModelName") or name), "detectorModelDefinition": kept}
    for optional in ("key", "evaluationMethod", "detectorModelVersion", "detectorModelDescription"):
        if tree.get(optional) is not None:
            plain[optional] = tree[optional]
    return plain


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a Boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _camel(value: Any, depth: int = 0) -> Any:
    """Returns field names as the service's API writes them: CloudFormation begins them with a capital letter."""
    if depth > _DEPTH_MAX:
        raise ConfigError(f"it is nested deeper than {_DEPTH_MAX} levels")
    if isinstance(value, Mapping):
        return {str(k)[:1].lower() + str(k)[1:]: _camel(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_camel(v, depth + 1) for v in value]
    return value


# --------------------------------------------------------------------------------- CloudFormation's intrinsic functions


def _resolved(value: Any, names: Mapping[str, str], where: str, depth: int = 0) -> Any:
    """Returns a tree in which CloudFormation's functions are replaced by what they give."""
    if depth > _DEPTH_MAX:
        raise ConfigError(f"{where}: it is nested deeper than {_DEPTH_MAX} levels")
    if isinstance(value, Mapping):
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref" or str(name).startswith("Fn::"):
                return _intrinsic(str(name), _resolved(argument, names, where, depth + 1), names, where)
        return {k: _resolved(v, names, f"{where}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(v, names, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    return value


def _intrinsic(name: str, argument: Any, names: Mapping[str, str], where: str) -> Any:
    match name, argument:
        case "Ref", str():
            return names.get(argument, argument)
        case "Fn::Sub", str():
            return _substituted(argument, names)
        case "Fn::Sub", [str() as text, Mapping() as more]:
            return _substituted(text, {**names, **{k: str(v) for k, v in more.items()}})
        case "Fn::GetAtt", str():
            return argument
        case "Fn::GetAtt", list():
            return ".".join(map(str, argument))
        case "Fn::Join", [separator, list() as parts]:
            return str(separator).join(map(str, parts))
        case "Fn::Split", [separator, str() as text]:
            return text.split(str(separator))
        case "Fn::Select", [index, list() as parts] if str(index).isdigit() and int(index) < len(parts):
            return parts[int(index)]
        case "Fn::ImportValue", str():
            return argument
    raise ConfigError(f"{where}: {name} cannot be resolved without the stack; write what it stands for in its place")


def _substituted(text: str, names: Mapping[str, str]) -> str:
    """Returns text in which ``${Name}`` is what the name stands for, or the name; ``${!Name}`` stays ``${Name}``."""
    text = _PLACEHOLDER.sub(lambda m: f"${{{m[2]}}}" if m[1] else names.get(m[2], m[2].partition(".")[0]), text)
    return text.replace("${!", "${")


# --------------------------------------------------------------------------------------------------------- the contents

TARGETS: Mapping[str, tuple[str, ...]] = {
    "iotTopicPublish": ("mqttTopic",),
    "sns": ("targetArn",),
    "sqs": ("queueUrl",),
    "lambda": ("functionArn",),
    "firehose": ("deliveryStreamName",),
    "dynamoDB": ("tableName",),
    "dynamoDBv2": ("tableName",),
    "iotEvents": ("inputName",),
    "iotSiteWise": ("propertyAlias", "propertyId", "assetId", "entryId"),
}
"""The actions that leave the detector, and which of their fields says where to."""
BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "setVariable": ("variableName",),
    "setTimer": ("timerName",),
    "clearTimer": ("timerName",),
    "resetTimer": ("timerName",),
}
"""The actions on the detector itself, and the fields that they need."""


def checked(model: Tree) -> Tree:
    """Returns the model, if its structure is right; else one sentence with the place in the JSON."""
    definition = model["detectorModelDefinition"]
    states = _list(definition, "states", "detectorModelDefinition")
    if not states:
        raise ConfigError("detectorModelDefinition.states: a detector model has at least one state")
    names: list[str] = []
    for i, state in enumerate(states):
        where = f"detectorModelDefinition.states[{i}]"
        name = _text(state, "stateName", where)
        if name in names:
            raise ConfigError(f"{where}.stateName: there are two states '{name}'")
        names.append(name)
    initial = _text(definition, "initialStateName", "detectorModelDefinition")
    if initial not in names:
        raise ConfigError(f"detectorModelDefinition.initialStateName: {UnknownName('state', initial, names)}")
    if not isinstance(model.get("key", ""), str):
        raise ConfigError(f"key: the path of an attribute belongs here, not {_kind(model['key'])}")
    method = model.get("evaluationMethod", "BATCH")
    if method not in ("BATCH", "SERIAL"):
        raise ConfigError(f"evaluationMethod: it is BATCH or SERIAL, not {method!r}")
    for where, event, is_transition in events_of(model):
        _checked_event(where, event, names if is_transition else None)
    return model


def events_of(model: Tree) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Returns every event with its place, and whether it is a transition."""
    for i, state in enumerate(model["detectorModelDefinition"]["states"]):
        for phase in ("onEnter", "onInput", "onExit"):
            if state.get(phase) is None:
                continue
            where = f"detectorModelDefinition.states[{i}].{phase}"
            lists = ("events", "transitionEvents") if phase == "onInput" else ("events",)
            for field in lists:
                for j, event in enumerate(_list(_object(state[phase], where), field, where, optional=True)):
                    yield f"{where}.{field}[{j}]", event, field == "transitionEvents"


def _checked_event(where: str, event: Any, states: Sequence[str] | None) -> None:
    _object(event, where)
    if states is not None:
        if event.get("condition") in (None, ""):
            raise ConfigError(f"{where}.condition: a transition needs one")
        following = _text(event, "nextState", where)
        if following not in states:
            raise ConfigError(f"{where}.nextState: {UnknownName('state', following, states)}")
    for k, action in enumerate(_list(event, "actions", where, optional=True)):
        place = f"{where}.actions[{k}]"
        kinds = [kind for kind, settings in _object(action, place).items() if settings is not None]
        if len(kinds) != 1:
            raise ConfigError(f"{place}: an action has exactly one type, this has {len(kinds)} ({', '.join(kinds)})")
        _checked_action(f"{place}.{kinds[0]}", kinds[0], _object(action[kinds[0]], f"{place}.{kinds[0]}"))


def _checked_action(where: str, kind: str, settings: Mapping[str, Any]) -> None:
    if kind in BUILT_IN:
        for field in BUILT_IN[kind]:
            _scalar(settings, field, where)
        if kind == "setVariable" and settings.get("value") is not None:
            _scalar(settings, "value", where)
        if kind == "setTimer" and (settings.get("seconds") is None) == (settings.get("durationExpression") is None):
            raise ConfigError(f"{where}: it needs either seconds or durationExpression")
    elif kind in TARGETS:
        if all(settings.get(field) is None for field in TARGETS[kind]):
            raise ConfigError(f"{where}.{TARGETS[kind][0]}: this is needed")
        payload = settings.get("payload")
        if payload is not None:
            _scalar(_object(payload, f"{where}.payload"), "contentExpression", f"{where}.payload")
            if payload.get("type", "JSON") not in ("JSON", "STRING"):
                raise ConfigError(f"{where}.payload.type: it is JSON or STRING, not {payload['type']!r}")
    else:
        raise ConfigError(f"{where}: {UnknownName('action', kind, [*BUILT_IN, *TARGETS])}")


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: an object belongs here, not {_kind(value)}")
    return value


def _list(value: Any, field: str, where: str, *, optional: bool = False) -> Sequence[Any]:
    items = _object(value, where).get(field)
    if items is None and optional:
        return ()
    if not isinstance(items, list):
        raise ConfigError(f"{where}.{field}: a list belongs here, not {_kind(items)}")
    return items


def _text(value: Any, field: str, where: str) -> str:
    text = _object(value, where).get(field)
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{where}.{field}: a name belongs here, not {_kind(text) if text != '' else 'nothing'}")
    return text


def _scalar(value: Mapping[str, Any], field: str, where: str) -> None:
    if not isinstance(value.get(field), str | int | float) or value[field] == "":
        raise ConfigError(f"{where}.{field}: an expression belongs here, not {_kind(value.get(field))}")


def expression_text(value: Any) -> str:
    """Returns an expression as text: templates also hold ``true``, ``0`` and ``0.5`` as they are."""
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)
