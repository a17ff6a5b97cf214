"""Health: against a scalar reference; what lasts, what climbs, what is clean; episodes, relearning, actions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tocsin.batch import ACTIONS, ACTIONS_SCHEMA, Batch, Floats
from tocsin.detect.health import Health
from tocsin.notify.alarm import Alarm
from tocsin.testing import feed, rows

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
A_DAY = 288


def noise(count: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(20, 1, count)


def told(values: Any, **settings: Any) -> Any:
    return feed(Health(**settings), rows({"value": values}), chop=700)["score"].fill_null(0).to_numpy() >= 75


class Reference:
    """Mean and band of one series without rhythm, written as plainly as can be; blocks by octave."""

    def __init__(self) -> None:
        self.count, self.mean, self.high, self.low = 0, 0.0, 0.0, 0.0
        self.blocks: list[list[float]] = [[] for _ in range(14)]
        self.usual = [0.0] * 14

    def block(self, octave: int, r: float) -> None:
        """One block's mean: its squared difference from the block before, clipped once four are known."""
        blocks = self.blocks[octave]
        if blocks:
            squared = (r - blocks[-1]) ** 2
            if len(blocks) > 4:
                squared = min(squared, 9 * self.usual[octave])
            gain = max(1 / len(blocks), min(2**octave / 10_000, 0.125))
            self.usual[octave] += (squared - self.usual[octave]) * gain
        blocks.append(r)
        if len(blocks) % 2 == 0 and octave < 13:
            self.block(octave + 1, (blocks[-2] + r) / 2)

    def learn(self, x: float) -> None:
        if self.count == 0:
            self.mean = x
        off = x - self.mean
        self.high, self.low = max(self.high * (1 - 1e-4), off), max(self.low * (1 - 1e-4), -off)
        self.block(0, x)
        self.count += 1
        self.mean += off / self.count

    def deviation(self) -> float:
        """Half of half the mean squared differences, octave by octave; six octaves further by the last ratio."""
        differences: list[float] = []
        longest = max(octave for octave in range(14) if len(self.blocks[octave]) > 1)
        for octave in range(longest + 7):
            count = max(len(self.blocks[octave]) - 1, 0) if octave < 14 else 0
            difference = self.usual[octave] if octave < 14 else 0.0
            if octave >= 2:
                ratio = min(max(differences[-1] / differences[-2], 0.5), 4.0)
                difference = (count * difference + 16 * differences[-1] * ratio) / (count + 16)
            differences.append(difference)
        return float(np.sqrt(sum(differences) / 4))


def test_band_is_that_of_the_scalar_reference() -> None:
    values = noise(512)
    reference = Reference()
    for x in values:
        reference.learn(float(x))
    last = feed(Health(learn=512), rows({"value": np.append(values, 20.0)})).to_pylist()[-1]
    deviation = reference.deviation()
    assert last["expected"] == pytest.approx(reference.mean, rel=1e-12)
    assert last["upper"] - last["expected"] == pytest.approx(max(5 * deviation, 2 * reference.high), rel=1e-9)
    assert last["expected"] - last["lower"] == pytest.approx(max(5 * deviation, 2 * reference.low), rel=1e-9)
    assert deviation == pytest.approx(values.std(), rel=0.2)


@pytest.mark.parametrize("size", [4, 8, 40, -6])
def test_a_lasting_step_is_told_until_it_is_over_and_not_longer(size: float) -> None:
    values = noise(9000)
    values[3000:8000] += size
    found = told(values)
    assert not found[:3000].any()
    assert found[3060:8000].all()
    assert not found[8100:].any()


def test_a_large_step_is_told_from_its_first_reading() -> None:
    values = noise(6000)
    values[3000:] += 40
    assert told(values)[3000:].all()


@pytest.mark.parametrize("height", [15, 30, -15])
def test_a_slow_climb_is_told_from_a_third_on_and_for_good(height: float) -> None:
    values = noise(6000)
    values[3000:] += np.linspace(0, height, 3000)
    found = told(values)
    assert not found[:3000].any()
    assert found[4000:].all()


