"""Detector models of AWS IoT Events, run as they were exported."""

from __future__ import annotations

import heapq
import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import WithJsonSchema, model_validator

from tocsin.batch import END, KEY, REJECTED, REJECTED_SCHEMA, TIME, Batch, as_keys, empty, rejected, times_us
from tocsin.contracts import Operator
from tocsin.errors import ConfigError, UnknownName
from tocsin.notify.detector_model._compiled import CompiledModel, Reject, Row
from tocsin.notify.detector_model._import import import_model
from tocsin.notify.detector_model._instance import Instance
from tocsin.notify.detector_model._messages import BadMessage, Mapped, map_inputs
from tocsin.notify.detector_model._model import Tree, models_of, read_models
from tocsin.settings import Settings

EXECUTIONS_SCHEMA = pa.schema(
    [
        KEY,
        TIME,
        pa.field("id", pa.string(), nullable=False),
        pa.field("detector_model", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("payload", pa.string(), nullable=False),
        pa.field("parameters", pa.string()),
    ]
)
"""What leaves: one row an action."""


def _set(name: str, value: str) -> Mapping[str, Any]:
    return {"setVariable": {"variableName": name, "value": value}}


class Input(Settings):
    """Which rows are messages of an input, and where its attributes stand."""

    where: Mapping[str, str] = {}
    """Rows in which each of these columns has this value (as text) are messages of this input; empty: see below."""
    columns: Mapping[str, str] = {}
    """The column of an attribute (``sensorData.pressure: pressure``), where it has another name."""


_EXAMPLE: Mapping[str, Any] = {
    "states": [
        {
            "stateName": "Usual",
            "onEnter": {"events": [{"eventName": "init", "actions": [_set("seen", "0")]}]},
            "onInput": {
                "events": [{"eventName": "count", "actions": [_set("seen", "$variable.seen + 1")]}],
                "transitionEvents": [
                    {
                        "eventName": "hot",
                        "condition": "$input.Readings.value > 20.5 && $input.Readings.text != 'idle'",
                        "actions": [{"setTimer": {"timerName": "calm", "seconds": 5}}],
                        "nextState": "Hot",
                    }
                ],
            },
        },
        {
            "stateName": "Hot",
            "onInput": {
                "events": [{"eventName": "share", "condition": "$input.Readings.value / $input.Readings.count > 30"}],
                "transitionEvents": [
                    {
                        "eventName": "calm",
                        "condition": "timeout('calm')",
                        "actions": [{"sns": {"targetArn": "arn:aws:sns:us-east-1:123456789012:calm"}}],
                        "nextState": "Usual",
                    }
                ],
            },
        },
    ],
    "initialStateName": "Usual",
}


class DetectorModel(Operator):
    """Runs a detector model of AWS IoT Events as it was exported: states, events, timers, actions, in event time.

    Each key has a detector of its own. Rows are its messages: an attribute ``a.b`` of an input is read from the column
    ``a.b``, from field ``b`` of the column ``a``, or from the columns ``a_b`` or ``b``. If the model has several
    inputs, a column ``input`` (or ``inputs.NAME.where``) says which one a row belongs to; without either, a row is a
    message of every input that it has an attribute of. A null cell satisfies both isNull() and isUndefined().

    Every action that leaves the detector (iotTopicPublish, sns, sqs, lambda, firehose, dynamoDB, dynamoDBv2,
    iotEvents, iotSiteWise) is a row: ``action``, ``target`` (topic, ARN, table ...), ``payload``, and an ``id`` that
    is the same in every replay; a sink or a channel delivers it. Entering a state gives a row with action
    ``transition``. Timers run in event time: one that runs out at T is looked at before the detector's next row from
    T on, or once the watermark has reached T; at the end of the stream every running timer runs out once. What cannot
    be evaluated (division by zero, text compared with a number) counts as false, as in the service, and is told on
    port ``rejected`` as ``evaluation_error``: one row for each message, whose other events are not affected.

    Not for new rules (`alarm` says more with less), nor for alarm models of the service. A model without ``key`` had
    one detector for all devices there: give the stream a constant key for the same.

    Examples
    --------
    >>> hot = {"states": [{"stateName": "Running", "onInput": {"events": [{
    ...     "eventName": "Hot", "condition": "$input.Motor.celsius > 90",
    ...     "actions": [{"iotTopicPublish": {"mqttTopic": "plant/hot", "payload": {
    ...         "type": "STRING", "contentExpression": "'${$input.Motor.celsius} C'"}}}]}]}}],
    ...     "initialStateName": "Running"}
    >>> left = feed(DetectorModel(model=hot), rows({"celsius": [20.0, 95.5]}))
    >>> left.select(["action", "target", "payload"]).to_pylist()[1:]
    [{'action': 'iotTopicPublish', 'target': 'plant/hot', 'payload': '95.5 C'}]

    AWS IoT Events Developer Guide: "Expressions", "Detector model restrictions and limitations", "Supported actions".
    """

    SHORTHAND: ClassVar[str | None] = "model"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = ({"model": _EXAMPLE}, {"model": _EXAMPLE, "transitions": False})

    KEEPS_STATE: ClassVar[Collection[str]] = ("transitions",)

    model: Annotated[Mapping[str, Any], WithJsonSchema({"type": ["string", "object"], "examples": ["crane.json"]})]
    """The model: the name of its file, or what stands in it; JSON as exported, or a CloudFormation template."""
    which: str | None = None
    """Which detector model of the file, if it holds several."""
    inputs: Mapping[str, Input] = {}
    """How rows become messages, by the name of the model's input; empty if the columns are named as the attributes."""
    message: str | None = None
    """The column with a whole message as JSON text; its attributes are then read from there."""
    transitions: bool = True
    """Whether entering a state gives a row as well."""

    @model_validator(mode="before")
    @classmethod
    def _choose(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "model" not in data:
            return data
        value = data["model"]
        try:
            models = read_models(value) if isinstance(value, str | Path) else models_of(value, "detector_model")
            names = [model["detectorModelName"] for model in models]
            which = data.get("which")
            if which is not None and which not in names:
                raise UnknownName("detector model", which, names)
            if which is None and len(models) != 1:
                raise ConfigError(f"which: there are {len(models)} detector models: {', '.join(names) or 'none'}")
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return {**data, "model": models[0 if which is None else names.index(which)]}

    @model_validator(mode="after")
    def _compiles(self) -> DetectorModel:
        try:
            machine = self._machine()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        for name in self.inputs:
            if name not in machine.inputs:
                raise ValueError(f"inputs: {UnknownName('input', name, machine.inputs)}")
        return self

    def _machine(self) -> CompiledModel:
        return _compiled(json.dumps(self.model, sort_keys=True), self.message is None, self.transitions)

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        self._mapped(self._machine(), input)
        return EXECUTIONS_SCHEMA

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {REJECTED: REJECTED_SCHEMA}

    def _mapped(self, machine: CompiledModel, schema: pa.Schema) -> Mapped:
        chosen = {name: (dict(i.where), dict(i.columns)) for name, i in self.inputs.items()}
        return map_inputs(machine, chosen, self.message, schema)

    def initial(self) -> Detectors:
        return Detectors(self._machine())

    def step(self, state: Detectors, batch: Batch) -> tuple[Detectors, Sequence[Batch]]:
        rows: list[Row] = []
        rejects: list[Reject] = []
        if len(batch):
            keys = batch.rows.column("key").to_pylist()
            times = times_us(batch.rows).tolist()
            if state.mapped is None or not state.mapped[0].equals(batch.schema):
                state.mapped = (batch.schema, self._mapped(state.machine, batch.schema))
            messages = state.mapped[1].messages(batch.rows)
            # A row costs 6 to 16 us with the exported models, nearly all of it in their conditions and payloads.
            for key, time_us, sent in zip(keys, times, messages, strict=True):
                for input, message in sent:
                    if isinstance(message, BadMessage):
                        rejects.append((key, time_us, message.reason, message.detail, message.payload))
                    else:
                        state.take(key, time_us, input, message, rows, rejects)
        state.advance(batch.watermark_us, rows, rejects)
        left = [Batch(_actions(state.machine.name, rows), batch.watermark_us)]
        if rejects:
            left.insert(0, Batch(_rejected(rejects), batch.watermark_us, REJECTED))
        return state, left

    def dump(self, state: Detectors) -> pa.Table:
        keys = list(state.instances)
        texts = [state.instances[key].to_json() for key in keys]
        return pa.table({"key": pa.array(keys, pa.string()), "detector": pa.array(texts, pa.string())})

    def load(self, table: pa.Table) -> Detectors:
        state = self.initial()
        for key, text in zip(table["key"].to_pylist(), table["detector"].to_pylist(), strict=True):
            state.instances[key] = instance = Instance.from_json(key, text)
            state.queue(instance)
        return state


class Detectors:
    """The detectors by key, and when the next timer of each runs out."""

    def __init__(self, machine: CompiledModel) -> None:
        self.machine = machine
        self.instances: dict[str, Instance] = {}
        self.mapped: tuple[pa.Schema, Mapped] | None = None
        self._timers: list[tuple[int, str]] = []

    def take(
        self, key: str, time_us: int, input: str, message: dict[str, Any], rows: list[Row], rejects: list[Reject]
    ) -> None:
        instance = self.instances.get(key)
        if instance is None:
            instance = self.instances[key] = Instance(key)
        self.machine.take(instance, input, message, time_us, rows, rejects)
        if instance.timers:
            self.queue(instance)

    def queue(self, instance: Instance) -> None:
        """See that the queue holds an entry no later than the instance's next timer; later ones are found by it."""
        due = instance.next_us()
        if due is not None and (instance.queued_us is None or due < instance.queued_us):
            instance.queued_us = due
            heapq.heappush(self._timers, (due, instance.key))

    def advance(self, watermark_us: int, rows: list[Row], rejects: list[Reject]) -> None:
        """The timers that have run out by the watermark; at the end each running timer once."""
        if watermark_us == END:
            for key in sorted(self.instances):
                instance = self.instances[key]
                last = {t.expires_us for t in instance.timers.values() if t.expires_us is not None}
                for due in sorted(last):
                    self.machine.fire_at(instance, due, rows, rejects)
                instance.queued_us = None
            self._timers.clear()
            return
        while self._timers and self._timers[0][0] <= watermark_us:
            at, key = heapq.heappop(self._timers)
            instance = self.instances[key]
            if instance.queued_us == at:
                instance.queued_us = None
                self.machine.fire(instance, watermark_us, rows, rejects)
                self.queue(instance)


def load_model(path: Path | str) -> list[Tree]:
    """Returns the detector models of a file, checked whole: structure and every expression.

    Raises `ConfigError` with one sentence: the file, the place in the JSON, what is wrong.
    """
    models = read_models(path)
    for model in models:
        try:
            CompiledModel(model)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
    return models


@lru_cache(maxsize=64)
def _compiled(text: str, null_is_absent: bool, transitions: bool) -> CompiledModel:
    return CompiledModel(json.loads(text), null_is_absent=null_is_absent, transitions=transitions)


def _actions(model: str, rows: Sequence[Row]) -> pa.RecordBatch:
    if not rows:
        return empty(EXECUTIONS_SCHEMA)
    keys, times, ids, states, events, kinds, targets, payloads, parameters = zip(*rows, strict=True)
    texts = [pa.array(column, pa.string()) for column in (ids, [model] * len(rows), states, events, kinds, targets)]
    arrays = [as_keys(pa.array(keys, pa.string())), pa.array(times, pa.int64()).cast(TIME.type), *texts]
    arrays += [pa.array(payloads, pa.string()), pa.array(parameters, pa.string())]
    return pa.RecordBatch.from_arrays(arrays, schema=EXECUTIONS_SCHEMA)


def _rejected(rejects: Sequence[Reject]) -> pa.RecordBatch:
    keys, times, reasons, details, payloads = zip(*rejects, strict=True)
    return rejected(
        pa.array(keys, pa.string()), pa.array(times, pa.int64()).cast(TIME.type), reasons, details, payloads
    )


__all__ = ["EXECUTIONS_SCHEMA", "DetectorModel", "Input", "import_model", "load_model"]
