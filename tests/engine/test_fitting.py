"""State that grows old: what a changed pipeline keeps, what it forgets only when asked, and what comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tocsin
from tocsin.batch import Batch
from tocsin.contracts import Checkpoint, StepState
from tocsin.engine.checkpoint import peek
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.fitting import CHANGED, fit
from tocsin.engine.graph import Feed
from tocsin.errors import SchemaError, StateMismatch, UnknownName
from tocsin.pipeline.model import Pipeline
from tocsin.pipeline.yamlfile import load_with_plan

BEFORE = Path(__file__).parent / "state_before"
WINDOW = {"window": {"every": "10m", "compute": ["mean(v)", "count(*)"]}}
ZSCORE = {"zscore": {"of": "v", "learn": 10}}
HOT = {"alarm": {"rule": "hot", "of": "v", "high": 23}}


class StopAfter(Feed):
    """A feed that stops the runner once so many rows have come; at once where there are none to come."""

    def __init__(self, rows: int) -> None:
        self.left = rows
        self.runner: EmbeddedRunner | None = None

    def offer(self, stream: str, batch: Batch) -> None:
        self.left -= len(batch) if stream == "source" else 0
        self._stop_if_done()

    def counters(self, snapshot: Any) -> None:
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        assert self.runner is not None
        if self.left <= 0:
            self.runner.stop()


class Plant:
    """A file that grows, and a pipeline over it that changes from run to run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = 0

    def pipeline(self, steps: list[Any], **more: Any) -> Pipeline:
        stream = {"steps": steps, "sinks": more.pop("sinks", [{"delta": "out"}])}
        settings: dict[str, Any] = {
            "name": "plant",
            "folder": self.folder / "lake",
            "source": {"files": {"path": str(self.folder / "in.ndjson"), "follow": True}},
            "decode": {"json": {"columns": {"m": "text", "ts": "timestamp", "v": "float"}}},
            "key": "m",
            "time": {"column": "ts", "lateness": "5s"},
            "streams": {"s": stream},
        }
        return Pipeline.model_validate(settings | more)

    def run(self, steps: list[Any], rows: int = 0, forget: Any = (), **more: Any) -> None:
        """Let ``rows`` more rows come, and stop."""
        with (self.folder / "in.ndjson").open("a") as file:
            for i in range(self.written, self.written + rows):
                file.write(
                    json.dumps({"m": "pump", "ts": f"2026-01-01T{i // 60:02d}:{i % 60:02d}:00Z", "v": 20 + i % 5})
                )
                file.write("\n")
        feed = StopAfter(rows)
        feed.runner = EmbeddedRunner(self.pipeline(steps, **more).plan(), feed=feed, forget=forget)
        feed.runner.run()
        self.written += rows

    def last(self) -> Checkpoint:
        found = peek(self.folder / "lake" / ".state")
        assert found is not None
        return found

    def rows(self, table: str = "out") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = tocsin.read(table, self.folder / "lake").to_pylist()
        return found

    def scores(self) -> list[float | None]:
        return [row["score"] for row in sorted(self.rows(), key=lambda row: row["time"])]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_a_changed_limit_text_rule_or_sink_keeps_all_state(plant: Plant) -> None:
    plant.run([ZSCORE, HOT], 20)
    plant.run([{"zscore": {"of": "v", "learn": 10, "width": 3.0}}, {"alarm": {**HOT["alarm"], "high": 22}}], 5)
    changed = {"alarm": {**HOT["alarm"], "high": 21.5, "message": "{key} is hot", "rule": "hotter", "priority": 80}}
    plant.run([ZSCORE, changed], 5, sinks=[{"delta": "elsewhere"}], checkpoint="2s", idle_timeout="1h")
    whole = Plant(plant.folder / "whole")
    whole.folder.mkdir()
    whole.run([ZSCORE], 30)
    plant.run([ZSCORE], 5, sinks=[{"delta": "scores"}])
    whole.run([ZSCORE], 5)
    assert [row["score"] for row in plant.rows("scores")] == whole.scores()[30:]


def test_a_score_limit_moves_while_an_alarm_is_open(plant: Plant) -> None:
    """With the limit at 60 there are fewer levels than at 5; the alarm that is open at the lowest of them goes on."""
    plant.run([{"derive": {"score": "v"}}, {"alarm": {"rule": "odd", "of": "v", "score": 22}}], 18)
    plant.run([{"derive": {"score": "v"}}, {"alarm": {"rule": "odd", "of": "v", "score": 60}}], 7)
    events = [
        (row["event"].removeprefix("re"), row["value"]) for row in sorted(plant.rows(), key=lambda row: row["number"])
    ]
    assert events == [("raised", 22.0), ("cleared", 20.0)] * 3 + [("raised", 22.0), ("cleared", 23.0)]


def test_a_default_that_is_written_out_changes_nothing(plant: Plant) -> None:
    plain, written = plant.pipeline([WINDOW, {"dedupe": {}}]), plant.pipeline([WINDOW, {"dedupe": {"horizon": "10m"}}])
    assert plain.plan().prints() == written.plan().prints()


