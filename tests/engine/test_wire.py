"""What the engine says of its streams: from the plan, with the column that each verdict is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tocsin.batch import OUT, Batch
from tocsin.engine.counters import Counters
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.graph import Feed
from tocsin.engine.wire import (
    Counted,
    Noticed,
    PartCounted,
    Rejected,
    StreamColumns,
    decode_counted,
    encode_counted,
    streams_of,
)
from tocsin.estimate.model import EXAMPLE
from tocsin.pipeline.model import Pipeline

COLUMNS = {"machine": "text", "ts": "timestamp", "t_in": "float", "t_out": "float", "state": "category"}


def streams(folder: Path, *names: str, **described: object) -> dict[str, StreamColumns]:
    pipeline = Pipeline.model_validate(
        {
            "name": "plant", "folder": folder, "source": {"files": {"path": "x.ndjson"}},
            "decode": {"json": {"columns": COLUMNS}}, "key": "machine", "time": {"column": "ts"}, "streams": described,
        }
    )  # fmt: skip
    return {stream.name: stream for stream in streams_of(pipeline.plan(), names)}


def test_a_verdict_is_about_what_the_detector_was_told_to_judge(tmp_path: Path) -> None:
    told = streams(
        tmp_path,
        judged={"steps": [{"ewma": {"of": "t_out"}}]},
        kept={"from": "judged", "steps": [{"keep": "score > 75"}, {"derive": {"columns": {"twice": "2 * t_in"}}}]},
        alarms={"from": "kept", "steps": ["alarm"]},
    )
    assert (told["judged"].judged, told["judged"].values) == ("t_out", ("t_in", "t_out"))
    assert (told["kept"].judged, told["kept"].band) == (
        "t_out",
        tuple((name, name) for name in ("expected", "lower", "upper", "score")),
    )
    assert told["kept"].state == "state"
    assert (told["source"].kind, told["source"].judged) == ("readings", "")
    assert told["alarms"].kind == "alarms"


def test_a_stream_names_the_tables_that_keep_it_or_what_it_is_made_of(tmp_path: Path) -> None:
    told = streams(
        tmp_path,
        readings={"sinks": [{"delta": "all"}]},
        judged={"from": "readings", "steps": [{"ewma": {"of": "t_out"}}]},
        odd={"from": "judged", "steps": [{"keep": "score > 75"}], "sinks": [{"delta": "odd"}]},
    )
    assert {name: told[name].tables for name in ("readings", "judged", "odd")} == {
        "readings": ("all",), "judged": ("all",), "odd": ("odd",),
    }  # fmt: skip


def test_a_forecast_is_drawn_on_the_column_that_is_forecast(tmp_path: Path) -> None:
    told = streams(
        tmp_path,
        said={"steps": [{"forecast": {"of": "t_out"}}]},
        renamed={
            "steps": [
                {"forecast": {"of": "t_out"}},
                {"select": {"columns": ["y", "yhat", "yhat_lower", "yhat_upper", "t_in"]}},
            ]
        },
        judged={"steps": [{"ewma": {"of": "t_out"}}, {"forecast": {"of": "t_in"}}]},
    )
    band = {"expected": "yhat", "lower": "yhat_lower", "upper": "yhat_upper"}
    assert (told["said"].judged, told["said"].values, dict(told["said"].band)) == ("t_out", ("t_in", "t_out"), band)
    assert (told["renamed"].judged, told["renamed"].values) == ("y", ("y", "t_in"))
    assert dict(told["judged"].band)["expected"] == "expected"
    assert {"yhat", "ahead"} < set(told["judged"].values)


def test_a_column_that_was_renamed_is_not_guessed_at(tmp_path: Path) -> None:
    renamed = {"columns": [{"hot": "t_out"}, "t_in", "expected", "score"]}
    told = streams(tmp_path, judged={"steps": [{"ewma": {"of": "t_out"}}, {"select": renamed}]})
    assert (told["judged"].values, told["judged"].judged) == (("hot", "t_in"), "")


@pytest.mark.parametrize("names", [(), ("b",)])
def test_all_streams_or_those_that_are_named(tmp_path: Path, names: tuple[str, ...]) -> None:
    given = {name: {"steps": [{"keep": "t_in > 1"}]} for name in ("a", "b")}
    assert set(streams(tmp_path, *names, **given)) == (set(names) or {"source", "a", "b"})


def test_what_the_engine_counts_is_what_the_page_is_told() -> None:
    counters = Counters()
    counters.rows_in["plant"] += 3
    counters.rejected["plant", "json_syntax"] += 1
    counters.trouble = "the disk is full"
    snapshot = counters.snapshot({"readings": [("plant", OUT)]}, {"plant": 5}, Counter({("mqtt", "reconnects"): 2}), 9)
    told = decode_counted(encode_counted(msgspec.convert(snapshot, Counted)))
    assert told.rows_in == {"plant": 3}
    assert told.rejected == (Rejected("plant", "json_syntax", 1),)
    assert told.events == (Noticed("mqtt", "reconnects", 2),)
    assert told.trouble == "the disk is full"
    assert told.parts == {"plant": PartCounted(0, 4e-6)}
    assert set(snapshot) <= set(Counted.__struct_fields__)


def test_what_a_runner_tells_of_its_ends_is_what_the_page_is_told(tmp_path: Path) -> None:
    settings = {"machines": {"pump": "pump"}, "start": datetime(2026, 1, 1, tzinfo=UTC), "duration": "2s"}
    told: list[Counted] = []

    looked_at: list[tuple[str, int]] = []

    class Onlooker(Feed):
        looked_at = frozenset({"hot.0.keep"})

        def offer(self, stream: str, batch: Batch) -> None: ...

        def look(self, part: str, batch: Batch) -> None:
            looked_at.append((part, len(batch)))

        def counters(self, snapshot: Mapping[str, object]) -> None:
            told.append(msgspec.convert(snapshot, Counted))

    pipeline = Pipeline.model_validate(
        {
            "name": "plant", "folder": tmp_path, "source": {"simulate": settings},
            "streams": {
                "readings": {"sinks": [{"delta": "readings"}]},
                "hot": {"steps": [{"keep": "time is not null"}]},
            },
        }
    )  # fmt: skip
    EmbeddedRunner(pipeline.plan(), feed=Onlooker()).run()
    assert set(told[-1].sources) == {"source"}
    assert "readings.0.delta" in told[-1].sinks
    kept = told[-1].parts["hot.0.keep"].rows
    assert kept == told[-1].parts["source"].rows > 0
    assert {part for part, _ in looked_at} == {"hot.0.keep"}, "of what nobody looks at nothing is handed on"
    assert sum(rows for _, rows in looked_at) == kept


def test_how_long_trained_models_took_is_told_by_the_step_that_asked(tmp_path: Path) -> None:
    lines = [f'{{"machine": "m", "ts": "2026-01-01T00:{i:02}:00Z", "value": {20 + i % 3}}}' for i in range(12)]
    (tmp_path / "tide.ndjson").write_text("\n".join(lines))
    pipeline = Pipeline.model_validate(
        {
            "name": "plant", "folder": tmp_path / "data", "source": {"files": {"path": str(tmp_path / "tide.ndjson")}},
            "decode": {"json": {"columns": {"machine": "text", "ts": "timestamp", "value": "float"}}},
            "key": "machine", "time": {"column": "ts"},
            "streams": {
                "said": {
                    "steps": [{"model": {"model": "tide", "store": EXAMPLE}}],
                    "sinks": [{"delta": "said"}],
                }
            },
        }
    )  # fmt: skip
    runner = EmbeddedRunner(pipeline.plan())
    runner.run()
    counted = decode_counted(encode_counted(runner.snapshot()))
    (told,) = counted.inferences.items()
    assert told[0] == "said.0.model"
    assert told[1].count >= 1
    assert told[1].seconds > 0
