"""Fields that nobody listed: each number is a row with the name of its signal, bounded, and told once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from tocsin.decode._base import raw
from tocsin.decode.csv import Csv
from tocsin.decode.json import Json
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.errors import ConfigError
from tocsin.lake.read import query
from tocsin.pipeline.model import Pipeline
from tocsin.pipeline.parts import build
from tocsin.testing import feed


def signals(decoder: Json | Csv, *payloads: bytes) -> list[tuple[str, float]]:
    left = feed(decoder, raw(list(payloads)))
    return list(zip(left["signal"].to_pylist(), left["value"].to_pylist(), strict=True))


def test_every_number_that_is_no_column_is_a_signal() -> None:
    decoder = Json(columns={"machine": "category", "id": {"path": "meta.id", "type": "int"}}, signals="auto")
    others = b'"on": true, "state": "run", "list": [1], "p": null'
    record = b'{"machine": "m1", "meta": {"id": 7, "rssi": -60}, "t": 21.5, %s}' % others
    left = feed(decoder, raw([record]))
    assert left.select(["machine", "id", "signal", "value"]).to_pylist() == [
        {"machine": "m1", "id": 7, "signal": "meta.rssi", "value": -60.0},
        {"machine": "m1", "id": 7, "signal": "t", "value": 21.5},
    ]


def test_auto_as_columns_stands_for_no_columns_and_all_signals() -> None:
    decoder = build("decoder", {"json": {"columns": "auto", "topic": "plant/{machine}"}})
    assert isinstance(decoder, Json)
    assert (dict(decoder.columns), decoder.signals) == ({}, ("auto",))
    assert decoder.decoded_schema.names == ["signal", "value", "machine", "received"]
    assert build("decoder", {"json": decoder.model_dump(mode="json", exclude_defaults=True)}) == decoder


def test_names_in_braces_become_columns() -> None:
    decoder = Csv(
        columns={"at": "timestamp"},
        signals=["Ax_J{n}.{what}", "Temp"],
        fields=["at", *AXES, "Temp", "x"],
        decimal=",",
        delimiter=";",
    )
    left = feed(decoder, raw([b"2026-01-01T00:00:00Z;1,5;2;;4;99"]))
    assert left.select(["signal", "n", "what", "value"]).to_pylist() == [
        {"signal": "Ax_J1.Torque", "n": "1", "what": "Torque", "value": 1.5},
        {"signal": "Ax_J2.Torque", "n": "2", "what": "Torque", "value": 2.0},
        {"signal": "Temp", "n": None, "what": None, "value": 4.0},
    ]  # fmt: skip


AXES = ["Ax_J1.Torque", "Ax_J2.Torque", "Ax_J3.Torque"]


def test_each_file_has_the_signals_of_its_own_header() -> None:
    decoder = Csv(columns="auto", header="each")
    assert signals(decoder, b"a,b\n1,2\n3,on", b"b,c\n4,5") == [("a", 1), ("b", 2), ("a", 3), ("b", 4), ("c", 5)]


@pytest.mark.parametrize(
    ("wanted", "record", "reason"),
    [
        ("t{n}", b'{"t1": "broken", "t2": 5}', "type"),
        ("auto", b'{"t1": 1e999, "t2": 5}', "number_range"),
        ("auto", b'{"%s": 1, "t2": 5}' % (b"x" * 129), "encoding"),
    ],
)
def test_a_field_that_cannot_be_read_is_set_aside_alone(wanted: str, record: bytes, reason: str) -> None:
    decoder = Json(columns={}, signals=wanted)
    assert signals(decoder, record) == [("t2", 5.0)]
    assert feed(decoder, raw([record]), port="rejected")["reason"].to_pylist() == [reason]


def test_a_record_without_any_signal_is_set_aside() -> None:
    decoder = Json(columns="auto")
    assert feed(decoder, raw([b'{"state": "online"}']), port="rejected")["reason"].to_pylist() == ["missing_field"]


def test_rows_in_a_record_have_signals_of_their_own() -> None:
    decoder = Json(columns={"slave": {"path": "$.slave", "type": "text"}}, signals="auto", rows="points")
    assert signals(decoder, b'{"slave": "s", "points": [{"a": 1}, {"a": 2, "b": 3}]}') == [("a", 1), ("a", 2), ("b", 3)]


@pytest.mark.parametrize("wrong", ["Ax_J{n}.{n}", "{signal}", "{", "a}b", ""])
def test_a_pattern_that_is_none_is_told(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"write auto, a name, or a pattern|twice, or it is taken"):
        Json(columns={}, signals=wrong)


def test_other_decoders_name_what_they_have() -> None:
    with pytest.raises(PydanticCustomError) as told:
        build("decoder", {"influx": {"columns": "auto"}})
    assert [place for place, _ in (told.value.context or {})["errors"]] == [("influx", "columns")]


def plant(folder: Path, lines: list[str], **more: Any) -> Pipeline:
    (folder / "in.ndjson").write_text("\n".join(lines), encoding="utf-8")
    columns = {"machine": "category", "ts": {"type": "timestamp", "unit": "s"}}
    return Pipeline.model_validate(
        {
            "name": "plant",
            "folder": str(folder / "data"),
            "source": {"files": {"path": str(folder / "in.ndjson")}},
            "decode": {"json": {"columns": columns, "signals": "auto", "signals_max": 3}},
            "key": "machine",
            "time": {"column": "ts", "lateness": "10s"},
            "streams": {"readings": {"sinks": [{"delta": "readings"}]}},
            **more,
        }
    )


def test_a_new_signal_is_told_once_and_too_many_are_set_aside(tmp_path: Path) -> None:
    lines = [
        '{"machine": "a", "ts": 1767225600, "x": 1}',
        '{"machine": "a", "ts": 1767225601, "x": 2, "y": 3}',
        '{"machine": "a", "ts": 1767225602, "x": 4, "z": 5, "w": 6}',
        '{"machine": "b", "ts": 1767225603, "x": 7}',
    ]
    EmbeddedRunner(plant(tmp_path, lines).plan()).run()

    def rows(sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in query(sql, tmp_path / "data").to_pylist()]

    assert rows("select key, signal, number, epoch(time)::bigint from new_signals order by time, number") == [
        ("a", "x", 1, 1767225600), ("a", "y", 2, 1767225601), ("a", "z", 3, 1767225602), ("b", "x", 1, 1767225603),
    ]  # fmt: skip
    assert rows("select key, signal, value from readings order by time, signal")[-3:] == [
        ("a", "x", 4.0), ("a", "z", 5.0), ("b", "x", 7.0),
    ]  # fmt: skip
    assert rows("select key, reason, decode(payload) like '%\"w\": 6%' from quarantine") == [
        ("a", "signal_limit", True)
    ]


def test_a_stream_can_take_what_is_new(tmp_path: Path) -> None:
    told = {
        "readings": {"sinks": [{"delta": "readings"}]},
        "told": {"from": "source.new", "sinks": [{"delta": "told"}]},
    }
    pipeline = plant(tmp_path, ['{"machine": "a", "ts": 1767225600, "x": 1}'], streams=told)
    EmbeddedRunner(pipeline.plan()).run()
    assert query("select signal from told", tmp_path / "data").to_pylist() == [{"signal": "x"}]
    assert not (tmp_path / "data" / "new_signals").exists()


def test_a_column_that_auto_does_not_make_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'machine'.*\[.*signal, value"):
        plant(tmp_path, [], decode={"json": {"columns": "auto"}}).plan()
