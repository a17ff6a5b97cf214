"""What each example is given where keys are spread: its own made-up plant for a while, or what its devices have sent.

A source that cannot be read again, or is a server of its own, is replaced by files of what it would bring, as somebody
does who plays a recording: the records under their topics, for the example's own decoder. What a file cannot say (a
record's key, its time of arrival) stands in the records instead.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import downtime_plant

from tocsin.estimate.model import EXAMPLE as MODELS
from tocsin.models.store import Store

Patches = Mapping[str, Mapping[str, Any]]
BEGIN = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Example:
    """How an example is tried."""

    refused: Sequence[str] = ()
    """Its parts that `tocsin check --on flink` refuses, as it stands."""
    stays: Sequence[str] = ()
    """Those of them that are steps: no other source or sink helps, so there is nothing to compare."""
    sources: Callable[[Path], Patches] = lambda folder: {}
    """Writes a recording into a folder; returns what stands in the place of each source."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What is set beside the file: how long a plant that is made up goes on."""


def stamp(second: float) -> str:
    return (BEGIN + timedelta(seconds=second)).isoformat()


def recording(folder: Path, records: Iterable[tuple[str, str]], **more: Any) -> Mapping[str, Any]:
    """Write records under their topics; returns the source that plays them, with other settings beside it."""
    for topic, record in records:
        path = folder / topic
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(record + "\n")
    return {"source": {"files": {"path": f"{folder}/**/*", "format": "text"}}, **more}


def rows(
    keys: Sequence[str], seconds: int, *, step: int = 1, seed: int = 1, high_from: int | None = None
) -> Iterable[tuple[str, float, float]]:
    """Each key's readings in turn: key, second, value; a few are far out, and a few twenty seconds late.

    They are high from a second on, if one is given.
    """
    rng = random.Random(seed)
    for second in range(0, seconds, step):
        for key in keys:
            high = 90.0 if high_from is not None and second > high_from else 0.0
            far = 40.0 if rng.random() < 0.03 else 0.0
            late = 20 if second > 60 and rng.random() < 0.01 else 0
            yield key, second - late, round(50 + rng.gauss(0, 3) + far + high, 3)


def says(**record: Any) -> str:
    return json.dumps(record)


def downtime_flink(folder: Path) -> Patches:
    for number, records in enumerate(downtime_plant.says()[:2]):
        (folder / f"{number}.ndjson").write_bytes(b"\n".join(records[:300]) + b"\n")
    return {"source": {"source": {"files": {"path": f"{folder}/*.ndjson"}}}}


def host(keys: Sequence[str], folder: Path) -> Mapping[str, Any]:
    measured = rows(keys, 90, high_from=60)
    sent = [("host", says(key=key, at=stamp(t), signal="cpu.total", value=v)) for key, t, v in measured]
    decode = {"json": {"columns": {"key": "category", "at": "timestamp", "signal": "text", "value": "float"}}}
    return recording(folder / "host", sent, decode=decode, key="key", time={"column": "at", "lateness": "1s"})


def host_alone(folder: Path) -> Patches:
    return {"source": host(["laptop"], folder)}


def demo(folder: Path) -> Patches:
    plant = [
        (f"plant/{machine}/telemetry", says(time=stamp(t), signal=signal, value=v + 5 * len(signal)))
        for signal in ("flow", "temperature")
        for machine, t, v in rows(["pump", "motor"], 90, seed=len(signal), high_from=60)
    ]
    plant.sort(key=lambda one: json.loads(one[1])["time"])
    return {"computer": host(["hall/laptop", "hall/panel"], folder), "plant": recording(folder / "plant", plant)}


def http(folder: Path) -> Patches:
    sent = [("hall", says(machine=m, at=stamp(t), celsius=v)) for m, t, v in rows(["press-1", "press-2"], 90)]
    return {"source": recording(folder, sent, time={"column": "at", "lateness": "5s"})}


def humidity(folder: Path, name: str = "source") -> Patches:
    columns = {"distance": "int", "temperature": "int", "humidity": "int", "at": "timestamp"}
    decode = {"csv": {"topic": "plant/{device}/telemetry", "delimiter": ";", "columns": columns}}
    sent = [
        (f"plant/{device}/telemetry", f"12;{round(v)};{round(v)};{stamp(t)}")
        for device, t, v in rows(["pump-1", "pump-2"], 120)
    ]
    return {name: recording(folder / name, sent, decode=decode, time={"column": "at", "lateness": "5s"})}


def humidity_stream(folder: Path) -> Patches:
    stream = [
        (
            "stream",
            says(key=k, time=stamp(t), distance="12", temperature="20", humidity=str(round(v)), row_id=f"{k}{t}"),
        )
        for k, t, v in rows(["pump-1", "pump-2"], 120)
    ]
    again = [one for one in stream for _ in range(1 + (len(one[1]) % 3 == 0))]  # some twice
    return {**humidity(folder, "devices"), "stream": recording(folder / "stream", again)}


