"""Novelty: what it must find, what must not change it, and its place in the Numenta Anomaly Benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from data_folder import DATA

from tocsin.detect.novelty import RECENT, SCORE_FROM, Novelty
from tocsin.testing import feed, rows

Floats = npt.NDArray[np.float64]
ROOT = Path(__file__).parent.parent.parent


def scores(values: Floats, step_s: int = 300) -> Floats:
    times = (np.arange(len(values), dtype=np.int64) * step_s * 1_000_000).tolist()
    table = feed(Novelty(), rows({"time": pa.array(times, pa.timestamp("us", "UTC")), "value": values}))
    return table["score"].to_numpy()


def noise(n: int = 4000, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(size=n)


def test_no_verdict_while_it_learns() -> None:
    found = scores(noise(400))
    assert np.isnan(found[:SCORE_FROM]).all()
    assert not np.isnan(found[SCORE_FROM:]).any()


@pytest.mark.parametrize("fault", ["spike", "step", "drop_out", "louder"])
def test_finds_a_planted_fault(fault: str) -> None:
    values = 50 + noise(3000)
    at = 2000
    if fault == "spike":
        values[at] += 12
    elif fault == "step":
        values[at:] += 8
    elif fault == "drop_out":
        values[at : at + 50] = 0
    else:
        values[at : at + 200] = 50 + 6 * (values[at : at + 200] - 50)
    found = scores(values)
    # The first thousand readings are left out: what is rare is not known by then.
    assert 1000 + np.argmax(found[1000:]) in range(at, at + 200)
    # Louder noise gives itself away one reading at a time, and what it has shown is remembered.
    assert found[1000:].max() > (60 if fault == "louder" else 75)


@pytest.mark.parametrize("kind", ["normal", "lognormal", "poisson", "daily", "walk"])
def test_normal_data_scores_above_75_less_than_once_in_10000(kind: str) -> None:
    rng = np.random.default_rng(7)
    count, n = 0, 40_000
    for _ in range(3):
        values = {
            "normal": lambda: rng.normal(size=n),
            "lognormal": lambda: rng.lognormal(size=n),
            "poisson": lambda: rng.poisson(5, n).astype(float),
            "daily": lambda: 3 * np.sin(np.arange(n) / 288 * 2 * np.pi) + rng.normal(size=n),
            "walk": lambda: np.cumsum(rng.normal(size=n)),
        }[kind]()
        count += int((scores(values) > 75).sum())
    assert count <= 3 * n / 10_000


@pytest.mark.parametrize(("scale", "offset"), [(2.0**20, 0.0), (2.0**-20, 0.0), (1.0, 2.0**16), (-1.0, 0.0)])
def test_scale_and_offset_change_nothing(scale: float, offset: float) -> None:
    # Multiples of a power of two, so that the sums are exact and a difference is the detector's.
    values = np.round(noise(1500) * 256) / 256
    if scale < 0:  # a mirrored series has its logarithm from the other end: it is seen a little differently
        assert np.nanargmax(scores(np.append(values, 9.0))) == np.nanargmax(scores(-np.append(values, 9.0)))
        return
    np.testing.assert_allclose(scores(values * scale + offset), scores(values), rtol=1e-6)


def test_scores_of_a_prefix_are_the_prefix_of_the_scores() -> None:
    values = noise(1200)
    np.testing.assert_array_equal(scores(values[:700]), scores(values)[:700])


def test_what_goes_on_being_strange_is_no_longer_news() -> None:
    values = noise(2000)
    values[1500:] += 15
    found = scores(values)
    assert found[1500] > 75
    assert (found[1503 : 1500 + RECENT // 2] < 50).all()


def timed(values: Floats, at_s: Floats) -> Floats:
    times = (at_s * 1e6).astype(np.int64).tolist()
    table = feed(Novelty(), rows({"time": pa.array(times, pa.timestamp("us", "UTC")), "value": values}))
    return table["score"].fill_null(0.0).to_numpy()


def test_a_reading_that_comes_twice_changes_nothing() -> None:
    values, at_s = noise(1500), np.arange(1500) * 300.0
    twice = np.sort(np.append(np.arange(1500), np.random.default_rng(3).integers(0, 1500, 150)))
    first = np.append(True, np.diff(twice) > 0)
    found = timed(values[twice], at_s[twice])
    np.testing.assert_array_equal(found[first], timed(values, at_s))
    assert not found[~first].any()


def test_readings_a_little_early_or_late_are_judged_the_same() -> None:
    values, at_s = noise(1500), np.arange(1500) * 300.0
    late = at_s + np.random.default_rng(3).uniform(0, 40, 1500)
    np.testing.assert_array_equal(timed(values, late), timed(values, at_s))


def test_after_a_long_gap_the_same_is_news_again() -> None:
    values, at_s = noise(2000), np.arange(2000) * 300.0
    values[1500], values[1540] = 15, -14
    later = np.where(np.arange(2000) > 1520, at_s + 2 * RECENT * 300, at_s)
    assert timed(values, at_s)[1540] < timed(values, later)[1540]


def test_a_missing_reading_makes_no_jump_out_of_a_steep_but_steady_course() -> None:
    at = np.arange(4000)
    values = np.interp(at % 100, [0, 40, 42, 90, 92], [0, 0, 10, 10, 0]) + np.random.default_rng(1).normal(0, 0.1, 4000)
    left = ~np.isin(at, [2041, 2991, 3641])  # each half-way up or down
    assert (timed(values[left], at[left] * 300.0)[2000:] < 50).all()


def test_a_storm_rings_a_few_times_only() -> None:
    values = noise(6000, seed=5)
    values[3000:] = np.random.default_rng(6).standard_t(2, 3000)
    rings = np.flatnonzero(scores(values) >= 50)
    assert 1 <= len(rings[rings >= 3000]) <= 14  # 20 where each ring is as easy as the first


def test_a_key_needs_less_than_8_kb() -> None:
    state = Novelty().initial()
    assert sum(array.nbytes // len(array) for array in state.arrays.values()) < 8192


SERIES = ["artificialNoAnomaly/art_daily_no_noise", "realKnownCause/nyc_taxi", "realTweets/Twitter_volume_CRM"]


@pytest.mark.skipif(not (DATA / "nab").is_dir(), reason="the NAB series are not in the data folder ($TOCSIN_DATA)")
@pytest.mark.parametrize("name", SERIES)
def test_5_percent_of_the_readings_missing_changes_little(name: str) -> None:
    lines = (DATA / "nab" / f"{name}.csv").read_text().split("\n")[1:]
    stamps, numbers = zip(*(line.split(",") for line in lines if line), strict=True)
    at_s = np.array([stamp.replace(" ", "T") for stamp in stamps], "datetime64[s]").astype(float)
    windows = json.loads((DATA / "nab" / "windows.json").read_text())[f"{name}.csv"]
    limits = np.array([[str(a)[:19].replace(" ", "T") for a in pair] for pair in windows], "datetime64[s]").astype(
        float
    )

    def rings(kept: npt.NDArray[np.bool_]) -> tuple[list[bool], int]:
        """Returns which windows are told, and how many rings there are in the rest."""
        rung = at_s[kept][timed(np.array(numbers, float)[kept], at_s[kept]) >= 50]
        inside = [(rung >= first) & (rung <= last) for first, last in limits.reshape(-1, 2)]
        return [bool(one.any()) for one in inside], len(rung) - int(sum(one.sum() for one in inside))

    told, false = rings(np.ones(len(at_s), bool))
    assert all(told)
    for seed in range(3):
        told_thin, false_thin = rings(np.random.default_rng(seed).random(len(at_s)) >= 0.05)
        assert told_thin == told
        assert abs(false_thin - false) <= 2


@pytest.mark.skipif(not (DATA / "nab").is_dir(), reason="the NAB series are not in the data folder ($TOCSIN_DATA)")
def test_numenta_benchmark() -> None:
    bench = subprocess.run(
        [sys.executable, ROOT / "bench" / "nab.py", DATA / "nab"], capture_output=True, text=True, check=True
    )
    figures = json.loads(bench.stdout.splitlines()[-1])
    assert figures["null"] == {"standard": 0.0, "reward_low_fp": 0.0, "reward_low_fn": 0.0}
    novelty, shipped = figures["novelty"], figures["novelty_shipped"]
    assert novelty["standard"] >= 77
    assert novelty["reward_low_fp"] >= 70
    assert novelty["reward_low_fn"] >= 81
    assert shipped["standard"] >= novelty["standard"] - 2
    assert novelty["standard"] > figures["windowed_gaussian"]["standard"] + 20


@pytest.mark.parametrize("constant", [200, 5000])
def test_the_first_change_of_a_constant_series_is_news_and_the_way_back_is_none(constant: int) -> None:
    values = np.concatenate([np.full(constant, 5.0), np.full(5, 7.0), np.full(100, 5.0)])
    scores = feed(Novelty(), rows({"value": values}))["score"].fill_null(0).to_numpy()
    assert scores[:constant].max() == 0
    assert scores[constant] > 50
    assert scores[constant + 1 :].max() < 50
