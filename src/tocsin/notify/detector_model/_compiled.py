"""The state machine of a detector model: compiled once, it drives one small instance for each key.

One evaluation, as the service's developer guide describes it:

1. A message is kept as the last of its input (it replaces the one before, whole), or a timer has run out.
2. A new detector first enters the initial state (its onEnter); then, with the same message, onInput is evaluated:
   the events in order, then the transitions in order up to the first that holds.
3. BATCH (the default): all conditions see the variables as they were before any action; then the actions run in
   order. SERIAL: each event's actions run before the next condition is looked at.
4. Of a transition: its actions, onExit of the state left, onEnter of the state entered (also when it is the same).
   The new state's onInput waits for the next message or timer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from tocsin.errors import ConfigError
from tocsin.notify.detector_model._expression import Expression, Path, Template
from tocsin.notify.detector_model._instance import Instance, Timer
from tocsin.notify.detector_model._model import TARGETS, Tree, checked, expression_text
from tocsin.notify.detector_model._values import UNDEFINED, UNEQUAL, EvaluationError, Undefined, text_of

SECONDS_MAX: Final = 31_622_400
"""Longest timer, as in the service. It asks for 60 s at least; here 1 s will do."""
RUNS_MAX: Final = 100_000
"""How often timers may fire for a detector that gets no message any more, before they are stopped."""
_ENCODE = msgspec.json.Encoder().encode

Row = tuple[str, int, str, str, str, str, str, str, str | None]
"""key, time, id, state, event, action, target, payload, parameters."""
Reject = tuple[str, int, str, str, bytes]
"""key, time, reason, detail, payload."""


Action = Callable[[Instance, "ModelEvent", list[Row]], None]


@dataclass(frozen=True, slots=True)
class ModelEvent:
    name: str
    place: str
    condition: Expression | None
    actions: tuple[tuple[str, Action], ...]
    next_state: str | None


@dataclass(frozen=True, slots=True)
class State:
    name: str
    enter: tuple[ModelEvent, ...]
    input: tuple[ModelEvent, ...]
    transitions: tuple[ModelEvent, ...]
    exit: tuple[ModelEvent, ...]


class CompiledModel:
    """A detector model, compiled; `ConfigError` with the place in the JSON if it is not right."""

    def __init__(self, model: Tree, *, null_is_absent: bool = True, transitions: bool = True) -> None:
        checked(model)
        self.name: str = model["detectorModelName"]
        self.version = str(model.get("detectorModelVersion", "1"))
        self.serial = model.get("evaluationMethod", "BATCH") == "SERIAL"
        self.key: str | None = model.get("key")
        self.null_is_absent = null_is_absent
        self.transitions = transitions
        self.references: set[tuple[str, Path]] = set()
        self.inputs: set[str] = set()
        self.texts: list[str] = []
        definition = model["detectorModelDefinition"]
        self.initial: str = definition["initialStateName"]
        self.states = {state["stateName"]: self._state(i, state) for i, state in enumerate(definition["states"])}
        if not self.inputs:
            self.inputs = {"input"}  # it looks at no input: every row is a message

    # ------------------------------------------------------------------------------------------------------ compiling

    def _state(self, index: int, state: Mapping[str, Any]) -> State:
        def events(phase: str, field: str = "events") -> tuple[ModelEvent, ...]:
            where = f"detectorModelDefinition.states[{index}].{phase}.{field}"
            described = (state.get(phase) or {}).get(field) or ()
            return tuple(self._event(f"{where}[{j}]", event) for j, event in enumerate(described))

        transitions = events("onInput", "transitionEvents")
        return State(state["stateName"], events("onEnter"), events("onInput"), transitions, events("onExit"))

    def _event(self, where: str, event: Mapping[str, Any]) -> ModelEvent:
        text = event.get("condition")
        condition = None if text in (None, "") else self._expression(f"{where}.condition", text)
        actions = []
        for k, action in enumerate(event.get("actions") or ()):
            ((kind, settings),) = [(kind, s) for kind, s in action.items() if s is not None]
            place = f"{where}.actions[{k}].{kind}"
            actions.append((place, self._action(place, kind, settings)))
        return ModelEvent(str(event.get("eventName") or ""), where, condition, tuple(actions), event.get("nextState"))

    def _expression(self, where: str, value: Any, kind: type[Expression] = Expression) -> Expression:
        try:
            compiled = kind(expression_text(value), null_is_absent=self.null_is_absent)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        self.texts.append(compiled.text)
        self.references |= compiled.references
        self.inputs |= compiled.inputs
        return compiled

    def _action(self, where: str, kind: str, settings: Mapping[str, Any]) -> Action:
        match kind:
            case "setVariable" if settings.get("value") is None:
                return _nothing  # the service takes it, and there is nothing to set
            case "setVariable":
                return _set_variable(
                    str(settings["variableName"]), self._expression(f"{where}.value", settings["value"])
                )
            case "setTimer":
                field = "seconds" if settings.get("seconds") is not None else "durationExpression"
                return _set_timer(str(settings["timerName"]), self._expression(f"{where}.{field}", settings[field]))
            case "clearTimer":
                return _clear_timer(str(settings["timerName"]))
            case "resetTimer":
                return _reset_timer(str(settings["timerName"]))
        return self._delivery(where, kind, settings)

    def _delivery(self, where: str, kind: str, settings: Mapping[str, Any]) -> Action:
        field = next(name for name in TARGETS[kind] if settings.get(name) is not None)
        target = self._expression(f"{where}.{field}", settings[field], Template)
        others = {k: v for k, v in settings.items() if k not in (field, "payload") and v is not None}
        parameters = self._parameters(where, others) if others else None
        payload = settings.get("payload")
        content = self._expression(f"{where}.payload", payload["contentExpression"]) if payload else None
        must_be_text = payload is not None and payload.get("type", "JSON") == "JSON"

        def deliver(instance: Instance, event: ModelEvent, rows: list[Row]) -> None:
            to = text_of(target.evaluate(instance))
            more = None if parameters is None else _ENCODE(parameters(instance)).decode()
            id = self._id(instance)
            body = self._payload(instance, event, id) if content is None else _content(content, instance, must_be_text)
            rows.append((instance.key, instance.now_us, id, instance.state or "", event.name, kind, to, body, more))
            instance.emitted += 1

        return deliver

    def _parameters(self, where: str, value: Any) -> Callable[[Instance], Any]:
        """Returns the further fields of an action, with their expressions replaced by what they give."""
        if isinstance(value, Mapping):
            inner = {k: self._parameters(f"{where}.{k}", v) for k, v in value.items() if v is not None}
            return lambda instance: {k: part(instance) for k, part in inner.items()}
        if isinstance(value, str):
            template = self._expression(where, value, Template)
            return lambda instance: text_of(template.evaluate(instance))
        return lambda instance: value

    def _id(self, instance: Instance) -> str:
        named = f"{self.name}|{self.version}|{instance.key}|{instance.now_us}|{instance.emitted}"
        return str(UUID(bytes=hashlib.sha256(named.encode("utf-8", "surrogatepass")).digest()[:16]))

    def _payload(self, instance: Instance, event: ModelEvent, id: str) -> str:
        """Returns the service's standard payload."""
        detector = {"detectorModelName": self.name, "keyValue": instance.key, "detectorModelVersion": self.version}
        trigger: dict[str, Any] = {"triggerType": instance.trigger}
        if instance.trigger == "Message":
            trigger = {"inputName": instance.current, "messageId": f"{instance.messages:05d}"} | trigger
        timers = {n: t.expires_us // 1_000_000 for n, t in instance.timers.items() if t.expires_us is not None}
        state = {"stateName": instance.state, "variables": instance.variables, "timers": timers}
        payload = {"actionExecutionId": id, "detector": detector, "eventTriggerDetails": trigger, "state": state}
        whole = {"eventTime": instance.now_us // 1_000, "payload": payload, "eventName": event.name}
        return _ENCODE(whole).decode()

    # ------------------------------------------------------------------------------------------------------ evaluating

    def take(
        self, instance: Instance, input: str, message: dict[str, Any], time_us: int, rows: list[Row], out: list[Reject]
    ) -> None:
        """One message. Timers that ran out before it are looked at first."""
        if instance.timers:
            self.fire(instance, time_us, rows, out)
        instance.inputs[input] = message
        instance.messages += 1
        instance.runs = 0
        instance.now_us, instance.trigger, instance.current = time_us, "Message", input
        if instance.state is None:
            self._enter(instance, self.states[self.initial], _CREATED, rows)
        self._evaluate(instance, rows)
        if instance.errors:
            self._report(instance, _ENCODE({input: message}), out)

    def fire(self, instance: Instance, until_us: int, rows: list[Row], out: list[Reject]) -> None:
        """The timers that run out up to a time, in order, one evaluation for each moment."""
        while (due := instance.next_us()) is not None and due <= until_us:
            self.fire_at(instance, due, rows, out)

    def fire_at(self, instance: Instance, time_us: int, rows: list[Row], out: list[Reject]) -> None:
        """The timers that have run out at a time: one evaluation."""
        for timer in instance.timers.values():
            if timer.expires_us is not None and timer.expires_us <= time_us:
                timer.expires_us, timer.due = None, True
        instance.runs += 1
        instance.now_us, instance.trigger, instance.current = time_us, "Timer", None
        self._evaluate(instance, rows)
        if instance.runs >= RUNS_MAX:
            instance.errors.append(f"timers fired {RUNS_MAX} times without a message in between; they are stopped")
            for timer in instance.timers.values():
                timer.expires_us = None
        if instance.errors:
            self._report(instance, b"", out)

    def _evaluate(self, instance: Instance, rows: list[Row]) -> None:
        assert instance.state is not None
        state = self.states[instance.state]
        taken = self._phase(instance, state.input, state.transitions, rows)
        if taken is None or taken.next_state is None:
            return
        self._phase(instance, state.exit, (), rows)
        self._enter(instance, self.states[taken.next_state], taken, rows)

    def _enter(self, instance: Instance, state: State, by: ModelEvent, rows: list[Row]) -> None:
        instance.state = state.name
        if self.transitions:
            id = self._id(instance)
            body = self._payload(instance, by, id)
            rows.append((instance.key, instance.now_us, id, state.name, by.name, "transition", state.name, body, None))
            instance.emitted += 1
        self._phase(instance, state.enter, (), rows)

    def _phase(
        self, instance: Instance, events: Sequence[ModelEvent], transitions: Sequence[ModelEvent], rows: list[Row]
    ) -> ModelEvent | None:
        """Returns the events of one phase of a state, and the first transition that holds."""
        if self.serial:
            for event in events:
                if self._holds(event, instance):
                    self._act(event, instance, rows)
            taken = next((t for t in transitions if self._holds(t, instance)), None)
        else:
            held = [event for event in events if self._holds(event, instance)]
            taken = next((t for t in transitions if self._holds(t, instance)), None)
            for event in held:
                self._act(event, instance, rows)
        if taken is not None:
            self._act(taken, instance, rows)
        return taken

    def _holds(self, event: ModelEvent, instance: Instance) -> bool:
        if event.condition is None:
            return True
        try:
            value = event.condition.evaluate(instance)
        except EvaluationError as error:
            text = event.condition.text[:200]
            instance.errors.append(f"state {instance.state}, event {event.name}, condition: {error}, in: {text}")
            return False
        return value is True or value is UNEQUAL

    def _act(self, event: ModelEvent, instance: Instance, rows: list[Row]) -> None:
        for place, action in event.actions:
            try:
                action(instance, event, rows)
            except EvaluationError as error:
                kind = place.rpartition(".")[2]
                instance.errors.append(f"state {instance.state}, event {event.name}, {kind}: {error}")

    def _report(self, instance: Instance, message: bytes, out: list[Reject]) -> None:
        detail = f"{self.name}: " + "; ".join(instance.errors)
        instance.errors.clear()
        out.append((instance.key, instance.now_us, "evaluation_error", detail[:2_000], message))


_CREATED = ModelEvent("", "", None, (), None)


# ------------------------------------------------------------------------------------------------------------- actions


def _nothing(instance: Instance, event: ModelEvent, rows: list[Row]) -> None:
    return None


def _set_variable(name: str, value: Expression) -> Action:
    def act(instance: Instance, event: ModelEvent, rows: list[Row]) -> None:
        result = value.evaluate(instance)
        if result is UNEQUAL:
            result = True
        if result is None or result is UNDEFINED:
            what = "null" if result is None else "undefined data"
            raise EvaluationError(f"variable {name} cannot be set to {what}, in: {value.text[:200]}")
        if isinstance(result, list | dict):
            raise EvaluationError(f"variable {name} cannot be set to a JSON list or object, in: {value.text[:200]}")
        instance.variables[name] = result

    return act


def _set_timer(name: str, duration: Expression) -> Action:
    def act(instance: Instance, event: ModelEvent, rows: list[Row]) -> None:
        seconds = duration.evaluate(instance)
        if isinstance(seconds, str):
            try:
                seconds = float(seconds)
            except ValueError:
                seconds = UNDEFINED
        if isinstance(seconds, bool | Undefined) or not isinstance(seconds, int | float):
            raise EvaluationError(f"the duration of timer {name} is not a number, in: {duration.text[:200]}")
        if not 1 <= seconds < SECONDS_MAX + 1:
            raise EvaluationError(f"the duration of timer {name} is {seconds} s, not between 1 and {SECONDS_MAX}")
        duration_us = int(seconds) * 1_000_000
        instance.timers[name] = Timer(instance.now_us + duration_us, duration_us, _still_due(instance, name))

    return act


def _clear_timer(name: str) -> Action:
    def act(instance: Instance, event: ModelEvent, rows: list[Row]) -> None:
        if timer := instance.timers.get(name):
            # The duration is kept: models clear a timer and later reset it.
            timer.expires_us, timer.due = None, False

    return act


def _reset_timer(name: str) -> Action:
    def act(instance: Instance, event: ModelEvent, rows: list[Row]) -> None:
        timer = instance.timers.get(name)
        if timer is None:
            raise EvaluationError(f"timer {name} was never set, so it cannot be reset")
        timer.expires_us, timer.due = instance.now_us + timer.duration_us, _still_due(instance, name)

    return act


def _still_due(instance: Instance, name: str) -> bool:
    """Returns whether a timer that is started anew still counts as run out: in the evaluation that it caused, it does.

    Otherwise a SERIAL model whose first event resets the timer on every input would never see its timeout.
    """
    timer = instance.timers.get(name)
    return timer is not None and timer.due and instance.trigger == "Timer"


def _content(content: Expression, instance: Instance, must_be_text: bool) -> str:
    value = content.evaluate(instance)
    if must_be_text and not isinstance(value, str):
        raise EvaluationError(f"a payload of type JSON must be a String, in: {content.text[:200]}")
    return text_of(value)