def influxdb(folder: Path) -> Patches:
    columns = {"machine": "category", "celsius": {"type": "float", "optional": True}, "at": "timestamp"}
    sent = [("oven", says(machine=m, at=stamp(t), celsius=v)) for m, t, v in rows(["oven-1", "oven-2"], 90)]
    return {"source": recording(folder, sent, decode={"json": {"columns": columns}})}


def maintenance_log(folder: Path) -> Patches:
    texts = [
        "#2 intake gasket leaking",
        "#2 intake gasket leaking.",
        "oil pressure low on taxi",
        "replaced tyre",
        "???",
    ]
    columns = {"machine": "category", "ts": "timestamp", "text": "text"}
    sent = [
        ("log", says(machine=m, ts=stamp(t), text=texts[int(v) % len(texts)] if t != 50 else "smoke in the cabin"))
        for m, t, v in rows(["a", "b", "c"], 60)
    ]
    return {"source": recording(folder, sent, decode={"json": {"columns": columns}})}


def outliers(folder: Path) -> Patches:
    columns = {
        "machine": "category",
        "unit": {"type": "category", "optional": True},
        "ts": "timestamp",
        "temperature": "float",
    }
    sent = [
        ("telemetry", says(machine=m, unit="C", ts=stamp(t), temperature=v)) for m, t, v in rows(["a", "b", "c"], 100)
    ]
    return {"source": recording(folder, sent, decode={"json": {"columns": columns}})}


def tags(*, named: str, time: str) -> list[tuple[str, str]]:
    names = ("Ax_J1.PositionCommand", "Ax_J1.ActualPosition", "ScanTimeAverage")
    return [
        ("tags", says(**{named: robot, time: stamp(t)}, TagName=f"::[scararobot]{name}", TagValue=v, Status="Good"))
        for robot, t, v in rows(["left", "right"], 40)
        for name in names
    ]


def scara_archive(folder: Path) -> Patches:
    return {"source": recording(folder, tags(named="key", time="time"))}


def scara(folder: Path) -> Patches:
    return {"topic": recording(folder, tags(named="key", time="time"))}


def scara_gateway(folder: Path) -> Patches:
    columns = {"robot": "category", "TagName": "text", "TagValue": "float", "Status": "text", "TimeStamp": "timestamp"}
    sent = tags(named="robot", time="TimeStamp")
    return {"source": recording(folder, sent, decode={"json": {"columns": columns}})}


def scara_forecast(folder: Path) -> Patches:
    """With a small model of the examples' store, under the name that is asked for."""
    store = Store(folder / "models")
    shutil.copytree(MODELS, store.folder)
    manifest, files = store.show("tide", 1), store.files("tide", 1)
    store.add(replace(manifest, name="scara", inputs=("Total",), target="Total"), files)
    store.promote("scara", 1)
    sent = [("total", says(key=r, time=stamp(1.5 * t), Total=v)) for r, t, v in rows(["left", "right"], 100)]
    return {"source": recording(folder / "sent", sent)}


def pollution(folder: Path) -> Patches:
    weather = {"dew": -5.0, "temp": 2.0, "press": 1020.0, "wnd_spd": 3.0, "snow": 0.0, "rain": 0.0}
    hours = [(place, t * 3600, v) for place, t, v in rows(["north", "south"], 60)]
    data = [(f"pollution/{place}", says(date=stamp(t), pollution=v, **weather)) for place, t, v in hours]
    infer = [
        (f"pollution/{place}/infer", says(date=stamp(t), predicted_pollution=50.0, actual_pollution=v))
        for place, t, v in hours
    ]
    return {"device": recording(folder / "data", data), "edge": recording(folder / "infer", infer)}


def redshift(folder: Path) -> Patches:
    sent = [("oven", says(machine=m, at=stamp(t), celsius=v)) for m, t, v in rows(["oven-1", "oven-2"], 150)]
    return {"source": recording(folder, sent)}


def sensors(folder: Path) -> Patches:
    begin = int(BEGIN.timestamp())
    cities = [
        (
            f"cities/{c}",
            says(city=c, temperature=v, humidity=40.0, unix=begin + t, battery=3.3, firmware="1", message=t),
        )
        for c, t, v in rows(["york", "bath"], 90)
    ]
    stream = [
        ("stream", says(key=c, time=stamp(t), temperature=v, humidity=40.0, row_id=f"{c}{t}"))
        for c, t, v in rows(["york", "bath"], 90, seed=2)
    ]
    return {"sensors": recording(folder / "mqtt", cities), "stream": recording(folder / "stream", stream)}


