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

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "simulation"))

import simulation

CHUNK = 50


def failures(seeds: range) -> list[str]:
    """What the seeds of a chunk found."""
    simulation.quiet()
    found = []
    for seed in seeds:
        try:
            simulation.simulate(seed)
        except simulation.Broken as error:
            found.append(str(error))
    return found


def caught(mutant: str) -> int | None:
    simulation.quiet()
    return simulation.caught(mutant, range(1000))


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
        mutants = [*simulation.MUTANTS, *simulation.DELTA_MUTANTS, *simulation.LOAD_MUTANTS]
        results = dict(zip(mutants, pool.map(caught, mutants), strict=True))
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
