"""Files of detector models: every form they come in, what is told of a wrong one, and the models as exported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import data_folder
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import ConfigError
from tocsin.notify.detector_model import DetectorModel, import_model, load_model
from tocsin.testing import feed, rows

DATA = data_folder.DATA / "iot_events"
exported = pytest.mark.skipif(not DATA.is_dir(), reason=f"the exported detector models are not at {DATA}")

Json = dict[str, Any]
DEFINITION: Json = {
    "states": [
        {
            "stateName": "Only",
            "onInput": {
                "events": [
                    {
                        "eventName": "hot",
                        "condition": "$input.Heat.t > 30",
                        "actions": [{"sns": {"targetArn": "arn:aws:sns:us-east-1:1:T"}}],
                    }
                ]
            },
        }
    ],
    "initialStateName": "Only",
}
PLAIN: Json = {"detectorModelName": "Heater", "detectorModelDefinition": DEFINITION, "key": "id"}


def capitals(value: Any) -> Any:
    """As CloudFormation writes it."""
    if isinstance(value, dict):
        return {k[0].upper() + k[1:]: capitals(v) for k, v in value.items()}
    return [capitals(v) for v in value] if isinstance(value, list) else value


RESOURCE = {"Type": "AWS::IoTEvents::DetectorModel", "Properties": capitals(PLAIN)}


def written(folder: Path, content: Any, name: str = "model.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        DEFINITION,
        {"detectorModelDefinition": DEFINITION},
        {"detectorModel": {"detectorModelDefinition": DEFINITION, "detectorModelConfiguration": {"key": "id"}}},
        {"Resources": {"Heater": RESOURCE, "Other": {"Type": "AWS::SNS::Topic"}}},
        {"Heater": RESOURCE},
        RESOURCE,
        capitals(PLAIN),
        {"Resources": {"M": {**RESOURCE, "Properties": {"DetectorModelDefinition": json.dumps(DEFINITION)}}}},
    ],
    ids=["request", "definition", "only", "described", "template", "resources", "resource", "properties", "as text"],
)
def test_every_form_gives_the_same_model(tmp_path: Path, content: Any) -> None:
    (model,) = load_model(written(tmp_path, content))
    assert model["detectorModelDefinition"] == DEFINITION
    left = feed(DetectorModel(model=str(written(tmp_path, content))), rows({"t": [20, 40]}))
    assert left["action"].to_pylist() == ["transition", "sns"]


TEMPLATE = """
AWSTemplateFormatVersion: "2010-09-09"
Parameters:
  Threshold: {Type: Number, Default: 30}
  Topic: {Type: String}
Resources:
  HeatInput:
    Type: AWS::IoTEvents::Input
    Properties:
      InputName: !Sub "${AWS::StackName}Heat"
      InputDefinition: {Attributes: [{JsonPath: t}]}
  Heater:
    Type: AWS::IoTEvents::DetectorModel
    Properties:
      DetectorModelName: !Sub "${AWS::StackName}_heater"
      Key: id
      EvaluationMethod: SERIAL
      RoleArn: !GetAtt Role.Arn
      DetectorModelDefinition:
        InitialStateName: Only
        States:
          - StateName: Only
            OnEnter:
              Events:
                - EventName: begin
                  Actions:
                    - SetVariable: {VariableName: limit, Value: !Ref Threshold}
                    - SetTimer: {TimerName: clock, Seconds: !!int "90"}
            OnInput:
              Events:
                - EventName: hot
                  Condition: !Sub "$input.${HeatInput}.t > $variable.limit"
                  Actions:
                    - IotTopicPublish:
                        MqttTopic: !Join ["/", [plant, !Ref Topic, hot]]
                        Payload:
                          Type: STRING
                          Type: STRING
                          ContentExpression: !Join
                            - ""
                            - - |
                                'It is ${$variable.limit}, and
                                it was ${
                              - !Sub ["$input.${Name}.t", {Name: !Ref HeatInput}]
                              - |
                                }.'
                    - Sqs: {QueueUrl: {"Fn::Sub": "https://q/${!$variable.limit}"}, UseBase64: false}
                - {EventName: rang, Condition: timeout('clock'), Actions: [{Sns: {TargetArn: !Ref Alarms}}]}
  Alarms: {Type: "AWS::SNS::Topic"}
