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


def test_a_key_needs_less_than_8_kb() -> None:
    state = Novelty().initial()
    assert sum(array.nbytes // len(array) for array in state.arrays.values()) < 8192


@pytest.mark.skipif(not (DATA / "nab").is_dir(), reason="the NAB series are not in the data folder ($TOCSIN_DATA)")
def test_numenta_benchmark() -> None:
    bench = subprocess.run(
        [sys.executable, ROOT / "bench" / "nab.py", DATA / "nab"], capture_output=True, text=True, check=True
    )
    figures = json.loads(bench.stdout.splitlines()[-1])
    assert figures["null"] == {"standard": 0.0, "reward_low_fp": 0.0, "reward_low_fn": 0.0}
    novelty, shipped = figures["novelty"], figures["novelty_shipped"]
    assert novelty["standard"] >= 73
    assert novelty["reward_low_fp"] >= 63
    assert novelty["reward_low_fn"] >= 78
    assert shipped["standard"] >= novelty["standard"] - 2
    assert novelty["standard"] > figures["windowed_gaussian"]["standard"] + 20