@pytest.mark.parametrize(("well", "climb"), [(1000, 3000), (3000, 12_000), (3000, 30_000), (20_000, 60_000)])
def test_a_climb_slower_than_what_was_learnt_is_told_from_a_third_on(well: int, climb: int) -> None:
    for seed in range(3):
        values = noise(well + climb, seed)
        values[well:] += np.linspace(0, 15, climb)
        left = feed(Health(relearn=None), rows({"value": values}, every_s=300))["score"].fill_null(0).to_numpy() >= 75
        assert not left[:well].any()
        assert left[well + climb // 3 :].all()


@pytest.mark.parametrize("every_s", [1, 60, 300])
@pytest.mark.parametrize("slope", [1 / 250, -1 / 50])
def test_a_step_on_a_steady_trend_is_told_and_the_trend_is_not(slope: float, every_s: float) -> None:
    values = noise(9000, 4) + np.arange(9000) * slope
    clean_trend = feed(Health(), rows({"value": values}, every_s=every_s))["score"].fill_null(0).to_numpy() >= 75
    assert not clean_trend.any()
    values[3000:7000] += 10
    left = feed(Health(relearn=None), rows({"value": values}, every_s=every_s))["score"].fill_null(0).to_numpy() >= 75
    assert left[3000:7000].all()
    assert not left[7100:].any()


@pytest.mark.parametrize("every_s", [10, 60, 300])
def test_a_daily_rhythm_is_clean_from_its_first_day_on(every_s: float) -> None:
    count = int(4 * 86_400 / every_s)
    for phase in (0, 0.25, 0.5):
        day = np.sin((np.arange(count) * every_s / 86_400 + phase) * 2 * np.pi)
        values = 20 + 10 * day + noise(count, 6) - 20
        assert not (
            feed(Health(), rows({"value": values}, every_s=every_s))["score"].fill_null(0).to_numpy() >= 75
        ).any()


def clean(kind: str, random: np.random.Generator, count: int = 5000) -> Floats:
    i = np.arange(count)
    match kind:
        case "walk":
            return np.cumsum(random.normal(size=count))
        case "trend":
            return i / 300 + random.normal(size=count)
        case "sine":
            return 10 + 3 * np.sin(i / A_DAY * 2 * np.pi) + random.normal(0, 0.3, count)
        case "duty":
            return i // 40 % 2 * 5 + random.normal(0, 0.1, count)
        case "heavy":
            return random.standard_t(3, count)
        case _:
            return random.normal(size=count)


@pytest.mark.parametrize("kind", ["white", "walk", "trend", "sine", "duty", "heavy"])
def test_clean_series_stay_clean(kind: str) -> None:
    false = sum(int(told(clean(kind, np.random.default_rng([seed, 77]))).sum()) for seed in range(6))
    assert false <= 10, f"{false} of 30,000"


def test_a_daily_rhythm_is_taken_off_and_goes_on_through_an_episode() -> None:
    random = np.random.default_rng(3)
    i = np.arange(A_DAY * 12)
    rhythm = 20 + 5 * np.sin(i / A_DAY * 2 * np.pi)
    values = rhythm + random.normal(0, 0.3, len(i))
    values[A_DAY * 9 :] += 4  # less than the rhythm, much more than the noise
    left = feed(Health(), rows({"value": values}, every_s=300))
    score, expected = left["score"].fill_null(0).to_numpy(), left["expected"].to_numpy()
    assert (score[A_DAY * 9 + 30 :] >= 75).all()
    assert not (score[: A_DAY * 9] >= 75).any()
    assert np.abs(expected[A_DAY * 9 :] - rhythm[A_DAY * 9 :]).max() < 1


def test_missing_and_doubled_readings_move_the_score_little() -> None:
    values = noise(6000)
    values[3000:] += 3
    table = pa.Table.from_batches([rows({"value": values})])
    keep = np.random.default_rng(5).random(6000) > 0.05
    twice = np.sort(np.append(np.arange(6000), np.arange(0, 6000, 20)))
    whole = feed(Health(), table.to_batches()[0])["score"].fill_null(0).to_numpy()
    less = (
        feed(Health(), table.filter(pa.array(keep)).combine_chunks().to_batches()[0])["score"].fill_null(0).to_numpy()
    )
    more = feed(Health(), table.take(pa.array(twice)).combine_chunks().to_batches()[0])["score"].fill_null(0).to_numpy()
    assert (less >= 75).mean() == pytest.approx((whole >= 75).mean(), abs=0.01)
    assert np.abs(less[1000:] - whole[keep][1000:]).mean() < 2
    assert np.abs(more[1000:] - whole[twice][1000:]).mean() < 2


def test_an_episode_has_a_state_an_onset_a_depth_and_a_sentence() -> None:
    values = noise(3000)
    values[2000:2500] += np.linspace(0, 8, 500)
    left = feed(Health(), rows({"value": values})).to_pylist()
    assert [left[i]["state"] for i in (0, 499, 600, 2400, 2900)] == ["warming"] * 2 + ["normal", "abnormal", "normal"]
    row = left[2400]
    assert BEGIN + timedelta(seconds=1900) < row["since"] < BEGIN + timedelta(seconds=2150)
    assert row["depth"] == pytest.approx(6, abs=1.5)
    assert row["signal"] == "value"
    assert row["why"].startswith("value has crept above its usual mean of 1")
    assert {r["why"] for r in left if r["state"] == "abnormal"} == {row["why"]}
    assert left[600]["why"] is left[600]["since"] is left[600]["signal"] is None
    assert left[2400]["expected"] == left[2300]["expected"], "the baseline stays where it was"


def test_an_alarm_behind_it_rings_once_and_clears_once_back() -> None:
    values = noise(6000)
    values[2000:5000] += 6
    alarms = feed(Alarm(rule="health"), rows_of(feed(Health(), rows({"value": values})))).to_pylist()
    assert [a["event"] for a in alarms] == ["raised", "cleared"]
    assert alarms[0]["time"] < BEGIN + timedelta(seconds=2010)
    assert BEGIN + timedelta(seconds=5000) < alarms[1]["time"] < BEGIN + timedelta(seconds=5060)


def test_the_alarm_says_since_when_how_far_and_why_and_that_a_new_level_was_accepted() -> None:
    values = noise(9000)
    values[2000:] += 12
    judged = feed(Health(relearn="1h"), rows({"value": values}))
    raised, cleared = feed(Alarm(rule="health"), rows_of(judged)).to_pylist()
    evidence = json.loads(raised["evidence"])
    onset = datetime.fromisoformat(evidence["since"]) - BEGIN
    assert abs(onset - timedelta(seconds=2000)) < timedelta(seconds=5)
    assert evidence["why"].startswith("value jumped above its usual")
    assert raised["message"] == f"machine health: {evidence['why']}"
    assert raised["signal"] == "value"
    assert evidence["depth"] > 0.5
    assert "accepted as the new normal" in cleared["message"]
    own = feed(Alarm(rule="h", message="{signal} since {since}, {depth:.0f} deviations"), rows_of(judged)).to_pylist()
    assert own[0]["message"] == f"value since {evidence['since']}, {evidence['depth']:.0f} deviations"


def rows_of(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def test_a_new_level_is_accepted_after_relearn_and_says_so() -> None:
    values = noise(6000)
    values[2000:] += 12
    left = feed(Health(relearn="30m"), rows({"value": values}, every_s=1)).to_pylist()
    accepted = [row for row in left if row["why"] and "new normal" in row["why"]]
    assert len(accepted) == 1
    assert accepted[0]["score"] == 0
    assert accepted[0]["state"] == "warming"
    assert BEGIN + timedelta(seconds=3800) <= accepted[0]["time"] < BEGIN + timedelta(seconds=3900)
    assert left[-1]["state"] == "normal"
    assert left[-1]["expected"] == pytest.approx(32, abs=0.2)


def test_never_accepted_if_relearn_is_null_nor_while_it_still_moves() -> None:
    values = noise(6000)
    values[2000:] += np.linspace(12, 80, 4000)
    assert told(values, relearn="20m")[2000:].all()
    values[2000:] = noise(4000) + 12
    assert told(values, relearn=None)[2000:].all()


@pytest.mark.parametrize("relearn", ["1d", "3d", "14d"])
@pytest.mark.parametrize("climb", [3000, 12_000, 30_000])
def test_a_level_that_still_climbs_is_never_accepted_however_slow_but_is_once_it_has_settled(
    climb: int, relearn: str
) -> None:
    settled = 15_000
    values = noise(3000 + climb + settled, 2)
    values[3000 : 3000 + climb] += np.linspace(0, 15, climb)
    values[3000 + climb :] += 15
    left = feed(Health(relearn=relearn), rows({"value": values}, every_s=300))
    accepted = [i for i, why in enumerate(left["why"].to_pylist()) if why and "new normal" in why]
    assert (left["score"].fill_null(0).to_numpy()[3000 + climb // 3 : 3000 + climb] >= 75).all()
    assert len(accepted) == 1
    assert accepted[0] > 3000 + climb


def test_several_signals_name_the_one_that_stands_out() -> None:
    random = np.random.default_rng(8)
    a, b, c = random.normal(size=(3, 3000))
    b[2000:] += 9
    left = feed(Health(of=("a", "b", "c", "flat")), rows({"a": a, "b": b, "c": c, "flat": np.full(3000, 7.0)}))
    score = left["score"].fill_null(0).to_numpy()
    assert not (score[:2000] >= 75).any()
    assert (score[2050:] >= 75).all()
    assert set(left["signal"][2050:].to_pylist()) == {"b"}


def test_an_episode_is_not_over_in_rows_that_lack_its_signal() -> None:
    """Devices that send each signal in a message of its own: between two readings that are away nothing is back."""
    values = np.column_stack([noise(1200), noise(1200, 2)])
    values[800:1000, 0] += 15
    values[::2, 1] = values[1::2, 0] = np.nan
    columns = {
        name: [None if np.isnan(x) else float(x) for x in values[:, i]] for i, name in enumerate(("value", "other"))
    }
    left = feed(Health(of=("value", "other"), learn=200), rows(columns)).to_pylist()
    assert {row["state"] for row in left[802:1000]} == {"abnormal"}
    assert {row["signal"] for row in left[802:1000]} == {"value"}
    assert min(row["score"] for row in left[802:1000]) >= 75
    assert {row["state"] for row in left[1100:]} == {"normal"}
    assert len({row["since"] for row in left[802:1000]}) == 1, "one episode"


def actions(action: str, at_s: float, until_s: float | None = None, alarm: str = "health:machine") -> Batch:
    until = None if until_s is None else BEGIN + timedelta(seconds=until_s)
    at = BEGIN + timedelta(seconds=at_s)
    row = {"time": at, "alarm": alarm, "action": action, "by": "anna", "reason": "", "until": until, "assignee": ""}
    return Batch(pa.RecordBatch.from_pylist([row], schema=ACTIONS_SCHEMA), port=ACTIONS)


def with_action(values: Floats, after: int, batch: Batch) -> list[dict[str, Any]]:
    """All rows, where an action comes behind so many of them; the state goes through a dump after it."""
    detector, given = Health(), rows({"value": values})
    state, (first,) = detector.step(detector.initial(), Batch(given.slice(0, after)))
    state, out = detector.step(state, batch)
    assert not out
    state = detector.load(detector.dump(state))
    _, (second,) = detector.step(state, Batch(given.slice(after)))
    left: list[dict[str, Any]] = pa.Table.from_batches([first.rows, second.rows]).to_pylist()
    return left


def test_relearn_by_action_from_its_time_on() -> None:
    values = noise(4000)
    values[2000:] += 12
    left = with_action(values, 2500, actions("relearn", 2600))
    assert left[2599]["state"] == "abnormal"
    assert (left[2600]["state"], left[2600]["score"]) == ("warming", 0)
    assert "somebody asked" in left[2600]["why"]
    assert left[3500]["state"] == "normal"
    other = with_action(values, 2500, actions("relearn", 2600, alarm="health:another"))
    assert other[3500]["state"] == "abnormal"


def test_maintenance_ends_the_episode_at_once_and_keeps_what_was_normal() -> None:
    values = noise(4000)
    values[2000:2600] += 12
    left = with_action(values, 2500, actions("maintained", 2600, alarm="worn:machine"))
    assert left[2599]["state"] == "abnormal"
    assert (left[2600]["state"], left[2600]["score"]) == ("normal", 0)
    assert left[2600]["why"].startswith("maintenance was done at 00:43:20")
    assert {row["state"] for row in left[2601:]} == {"normal"}
    assert left[2601]["expected"] == left[2599]["expected"]
    values[2600:] += 12  # it was not repaired after all
    again = with_action(values, 2500, actions("maintained", 2600))
    assert {row["state"] for row in again[2601:]} == {"abnormal"}


def test_an_action_that_is_for_the_alarm_alone_changes_nothing() -> None:
    values = noise(3000)
    values[2000:] += 12
    assert with_action(values, 2500, actions("acknowledge", 2600))[2700]["state"] == "abnormal"


def test_nothing_is_learnt_while_told_to_ignore() -> None:
    values = noise(2000)
    values[1000:1500] += 0.4  # too little to be told, enough to be learnt
    plain = feed(Health(), rows({"value": values})).to_pylist()[-1]["expected"]
    ignored = with_action(values, 900, actions("ignore", 1000, 1500))
    assert not any(row["state"] == "abnormal" for row in ignored)
    assert plain - ignored[-1]["expected"] > 0.05
    assert {row["expected"] for row in ignored[1000:1500]} == {ignored[1000]["expected"]}


def test_rows_that_say_their_signal_keep_it() -> None:
    left = feed(Health(learn=100), rows({"value": noise(300), "signal": ["t1"] * 300}))
    assert set(left["signal"].to_pylist()) == {"t1"}
    assert left["state"].to_pylist()[-1] == "normal"


def test_no_column_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one column"):
        Health(of=())


def test_frozen_is_judged_by_its_first_readings_for_ever() -> None:
    values = noise(5000) + np.linspace(0, 4, 5000)  # wears from the first reading on
    frozen = feed(Health(frozen=True, learn=200), rows({"value": values}))["expected"].to_numpy()[200:]
    assert frozen == pytest.approx(values[:200].mean())
    assert told(values, frozen=True, learn=200)[3500:].all()
