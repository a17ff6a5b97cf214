"""Single conclusions: what is decided, why, and what is said where it cannot be known."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from tocsin.errors import ConfigError
from tocsin.infer.conclude import Conclusion, Hints, conclude
from tocsin.infer.delimited import table_of
from tocsin.infer.numbers import number_style
from tocsin.infer.sample import Piece, Sample
from tocsin.values.times import parse_times


def of_file(text: str, hints: Hints | None = None, encoding: str = "utf-8") -> Conclusion:
    return conclude(Sample([Piece("a.csv", text.encode(encoding))], is_files=True), hints)


def of_messages(*messages: tuple[str, object]) -> Conclusion:
    pieces = [Piece(t, p.encode() if isinstance(p, str) else json.dumps(p).encode()) for t, p in messages]
    return conclude(Sample(pieces))


def rows(*lines: str) -> str:
    return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("lines", "delimiter", "decimal", "thousands"),
    [
        (["a;b", "1,5;2,25", "3,5;4,5"], ";", ",", ""),
        (["a,b", "1.5,2", "3.5,4"], ",", ".", ""),
        (["a;b", "1.120,75;2", "980,5;4"], ";", ",", "."),
        (["a|b", "1|2.5", "3|4.5"], "|", ".", ""),
        (["a\tb", "2026-01-01 00:00:00\t2.5", "2026-01-01 00:00:01\t4.5"], "\t", ".", ""),
        (["1.5 2.5  3", "4 5.25  6"], " ", ".", ""),
        (["a,b", '"1,234.5",2', '"2,345.5",4'], ",", ".", ","),
    ],
)
def test_delimiter_and_numbers(lines: list[str], delimiter: str, decimal: str, thousands: str) -> None:
    table = table_of(rows(*lines))
    assert table is not None
    assert (table.delimiter, table.decimal, table.thousands) == (delimiter, decimal, thousands)


def test_a_point_with_three_digits_is_no_mark_between_thousands() -> None:
    assert number_style(["1.234", "2.345"]) == (".", "")
    assert number_style(["1.234", "2,5", "3,5"]) == (",", ".")


def test_lines_before_and_below_the_names_are_passed_over() -> None:
    table = table_of(rows("Stand 4", "Order 7", "t;force;speed", ";kN;1/min", "1;2,5;3,5", "2;2,6;3,6", "3;2,7;3,7"))
    assert table is not None
    assert (table.names, table.skip, table.has_header) == (("t", "force", "speed"), (1, 2, 4), True)


def test_text_without_a_table_is_none() -> None:
    assert table_of("Dear Sir\nyour machine is broken\nregards\n") is None


def test_what_is_no_text_is_refused_with_its_beginning() -> None:
    with pytest.raises(ConfigError, match=r"no text that is known \(it begins with b'\\x00\\x01"):
        conclude(Sample([Piece("t", b"\x00\x01\x02" * 20)]))


# --------------------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("times", "format"),
    [
        (["24.11.2025 06:00:00", "25.11.2025 06:00:00"], "%d.%m.%Y %H:%M:%S"),
        (["11/24/2025 06:00:00 AM", "11/25/2025 06:00:00 PM"], "%m/%d/%Y %I:%M:%S %p"),
        (["24/11/2025 06:00", "25/11/2025 06:00"], "%d/%m/%Y %H:%M"),
        (["3/7/2025 06:00", "3/8/2025 06:00", "3/9/2025 06:00"], "%m/%d/%Y %H:%M"),
        (["7/3/2025 06:00", "8/3/2025 06:00", "9/3/2025 06:00"], "%d/%m/%Y %H:%M"),
        (["24.11.25 06:00:00,250", "24.11.25 06:00:01,250"], "%d.%m.%y %H:%M:%S,%f"),
        (["20251124060000", "20251124060010"], "%Y%m%d%H%M%S"),
    ],
)
def test_forms_of_times(times: list[str], format: str) -> None:
    made = of_file(rows("when;force", *(f"{time};{i},5" for i, time in enumerate(times))))
    assert (made.time.paths, made.time.format, made.time.is_local) == (("when",), format, True)


@pytest.mark.parametrize(("first", "unit"), [(1.7e9, "s"), (1.7e12, "ms"), (1.7e15, "us"), (1.7e18, "ns")])
def test_units_of_numbers_since_1970(first: float, unit: str) -> None:
    made = of_file(rows("ts,force", *(f"{int(first) + i},{i}.5" for i in range(4))))
    assert (made.time.paths, made.time.unit) == (("ts",), unit)


def test_the_devices_own_time_goes_before_that_of_the_server() -> None:
    lines = [json.dumps({"received_at": f"2026-01-01T00:00:0{i}Z", "ts": 1.7e9 + i, "force": i / 2}) for i in range(5)]
    assert of_file(rows(*lines)).time.paths == ("ts",)


def test_day_and_month_that_cannot_be_told_apart_are_said() -> None:
    made = of_file(rows("when,force", "3/7/2025 06:00,1.5", "3/7/2025 06:01,2.5"))
    assert made.time.is_ambiguous
    (note,) = [note for note in made.notes if "day and month" in note]
    assert made.time.format is not None
    assert f"read as {made.time.format}. If not, change it in the file" in note
    changed = made.time.format.replace("%m/%d", "%d/%m")
    assert changed != made.time.format
    for stamp in (made.time.format, changed):
        assert parse_times(pa.array(["3/7/2025 06:00"]), format=stamp, zone="UTC")[0].null_count == 0


def test_without_a_time_messages_count_by_arrival_and_rows_of_files_are_counted() -> None:
    assert of_messages(*(("plant/a", {"force": i / 2}) for i in range(5))).time.paths == ()
    made = of_file(rows("force", "1.5", "2.5", "3.5"))
    assert (made.time.paths, made.rate) == ((), 1.0)


def test_times_that_go_back_are_waited_for() -> None:
    made = of_file(rows("ts,force", *(f"{1_700_000_000 + (i if i % 5 else i - 40)},{i}.5" for i in range(40))))
    assert made.time.lateness_s >= 40


def test_files_from_the_future_are_taken_and_it_is_said() -> None:
    sample = Sample([Piece("a.csv", rows("ts,force", "1700000000,1.5", "1700000001,2.5").encode())], is_files=True)
    for now_s, is_ahead in ((1_700_000_002, False), (1_600_000_000, True)):
        made = conclude(sample, now_us=now_s * 1_000_000)
        assert made.time.is_ahead is is_ahead
        assert ("some times lie in the future" in made.notes) is is_ahead


# ------------------------------------------------------------------------------------------------------------ machines


def test_a_column_with_few_names_is_the_machine_and_a_text_for_each_row_is_not() -> None:
    lines = [f"2026-01-01T00:00:{i:02}Z,batch {i},press {i % 2},{i}.5" for i in range(40)]
    assert of_file(rows("time,charge,unit,force", *lines)).machine.path == "unit"


def test_a_level_of_the_topic_is_the_machine_and_another_the_signal() -> None:
    topics = [f"hall/{machine}/{signal}" for machine in ("a1", "a2") for signal in ("temp", "load")]
    made = of_messages(*((topic, f"{i}.5") for i in range(3) for topic in topics))
    assert (made.machine.template, made.machine.key) == ("hall/{machine}/{signal}", "machine")
    assert made.signals.named_by == "topic"


def test_the_same_name_under_two_lines_is_two_machines() -> None:
    made = of_messages(
        *((f"acme/line{n}/press{m}/data", {"force": i / 2}) for i in range(3) for n in (1, 2) for m in (1, 2))
    )
    assert made.machine.key == "{level1}/{machine}"
    assert len(made.machine.names) == 4


def test_signals_with_further_levels_keep_them_in_their_name() -> None:
    made = of_messages(
        *(
            (f"shellies/{d}/{s}", "1.5")
            for _ in range(3)
            for d in ("p1", "p2")
            for s in ("relay/0/power", "temperature")
        )
    )
    assert made.machine.template == "shellies/{machine}/{signal...}"


def test_files_side_by_side_are_machines_and_files_after_each_other_are_one_log() -> None:
    def lines(hour: int) -> bytes:
        return rows("time,force", *(f"2026-01-01T{hour:02}:00:{i:02}Z,{i}.5" for i in range(5))).encode()

    beside = conclude(Sample([Piece("a.csv", lines(6)), Piece("b.csv", lines(6))], is_files=True))
    after = conclude(Sample([Piece("a.csv", lines(6)), Piece("b.csv", lines(7))], is_files=True))
    assert (beside.machine.template, after.machine.template) == ("{machine}", None)


def test_what_a_person_says_goes_first() -> None:
    text = rows("line,machine,t1,t2,force", *(f"L{i % 2},m{i % 4},{i},{1_700_000_000 + i},{i}.5" for i in range(12)))
    made = of_file(text, Hints(machine="line", time="t2", signals=("force",)))
    assert (made.machine.path, made.time.paths, made.signals.names) == ("line", ("t2",), ("force",))
    with pytest.raises(ConfigError, match=r"there is no field 'place'; there are \[line"):
        of_file(text, Hints(machine="place"))
    with pytest.raises(ConfigError, match="'machine' holds no times that can be read"):
        of_file(text, Hints(time="machine"))


# ------------------------------------------------------------------------------------------------------------- signals


def test_ids_counters_and_radio_are_no_signals() -> None:
    record = {"device": "a", "seq": 1, "rssi": -80, "temperature": 20.5, "gateway": {"snr": 7}, "uptime": 12}
    made = of_messages(*(("t", {**record, "seq": i}) for i in range(5)))
    assert made.signals.names == ("temperature",)
    assert set(made.signals.left_out) == {"seq", "rssi", "gateway.snr", "uptime"}


def test_a_row_that_names_its_signal() -> None:
    lines = [json.dumps({"asset": "m1", "tag": tag, "value": i / 2, "ts": 1.7e9 + i}) for i in range(6) for tag in "ab"]
    made = of_file(rows(*lines))
    assert (made.machine.path, made.signals.named_by, made.signals.names) == ("asset", "tag", ("a", "b"))


def test_a_source_without_signals_says_which_fields_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no field looks like a signal.*\[machine, id\].*--signals"):
        of_file(rows("machine,id", "press 1,7", "press 2,9", "press 2,8"))


# ------------------------------------------------------------------------------------------- what long files have shown


def test_more_rows_than_are_looked_at_change_nothing() -> None:
    lines = [f"2026-01-01 {i // 3600:02}:{i // 60 % 60:02}:{i % 60:02},p{i % 2},{i % 7}.5" for i in range(590)]
    beside = [Piece(name, rows("time,pump,flow", *lines).encode()) for name in ("a.csv", "b.csv", "c.csv")]
    made = conclude(Sample(beside, is_files=True))
    assert (made.time.paths, made.machine.path) == (("time",), "pump")


def test_a_date_that_is_spread_over_columns_is_put_together() -> None:
    lines = [f"{i},2010,1,{1 + i // 24},{i % 24},{i % 9}.5" for i in range(60)]
    made = of_file(rows("No,year,month,day,hour,pm2.5", *lines))
    assert (made.time.paths, made.time.format) == (("year", "month", "day", "hour"), "%Y %m %d %H")
    assert (made.machine.path, made.signals.names) == (None, ("pm2.5",))


def test_a_measured_number_is_no_machine_by_its_name_alone() -> None:
    lines = [f"2026-01-01 00:00:{i:02},{1020 + i % 3}.0,{i % 9}.5" for i in range(40)]
    assert of_file(rows("time,press,temp", *lines)).machine.path is None
