"""Keys spread over groups, elements shuffled, state through bytes at each barrier: the rows of the embedded run."""

from __future__ import annotations

import random
import zlib
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from timed_readings import write_readings

from tocsin import Pipeline, read
from tocsin.batch import START, empty
from tocsin.cli import main
from tocsin.engine.chain import Chain
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.keyed import KeyGroup, Passage, element, refusals, spread, spread_by
from tocsin.engine.recovery import Effects
from tocsin.pipeline.plan import Plan

GROUPS = 5


def pipeline(folder: Path, data: Path, **more: Any) -> Pipeline:
    window = {"window": {"every": "20s", "collect": ["time", "value"]}}
    streams = {
        "high": {"steps": [window, {"zscore": {"of": "value"}}, "explode", {"keep": "abs(z) > 1.2"},
                           {"select": ["value", "z"]}], "sinks": [{"delta": "high"}]},
        "alarms": {"steps": [{"derive": {"hot": "value > 60"}}, {"alarm": {"rule": "hot", "when": "hot"}},
                             {"select": ["event", "rule", "id", "value"]}], "sinks": [{"delta": "alarms"}]},
    }  # fmt: skip
    return Pipeline.model_validate(
        {
            "name": "spread", "source": {"files": {"path": str(data)}}, "key": "m", "folder": str(folder),
            "decode": {"json": {"columns": {"m": "category", "t": "timestamp", "value": "float"}}},
            "time": {"column": "t", "lateness": "2s"}, "streams": streams, **more,
        }
    )  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    last = '{"m": "m1", "t": "never", "value": 1.0}\n'
    return write_readings(tmp_path / "in.ndjson", 300, 9, late_share=0.01, last=last)


def spread_out(plan: Plan, rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """Run a plan as a cluster would: by group, bundles in any order, every state through bytes at each barrier."""
    out: dict[str, list[dict[str, Any]]] = defaultdict(list)
    states: dict[int, bytes] = {}
    (origin,) = plan.sources
    connection = origin.source.open(Effects().world(plan, "ingest", origin.id))
    (split,) = connection.splits()
    reader, chain = connection.read(split, None), Chain(origin, split.name)
    queues: dict[int, deque[bytes]] = defaultdict(deque)
    watermark_us = START
    while chain.watermark_us < 2**63 - 1:
        polled = reader.poll(200, 0.1)
        for batch in chain.through(polled[0]) if polled else ():
            if batch.port == "out":
                watermark_us = chain.watermark_us = max(watermark_us, batch.watermark_us)
            passage = Passage(origin.id, split.name, (split.name,), watermark_us, batch.port)
            for group, rows in spread(batch.rows, GROUPS):
                queues[group].append(element(rows, passage))
        live = {group: KeyGroup(plan, states.get(group)) for group in range(GROUPS)}
        ready = [group for group, queue in queues.items() for _ in queue if rng.random() < 0.6]
        ended = chain.watermark_us == 2**63 - 1
        for group in [*rng.sample(ready, len(ready)), *(sorted(queues) * 500 if ended else ())]:
            if queues[group]:
                for sink, batches in live[group].take(queues[group].popleft()).items():
                    out[sink] += [row for rows in batches for row in rows.to_pylist()]
        states = {group: one.dump() for group, one in live.items()}
    assert not any(queues.values())
    reader.close()
    connection.close()
    return out


def as_set(rows: list[dict[str, Any]]) -> list[str]:
    """All columns of all rows; but rejected rows bear the time of their arrival, which no two runs share."""
    kept = [{name: str(value) for name, value in row.items() if "sha256" not in row or name != "time"} for row in rows]
    return sorted(str(sorted(row.items())) for row in kept)


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_those_of_the_embedded_run(data: Path, tmp_path: Path, seed: int) -> None:
    made = pipeline(tmp_path / "embedded", data)
    EmbeddedRunner(made.plan()).run()
    plan = pipeline(tmp_path / "spread", data).plan()
    assert refusals(plan) == []
    out = spread_out(plan, random.Random(seed))
    by_table = {target.part.path: out[target.id] for target in plan.sinks}
    assert len(by_table["high"]) > 50
    assert by_table["alarms"]
    assert by_table["late_source"]
    assert len(by_table["quarantine"]) == 1
    for table, rows in by_table.items():
        kept = read(table, tmp_path / "embedded").to_pylist()
        assert as_set(rows) == as_set(kept), table


def test_what_cannot_be_spread_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    hot = {"steps": [{"derive": {"hot": "value > 60"}}, {"alarm": {"rule": "hot", "when": "hot"}}]}
    calls = {"from": "hot", "steps": [{"cases": {"depth": 1, "separator": ":"}}], "sinks": [{"notify": "console"}]}
    other = {"steps": [{"derive": {"room": "'hall'"}}, {"rekey": "room"}, {"select": ["value"]}]}
    streams = {"hot": hot, "calls": calls, "other": other}
    said = refusals(pipeline(tmp_path, data, streams=streams).plan())
    assert [one.partition(":")[0] for one in said] == ["calls.0.cases", "other.1.rekey"]
    assert "rows of several keys together" in said[0]
    live = refusals(pipeline(tmp_path, data, source={"mqtt": {"url": "mqtt://x", "topic": "a"}}).plan())
    assert len(live) == 1
    assert "mqtt cannot be read again" in live[0]


def test_a_group_without_rows_hears_the_time(data: Path, tmp_path: Path) -> None:
    plan = pipeline(tmp_path, data).plan()
    told = list(spread(empty(plan.sources[0].schemas["out"]), GROUPS))
    assert [group for group, _ in told] == list(range(GROUPS))
    one = KeyGroup(plan)
    assert one.take(element(told[0][1], Passage("source", "a", ("a",), 5, "out"))) == {}
    assert b'"source/a": 5' in one.dump()


def test_each_group_has_its_rows_in_their_order_and_no_key_of_another() -> None:
    rng, names = random.Random(3), [f"m{number}" for number in range(40)]
    codes = [rng.randrange(30) for _ in range(500)]  # ten keys of the dictionary do not come
    keys = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names))
    came = pa.RecordBatch.from_arrays([keys, pa.array(range(500))], names=["key", "n"])
    seen: list[str] = []
    for group, rows in spread(came, 64):  # more groups than keys: some have no rows
        own = rows.column("key").dictionary.to_pylist()
        seen += own
        wanted = [row for row in came.to_pylist() if zlib.crc32(row["key"].encode()) % 64 == group]
        assert rows.to_pylist() == wanted
        assert set(own) == {row["key"] for row in wanted}
    assert sorted(seen) == sorted({names[code] for code in codes})


