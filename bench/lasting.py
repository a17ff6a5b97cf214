"""Does a fault that lasts stay told: python bench/lasting.py [--seeds 20] [--detector health]

Each detector, as it ships, on one key for each series of 6,000 readings, five minutes apart. Two are faulty from the
middle on (value 2 with 2 % noise): 60 % higher for good, and a climb to 60 % higher. Printed for each detector, as
means over the seeds: the share of the faulty readings with a score of 75 or more; the share of the climb after which
it is told for good (1: never); and the readings in 10,000 with a score of 75 or more in 15 kinds of clean series. For
the default also: climbs to 30 % higher (15 standard deviations) that take 3,000 to 100,000 readings, a step of 10
standard deviations on a steady trend, and a reading that hangs at its last value. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from tocsin.bases import Detector
from tocsin.batch import KEY, TIME, Batch, Floats, as_keys, as_times
from tocsin.pipeline.registry import find, names

COUNT, MIDDLE = 6_000, 3_000
EVERY_US = 300_000_000
A_DAY = 288
BEGIN_US = 1_767_225_600_000_000
TOLD = 75.0
DEFAULT = "health"
Random = np.random.Generator
INDEX = np.arange(COUNT)
CLIMBS = ((1_000, 3_000), (3_000, 6_000), (3_000, 12_000), (3_000, 30_000), (20_000, 100_000))
"""Well readings before it, and how many the climb takes."""


def autoregressive(random: Random, memory: float) -> Floats:
    """Each value is ``memory`` times the one before, and noise; of variance 1 from the start on."""
    noise = random.normal(0, np.sqrt(1 - memory**2), COUNT)
    values, last = np.empty(COUNT), random.normal()
    for i in range(COUNT):
        last = values[i] = memory * last + noise[i]
    return values


def random_duty(random: Random) -> Floats:
    """On and off, for times of 10 to 60 readings."""
    lengths = random.integers(10, 61, COUNT // 10)
    return np.repeat(np.arange(len(lengths)) % 2, lengths)[:COUNT].astype(float)


CLEAN: dict[str, Callable[[Random], Floats]] = {
    "white": lambda random: random.normal(10, 1, COUNT),
    "ar_0.9": lambda random: 10 + autoregressive(random, 0.9),
    "ar_0.99": lambda random: 10 + autoregressive(random, 0.99),
    "random_walk": lambda random: np.cumsum(random.normal(0, 1, COUNT)),
    "daily_sine": lambda random: 10 + 3 * np.sin(INDEX / A_DAY * 2 * np.pi) + random.normal(0, 0.3, COUNT),
    "ramp_with_resets": lambda random: INDEX % 200 / 20 + random.normal(0, 0.1, COUNT),
    "duty_regular": lambda random: INDEX // 30 % 2 * 5 + random.normal(0, 0.1, COUNT),
    "duty_random": lambda random: random_duty(random) * 5 + random.normal(0, 0.1, COUNT),
    "lognormal": lambda random: random.lognormal(0, 1, COUNT),
    "t3": lambda random: random.standard_t(3, COUNT),
    "poisson_0.2": lambda random: random.poisson(0.2, COUNT).astype(float),
    "poisson_20": lambda random: random.poisson(20, COUNT).astype(float),
    "constant": lambda random: np.full(COUNT, 4.2),
    "quantised": lambda random: np.round(random.normal(20, 0.3, COUNT)),
    "trend": lambda random: INDEX / 500 + random.normal(0, 0.5, COUNT),
}


def step_fault(random: Random) -> Floats:
    """60 % higher from the middle on: 30 standard deviations."""
    return random.normal(2, 0.04, COUNT) * np.where(INDEX < MIDDLE, 1.0, 1.6)


def ramp_fault(random: Random) -> Floats:
    """Climbs from the middle on to 60 % higher at the end."""
    return random.normal(2, 0.04, COUNT) * (1 + 0.6 * np.maximum(INDEX - MIDDLE, 0) / (COUNT - MIDDLE))


def slow_climb(random: Random, well: int, climb: int) -> Floats:
    """Well for so many readings, then a climb to 30 % higher within so many: 15 standard deviations."""
    return random.normal(2, 0.04, well + climb) * (1 + 0.3 * np.maximum(np.arange(well + climb) - well, 0) / climb)


def step_on_trend(random: Random) -> Floats:
    """A steady trend, as in the clean series, and a step of 10 standard deviations from the middle on."""
    return CLEAN["trend"](random) + np.where(INDEX < MIDDLE, 0.0, 5.0)


def hanging(random: Random) -> Floats:
    """Well until the middle, then for ever at the last value."""
    values = random.normal(2, 0.04, COUNT)
    values[MIDDLE:] = values[MIDDLE]
    return values


def told(detector: Detector, values: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each reading has a score of 75 or more."""
    key, time = as_keys(pa.array(["machine"] * len(values))), as_times(BEGIN_US + np.arange(len(values)) * EVERY_US)
    schema = pa.schema([KEY, TIME, pa.field("value", pa.float64())])
    rows = pa.RecordBatch.from_arrays([key, time, pa.array(values)], schema=schema)
    _, (verdict,) = detector.step(detector.initial(), Batch(rows))
    score: Floats = verdict.rows.column("score").fill_null(0.0).to_numpy(zero_copy_only=False)
    return score >= TOLD


