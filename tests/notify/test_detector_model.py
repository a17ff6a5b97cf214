"""Detector models: the order of things, timers, batch evaluation, actions, and that no stream breaks them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tocsin.batch import END, OUT, REJECTED, Batch, times_us
from tocsin.errors import SchemaError
from tocsin.notify.detector_model import DetectorModel
from tocsin.testing import BEGIN_US, feed, rows, stream

Json = dict[str, Any]


def let(name: str, value: str) -> Json:
    return {"setVariable": {"variableName": name, "value": value}}


def timer(name: str, seconds: int | str) -> Json:
    field = "seconds" if isinstance(seconds, int) else "durationExpression"
    return {"setTimer": {"timerName": name, field: seconds}}


def say(text: str) -> Json:
    """Tell something over MQTT: a content expression."""
    return {"iotTopicPublish": {"mqttTopic": "said", "payload": {"type": "STRING", "contentExpression": text}}}


def event(condition: str | None, *actions: Json, to: str | None = None, name: str = "e") -> Json:
    made: Json = {"eventName": name, "actions": list(actions)}
    if condition is not None:
        made["condition"] = condition
    return made if to is None else made | {"nextState": to}


def state(name: str, *, enter: Sequence[Json] = (), input: Sequence[Json] = (), exit: Sequence[Json] = ()) -> Json:
    return {
        "stateName": name,
        "onEnter": {"events": list(enter)},
        "onInput": {
            "events": [e for e in input if "nextState" not in e],
            "transitionEvents": [e for e in input if "nextState" in e],
        },
        "onExit": {"events": list(exit)},
    }


def model(*states: Json, **more: Any) -> Json:
    definition = {"states": list(states), "initialStateName": states[0]["stateName"]}
    return {"detectorModelName": "m", "detectorModelDefinition": definition, **more}


def said(made: Json, columns: Mapping[str, Any], **settings: Any) -> list[str]:
    """What a model says while rows pass."""
    return [
        row["payload"]
        for row in feed(DetectorModel(model=made, transitions=False, **settings), rows(columns)).to_pylist()
    ]


def states_of(made: Json, columns: Mapping[str, Any], **settings: Any) -> list[str]:
    left = feed(DetectorModel(model=made, **settings), rows(columns)).to_pylist()
    return [row["target"] for row in left if row["action"] == "transition"]


def rejected(made: Json, columns: Mapping[str, Any], **settings: Any) -> list[Json]:
    return feed(DetectorModel(model=made, **settings), rows(columns), port=REJECTED).to_pylist()


# -------------------------------------------------------------------------------------------------- the order of things


def test_a_new_detector_enters_its_first_state_and_then_looks_at_the_same_message() -> None:
    made = model(
        state("A", enter=[event(None, let("n", "10"))], input=[event("$input.I.x > 0", say("'${$variable.n}'"))])
    )
    assert said(made, {"x": [1, 0]}) == ["10"]


def test_of_a_transition_its_actions_come_first_then_exit_then_enter() -> None:
    made = model(
        state(
            "A",
            input=[event("$input.I.x > 0", say("'move'"), let("v", "1"), to="B")],
            exit=[event(None, say("'exit'"))],
        ),
        state("B", enter=[event("$variable.v == 1", say("'enter'"))], input=[event("true", say("'input'"))]),
    )
    assert said(made, {"x": [1]}) == ["move", "exit", "enter"], "the new state's onInput waits for the next message"
    assert said(made, {"x": [1, 1]}) == ["move", "exit", "enter", "input"]


def test_a_transition_to_the_same_state_leaves_and_enters_it() -> None:
    made = model(
        state(
            "A",
            enter=[event(None, say("'in'"))],
            input=[event("$input.I.x > 0", to="A")],
            exit=[event(None, say("'out'"))],
        )
    )
    assert said(made, {"x": [1]}) == ["in", "out", "in"]


def test_the_first_transition_that_holds_is_taken_and_the_rest_are_not_looked_at() -> None:
    made = model(
        state("A", input=[event("$input.I.x > 0", to="B"), event("1 / 0 > 1", to="C")]), state("B"), state("C")
    )
    assert states_of(made, {"x": [1]}) == ["A", "B"]
    assert rejected(made, {"x": [1]}) == []


@pytest.mark.parametrize(("method", "wanted"), [("BATCH", ["1 0"]), ("SERIAL", ["1 0", "1 1"])])
def test_when_conditions_see_what_actions_set(method: str, wanted: list[str]) -> None:
    made = model(
        state(
            "A",
            enter=[event(None, let("n", "0"), let("seen", "0"))],
            input=[
                event("true", let("n", "$variable.n + 1"), say("'${$variable.n} ${$variable.seen}'")),
                event("$variable.n == 1", let("seen", "1"), say("'${$variable.n} ${$variable.seen}'")),
            ],
        ),
        evaluationMethod=method,
    )
    assert said(made, {"x": [1]}) == wanted


def test_in_a_batch_transitions_see_the_variables_of_before() -> None:
    counting = event("true", let("n", "$variable.n + 1"))
    states = (
        state("A", enter=[event(None, let("n", "0"))], input=[counting, event("$variable.n >= 2", to="B")]),
        state("B"),
    )
    assert states_of(model(*states), {"x": [1, 1]}) == ["A"]
    assert states_of(model(*states), {"x": [1, 1, 1]}) == ["A", "B"]
    assert states_of(model(*states, evaluationMethod="SERIAL"), {"x": [1, 1]}) == ["A", "B"]


def test_actions_of_one_event_see_each_other() -> None:
    made = model(state("A", input=[event("true", let("a", "1"), let("b", "$variable.a + 1"), say("'${$variable.b}'"))]))
    assert said(made, {"x": [1]}) == ["2"]


def test_a_condition_that_is_no_boolean_is_false_without_being_an_error() -> None:
    made = model(state("A", input=[event("$input.I.x + 1", say("'never'"))]))
    assert said(made, {"x": [1]}) == []
    assert rejected(made, {"x": [1]}) == []


# --------------------------------------------------------------------------------------------------------------- timers


def alarm_clock(seconds: int | str = 60) -> Json:
    return model(
        state(
            "A",
            input=[
                event("triggerType('Message') && $input.I.x == 1", timer("t", seconds)),
                event("triggerType('Message') && $input.I.x == 2", {"resetTimer": {"timerName": "t"}}),
                event("$input.I.x == 3", {"clearTimer": {"timerName": "t"}}),
                event("timeout('t')", say("'rang'"), name="ring"),
                event("triggerType('Timer')", say("'timer'")),
            ],
        )
    )


def rings(made: Json, xs: Sequence[int], at_s: Sequence[float], key: Sequence[str] | None = None) -> list[float]:
    """When, in seconds, the timer was noticed."""
    columns = {"x": xs, "time": list(at_s)} | ({} if key is None else {"key": key})
    left = feed(DetectorModel(model=made, transitions=False), rows(columns))
    return [
        (us - BEGIN_US) / 1e6
        for us, row in zip(times_us(left.combine_chunks().to_batches()[0]), left.to_pylist(), strict=True)
        if row["payload"] == "rang"
    ] if left.num_rows else []  # fmt: skip


def test_a_timer_runs_out_in_event_time_and_is_noticed_once() -> None:
    assert rings(alarm_clock(), [1, 0, 0], [0, 59, 200]) == [60.0]
    assert rings(alarm_clock(), [1, 0], [0, 60]) == [60.0], "a row at the very moment comes after the timer"


def test_at_the_end_of_the_stream_a_running_timer_runs_out() -> None:
    assert rings(alarm_clock(), [1], [5]) == [65.0]


def test_reset_starts_the_timer_anew_and_clear_stops_it() -> None:
    assert rings(alarm_clock(), [1, 2, 0], [0, 50, 100]) == [110.0]
    assert rings(alarm_clock(), [1, 3, 0], [0, 50, 100]) == []
    assert rings(alarm_clock(), [1, 3, 2, 0], [0, 50, 80, 300]) == [140.0], "its duration is remembered"


@pytest.mark.parametrize("method", ["BATCH", "SERIAL"])
def test_a_model_that_resets_its_timer_on_every_input_still_sees_it_run_out(method: str) -> None:
    watchdog = model(
        state(
            "Well",
            enter=[event(None, timer("t", 60))],
            input=[
                event("$input.I.x >= 0", {"resetTimer": {"timerName": "t"}}),
                event("timeout('t')", to="Silent"),
            ],
        ),
        state("Silent", input=[event("triggerType('Message')", to="Well")]),
        evaluationMethod=method,
    )
    columns = {"x": [1, 1, 1, 1], "time": [0, 50, 100, 200]}
    assert states_of(watchdog, columns) == ["Well", "Silent", "Well", "Silent"]
    left = feed(DetectorModel(model=watchdog), rows(columns)).to_pylist()
    assert [(row["time"].timestamp() - BEGIN_US / 1e6) for row in left] == [0, 160, 200, 260]


def test_a_timer_never_set_cannot_be_reset() -> None:
    (bad,) = rejected(alarm_clock(), {"x": [2]})
    assert bad["reason"] == "evaluation_error"
    assert "timer t was never set" in bad["detail"]


def test_the_duration_may_be_an_expression_and_is_rounded_down() -> None:
    assert rings(alarm_clock("$input.I.x * 90.99"), [1, 0], [0, 1000]) == [90.0]


@pytest.mark.parametrize("duration", ["'soon'", "true", "0", "-5", "40000000", "$variable.never"])
def test_a_duration_that_is_none_is_told(duration: str) -> None:
    (bad,) = rejected(alarm_clock(duration), {"x": [1]})
    assert "timer t" in bad["detail"]


def test_the_timer_of_a_silent_key_runs_out_with_the_watermark() -> None:
    assert rings(alarm_clock(), [1, 0, 0], [0, 30, 100], ["a", "b", "b"]) == [60.0]
    # Not before the watermark has come there: the batch that ends at 59 s says nothing, the one that ends at 61 s does.
    clock = DetectorModel(model=alarm_clock(), transitions=False)
    state = clock.initial()
    first = rows({"x": [1], "time": [0.0]})
    for until_s, wanted in ((59, 0), (60, 2), (61, 0)):
        batch = Batch(first, BEGIN_US + until_s * 1_000_000)
        state, left = clock.step(state, batch)
        assert sum(len(b) for b in left) == wanted
        first = first.slice(0, 0)


def test_a_timer_that_sets_itself_again_rings_on_but_not_for_ever() -> None:
    made = model(
        state(
            "A",
            input=[
                event("triggerType('Message') && $input.I.x == 1", timer("t", 60)),
                event("timeout('t')", {"resetTimer": {"timerName": "t"}}, say("'rang'")),
            ],
        )
    )
    assert rings(made, [1, 0], [0, 305]) == [60.0, 120.0, 180.0, 240.0, 300.0, 360.0]
    gone = DetectorModel(model=made, transitions=False)
    state_, _ = gone.step(gone.initial(), Batch(rows({"x": [1]}), BEGIN_US))
    state_, left = gone.step(state_, Batch(rows({"x": [1]}).slice(0, 0), BEGIN_US + 10**15))
    assert {b.port: len(b) for b in left} == {OUT: 100_000, REJECTED: 1}
    assert "stopped" in next(b for b in left if b.port == REJECTED).rows.to_pylist()[0]["detail"]


# -------------------------------------------------------------------------------------------------------------- actions

EVERY_ACTION: Sequence[tuple[Json, str, Any]] = (
    ({"iotTopicPublish": {"mqttTopic": "plant/${$input.I.x}"}}, "plant/1", None),
    ({"sns": {"targetArn": "arn:aws:sns:us-east-1:1:T"}}, "arn:aws:sns:us-east-1:1:T", None),
    ({"sqs": {"queueUrl": "https://q/1", "useBase64": True}}, "https://q/1", {"useBase64": True}),
    ({"lambda": {"functionArn": "arn:f"}}, "arn:f", None),
    ({"firehose": {"deliveryStreamName": "s", "separator": ","}}, "s", {"separator": ","}),
    (
        {"dynamoDB": {"tableName": "'T'", "hashKeyField": "'id'", "hashKeyValue": "'${$input.I.x}'"}},
        "T",
        {"hashKeyField": "id", "hashKeyValue": "1"},
    ),
    ({"dynamoDBv2": {"tableName": "'T' + '2'"}}, "T2", None),
    ({"iotEvents": {"inputName": "Other"}}, "Other", None),
    (
        {"iotSiteWise": {"propertyAlias": "'/a'", "propertyValue": {"value": {"integerValue": "$input.I.x"}}}},
        "/a",
        {"propertyValue": {"value": {"integerValue": "1"}}},
    ),
)


@pytest.mark.parametrize(
    ("action", "target", "parameters"), EVERY_ACTION, ids=[next(iter(a)) for a, _, _ in EVERY_ACTION]
)
def test_every_action_is_a_row_with_its_target(action: Json, target: str, parameters: Any) -> None:
    made = model(state("A", input=[event("$input.I.x == 1", action, name="tell")]))
    ((row),) = feed(DetectorModel(model=made, transitions=False), rows({"x": [1]})).to_pylist()
    assert (row["action"], row["target"], row["event"], row["state"]) == (next(iter(action)), target, "tell", "A")
    assert (None if row["parameters"] is None else json.loads(row["parameters"])) == parameters
    payload = json.loads(row["payload"])
    assert payload["eventName"] == "tell"
    assert payload["eventTime"] == BEGIN_US // 1000
    assert payload["payload"]["detector"] == {
        "detectorModelName": "m", "keyValue": "machine", "detectorModelVersion": "1",
    }  # fmt: skip
    assert payload["payload"]["eventTriggerDetails"] == {
        "inputName": "I", "messageId": "00001", "triggerType": "Message",
    }  # fmt: skip
    assert payload["payload"]["actionExecutionId"] == row["id"]
    assert payload["payload"]["state"] == {"stateName": "A", "variables": {}, "timers": {}}


def test_a_payload_of_type_json_must_be_a_string_but_need_not_be_json() -> None:
    def told(expression: str) -> tuple[list[str], list[Json]]:
        action = {"sns": {"targetArn": "T", "payload": {"type": "JSON", "contentExpression": expression}}}
        made = model(state("A", input=[event("true", action)]))
        return said(made, {"x": [1]}), rejected(made, {"x": [1]})

    assert told("'{\"x\": ${$input.I.x}}'") == (['{"x": 1}'], [])
    assert told("'not json'")[0] == ["not json"]
    left, bad = told("$input.I.x")
    assert left == []
    assert "must be a String" in bad[0]["detail"]


def test_an_action_that_fails_stops_no_other() -> None:
    made = model(
        state("A", input=[event("$input.I.x == 1", let("v", "1 / 0"), let("w", "$variable.never"), say("'here'"))])
    )
    assert said(made, {"x": [1]}) == ["here"]
    (bad,) = rejected(made, {"x": [1]})
    assert "division by zero" in bad["detail"]
    assert "variable w cannot be set to undefined data" in bad["detail"]
    assert json.loads(bad["payload"]) == {"I": {"x": 1}}


# ----------------------------------------------------------------------------------------------------- rows to messages

TWO = model(
    state(
        "A",
        input=[
            event("currentInput('P')", say("'P ${$input.P.p}'")),
            event("currentInput('T')", say("'T ${$input.T.data.t}'")),
            event("$input.P.p > 70 && $input.T.data.t > 30", say("'both'")),
        ],
    )
)


def test_a_column_input_names_the_input_and_the_last_message_of_the_other_is_kept() -> None:
    columns = {"input": ["P", "T", "X", None, "T"], "p": [80, 0, 0, 0, 0], "data.t": [0, 35, 99, 99, 5]}
    assert said(TWO, columns) == ["P 80", "T 35", "both", "T 5"]


def test_without_it_a_row_is_a_message_of_each_input_that_it_has_an_attribute_of() -> None:
    assert said(TWO, {"p": [80, None, 90], "data.t": [None, 35, 20]}) == [
        "P 80",
        "T 35",
        "both",
        "P 90",
        "both",
        "T 20",
    ]


def test_settings_may_say_which_rows_and_which_columns() -> None:
    columns = {"kind": ["a", "b", "c"], "v": [80, 35, 1]}
    inputs = {
        "P": {"where": {"kind": "a"}, "columns": {"p": "v"}},
        "T": {"where": {"kind": "b"}, "columns": {"data.t": "v"}},
    }
    assert said(TWO, columns, inputs=inputs) == ["P 80", "T 35", "both"]


def test_a_message_replaces_the_one_before_it_whole() -> None:
    made = model(state("A", input=[event("$input.I.x == 1", say("'x'")), event("$input.I.y == 2", say("'y'"))]))
    assert said(made, {"x": [1, None], "y": [None, 2]}) == ["x", "y"]


@pytest.mark.parametrize(
    "columns",
    [
        {"data.t": [5]}, {"data_t": [5]}, {"t": [5]}, {"data": [{"t": 5}]},
    ],
    ids=["dots", "underscores", "leaf", "struct"],
)  # fmt: skip
def test_an_attribute_is_found_under_its_usual_names(columns: Mapping[str, Any]) -> None:
    assert said(model(state("A", input=[event("$input.I.data.t == 5", say("'found'"))])), columns) == ["found"]


def test_a_list_is_indexed() -> None:
    made = model(state("A", input=[event("$input.I.ts[2] > 1", say("'${$input.I.ts[2]}'"))]))
    assert said(made, {"ts": [[1.5, 2.5, 3.5], [1.5], None]}) == ["3.5"]


def test_messages_as_json_text_are_exact_about_null() -> None:
    made = model(
        state("A", input=[
            event("isNull($input.I.a.b[0])", say("'null'")), event("isUndefined($input.I.a.b[0])", say("'undefined'")),
            event("$input.I.a.b[0] == 1", say("'one'")),
        ])
    )  # fmt: skip
    texts = ['{"a": {"b": [null]}}', '{"a": {}}', '{"a": {"b": [1]}}', "{", "[]", "", '{"a": 1e999}']
    assert said(made, {"text": texts}, message="text") == ["null", "undefined", "one"]
    reasons = [row["reason"] for row in rejected(made, {"text": texts}, message="text")]
    assert reasons == ["json_syntax", "shape", "empty", "number_range"]


def test_no_column_for_any_attribute_is_refused_by_name() -> None:
    with pytest.raises(SchemaError, match=r"at least one of the columns \[p, data\.t|data\.t, p\]"):
        DetectorModel(model=TWO).output_schema(rows({"other": [1]}).schema)
    with pytest.raises(SchemaError, match="needs column 'gone'"):
        DetectorModel(model=TWO, inputs={"P": {"columns": {"p": "gone"}}}).output_schema(rows({"p": [1]}).schema)


def test_an_unknown_input_is_refused() -> None:
    with pytest.raises(ValidationError, match="there is no input 'Q'"):
        DetectorModel(model=TWO, inputs={"Q": {}})


# ----------------------------------------------------------------------------------------------------------- properties

NAMES = ("A", "B", "C")
CONDITIONS = st.sampled_from(
    ["true", "$input.I.x > 2", "$input.I.x == 0", "$variable.n > 3", "timeout('t')", "timeout('u')",
     "triggerType('Timer')", "$input.I.x / $variable.n > 1", "$variable.n != $variable.n", "$input.I.y == 'a'"]
)  # fmt: skip
DEEDS = st.sampled_from(
    [let("n", "$variable.n + 1"), let("n", "0"), let("n", "$input.I.x"), timer("t", 60), timer("u", 7),
     {"resetTimer": {"timerName": "t"}}, {"clearTimer": {"timerName": "u"}}, say("'${$variable.n}'"), say("'hello'")]
)  # fmt: skip
EVENTS = st.lists(st.builds(event, CONDITIONS, DEEDS, DEEDS), max_size=3)
MOVES = st.lists(st.builds(event, CONDITIONS, DEEDS, to=st.sampled_from(NAMES)), max_size=2)


@st.composite
def models(draw: st.DrawFn) -> Json:
    made = [state(n, enter=draw(EVENTS), input=draw(EVENTS) + draw(MOVES), exit=draw(EVENTS)) for n in NAMES]
    made[0]["onInput"]["events"].append(event("$input.I.x > 1 || $input.I.y == 'b'", say("'seen'")))
    return model(*made, evaluationMethod=draw(st.sampled_from(["BATCH", "SERIAL"])))


@st.composite
def readings(draw: st.DrawFn) -> pa.RecordBatch:
    count = draw(st.integers(1, 25))
    gaps = draw(st.lists(st.sampled_from([0.0, 1.0, 7.0, 20.0, 61.0]), min_size=count, max_size=count))
    jitter = draw(st.lists(st.sampled_from([0.0, 0.0, -5.0]), min_size=count, max_size=count))
    times, now = [], 0.0
    for gap, early in zip(gaps, jitter, strict=True):
        now += gap
        times.append(max(0.0, now + early))
    return rows(
        {
            "key": draw(st.lists(st.sampled_from(["k1", "k2"]), min_size=count, max_size=count)),
            "time": times,
            "x": pa.array(draw(st.lists(st.none() | st.integers(0, 5), min_size=count, max_size=count)), pa.int64()),
            "y": pa.array(
                draw(st.lists(st.none() | st.sampled_from("ab"), min_size=count, max_size=count)), pa.string()
            ),
        }
    )


def through(operator: DetectorModel, batches: Sequence[Batch], *, reload: bool = False) -> tuple[list[Any], list[Any]]:
    """What leaves by the two ports, by key."""
    state_, left = operator.initial(), {OUT: [], REJECTED: []}
    for batch in batches:
        state_, out = operator.step(state_, batch)
        assert all(i.state in NAMES for i in state_.instances.values()), "an illegal state"
        for b in out:
            left[b.port] += b.rows.to_pylist()
        if reload:
            state_ = operator.load(operator.dump(state_))
    return tuple(sorted(found, key=lambda row: row["key"]) for found in left.values())  # type: ignore[return-value]


@given(models(), readings(), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_however_the_stream_is_cut_the_actions_and_their_ids_are_the_same(
    made: Json, given_rows: pa.RecordBatch, chop: list[int]
) -> None:
    operator = DetectorModel(model=made)
    whole = through(operator, list(stream(given_rows)))
    assert through(operator, list(stream(given_rows, chop))) == whole
    assert through(operator, list(stream(given_rows, 1)), reload=True) == whole
    ids = [row["id"] for row in whole[0]]
    assert len(set(ids)) == len(ids), "an id twice"


@given(models(), readings())
def test_timers_never_run_out_early_and_states_follow_from_each_other(made: Json, given_rows: pa.RecordBatch) -> None:
    left, bad = through(DetectorModel(model=made), list(stream(given_rows, 3)))
    times = times_us(given_rows)
    for row in left:
        trigger = json.loads(row["payload"])["payload"]["eventTriggerDetails"] if row["action"] == "transition" else {}
        if trigger.get("triggerType") == "Timer":
            assert row["time"].timestamp() * 1e6 >= times.min() + 7e6, "the shortest timer takes 7 s"
    for key in ("k1", "k2"):
        entered = [r["target"] for r in left if r["key"] == key and r["action"] == "transition"]
        assert not entered or entered[0] == "A"
    assert all(row["reason"] == "evaluation_error" and row["detail"] for row in bad)


def test_the_end_comes_once_and_passes() -> None:
    operator = DetectorModel(model=alarm_clock())
    _, left = operator.step(operator.initial(), Batch(rows({"x": [1]}), END))
    assert left[-1].watermark_us == END