def test_a_changed_window_resets_that_step_only_and_only_when_asked(plant: Plant) -> None:
    streams = {"s": {"steps": [WINDOW], "sinks": [{"delta": "out"}]}, "z": {"steps": [ZSCORE], "from": "source"}}
    changed = {**streams, "s": {**streams["s"], "steps": [{"window": {**WINDOW["window"], "every": "20m"}}]}}
    plant.run([], 25, streams=streams)
    before = plant.last()
    with pytest.raises(StateMismatch, match=r"'s\.0\.window' .*--forget s\.0\.window"):
        plant.run([], streams=changed)
    assert plant.last() == before, "nothing was touched"
    plant.run([], forget=["s.0.window"], streams=changed)
    after = plant.last()
    assert after.states["z.0.zscore"].sha256 == before.states["z.0.zscore"].sha256
    assert "s.0.window" not in after.states
    assert after.offsets == before.offsets, "no row is read twice"
    plant.run([], 10, streams=changed)
    assert plant.last().states["s.0.window"].fingerprint != before.states["s.0.window"].fingerprint


@pytest.mark.parametrize("forget", [["s.0.dedupe"], "s.0.dedupe", CHANGED])
def test_the_remedies_of_a_mismatch_work(plant: Plant, forget: Any) -> None:
    plant.run([{"dedupe": {"by": "v"}}], 10)
    with pytest.raises(StateMismatch, match="forget-changed"):
        plant.run([{"dedupe": {"by": "v", "horizon": "1h"}}])
    plant.run([{"dedupe": {"by": "v", "horizon": "1h"}}], 10, forget=forget)
    plant.run([{"dedupe": {"by": "v", "horizon": "1h"}}], 10)
    assert len({row["time"] for row in plant.rows()}) == len(plant.rows()), "no row is read twice"
    assert plant.written == 30


def test_undoing_the_change_is_a_remedy_too(plant: Plant) -> None:
    plant.run([WINDOW], 12)
    with pytest.raises(StateMismatch):
        plant.run([{"window": {**WINDOW["window"], "every": "20m"}}])
    plant.run([WINDOW], 20)
    assert [row["count"] for row in plant.rows()] == [10, 10, 10]


def test_rolling_back_brings_the_old_state_back(plant: Plant) -> None:
    plant.run([ZSCORE], 20)
    old = plant.last().states["s.0.zscore"]
    other = {"zscore": {"of": "v", "learn": 12}}
    plant.run([other], 5, forget=CHANGED)
    assert plant.last().states["s.0.zscore"].sha256 != old.sha256
    plant.run([other], 5)
    plant.run([ZSCORE])
    assert plant.last().states["s.0.zscore"].sha256 == old.sha256
    plant.run([other])
    assert plant.scores()[-1] is None, "that one had only begun to learn, and was set aside in its turn"
    plant.run([ZSCORE], 3)
    assert None not in plant.scores()[-3:]


def test_a_forgotten_step_stays_forgotten(plant: Plant) -> None:
    plant.run([ZSCORE], 20)
    plant.run([ZSCORE], forget=["s.0.zscore"])
    plant.run([ZSCORE], 5)
    assert plant.scores()[-5:] == [None] * 5


def test_a_step_put_before_others_leaves_them_alone(plant: Plant) -> None:
    plant.run([ZSCORE, {"dedupe": {"horizon": "1h"}}], 20)
    before = plant.last()
    steps = [{"keep": "v > 0"}, {"dedupe": {"horizon": "1m"}}, ZSCORE, {"dedupe": {"horizon": "1h"}}]
    fitted = fit(plant.pipeline(steps).plan(), before)
    assert fitted.kept >= {"s.2.zscore", "s.3.dedupe"}
    assert fitted.checkpoint.states["s.3.dedupe"].sha256 == before.states["s.1.dedupe"].sha256
    assert not fitted.changed | fitted.removed
    plant.run(steps, 5)
    assert None not in plant.scores()[-5:]


def test_a_step_that_is_taken_away_leaves_the_others_alone_and_may_come_back(plant: Plant) -> None:
    plant.run([ZSCORE, HOT], 20)
    before = plant.last()
    plant.run([HOT], 3)
    plant.run([ZSCORE, HOT])
    assert plant.last().states["s.0.zscore"].sha256 == before.states["s.0.zscore"].sha256


def test_two_steps_of_one_name_are_told_apart_by_their_settings(plant: Plant) -> None:
    cold = {"alarm": {"rule": "cold", "of": "v", "low": 21}}
    plan = plant.pipeline([HOT]).plan()
    prints = [plan.prints()["s.0.alarm"], plant.pipeline([cold]).plan().prints()["s.0.alarm"]]
    last = Checkpoint(1, states={f"s.{i}.alarm": StepState(str(i), "", *one) for i, one in enumerate(prints)})
    fitted = fit(plant.pipeline([cold]).plan(), last)
    assert fitted.checkpoint.states["s.0.alarm"].place == "1"
    assert fitted.removed == {"s.0.alarm"}


