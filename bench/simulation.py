"""Crash schedules from seeds: any number of them, and the planted mistakes; ends with one JSON line.

python bench/simulation.py --seeds 10000 [--first 0] [--jobs 2]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "simulation"))

import sharing
import simulation
import wires

CHUNK = 50
FEWER = 10
"""One seed of so many is also run with shards, senders and foreign transactions, and with two engines of a group."""


def failures(seeds: range) -> list[str]:
    """What the seeds of a chunk found."""
    simulation.quiet()
    found = []
    for seed in seeds:
        schedules = [simulation.simulate, *([wires.simulate, sharing.simulate] if seed % FEWER == 0 else [])]
        for schedule in schedules:
            try:
                schedule(seed)
            except simulation.Broken as error:
                found.append(str(error))
    return found


def caught(mutant: str) -> int | None:
    simulation.quiet()
    (module,) = (module for module in (wires, sharing, simulation) if mutant in mutants(module))
    return module.caught(mutant, range(1000))


def mutants(module: Any) -> list[str]:
    if module is simulation:
        return [*simulation.MUTANTS, *simulation.DELTA_MUTANTS, *simulation.LOAD_MUTANTS]
    return [*module.MUTANTS]


def chunks(first: int, count: int) -> Iterator[range]:
    for begin in range(first, first + count, CHUNK):
        yield range(begin, min(begin + CHUNK, first + count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    settings = parser.parse_args()
    broken: list[str] = []
    with ProcessPoolExecutor(settings.jobs) as pool:
        for i, found in enumerate(pool.map(failures, chunks(settings.first, settings.seeds)), 1):
            broken += found
            for text in found:
                print(text, file=sys.stderr)
            print(f"\r{min(i * CHUNK, settings.seeds)} seeds, {len(broken)} failures", end="", file=sys.stderr)
        print(file=sys.stderr)
        planted = [mutant for module in (simulation, wires, sharing) for mutant in mutants(module)]
        results = dict(zip(planted, pool.map(caught, planted), strict=True))
    for mutant, seed in results.items():
        print(f"{mutant}: {'not found' if seed is None else f'found by seed {seed}'}", file=sys.stderr)
    figures = {
        "seeds": settings.seeds,
        "failures": len(broken),
        "mutants": len(results),
        "mutants_caught": sum(seed is not None for seed in results.values()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