def test_keys_that_meet_in_a_step_are_in_one_group(data: Path, tmp_path: Path) -> None:
    """A series of each signal, and one case for a hall: both are where the first step of the key's path is."""
    hot = {"steps": [{"derive": {"hot": "value > 60"}}, {"alarm": {"rule": "hot", "when": "hot"}}]}
    by = {
        steps: spread_by(pipeline(tmp_path, data, streams={"hot": hot, "more": {"from": "hot", **more}}).plan())
        for steps, more in {
            "whole": {"steps": ["cases"]},
            "series": {"steps": [{"rekey": "{key}/{rule}"}]},
            "halls": {"steps": [{"cases": {"depth": 1}}]},
        }.items()
    }
    assert by == {"whole": "key", "series": "path", "halls": "path"}
    keys = pa.DictionaryArray.from_arrays(pa.array(range(40), pa.int32()), [f"h{n % 8}/m{n}" for n in range(40)])
    came = pa.RecordBatch.from_arrays([keys, pa.array(range(40))], names=["key", "n"])
    groups = {by: [rows.to_pylist() for _, rows in spread(came, 64, by)] for by in ("key", "path")}
    halls = [{row["key"].partition("/")[0] for row in rows} for rows in groups["path"] if rows]
    assert sorted(hall for some in halls for hall in some) == [f"h{n}" for n in range(8)]
    assert len([rows for rows in groups["key"] if rows]) > 8


def test_check_on_flink_refuses_by_name() -> None:
    example = str(Path(__file__).parents[2] / "examples" / "population.yaml")
    done = CliRunner().invoke(main, ["check", example, "--on", "flink"])
    assert done.exit_code == 2
    assert "on flink: results.1.job" in done.output