"""


def test_a_template_in_yaml_is_resolved(tmp_path: Path) -> None:
    path = written(tmp_path, TEMPLATE, "template.yaml")
    (model,) = load_model(path)
    assert model["detectorModelName"] == "stack_heater"
    left = feed(
        DetectorModel(model=str(path), transitions=False), rows({"t": [20, 40, 0, 0], "time": [0, 10, 50, 100]})
    )
    assert left.select(["action", "target"]).to_pylist() == [
        {"action": "iotTopicPublish", "target": "plant/Topic/hot"},
        {"action": "sqs", "target": "https://q/30"},
        {"action": "sns", "target": "Alarms"},
    ]
    assert left["payload"][0].as_py() == "It is 30, and\nit was 40."


def test_one_of_several_models_is_chosen_by_name(tmp_path: Path) -> None:
    other = {"Type": RESOURCE["Type"], "Properties": {**capitals(PLAIN), "DetectorModelName": "Other"}}
    path = written(tmp_path, {"Resources": {"A": RESOURCE, "B": other}})
    assert set(import_model(path)) == {"heater.json", "heater.yaml", "other.json", "other.yaml"}
    assert [m["detectorModelName"] for m in load_model(path)] == ["Heater", "Other"]
    assert DetectorModel(model=str(path), which="Other").model["detectorModelName"] == "Other"
    with pytest.raises(ValueError, match="which: there are 2 detector models: Heater, Other"):
        DetectorModel(model=str(path))
    with pytest.raises(ValueError, match="did you mean 'Other'"):
        DetectorModel(model=str(path), which="Othr")


def changed(*place: Any, to: Any) -> Json:
    model: Any = json.loads(json.dumps(PLAIN))
    inner = model["detectorModelDefinition"]
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = to
    return model  # type: ignore[no-any-return]


EVENT = ("states", 0, "onInput", "events", 0)
ACTION = (*EVENT, "actions", 0)
AT = r"detectorModelDefinition\.states\[0\]\.onInput\.events\[0\]"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ([], "is a JSON object, not a list"),
        ({"a": 1}, "no detector model in it"),
        ({"A": {"Type": "AWS::IoTEvents::AlarmModel", "Properties": {}}}, "AlarmModel, which is not one"),
        (changed("states", to=[]), "at least one state"),
        (changed("states", to={}), r"detectorModelDefinition\.states: a list belongs here, not an object"),
        (changed("states", 0, "stateName", to=5), r"states\[0\]\.stateName: a name belongs here, not a number"),
        (changed("states", to=[*DEFINITION["states"]] * 2), r"states\[1\]\.stateName: there are two states 'Only'"),
        (changed("initialStateName", to="Onli"), "initialStateName: there is no state 'Onli'; did you mean 'Only'"),
        ({**PLAIN, "evaluationMethod": "PARALLEL"}, "evaluationMethod: it is BATCH or SERIAL"),
        (changed(*EVENT, "condition", to="$input.Heat.t >"), AT + r"\.condition: here a value is missing, at position"),
        (changed(*EVENT, "condition", to="istrue($input.Heat.t)"), AT + r"\.condition: there is no function 'istrue'"),
        (changed(*EVENT, "actions", to={}), AT + r"\.actions: a list belongs here"),
        (
            changed(*ACTION, to={"sns": {}, "sqs": {}}),
            AT + r"\.actions\[0\]: an action has exactly one type, this has 2",
        ),
        (changed(*ACTION, to={"snss": {}}), "there is no action 'snss'; did you mean 'sns'"),
        (changed(*ACTION, to={"sns": {}}), AT + r"\.actions\[0\]\.sns\.targetArn: this is needed"),
        (changed(*ACTION, to={"setTimer": {"timerName": "t"}}), "either seconds or durationExpression"),
        (changed(*ACTION, to={"setTimer": {"timerName": "t", "seconds": 60, "durationExpression": "60"}}), "either"),
        (changed(*ACTION, to={"setVariable": {"variableName": "v", "value": "a b"}}), r"setVariable\.value: 'a' is no"),
        (changed(*ACTION, to={"sns": {"targetArn": "T", "payload": {}}}), r"payload\.contentExpression: an expression"),
        (
            changed(*ACTION, to={"sns": {"targetArn": "T", "payload": {"contentExpression": "'a", "type": "JSON"}}}),
            r"sns\.payload: the text that begins with ' has no end",
        ),
        (
            changed("states", 0, "onInput", "transitionEvents", to=[{"eventName": "e", "nextState": "Only"}]),
            r"transitionEvents\[0\]\.condition: a transition needs one",
        ),
        (
            changed("states", 0, "onInput", "transitionEvents", to=[{"condition": "true", "nextState": "Gone"}]),
            r"transitionEvents\[0\]\.nextState: there is no state 'Gone'",
        ),
        ({"M": {**RESOURCE, "Properties": {"DetectorModelDefinition": {"Fn::If": ["a", 1, 2]}}}}, "Fn::If cannot be"),
    ],
)
def test_a_wrong_model_is_told_in_one_sentence_with_its_place(tmp_path: Path, content: Any, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError, match=says) as caught:
        load_model(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800")
ANY = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
RICH = {"Resources": {"Heater": RESOURCE, "In": {"Type": "AWS::IoTEvents::Input", "Properties": {"InputName": "Heat"}}}}


def places(tree: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place, *(p for step, value in inner for p in places(value, (*place, step)))]


@given(st.sampled_from([PLAIN, RICH]), st.data())
def test_no_file_does_more_than_be_refused(
    tmp_path_factory: pytest.TempPathFactory, whole: Json, data: st.DataObject
) -> None:
    tree: Any = {"whole": json.loads(json.dumps(whole))}
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from(places(tree)[1:]))
        inner = tree
        for step in way:
            inner = inner[step]
        inner[last] = data.draw(ANY)
    path = written(tmp_path_factory.getbasetemp(), json.dumps(tree["whole"]), "fuzzed.json")
    try:
        model, *_ = load_model(path)
    except ConfigError:
        return
    operator = DetectorModel(model=model)
    feed(operator, rows({"t": [20, 40, None], "input": ["Heat"] * 3}))


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_model(tmp_path / "gone.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_model(tmp_path / "bytes.json")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_model(written(tmp_path, "a: [", "t.yaml"))


def test_what_was_imported_loads_again_and_has_a_pipeline_beside_it(tmp_path: Path) -> None:
    files = import_model(written(tmp_path, TEMPLATE, "template.yaml"))
    assert set(files) == {"stack_heater.json", "stack_heater.yaml"}
    (model,) = load_model(written(tmp_path, files["stack_heater.json"], "again.json"))
    assert model == load_model(tmp_path / "template.yaml")[0]
    from ruamel.yaml import YAML

    pipeline = YAML(typ="safe").load(files["stack_heater.yaml"])
    assert pipeline["streams"]["actions"]["steps"] == [{"detector_model": "stack_heater.json"}]
    assert set(pipeline["decode"]["json"]["columns"]) == {"id", "t"}
    assert set(pipeline["streams"]) == {"actions", "iot_topic_publish", "sns", "sqs"}


@exported
def test_the_outline_compiles_and_knows_text_from_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tocsin.pipeline.yamlfile import load_with_plan

    monkeypatch.chdir(tmp_path)
    for exported_file in sorted(DATA.glob("*.json")):
        for name, text in import_model(exported_file).items():
            written(tmp_path, text, name)
    for outline in sorted(tmp_path.glob("*.yaml")):
        _, plan = load_with_plan(outline)
        assert "actions" in plan.streams
    isa = (tmp_path / "aws_iotevents_blueprints_isa_alarm.yaml").read_text()
    assert '"command": {type: text' in isa
    assert '"value": {type: float' in isa


# ----------------------------------------------------------------------------------------------- the models as exported


def run(name: str, columns: Mapping[str, Any], **settings: Any) -> tuple[list[str], list[str], list[Json]]:
    """States entered, actions (``kind target``), rows set aside."""
    operator = DetectorModel(model=str(DATA / f"{name}.json"), **settings)
    left = feed(operator, rows(columns)).to_pylist()
    states = [row["state"] for row in left if row["action"] == "transition"]
    actions = [f"{r['action']} {r['target'].rpartition(':')[2]}" for r in left if r["action"] != "transition"]
    return states, actions, feed(operator, rows(columns), port="rejected").to_pylist()


@exported
@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda p: p.stem)
def test_every_exported_model_loads_and_is_imported(tmp_path: Path, path: Path) -> None:
    before = load_model(path)
    for name, text in import_model(path).items():
        if name.endswith(".json"):
            assert load_model(written(tmp_path, text, name)) == before


@exported
def test_crane_tells_after_more_than_five_hot_readings() -> None:
    # In a batch the condition sees the count of before: the seventh reading tells, not the sixth.
    hot = [36] * 7
    assert run("crane", {"temperature": hot[:6]})[1] == []
    assert run("crane", {"temperature": hot})[1] == ["sns CraneSNSTopic"]
    assert run("crane", {"temperature": [*hot[:5], 20, *hot[:5]]})[1] == [], "a cold one sets it back"


@exported
def test_crane_motor_needs_both_inputs() -> None:
    columns = {"input": ["PressureInput"] + ["TemperatureInput"] * 7, "pressure": [80] + [None] * 7}
    assert run("crane_motor", {**columns, "temperature": [None] + [35] * 7})[1] == ["sns MotorSNSTopic"]
    assert run("crane_motor", {**columns, "temperature": [None] + [25] * 7})[1] == []


@exported
def test_motor_pressure_returns_to_normal_after_three_low_readings() -> None:
    states, actions, bad = run("motor_pressure", {"sensorData.pressure": [60, 80, 75, 60, 60, 60, 60]})
    assert states == ["Normal", "Dangerous", "Normal"]
    assert actions == ["sns underPressureAction", "sns pressureClearedAction"]
    assert bad == []
    # Two low readings, then a high one: not yet back.
    assert run("motor_pressure", {"sensorData.pressure": [80, 60, 60, 90, 60, 60]})[0] == ["Normal", "Dangerous"]


@exported
def test_temperature_check_publishes_what_is_not_null() -> None:
    _, actions, _ = run("temperature_check", {"sensorData.temperature": [20.0, None, 21.0]})
    assert actions == ["iotTopicPublish IoTEvents/Output"] * 2


@exported
def test_a_device_that_moves_without_its_user_is_stolen() -> None:
    at_home, moved = "1,1", "2,2"
    device = {"input": ["AWS_IoTEvents_Blueprints_Tracking_DeviceInput"] * 3, "gps_position": [at_home, moved, moved]}
    states, actions, _ = run("sensors_and_applications", {**device, "device_id": ["d1"] * 3})
    assert states == ["Device_idle", "Device_in_use", "Device_exception"]
    assert actions == ["iotTopicPublish Device_stolen"]
    user = {
        "input": ["AWS_IoTEvents_Blueprints_Tracking_UserInput", *device["input"]],
        "gps_position": [None, *device["gps_position"]],
        "device_id": ["d1"] * 4,
    }
    assert run("sensors_and_applications", user)[1] == []


@exported
def test_isa_alarm_goes_through_its_states() -> None:
    name = "isa_alarm"

    def states(messages: Sequence[tuple[float, float | None, str | None]]) -> list[str]:
        time, value, command = zip((0, 50, None), *messages, strict=True)
        columns = {
            "time": time, "value": value, "command": command,
            "lower_threshold": [0] + [None] * len(messages), "higher_threshold": [100] + [None] * len(messages),
        }  # fmt: skip
        found, actions, bad = run(name, columns)
        assert actions == []
        assert bad == []
        return found

    assert states([(1, 60, None)]) == ["Normal"]
    assert states([(1, 150, None), (2, 50, None)]) == ["Normal", "Unacknowledged", "RTN_Unacknowledged"]
    assert states([(1, 150, None), (2, 50, None), (3, None, "acknowledge")])[-1] == "Normal"
    # Acknowledged, it alarms again after its snooze of 60 s, unless it is reset before.
    assert states([(1, -5, None), (2, None, "acknowledge"), (62, -5, None)])[-2:] == ["Acknowledged", "Unacknowledged"]
    assert states([(1, -5, None), (2, None, "acknowledge"), (30, None, "reset")])[-1] == "Normal"
    # Put aside and taken back, it is where it was.
    assert states([(1, 150, None), (2, None, "shelve"), (3, None, "unshelve")])[-2:] == ["Shelved", "Unacknowledged"]
    assert states([(1, None, "suppressed"), (2, None, "unsuppressed")])[-2:] == ["Suppressed_by_design", "Normal"]
    assert states([(1, None, "remove"), (2, 500, None), (3, None, "add")]) == ["Normal", "Out_of_service", "Normal"]


@exported
def test_motor_anomaly_runs_hot_for_five_minutes_or_fails_as_predicted() -> None:
    data, inference, action = "IoTImlPumpData", "IoTImlPumpInference", "IoTImlPumpAction"

    def after(*messages: tuple[float, str, str, float]) -> tuple[list[str], list[str]]:
        columns: Json = {"time": [], "input": [], "TT01": [], "FT01": [], "prediction": [], "service_complete": []}
        for time, input, column, value in messages:
            row = {"time": time, "input": input, column: value} | ({"TT01": 50} if column == "FT01" else {})
            for name, cells in columns.items():
                cells.append(row.get(name))
        return run("motor_anomaly", columns)[:2]

    start = ((0, data, "TT01", 50), (1, data, "TT01", 50))
    # With the end of the stream its five minutes run out, as nothing says that it is cool.
    assert after(*start)[0] == ["initialize", "motor_off", "motor_on", "high_temperature"]
    hot = tuple((float(t), data, "FT01", 250) for t in range(10, 400, 30))
    states, actions = after(*start, *hot)
    assert states[3:] == ["high_temperature"]
    assert actions == ["sns IoTEventsDetectorSNSEmail"]
    cool = tuple((float(t), data, "FT01", 100) for t in range(10, 400, 30))
    assert after(*start, *cool)[0][3:] == []
    states, actions = after(*start, (20, inference, "prediction", 1), (50, action, "service_complete", 1))
    assert states[3:5] == ["likely_failure_24hrs", "motor_off"]
    assert actions == ["sns IoTEventsDetectorSNSEmail"]


@exported
def test_a_forecast_is_inaccurate_when_more_than_a_tenth_are_wrong() -> None:
    good, wrong = (100.0, 100), (150.0, 100)

    def after(pairs: Sequence[tuple[float, float]]) -> tuple[list[str], list[str], list[Json]]:
        predicted, actual = zip(*pairs, strict=True)
        return run("pollution_forecast_accuracy", {"predicted_pollution": predicted, "actual_pollution": actual})

    assert after([good] * 8)[0] == ["ModelAccurate"]
    states, actions, _ = after([wrong] * 7)
    assert states == ["ModelAccurate", "ModelInAccurate"]
    assert actions == ["iotTopicPublish pollution/data/model/accuracy"]


@exported
def test_an_actual_of_zero_is_set_aside_with_its_reason_and_stops_nothing() -> None:
    columns = {"predicted_pollution": [10.0, 5.0, 150.0], "actual_pollution": [10, 0, 100]}
    states, _, bad = run("pollution_forecast_accuracy", columns)
    assert states == ["ModelAccurate"]
    assert [row["reason"] for row in bad] == ["evaluation_error"] * 2
    # The model's own share of wrong ones is 0 / 0 for the very first message; the second divides by an actual of 0.
    assert "TransitionToInaccurateModel, condition: division by zero" in bad[0]["detail"]
    assert "event IncorrectPrediction, condition: division by zero" in bad[1]["detail"]
    assert "event CorrectPrediction, condition: division by zero" in bad[1]["detail"]
    assert json.loads(bad[1]["payload"])["IoTEventsInput"] == {"actual_pollution": 0, "predicted_pollution": 5.0}