def test_columns_of_another_type_do_not_wait_beside_each_other(plant: Plant) -> None:
    plant.run([WINDOW], 12)
    cast = [{"cast": {"v": "int"}}, WINDOW]
    with pytest.raises(StateMismatch, match=r"--forget s\.1\.window"):
        plant.run(cast)
    plant.run(cast, 20, forget=["s.1.window"], sinks=[{"delta": "whole"}])
    assert plant.rows("whole")


def test_a_chain_is_named_by_its_source(plant: Plant) -> None:
    plant.run([ZSCORE], 5)
    with pytest.raises(StateMismatch, match=r"--forget source\.rekey"):
        plant.run([ZSCORE], key="line/{m}")
    plant.run([ZSCORE], 5, key="line/{m}", forget=["source.rekey"])
    assert {row["key"] for row in plant.rows()} == {"pump", "line/pump"}
    plant.run([ZSCORE], 5, key="line/{m}", time={"column": "ts", "lateness": "1m"})
    assert len(plant.rows()) == 15


def test_an_unknown_step_is_told(plant: Plant) -> None:
    plant.run([ZSCORE], 5)
    with pytest.raises(UnknownName, match=r"did you mean 's\.0\.zscore'"):
        plant.run([ZSCORE], forget=["s.0.zscor"])


def test_another_name_goes_on_in_the_same_tables(plant: Plant) -> None:
    plant.run([ZSCORE], 5)
    plant.run([ZSCORE], 5, name="renamed")
    plant.run([ZSCORE], 5, name="renamed")
    assert len(plant.rows()) == len({row["time"] for row in plant.rows()}) == 15


def test_a_sink_that_goes_elsewhere_and_back(plant: Plant) -> None:
    plant.run([], 5)
    plant.run([], 5, sinks=[{"delta": "elsewhere"}])
    plant.run([], 5)
    assert (len(plant.rows()), len(plant.rows("elsewhere"))) == (10, 5)


FLOAT = {"json": {"columns": {"m": "text", "ts": "timestamp", "v": "float"}}}
INT = {"json": {"columns": {"m": "text", "ts": "timestamp", "v": "int"}}}


@pytest.mark.parametrize(
    ("steps", "sink", "tables"),
    [
        ([{"cast": {"v": "int"}}], "out", ["out"]),
        ([{"select": [{"v_float": "v"}]}], "out", ["out"]),
        ([], "new", ["out", "new"]),
    ],
    ids=["cast it", "rename it", "write to a new table"],
)
def test_the_remedies_for_a_column_of_another_type_work(
    plant: Plant, steps: list[Any], sink: str, tables: list[str]
) -> None:
    plant.run([], 5, decode=INT)
    with pytest.raises(SchemaError, match="cast it, rename it, or write to a new table"):
        plant.run([], decode=FLOAT)
    plant.run(steps, 5, decode=FLOAT, sinks=[{"delta": sink}])
    rows = [row for table in tables for row in plant.rows(table)]
    assert len(rows) == len({row["time"] for row in rows}) == 10


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the version before states with prints left behind: 60 readings seen, a window half full."""
    shutil.copytree(BEFORE, tmp_path / "plant")
    monkeypatch.chdir(tmp_path / "plant")
    return tmp_path / "plant"


def test_a_state_of_the_version_before_loads_and_goes_on(before: Path) -> None:
    more = [
        json.dumps(
            {"m": ["pump", "fan"][i % 2], "ts": f"2026-01-01T00:{i // 4:02d}:{i % 4 * 15:02d}Z", "v": 20 + i % 7}
        )
        for i in range(60, 120)
    ]
    with (before / "in.ndjson").open("a") as file:
        file.write("\n".join(more) + "\n")
    last = peek(before / "lake" / ".state")
    assert last is not None
    fitted = fit(load_with_plan(before / "pipeline.yaml")[1], last)
    assert fitted.kept == {
        "source.rekey", "source.event_time", "readings.0.dedupe", "readings.1.zscore", "readings.2.alarm",
        "windows.0.window",
    }  # fmt: skip
    for folder in ("lake", "whole"):  # the second reads all of it with this version alone
        plan = load_with_plan(before / "pipeline.yaml", {"folder": folder})[1]
        feed = StopAfter(60 if folder == "lake" else 120)
        feed.runner = EmbeddedRunner(plan, feed=feed)
        feed.runner.run()
    known = {
        "alarms": ["key", "time", "id", "state", "event", "level", "value", "started", "number"],
        "windows": ["key", "time", "v_mean", "count"],
    }
    for table, columns in known.items():
        found, wanted = (
            sorted(map(str, tocsin.read(table, before / folder).select(columns).to_pylist()))
            for folder in ("lake", "whole")
        )
        assert found == wanted
        assert len(found) > 2
