"""The step that runs trained models: against the model itself, through gaps, promotions, restarts and shadows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tocsin.batch import Batch
from tocsin.errors import ConfigError
from tocsin.estimate.model import EXAMPLE, Model
from tocsin.models.forecaster import Forecaster
from tocsin.models.manifest import Manifest
from tocsin.models.store import Store
from tocsin.testing import feed, rows

PERIOD_S = 1.5


@pytest.fixture
def store(tmp_path: Path) -> Store:
    shutil.copytree(EXAMPLE, tmp_path / "models")
    return Store(tmp_path / "models")


def rhythm(periods: Sequence[int], key: str = "pump") -> pa.RecordBatch:
    at = np.array(periods)
    value = 20 + np.sin(at * 2 * np.pi / 12) + 0.01 * (at % 7)
    return rows({"key": [key] * len(at), "time": at * PERIOD_S, "value": value, "other": 2 * value})


def add(store: Store, version: int = 1, **changes: Any) -> Manifest:
    """A version more of `pair`, like one that is there."""
    manifest, files = store.show("pair", version), store.files("pair", version)
    return store.add(replace(manifest, **changes), files)


def test_it_says_what_the_model_says_of_each_whole_window(store: Store) -> None:
    periods = [p for p in range(40) if p not in (15, 16, 30)]
    given = rhythm(periods)
    said = feed(Model(model="pair", store=str(store.folder)), given).to_pydict()
    model = Forecaster.open(store, "pair", 1)
    value = dict(zip(periods, given["value"].to_pylist(), strict=True))
    for i, now in enumerate(periods):
        window = [value.get(p) for p in range(now - 3, now + 1)]
        run = next((age for age in range(4) if window[3 - age] is None), 4)
        assert said["until_ready"][i] == 4 - run
        if run < 4:
            assert said["ahead"][i] is None
            assert said["version"][i] is None
            continue
        pairs = np.array([[(v, 2 * v) for v in window]])
        assert said["ahead"][i] == pytest.approx(model.predict(pairs)[0], abs=1e-6)
        assert said["version"][i] == 1
        if now + 2 in value:
            then = periods.index(now + 2)
            for column in ("", "_lower", "_upper"):
                assert said[f"yhat{column}"][then] == said[f"ahead{column}"][i]
            assert said["ahead_time"][i] == said["time"][then]


def test_a_machine_asked_about_alone_gets_the_same_answer(store: Store) -> None:
    step = Model(model="tide", store=str(store.folder))
    many = [rhythm(range(12), f"m{k}") for k in range(40)]
    together = feed(step, pa.Table.from_batches(many).combine_chunks().to_batches()[0], chop=40 * 12)
    for k in (0, 7, 39):
        alone = feed(step, many[k], chop=1)
        mine = together.filter(pa.compute.equal(together["key"].cast(pa.string()), f"m{k}"))
        assert alone["ahead"].to_pylist() == mine["ahead"].to_pylist()


def drive(step: Model, batches: Sequence[pa.RecordBatch], between: Callable[[int], None]) -> tuple[Any, pa.Table]:
    state, left = step.initial(), []
    for i, some in enumerate(batches):
        state, out = step.step(state, Batch(some))
        left += [b.rows for b in out]
        between(i)
    return state, pa.Table.from_batches(left)


def test_it_follows_the_champion_between_batches(store: Store) -> None:
    step = Model(model="pair", store=str(store.folder))

    def between(i: int) -> None:
        if i == 0:
            store.promote("pair", 2)
        elif i == 1:
            store.rollback("pair")

    given = rhythm(range(30))
    _, said = drive(step, [given.slice(0, 10), given.slice(10, 10), given.slice(20, 10)], between)
    versions = said["version"].to_pylist()
    assert versions == [None] * 3 + [1] * 7 + [2] * 10 + [1] * 10  # no window was lost
    second = feed(Model(model="pair", store=str(store.folder), shadow=2), given)
    assert said["ahead"].to_pylist()[20:] == second["ahead"].to_pylist()[20:]
    assert said["yhat"].to_pylist()[12:22] == second["shadow_yhat"].to_pylist()[12:22]


def test_a_champion_of_something_else_is_not_followed(store: Store) -> None:
    step = Model(model="pair", store=str(store.folder))
    add(store, horizon=3)
    add(store, kind="remaining_life")
    promotions = [3, 4]
    given = rhythm(range(15))
    state, said = drive(
        step, [given.slice(0, 5), given.slice(5, 5), given.slice(10, 5)],
        lambda i: store.promote("pair", promotions[i], force=True) if i < 2 else None,
    )  # fmt: skip
    assert said["version"].to_pylist()[3:] == [1] * 12
    assert step.counters(state) == {"promotions refused": 2}


def test_a_state_goes_on_under_a_champion_with_a_longer_window(store: Store, tmp_path: Path) -> None:
    # The same net, told to look at six periods: what is tested is what is kept, not what it says.
    from tocsin.models.recurrent import to_onnx

    random = np.random.default_rng(0)
    weights = {
        name: random.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in {"w": (8, 2), "r": (8, 2), "b": (8,), "out": (2,), "bias": ()}.items()
    }
    store.add(replace(store.show("pair", 1), window=6), {"model.onnx": to_onnx("lstm", weights, 6)})
    step = Model(model="pair", store=str(store.folder))
    given = rhythm(range(30))
    state = step.initial()
    state, _ = step.step(state, Batch(given.slice(0, 20)))
    saved = step.dump(state)
    store.promote("pair", 3)
    live, (left,) = step.step(state, Batch(given.slice(20, 5)))
    _, (again,) = step.step(step.load(saved), Batch(given.slice(20, 5)))
    for one in (left, again):
        # Of six periods four are known: two must still come.
        assert one.rows["until_ready"].to_pylist() == [1, 0, 0, 0, 0]
    assert left.rows["ahead"].to_pylist() == again.rows["ahead"].to_pylist()
    assert step.dump(live)["shape"][0].as_py() == "6 value other"


def test_bounds_hold_what_they_promise(store: Store) -> None:
    random = np.random.default_rng(2)
    at = np.arange(3_000)
    value = 20 + np.sin(at * 2 * np.pi / 12) + random.normal(0, 0.05 + 0.1 * (at > 1_500), len(at))
    said = feed(Model(model="tide", store=str(store.folder)), rows({"value": value})).to_pydict()
    inside = [
        low <= y <= high
        for y, low, high in zip(said["y"], said["yhat_lower"], said["yhat_upper"], strict=True)
        if low is not None
    ]
    assert len(inside) == 2_996  # from the first forecast on: training says how wide they begin
    for part in (inside[:1_490], inside[1_600:]):
        assert 0.87 <= np.mean(part) <= 0.93


def test_mistakes_are_told(store: Store, tmp_path: Path) -> None:
    schema = rhythm([0]).schema
    with pytest.raises(ConfigError, match=r"there is no model 'tyde' in .*tocsin train FILE"):
        Model(model="tyde", store=str(store.folder)).output_schema(schema)
    with pytest.raises(ConfigError, match="model needs column 'other'"):
        Model(model="pair", store=str(store.folder)).output_schema(schema.remove(schema.get_field_index("other")))
    add(store, horizon=3)
    with pytest.raises(ConfigError, match=r"version 3 .* than the champion"):
        Model(model="pair", store=str(store.folder), shadow=3).output_schema(schema)