def sparkplug(folder: Path) -> Patches:
    """As rows of its decoder: its messages are binary."""
    said = [
        {"machine": m, "at": stamp(t), "group_id": "g", "node": m, "event": "data", "metric": "celsius", "value": v,
         "quality": "good", "historical": False}
        for m, t, v in rows(["g/oven-1", "g/oven-2"], 150)
    ]  # fmt: skip
    for second in (50, 100):
        for event in ("death", "birth"):
            said.append({**said[0], "at": stamp(second + 5 * (event == "birth")), "event": event, "metric": None})
    said.sort(key=lambda one: one["at"])
    text, none = "category", {"type": "category", "optional": True}
    columns = {
        "machine": text, "at": "timestamp", "group_id": text, "node": text, "device": none, "event": text,
        "metric": none, "value": {"type": "float", "optional": True}, "text": {"type": "text", "optional": True},
        "type": none, "quality": text, "historical": "bool",
    }  # fmt: skip
    sent = [("spBv1", json.dumps(one)) for one in said]
    return {"source": recording(folder, sent, decode={"json": {"columns": columns}})}


def warehouse(folder: Path) -> Patches:
    """Documents of each collection, nested under its name, with the key and the time of change in them."""
    documents = []
    for number in range(40):
        day = stamp(60 * number)
        documents += [
            ("machines", {"machines": {"name": f"m{number}", "installed": day}}),
            ("workorders", {"workorders": {"machine": f"m{number}", "hours": 1.5, "done": number % 2 == 0}}),
            ("parts", {"parts": {"workorder": f"w{number}", "part": "gasket", "price": 2.5 + number}}),
        ]
    sent = [(of, says(id=f"{of}-{n}", changed=stamp(n), at=stamp(n), **one)) for n, (of, one) in enumerate(documents)]
    optional = {
        "name": ("machines.name", "text"), "installed": ("machines.installed", "timestamp"),
        "machine": ("workorders.machine", "text"), "hours": ("workorders.hours", "float"),
        "done": ("workorders.done", "bool"), "workorder": ("parts.workorder", "text"),
        "part": ("parts.part", "text"), "price": ("parts.price", "float"),
    }  # fmt: skip
    columns = {name: {"path": path, "type": kind, "optional": True} for name, (path, kind) in optional.items()}
    decode = {
        "json": {
            "topic": "{collection}",
            "columns": {"id": "category", "changed": "timestamp", "at": "timestamp", **columns},
        }
    }
    return {"source": recording(folder, sent, decode=decode, time={"column": "at"})}


def made_up(duration: str, **more: str) -> Mapping[str, str]:
    """Settings of a plant that is made up: a while of it, as fast as it is read."""
    return {f"source.simulate.{name}": value for name, value in {"duration": duration, "rate": "0", **more}.items()}


EXAMPLES: Mapping[str, Example] = {
    "cpu": Example(("source", "results.0.job"), stays=("results.0.job",), sources=host_alone),
    "demo": Example(("computer", "plant"), sources=demo, settings={"watch.detector": "{health: {learn: 40, span: 4}}"}),
    "downtime": Example(
        settings=made_up(
            "40m",
            start="2026-01-05T06:50:00Z",
            every="10s",
            machines="{pump: pump}",
            faults="[{name: stop, machine: pump, start: 10m, duration: 10m}]",
        )
    ),
    "downtime-flink": Example(sources=downtime_flink),
    "http": Example(("source",), sources=http),
    "humidity": Example(("source", "outliers.0.files"), sources=humidity),
    "humidity_stream": Example(("devices", "outliers.0.files"), sources=humidity_stream),
    "influxdb": Example(sources=influxdb),
    "kafka/maintenance_log": Example(
        sources=maintenance_log, settings={"streams.rare.steps.0": "{categorize: {of: text, learn: 20, rarity: 0.1}}"}
    ),
    "kafka/outliers": Example(sources=outliers),
    "kafka/scara_archive": Example(sources=scara_archive),
    "kafka/scara_gateway": Example(("source",), sources=scara_gateway),
    "multi_metric": Example(("source", "results.0.job"), stays=("results.0.job",), sources=host_alone),
    "plant": Example(settings=made_up("20s", start="2026-01-05T05:00:00Z", history="0s", stands_still="false")),
    "plugin/furnace": Example(("readings.0.sqlite",), settings={"source.furnace.readings": "600"}),
    "pollution": Example(("device", "edge"), sources=pollution),
    "population": Example(("results.1.job",), stays=("results.1.job",)),
    "postgres": Example(settings={"source.postgres.follow": "false"}),
    "redshift": Example(("minutes.0.redshift",), sources=redshift),
    "scara": Example(("topic", "aggregate.2.rekey", "archive.1.files"), stays=("aggregate.2.rekey",), sources=scara),
    "scara/forecast": Example(
        ("source",),
        sources=scara_forecast,
        settings={"streams.leaves_limits.steps.0": "{alarm: {rule: forecast, of: ahead, low: 20, high: 20}}"},
    ),
    "sensors": Example(("sensors",), sources=sensors),
    "sparkplug": Example(("source",), sources=sparkplug),
    "vibration": Example(
        settings=made_up("6m", faults="[{name: outer_race, machine: hall/motor-1, start: 0s, growth: 1s}]")
    ),
    "warehouse": Example(("machines.0.postgres", "workorders.0.postgres", "parts.0.postgres"), sources=warehouse),
}
"""Every pipeline of the folder ``examples``, by its place there."""
