"""Files as people really have them: what can be read is, what cannot is told with what to do about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tocsin.cli import main
from tocsin.cli.watch import checked, told_alarms
from tocsin.errors import ConfigError
from tocsin.infer.conclude import Conclusion, conclude
from tocsin.infer.sample import Piece, Sample
from tocsin.infer.writing import pipeline_file
from tocsin.lake.read import query


def of(text: str | bytes, name: str = "a.csv") -> Conclusion:
    payload = text.encode() if isinstance(text, str) else text
    return conclude(Sample([Piece(name, payload)], is_files=True))


def table(head: str, lines: Sequence[str]) -> str:
    return "\n".join([head, *lines]) + "\n"


def kept(text: str, folder: Path, name: str = "a.csv") -> list[dict[str, Any]]:
    """What a run of the file that is made keeps, by its time."""
    (folder / name).write_text(text)
    made = of(text, name)
    lake = folder / "lake"
    written = pipeline_file(made, "a", {"files": {"path": str(folder / name), **made.form.files}}, folder=str(lake))
    checked(written, lake, Sample([Piece(name, text.encode())], is_files=True))
    done = CliRunner().invoke(main, ["run", str(lake / "watch.yaml")])
    assert done.exit_code == 0, done.output
    return query("select * exclude (key, late) from readings order by all", lake).to_pylist()


AT = [f"2026-03-01T06:00:{i:02}Z" for i in range(30)]


def test_decimal_commas_in_quotes_between_commas(tmp_path: Path) -> None:
    text = table("Zeit,Maschine,Wert", [f'{at},M{i % 2},"{20 + i},05"' for i, at in enumerate(AT)])
    made = of(text)
    assert (made.form.settings["decimal"], made.signals.names) == (",", ("Wert",))
    assert [row["Wert"] for row in kept(text, tmp_path)] == [20.05 + i for i in range(30)]


def test_commas_before_three_digits_in_quotes_are_between_thousands() -> None:
    made = of(table("time,force", [f'{at},"1,{200 + i * 7 % 30}"' for i, at in enumerate(AT)]))
    assert (made.form.settings.get("decimal"), made.form.settings["thousands"]) == (None, ",")
    assert made.form.get("force").known[0] == 1200


def test_two_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    text = table("time,temp,temp,other,temp", [f"{at},{i}.5,{i}.25,{i}.75,{i}.125" for i, at in enumerate(AT)])
    made = of(text)
    assert made.signals.names == ("temp", "temp_2", "other", "temp_3")
    assert "temp stands several times in the header, so they are called temp, temp_2 ..." in "".join(made.form.reasons)
    read = kept(text, tmp_path)
    assert len(read) == 30
    assert list(read[0].values())[1:] == [0.5, 0.25, 0.75, 0.125]


def test_a_header_without_readings_is_told() -> None:
    with pytest.raises(ConfigError, match="only the names time, machine, temp stand there, and no reading yet"):
        of("time,machine,temp\n")


def test_the_newest_row_first_is_told() -> None:
    lines = [f"{at},{i}.5" for i, at in enumerate(AT)]
    first = "the newest row comes first, and rows are judged in the order in which they come; sort the file by its time"
    assert any(first in note for note in of(table("time,temp", lines[::-1])).notes)
    assert not any(first in note for note in of(table("time,temp", lines)).notes)


@pytest.mark.parametrize(
    ("head", "first", "said"),
    [
        ("Date", 46_082.25, "'Date' holds '46082.25', a day's number as a spreadsheet counts"),
        ("time", "06:00:00", "'time' holds '06:00:00', a time of day without its date"),
    ],
)
def test_a_time_that_cannot_be_read_is_named(head: str, first: object, said: str) -> None:
    lines = [f"{first + i / 1_440 if isinstance(first, float) else f'06:00:{i:02}'},{i % 7}.5" for i in range(30)]
    made = of(table(f"{head},temp", lines))
    assert (made.time.paths, made.rate) == ((), 1.0)
    assert said in made.time.reason


def test_numbers_that_are_written_as_text_here_and_there_are_not_taken_for_missing(tmp_path: Path) -> None:
    lines = [json.dumps({"time": at, "temp": str(i) if i % 10 == 5 else i / 2}) for i, at in enumerate(AT)]
    made = of("\n".join(lines), "a.ndjson")
    assert "null" not in pipeline_file(made, "a", {"files": {"path": "a.ndjson"}})
    assert [row["temp"] for row in kept("\n".join(lines), tmp_path, "a.ndjson")] == [
        i / 2 for i in range(30) if i % 10 != 5
    ]
    assert query("select reason, count(*) as n from quarantine group by 1", tmp_path / "lake").to_pylist() == [
        {"reason": "type", "n": 3}
    ]


def test_texts_over_several_lines_are_refused() -> None:
    lines = [f'"{at}","line one\nline ""two""","{i}.5"' for i, at in enumerate(AT)]
    with pytest.raises(ConfigError, match="texts in quotes go over several lines; write each record in one line"):
        of(table('"time","note","temp"', lines))
    made = of(table('"time","note","temp"', [line.replace("\n", " ") for line in lines]))
    assert (made.time.paths, made.signals.names) == (("time",), ("temp",))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"PK\x03\x04", "it is a zip archive, as workbooks .xlsx are; save the sheet as CSV, or unpack it"),
        (b"\xd0\xcf\x11\xe0", "it is a workbook of Excel; save the sheet as CSV"),
    ],
)
def test_workbooks_are_named(head: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        of(head + bytes(100), "a.xlsx")


def test_what_was_too_short_to_be_judged_is_not_called_well(tmp_path: Path) -> None:
    text = table("time,machine,temp", [f"{at},m{int(i > 27)},{i % 3}.5" for i, at in enumerate(AT)])
    kept(text, tmp_path)
    assert told_alarms(tmp_path / "lake", "a", 28) == (
        "a: nothing was judged: 28 readings of a machine are learnt first, and there are 28 at most"
    )
    assert told_alarms(tmp_path / "lake", "a", 20) == (
        "a: nothing rang: no machine left what it was like at the beginning; "
        "1 of 2 was not judged, since 20 readings are learnt first"
    )


def test_times_that_carry_the_name_of_their_zone_are_read_there(tmp_path: Path) -> None:
    text = table("time,temp", [f"2026-03-01T06:00:{i:02}[Europe/Berlin],{i}.5" for i in range(30)])
    made = of(text)
    assert (made.zone, made.zone_reason) == ("Europe/Berlin", "as the times say")
    assert f"{kept(text, tmp_path)[0]['time']:%H:%M}" == "05:00"


@pytest.mark.parametrize("is_nested", [True, False])
def test_readings_under_their_times(tmp_path: Path, is_nested: bool) -> None:
    text = json.dumps({at: {"temp": i / 2, "load": i % 7} if is_nested else i / 2 for i, at in enumerate(AT)})
    made = of(text, "a.json")
    assert (made.time.paths, made.form.settings["rows"]) == (("@key",), "$")
    read = kept(text, tmp_path, "a.json")
    assert [row["temp" if is_nested else "value"] for row in read] == [i / 2 for i in range(30)]
    assert f"{read[29]['time']:%H:%M:%S}" == "06:00:29"


def test_a_list_for_each_column_is_refused_with_what_to_write() -> None:
    columns = {"time": AT * 10, "temp": [i / 2 for i in range(300)]}
    with pytest.raises(ConfigError, match="its fields are lists, one for each column; write a record for each reading"):
        of(json.dumps(columns), "a.json")
    written = [json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    assert of("\n".join(written), "a.ndjson").signals.names == ("temp",)


def test_lines_that_end_with_cr_alone_are_refused_with_what_to_write() -> None:
    text = table("time,temp", [f"{at},{i}.5" for i, at in enumerate(AT)])
    with pytest.raises(ConfigError, match="its lines end with CR alone; write them with LF or CR LF"):
        of(text.replace("\n", "\r"))
    assert of(text.replace("\n", "\r\n")).signals.names == of(text).signals.names == ("temp",)


def test_units_behind_numbers_are_named() -> None:
    said = "'temp' holds '0.5 °C', a number and its unit; write the unit into the name of the column"
    with pytest.raises(ConfigError, match=f"no field looks like a signal.*; {said}"):
        of(table("time,temp", [f"{at},{i}.5 °C" for i, at in enumerate(AT)]))
    made = of(table("time,temp,load", [f"{at},{i}.5 °C,{i % 7}.5" for i, at in enumerate(AT)]))
    assert any(note.startswith(said) for note in made.notes)
    made = of(table("time,temp in °C", [f"{at},{i}.5" for i, at in enumerate(AT)]))
    assert made.signals.names == ("temp in °C",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n"a": 1\n}\n' * 9, "it begins as JSON does, but is neither one document nor a record each line"),
        ("<!DOCTYPE html><html><body>Sign in</body></html>", "it is a web page, as a server sends to sign in"),
    ],
)
def test_what_is_no_data_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        of(text, "a.json")


def test_a_time_in_no_known_form_is_named() -> None:
    made = of(table("Zeit;temp", [f"{i + 1}. März 2026 06:00;{i % 7},5" for i in range(30)]))
    assert "'Zeit' holds '1. März 2026 06:00', in no form of a time that is known" in made.time.reason
