"""Anomaly jobs: what each function means, what is found and what is not, and that the state survives everything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tocsin.batch import Batch
from tocsin.detect.job import Job, load_job
from tocsin.detect.job._score import Normaliser
from tocsin.domain.alarms import severity
from tocsin.errors import ConfigError, SchemaError
from tocsin.testing import BEGIN_US, feed, rows

HOUR = 3600.0
DAY = 86_400.0


def job(span: str = "1h", settings: Mapping[str, Any] | None = None, datafeed: Any = None, **detector: Any) -> Job:
    config = {"bucket_span": span, "detectors": [detector], **(settings or {})}
    return Job(definition={"job_id": "tested", "analysis_config": config, "datafeed_config": datafeed or {}})


def results(of: Job, columns: Mapping[str, Any], kind: str = "record", chop: int | None = None) -> list[dict[str, Any]]:
    return [r for r in feed(of, rows(columns), chop=chop).to_pylist() if r["result_type"] == kind]


def bucket_of(result: Mapping[str, Any], span_s: float = HOUR) -> int:
    return round((result["time"].timestamp() - BEGIN_US / 1e6) / span_s)


def rhythm(seed: int, days: int = 28, per_day: int = 96, noise: float = 3.0) -> tuple[Any, Any]:
    """Times and values with a daily and a weekly rhythm and a trend."""
    random = np.random.default_rng(seed)
    t = np.arange(days * per_day) * (DAY / per_day)
    weekend = (t // DAY) % 7 >= 5
    v = 100 + 20 * np.sin(2 * np.pi * t / DAY) + 10 * weekend * np.sin(np.pi * (t % DAY) / DAY) + t / DAY
    return t, v + random.normal(0, noise, len(t))


# ----------------------------------------------------------------------------------------------- quality of the model


@pytest.mark.parametrize("seed", range(4))
def test_clean_data_with_rhythm_and_trend_is_usual(seed: int) -> None:
    t, v = rhythm(seed)
    found = results(job("15m", function="mean", field_name="v"), {"v": v, "time": t})
    critical = sum(r["record_score"] > 75 for r in found)
    assert critical <= len(v) / 1000


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sign", [1, -1])
def test_planted_faults_are_critical_and_nothing_else_is(seed: int, sign: int) -> None:
    t, v = rhythm(seed)
    faults = np.random.default_rng(seed + 50).choice(np.arange(1400, len(v) - 30, 40), 6, replace=False)
    v[faults] += sign * 30
    found = results(job("15m", function="mean", field_name="v"), {"v": v, "time": t})
    critical = {bucket_of(r, 900) for r in found if r["record_score"] > 75}
    assert set(faults.tolist()) <= critical
    assert len(critical - set(faults.tolist())) <= 2


def test_what_is_usual_by_day_is_abnormal_by_night() -> None:
    """The value itself is nothing new: only the hour is wrong."""
    t, v = rhythm(7, noise=1.0)
    wrong = 20 * 96 + 72  # 18:00, the lowest hour
    v[wrong] = v[20 * 96 + 24]
    assert v.min() < v[wrong] < v.max()
    found = results(job("15m", function="mean", field_name="v"), {"v": v, "time": t})
    assert max(found, key=lambda r: r["record_score"])["time"].timestamp() == BEGIN_US / 1e6 + wrong * 900


def test_a_shift_that_lasts_is_seen_over_many_buckets() -> None:
    random = np.random.default_rng(1)
    v = random.normal(50, 1, 600)
    v[400:412] += 2.2
    found = results(job(function="mean", field_name="v"), {"v": v, "time": np.arange(600) * HOUR})
    late = [r for r in found if 404 <= bucket_of(r) <= 416]
    assert max(r["multi_bucket_impact"] for r in late) > 0
    assert max(r["record_score"] for r in late) > 25
    spike = random.normal(50, 1, 600)
    spike[400] += 20
    top = max(results(job(function="mean", field_name="v"), {"v": spike, "time": np.arange(600) * HOUR}),
              key=lambda r: r["record_score"])  # fmt: skip
    assert top["multi_bucket_impact"] < -3


def test_a_new_level_is_believed_in_the_end() -> None:
    v = np.random.default_rng(2).normal(50, 1, 800)
    v[400:] += 30
    found = results(job(function="mean", field_name="v"), {"v": v, "time": np.arange(800) * HOUR})
    assert any(bucket_of(r) == 400 and r["record_score"] > 75 for r in found)
    assert not [r for r in found if bucket_of(r) > 500 and r["record_score"] > 50]


def test_constant_series_and_silence_are_usual() -> None:
    columns = {"v": [42.0] * 300, "time": np.arange(300) * HOUR}
    assert results(job(function="mean", field_name="v"), columns) == []
    assert results(job(function="count"), columns) == []


# -------------------------------------------------------------------------------------------- what the functions mean


def documents(seed: int = 0, buckets: int = 160, each: int = 20) -> dict[str, Any]:
    """Twenty documents an hour, in two groups."""
    random = np.random.default_rng(seed)
    count = buckets * each
    return {
        "time": np.repeat(np.arange(buckets) * HOUR, each) + np.tile(np.arange(each) * (HOUR / each), buckets),
        "v": random.normal(10, 1, count),
        "word": random.choice([f"word{i}" for i in range(30)], count),
        "user": random.choice(["ann", "bob"], count),
    }


def values(found: Sequence[Mapping[str, Any]]) -> list[float]:
    return [r["actual"][0] for r in found]


FUNCTIONS = {
    "count": lambda d: 20,
    "non_zero_count": lambda d: 20,
    "mean": lambda d: np.mean(d["v"]),
    "avg": lambda d: np.mean(d["v"]),
    "median": lambda d: np.median(d["v"]),
    "min": lambda d: np.min(d["v"]),
    "max": lambda d: np.max(d["v"]),
    "sum": lambda d: np.sum(d["v"]),
    "non_null_sum": lambda d: np.sum(d["v"]),
    "varp": lambda d: np.var(d["v"]),
    "distinct_count": lambda d: len(set(d["word"])),
}


@pytest.mark.parametrize("side", ["", "high_", "low_"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_value_of_a_bucket(name: str, side: str) -> None:
    if side and name in ("min", "max"):
        pytest.skip("min and max have no sides")
    data = documents(buckets=5)
    field = {} if name in ("count", "non_zero_count") else {"field_name": "word" if "distinct" in name else "v"}
    of = job(function=side + name, **field)
    plotted = of.model_copy(update={"model_plot": True})
    plotted = Job.model_validate(plotted.model_dump())
    found = results(plotted, data, "model_plot")
    assert len(found) == 5
    for i, r in enumerate(found):
        chosen = {k: np.asarray(data[k])[i * 20 : (i + 1) * 20] for k in data}
        assert r["actual"] == [pytest.approx(FUNCTIONS[name](chosen))]


def test_metric_is_three_models() -> None:
    found = results(Job(definition=job(function="metric", field_name="v").definition, model_plot=True),
                    documents(buckets=1), "model_plot")  # fmt: skip
    assert [r["function_description"] for r in found] == ["mean", "min", "max"]


def test_buckets_without_rows_count_nothing_but_have_no_mean() -> None:
    data = {"v": [1.0, 2.0], "time": [0.0, 3 * HOUR + 1]}

    def seen(function: str, **field: Any) -> list[float]:
        return values(
            results(Job(definition=job(function=function, **field).definition, model_plot=True), data, "model_plot")
        )

    assert seen("count") == [1, 0, 0, 1]
    assert seen("non_zero_count") == [1, 1]
    assert seen("sum", field_name="v") == [1, 0, 0, 2]
    assert seen("non_null_sum", field_name="v") == [1, 2]
    assert seen("mean", field_name="v") == [1, 2]


def test_the_side_of_a_function() -> None:
    high, low = (np.random.default_rng(4).normal(100, 2, 200) for _ in range(2))
    high[150] += 40
    low[150] -= 40
    for name, data in (("high", high), ("low", low)):
        for side in ("high", "low"):
            found = results(job(function=f"{side}_mean", field_name="v"), {"v": data, "time": np.arange(200) * HOUR})
            assert any(r["record_score"] > 75 for r in found) == (side == name)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("side", ["high", "low"])
def test_a_function_of_one_side_tells_nothing_of_the_other(side: str, seed: int) -> None:
    """Not even over many buckets: of a shift that has passed, they are still full."""
    random = np.random.default_rng(seed)
    v = random.normal(50, 1, (600, 6))
    for at in range(200, 600, 100):
        v[at : at + random.integers(1, 14)] += random.choice([-1, 1]) * random.uniform(1.5, 10)
    times = np.arange(v.size) * (HOUR / 6)
    for function in ("mean", "sum", "varp"):
        told = results(job(function=f"{side}_{function}", field_name="v"), {"v": v.ravel(), "time": times})
        assert told
        assert {r["actual"][0] > r["typical"][0] for r in told} == {side == "high"}


def test_an_outage_is_a_low_count() -> None:
    data = documents(each=40, buckets=200)
    keep = (data["time"] // HOUR != 150) & (data["time"] // HOUR != 151)
    found = results(job(function="low_count"), {k: np.asarray(v)[keep] for k, v in data.items()})
    top = max(found, key=lambda r: r["record_score"])
    assert bucket_of(top) in (150, 151)
    assert top["record_score"] > 75
    assert top["actual"] == [0.0]
    assert results(job(function="high_count"), {k: np.asarray(v)[keep] for k, v in data.items()}) == []


def test_the_last_bucket_may_be_cut_short() -> None:
    data = {k: np.asarray(v)[:-15] for k, v in documents().items()}
    assert not [r for r in results(job(function="count"), data) if bucket_of(r) == 159]


@pytest.mark.parametrize("split", ["by_field_name", "partition_field_name"])
def test_series_have_their_own_past(split: str) -> None:
    t = np.repeat(np.arange(200) * HOUR, 2)
    random = np.random.default_rng(5)
    v = np.tile([10.0, 1000.0], 200) + random.normal(0, 1, 400)
    v[2 * 150] = 60.0  # machine a; far below what b always has
    found = results(
        job(function="mean", field_name="v", **{split: "machine"}), {"v": v, "machine": ["a", "b"] * 200, "time": t}
    )
    top = max(found, key=lambda r: r["record_score"])
    assert (bucket_of(top), top[split.replace("name", "value")], top["key"]) == (150, "a", "a")
    assert top["record_score"] > 75
    assert top["typical"] == [pytest.approx(10, abs=1)]
    assert not [r for r in found if r["record_score"] > 50 and bucket_of(r) != 150]


def test_population() -> None:
    random = np.random.default_rng(6)
    count = 200 * 15
    host = np.tile([f"host{i:02}" for i in range(15)], 200)
    size = np.exp(random.normal(8, 0.5, count))
    size[150 * 15 + 3] = 5e6
    data = {"bytes": size, "host": host, "time": np.repeat(np.arange(200) * HOUR, 15)}
    found = results(job(function="high_sum", field_name="bytes", over_field_name="host"), data)
    top = max(found, key=lambda r: r["record_score"])
    assert (bucket_of(top), top["over_field_value"]) == (150, "host03")
    assert top["record_score"] > 75
    assert json.loads(top["causes"])[0]["actual"] == [pytest.approx(5e6)]
    excluding = job(function="high_sum", field_name="bytes", over_field_name="host", exclude_frequent="all")
    assert not [r for r in results(excluding, data) if bucket_of(r) == 150]  # host03 is seen every hour


def test_rare() -> None:
    data = documents(buckets=250)
    data["user"] = np.where(np.arange(len(data["v"])) == 220 * 20 + 3, "mallory", data["user"])
    found = results(job(function="rare", by_field_name="user"), data)
    assert [(bucket_of(r), r["by_field_value"]) for r in found] == [(220, "mallory")]
    assert found[0]["record_score"] > 75
    assert results(job(function="rare", by_field_name="user"), {k: v[:200] for k, v in data.items()}) == []


def test_rare_where_new_things_are_usual() -> None:
    """A new name every third hour is no news."""
    data = documents(buckets=300)
    names = np.asarray(data["user"], dtype=object)
    names[::60] = [f"guest{i}" for i in range(len(names[::60]))]
    assert not [
        r
        for r in results(job(function="rare", by_field_name="user"), {**data, "user": names})
        if r["record_score"] > 25
    ]


@pytest.mark.parametrize("function", ["rare", "freq_rare"])
def test_rare_in_a_population(function: str) -> None:
    random = np.random.default_rng(8)
    count = 150 * 60
    page = random.choice(["home", "shop", "cart"], count).astype(object)
    user = np.tile([f"user{i:02}" for i in range(20)], count // 20)
    t = np.repeat(np.arange(150) * HOUR, 60)
    odd = np.flatnonzero((t == 120 * HOUR) & (user == "user07"))
    page[odd] = "admin"
    if function == "freq_rare":  # many requests
        more = np.repeat(odd, 40)
        order = np.argsort(np.concatenate([np.arange(count), more]), kind="stable")
        page, user, t = (np.concatenate([a, a[more]])[order] for a in (page, user, t))
    found = results(
        job(function=function, by_field_name="page", over_field_name="user"),
        {"page": list(page), "user": user, "time": t},
    )
    top = max(found, key=lambda r: r["record_score"])
    assert (bucket_of(top), top["over_field_value"]) == (120, "user07")
    assert top["record_score"] > 50


def test_information_in_texts() -> None:
    random = np.random.default_rng(9)
    script = [f"Get-Item {random.integers(5)}" for _ in range(200)]
    script[150] = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz0123456789"), 900))
    found = results(job(function="high_info_content", field_name="s"), {"s": script, "time": np.arange(200) * HOUR})
    top = max(found, key=lambda r: r["record_score"])
    assert bucket_of(top) == 150
    assert top["record_score"] > 75


@pytest.mark.parametrize(("function", "odd_day"), [("time_of_day", 60), ("time_of_week", 61)])
def test_times(function: str, odd_day: int) -> None:
    """A log-in every day about nine in the morning, and once at three at night."""
    random = np.random.default_rng(10)
    t = np.arange(70) * DAY + 9 * HOUR + random.normal(0, 900, 70)
    t[odd_day] = odd_day * DAY + 3 * HOUR
    found = results(job("15m", function=function), {"x": [1] * 70, "time": t})
    odd = [r for r in found if abs(r["time"].timestamp() - BEGIN_US / 1e6 - t[odd_day]) < 900]
    assert len(odd) == 1
    assert odd[0]["actual"] == [
        pytest.approx(
            (t[odd_day] + (0 if function == "time_of_day" else 3 * DAY))
            % (DAY * (1 if function == "time_of_day" else 7))
        )
    ]
    assert odd[0]["record_score"] == max(r["record_score"] for r in found)


def test_places() -> None:
    random = np.random.default_rng(11)
    spots = [f"{52.5 + a:.4f},{13.4 + b:.4f}" for a, b in random.normal(0, 0.02, (200, 2))]
    spots[150] = "-33.9,151.2"
    found = results(job(function="lat_long", field_name="where"), {"where": spots, "time": np.arange(200) * HOUR})
    top = max(found, key=lambda r: r["record_score"])
    assert bucket_of(top) == 150
    assert top["actual"] == [-33.9, 151.2]
    assert top["typical"][0] == pytest.approx(52.5, abs=0.3)
    assert top["record_score"] > 75


def test_categories_of_messages() -> None:
    random = np.random.default_rng(12)
    texts = [f"Connection {random.integers(9999)} from 10.0.0.{random.integers(255)} closed" for _ in range(2500)]
    texts[2200] = "Kernel panic: not syncing, attempted to kill init"
    found = results(
        job(settings={"categorization_field_name": "message"}, function="rare", by_field_name="mlcategory"),
        {"message": texts, "time": np.arange(2500) * HOUR / 10},
    )
    assert [(bucket_of(r), r["by_field_value"]) for r in found] == [(220, "2")]


# ------------------------------------------------------------------------------------------------ around the functions


def spike(at: int = 150, count: int = 200, by: float = 40.0) -> dict[str, Any]:
    v = np.random.default_rng(20).normal(100, 2, count)
    v[at] += by
    return {"v": v, "machine": ["pump"] * count, "time": np.arange(count) * HOUR}


def test_influencers_are_to_blame() -> None:
    random = np.random.default_rng(13)
    data = {
        "v": random.normal(10, 1, 1000),
        "host": np.tile(["a", "b", "c", "d", "e"], 200),
        "time": np.repeat(np.arange(200) * HOUR, 5),
    }
    data["v"][150 * 5 + 2] += 200
    of = job(settings={"influencers": ["host", "nowhere"]}, function="high_sum", field_name="v")
    top = max(results(of, data), key=lambda r: r["record_score"])
    assert json.loads(top["influencers"]) == [{"influencer_field_name": "host", "influencer_field_values": ["c"]}]
    blamed = max(results(of, data, "influencer"), key=lambda r: r["influencer_score"])
    assert (blamed["influencer_field_value"], bucket_of(blamed)) == ("c", 150)
    assert blamed["influencer_score"] > 75


def test_every_bucket_gives_a_result_and_says_how_warm_it_is() -> None:
    found = results(job(function="mean", field_name="v"), spike(), "bucket")
    assert [bucket_of(r) for r in found] == list(range(200))
    assert max(found, key=lambda r: r["anomaly_score"])["severity"] == "critical"
    assert (found[0]["warming"], found[11]["warming"], found[40]["warming"]) == ("warming 1/30", "warming 12/30", None)
    assert {r["event_count"] for r in found} == {1}


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        ({"conditions": [{"applies_to": "actual", "operator": "gt", "value": 120}]}, False),
        ({"conditions": [{"applies_to": "actual", "operator": "gt", "value": 200}]}, True),
        ({"conditions": [{"applies_to": "typical", "operator": "lt", "value": 110}]}, False),
        ({"conditions": [{"applies_to": "diff_from_typical", "operator": "gte", "value": 30}]}, False),
        ({"conditions": [{"applies_to": "time", "operator": "lte", "value": 0}]}, True),
        ({"scope": {"machine": {"filter_id": "safe"}}}, False),
        ({"scope": {"machine": {"filter_id": "safe", "filter_type": "exclude"}}}, True),
        ({"scope": {"machine": {"filter_id": "unheard_of"}}}, True),
        ({"actions": ["skip_model_update"], "scope": {"machine": {"filter_id": "safe"}}}, False),
        ({"actions": ["skip_model_update"], "conditions": [{"applies_to": "time", "operator": "lt", "value": 0}]}, True),  # noqa: E501
    ],
)  # fmt: skip
def test_custom_rules(rule: Mapping[str, Any], shown: bool) -> None:
    """A rule hides a result; one that keeps a series from learning altogether leaves it too young to report."""
    of = job(function="mean", field_name="v", partition_field_name="machine", custom_rules=[rule])
    of = Job(definition=of.definition, filters={"safe": ("pu*",)})
    assert any(r["record_score"] > 75 for r in results(of, spike())) == shown


def test_what_a_rule_keeps_from_learning_stays_abnormal() -> None:
    data = spike()
    data["v"][100:] += 60
    rule = {"actions": ["skip_model_update"], "conditions": [{"applies_to": "actual", "operator": "gt", "value": 130}]}
    plain = results(job(function="mean", field_name="v"), data)
    ruled = results(job(function="mean", field_name="v", custom_rules=[rule]), data)
    assert len([r for r in ruled if bucket_of(r) > 180 and r["typical"][0] < 110]) == 19
    assert not [r for r in plain if bucket_of(r) > 180 and r["typical"][0] < 110]


def test_calendar_events_are_left_out_and_not_learned() -> None:
    data = spike()
    data["v"][100:110] += 500
    at = BEGIN_US / 1e3
    event = {"description": "maintenance", "start_time": at + 100 * 3.6e6, "end_time": at + 110 * 3.6e6}
    of = Job(definition=job(function="mean", field_name="v").definition, events=(event,))
    assert not [r for r in results(of, data) if 100 <= bucket_of(r) < 110]
    assert [bucket_of(r) for r in results(of, data) if r["record_score"] > 75] == [150]


def test_nulls_are_a_series_only_if_asked_for() -> None:
    data = spike()
    data["machine"] = [None] * 200
    plain = job(function="mean", field_name="v", partition_field_name="machine")
    nulls = job(function="mean", field_name="v", partition_field_name="machine", use_null=True)
    assert results(plain, data) == []
    assert [bucket_of(r) for r in results(nulls, data) if r["record_score"] > 75] == [150]


def test_series_not_seen_for_long_are_forgotten() -> None:
    columns = {"v": [1.0] * 300, "m": [f"m{i // 30}" for i in range(300)], "time": np.arange(300) * HOUR}

    def kept(window: str | None) -> int:
        of = job(settings={"model_prune_window": window}, function="mean", field_name="v", by_field_name="m")
        state, _ = of.step(of.initial(), Batch(rows(columns), BEGIN_US + 299 * 3_600_000_000))
        return sum(key.startswith("model") for key in of.dump(state)["key"].to_pylist())

    assert kept(None) == 10
    assert kept("2d") < 5


def test_renormalisation_in_proportion_to_the_past() -> None:
    """The same spike counts less in a job that has seen many such."""
    calm = spike(at=700, count=800)
    wild = spike(at=700, count=800)
    wild["v"][100:700:20] += 40
    of = job(function="mean", field_name="v")

    def score(data: Mapping[str, Any]) -> float:
        return max((r["record_score"] for r in results(of, data) if bucket_of(r) == 700), default=0.0)

    assert score(calm) > 90
    assert score(wild) < 75
    first = [r for r in results(of, wild) if bucket_of(r) == 100]
    assert first[0]["record_score"] == first[0]["initial_record_score"] > 75


def test_scores_leave_room_for_the_worst() -> None:
    fresh, used = Normaliser(), Normaliser()
    for i in range(1000):
        used.observe(9.0 if i % 20 == 0 else 0.5)
    assert fresh.score(9.0) > 90
    assert used.score(9.0) < 50  # one bucket in twenty is as bad
    assert used.score(40.0) > 95
    used.observe(60.0)
    assert used.score(40.0) < used.score(60.0) == 100
    assert [severity(s) for s in (0, 24.9, 25, 50, 75, 100)] == [
        "warning",
        "warning",
        "minor",
        "major",
        "critical",
        "critical",
    ]


def test_a_record_leaves_again_when_something_worse_makes_it_less() -> None:
    data = spike(at=200, count=400, by=1000.0)
    data["v"][300] += 100_000
    of = job(function="mean", field_name="v")
    first = {bucket_of(r): r for r in results(of, data)}
    assert first[200]["record_score"] == first[200]["initial_record_score"] == 100
    again = feed(of, rows(data), port="renormalised", chop=7).to_pylist()
    assert [bucket_of(r) for r in again] == [200]
    assert again[0]["record_score"] < again[0]["initial_record_score"] == 100
    assert again[0]["actual"] == first[200]["actual"]


def test_summaries_weigh_as_many_as_they_stand_for() -> None:
    of = Job(
        definition=job(settings={"summary_count_field_name": "doc_count"}, function="mean", field_name="v").definition,
        model_plot=True,
    )
    found = results(of, {"v": [10.0, 20.0], "doc_count": [1, 3], "time": [0.0, 10.0]}, "model_plot")
    assert found[0]["actual"] == [17.5]


@pytest.mark.parametrize(("metric", "wanted"), [("avg", 20.0), ("max", 30.0), ("min", 10.0), ("sum", 40.0)])
def test_raw_rows_are_summed_up_as_the_datafeed_would(metric: str, wanted: float) -> None:
    """mean() over one summary each half hour: (20, 20), (30, 30), (10, 10) or (40, 40)."""
    feed_config = {
        "aggregations": {
            "buckets": {
                "date_histogram": {"field": "@timestamp", "fixed_interval": "30m"},
                "aggregations": {
                    "time": {"max": {"field": "@timestamp"}},
                    "machine": {"terms": {"field": "m"}, "aggregations": {"level": {metric: {"field": "raw"}}}},
                },
            }
        }
    }
    config = {"summary_count_field_name": "doc_count"}
    of = job(settings=config, datafeed=feed_config, function="mean", field_name="level", partition_field_name="machine")
    found = results(
        Job(definition=of.definition, model_plot=True),
        {"raw": [10.0, 30.0] * 2, "m": ["a"] * 4, "time": [0.0, 60.0, 1800.0, 1860.0]},
        "model_plot",
    )
    assert [(r["partition_field_value"], r["actual"]) for r in found] == [("a", [wanted])]


def test_a_count_may_be_an_aggregation_itself() -> None:
    feed_config = {
        "aggregations": {
            "buckets": {
                "date_histogram": {"field": "@timestamp", "fixed_interval": "1h"},
                "aggregations": {"visitors": {"cardinality": {"field": "ip"}}},
            }
        }
    }
    of = job(settings={"summary_count_field_name": "visitors"}, datafeed=feed_config, function="non_zero_count")
    found = results(
        Job(definition=of.definition, model_plot=True),
        {"ip": ["a", "b", "a", "c", "c"], "time": [0.0, 1.0, 2.0, 3600.0, 3601.0]},
        "model_plot",
    )
    assert values(found) == [2.0, 1.0]


def test_state_of_many_series_survives_a_file() -> None:
    data = {"v": np.arange(600.0), "m": [f"m{i % 50}" for i in range(600)], "time": np.arange(600) * 60.0}
    of = job(function="mean", field_name="v", by_field_name="m")
    state, _ = of.step(of.initial(), Batch(rows(data), BEGIN_US + 9 * 3_600_000_000))
    dumped = of.dump(state)
    assert of.dump(of.load(dumped)).equals(dumped)
    assert sum(key.startswith("model") for key in dumped["key"].to_pylist()) == 50


@pytest.mark.parametrize("chop", [1, 7, 400])
def test_rows_out_of_order_and_cut_anyhow(chop: int) -> None:
    data = documents(buckets=60, each=6)
    order = np.argsort(data["time"] + np.random.default_rng(3).uniform(0, 2 * HOUR, len(data["v"])))
    of = Job(definition=job(function="metric", field_name="v", by_field_name="user").definition, model_plot=True)

    def ordered(left: pa.Table) -> list[dict[str, Any]]:
        return sorted(left.to_pylist(), key=lambda r: (r["time"], r["key"], r["function_description"] or ""))

    wanted = ordered(feed(of, rows(data)))
    mixed = ordered(feed(of, rows({k: np.asarray(v)[order] for k, v in data.items()}), chop=chop))
    assert len(mixed) == len(wanted)
    for a, b in zip(mixed, wanted, strict=True):
        assert a["actual"] == (b["actual"] and pytest.approx(b["actual"]))
        for name in ("time", "key", "result_type", "event_count", "by_field_value"):
            assert a[name] == b[name]


def test_latency_waits_for_late_documents() -> None:
    of = job(settings={"latency": "2h"}, function="count")
    _, left = of.step(of.initial(), Batch(rows({"time": [0.0, 3 * HOUR]}), BEGIN_US + 4 * 3_600_000_000))
    assert left[-1].watermark_us == BEGIN_US + 2 * 3_600_000_000
    assert left[-1].rows.num_rows == 2


def test_a_gap_of_years_costs_a_thousand_buckets() -> None:
    found = results(job(function="count"), {"time": [0.0, HOUR, 5 * 365 * DAY]}, "bucket")
    assert len(found) == 2 + 1000 + 1


# --------------------------------------------------------------------------------------------------- reading the JSON


def detector_of(tree: Mapping[str, Any], **settings: Any) -> str:
    of = Job(definition=tree, **settings)
    return of._definition.job.analysis_config.detectors[0].function


BARE = {"job_id": "a", "analysis_config": {"bucket_span": "5m", "detectors": [{"function": "count"}]}}


@pytest.mark.parametrize(
    "tree",
    [
        BARE,
        {"jobs": [BARE], "count": 1, "datafeeds": [{"job_id": "a", "query": {"match_all": {}}}]},
        {"jobs": [{"id": "a", "config": BARE}]},
        {"jobs": [{"job": BARE, "datafeed": {"query": {"match_all": {}}}}]},
        {"job": BARE, "datafeed": {"query": {"match_all": {}}}},
        {**BARE, "create_time": 1, "job_version": "8.1", "model_snapshot_id": "x", "surprise": {"a": 1}},
        {**BARE, "analysis_config": {**BARE["analysis_config"], "bucket_span": 300}},
    ],
)
def test_wrappers_and_strangers_are_read(tree: Mapping[str, Any]) -> None:
    assert detector_of(tree) == "count"


@pytest.mark.parametrize(
    ("detector", "said"),
    [
        ({"function": "hihg_mean", "field_name": "v"}, "high_mean"),
        ({"function": "mean"}, "needs field_name"),
        ({"function": "count", "field_name": "v"}, "takes no field_name"),
        ({"function": "rare"}, "needs by_field_name"),
        ({"function": "freq_rare", "by_field_name": "a"}, "needs over_field_name"),
        ({"function": "non_zero_count", "over_field_name": "a"}, "takes no over_field_name"),
        ({"function": "count", "by_field_name": "a", "over_field_name": "a"}, "different fields"),
        ({"function": "count", "by_field_name": "mlcategory"}, "categorization_field_name"),
        ({"function": "count", "exclude_frequent": "some"}, "exclude_frequent"),
        ({"function": "count", "custom_rules": [{"actions": ["skip_result"]}]}, "scope or a condition"),
        ({"function": "count", "by_field_name": "a", "custom_rules": [{"scope": {"b": {"filter_id": "f"}}}]}, "'b'"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(tmp_path: Path, detector: Mapping[str, Any], said: str) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"analysis_config": {"detectors": [detector]}}))
    with pytest.raises(ConfigError, match=said) as refused:
        load_job(file)
    assert "analysis_config" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[1, 2]", '"job"', "{}", '{"analysis_config": {}}', '{"analysis_config": 3}']
)
def test_broken_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "job.json"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_job(file)


def test_several_jobs_in_a_file() -> None:
    tree = {"jobs": [BARE, {**BARE, "job_id": "b", "analysis_config": {"detectors": [{"function": "low_count"}]}}]}
    with pytest.raises(ValueError, match="which one: a, b"):
        Job(definition=tree)
    assert detector_of(tree, which="b") == "low_count"


def test_a_missing_field_is_named() -> None:
    with pytest.raises(SchemaError, match="'v'"):
        job(function="mean", field_name="v").output_schema(rows({"w": [1.0]}).schema)


def test_fields_in_structs_and_in_json() -> None:
    of = Job(
        definition=job(function="sum", field_name="system.cpu.pct", by_field_name="host.name").definition,
        model_plot=True,
    )
    nested = {"system": [{"cpu": {"pct": 1.5}}], "host": [{"name": "h"}]}
    texts = {name: [json.dumps(value[0])] for name, value in nested.items()}
    dotted = {"system.cpu.pct": [1.5], "host.name": ["h"]}
    for columns in (nested, texts, dotted):
        found = feed(of, rows(columns)).to_pylist()
        plot = next(r for r in found if r["result_type"] == "model_plot")
        assert (plot["actual"], plot["by_field_value"]) == ([1.5], "h")