def figures(detector: Detector, seeds: range) -> tuple[dict[str, float], dict[str, float]]:
    """Its figures over the seeds; and false readings in 10,000 by kind of clean series."""
    steps, ramps, firsts = [], [], []
    false = dict.fromkeys(CLEAN, 0.0)
    for seed in seeds:
        steps.append(told(detector, step_fault(np.random.default_rng([seed, 1])))[MIDDLE:].mean())
        ramp = told(detector, ramp_fault(np.random.default_rng([seed, 2])))[MIDDLE:]
        ramps.append(ramp.mean())
        firsts.append(for_good_from(ramp))
        for at, (kind, series) in enumerate(CLEAN.items()):
            false[kind] += told(detector, series(np.random.default_rng([seed, 3, at]))).mean() * 1e4 / len(seeds)
    return {
        "step_told_share": round(float(np.mean(steps)), 4),
        "ramp_told_share": round(float(np.mean(ramps)), 4),
        "ramp_first_share": round(float(np.mean(firsts)), 4),
        "false_per_10k": round(float(np.mean(list(false.values()))), 3),
    }, false


def for_good_from(ramp: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Returns the share of a climb after which it is told without a gap."""
    silent = np.flatnonzero(~ramp)
    return float((silent[-1] + 1) / len(ramp)) if len(silent) else 0.0


def slow_figures(detector: Detector, seeds: range) -> dict[str, float]:
    """The worst over the seeds: where each of `CLIMBS` is told for good; the step on a trend; what hangs."""
    worst = {}
    for well, climb in CLIMBS:
        series = (slow_climb(np.random.default_rng([seed, 4, climb]), well, climb) for seed in seeds)
        worst[f"{well}_then_{climb}"] = round(max(for_good_from(told(detector, one)[well:]) for one in series), 3)
    steps = [told(detector, step_on_trend(np.random.default_rng([seed, 5])))[MIDDLE:].mean() for seed in seeds]
    hangs = [told(detector, hanging(np.random.default_rng([seed, 6])))[MIDDLE:].mean() for seed in seeds]
    return {
        **worst,
        "step_on_trend_told_share": round(float(np.min(steps)), 4),
        "hanging_told_share": round(float(np.min(hangs)), 4),
    }


def detectors() -> dict[str, Detector]:
    """The detectors of one column, as they ship; not the one that wants a sensor to move."""
    made = {}
    for name, module in names("operator").items():
        if module.startswith("tocsin.detect.") and name != "job":
            cls = find("operator", name)
            if issubclass(cls, Detector) and cls.FAULT != "stuck":
                made[name] = cls.model_validate({})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0, help="0 for the figures told; another to try things with")
    parser.add_argument("--detector", action="append", help="only this one (several may be named)")
    parser.add_argument("--kinds", action="store_true", help="print false readings by kind of clean series as well")
    options = parser.parse_args()
    pa.set_cpu_count(1)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    result: dict[str, dict[str, float]] = {}
    print(f"{'detector':<14}{'step told':>12}{'ramp told':>12}{'for good from':>15}{'false in 10,000':>17}")
    for name, detector in detectors().items():
        if options.detector and name not in options.detector:
            continue
        result[name], by_kind = figures(detector, seeds)
        step, ramp, first, false = result[name].values()
        print(f"{name:<14}{step:>12.3f}{ramp:>12.3f}{first:>15.3f}{false:>17.2f}", flush=True)
        if options.kinds:
            print("".join(f"    {kind} {share:.2f}" for kind, share in by_kind.items()))
    if DEFAULT in result:
        slow = slow_figures(detectors()[DEFAULT], seeds)
        print(f"{DEFAULT}, worst of all seeds: well readings, then a climb of so many: told for good from")
        print("".join(f"    {name} {share}" for name, share in slow.items()))
        result["default"] = result[DEFAULT] | slow
    print(json.dumps({"seeds": options.seeds, **result}))


if __name__ == "__main__":
    main()
