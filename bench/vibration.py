"""Which bearings are named, and what a block costs: python bench/vibration.py DIR

DIR holds a folder ``cwru`` (or is it) of records of the Case Western Reserve University test rig: ``*.npy``,
acceleration in g at 12 kHz. Each is cut into blocks of 16,384 samples (1.4 s), or one that is as long as the record,
and a record has the fault that at least half of its blocks are named after; its name plays no part in that. Beside
them stands what the plain rule gives: the fault frequency whose line stands highest in the spectrum of the signal
itself.

A record does not say how fast the motor turned, and its data sheet says 1,730 to 1,797 rpm: so fault frequencies may
lie 2.5 % to each side of those at 1,764 rpm. The bearing is the one at the drive end; in records whose names have
``fan`` or ``fe`` in them it is the one at the fan end, where a fault frequency lies close to three times the speed:
there the speed is taken from the lines of the shaft in the record. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from tocsin.batch import Batch, Floats
from tocsin.domain.bearings import BEARINGS
from tocsin.estimate.spectrum import Spectrum
from tocsin.testing import rows

RATE_HZ = 12_000.0
BLOCK, TIMED_BLOCK = 16_384, 4096
SPEED_RPM, TOLERANCE_PERCENT = 1764.0, 2.5
SPEEDS_RPM = np.arange(1715.0, 1812.0, 0.5)
LINES = {"outer race": "BPFO", "inner race": "BPFI", "rolling element": "BSF", "cage": "FTF"}


def waveforms(wave: Floats, size: int) -> pa.RecordBatch:
    blocks = wave[: len(wave) // size * size].astype(np.float64)
    return rows({"waveform": pa.FixedSizeListArray.from_arrays(pa.array(blocks), size)})


def speed_of(wave: Floats) -> float:
    """The speed at whose first six multiples the lines stand highest."""
    spectrum = np.log(np.abs(np.fft.rfft((wave - wave.mean()) * np.hanning(len(wave)))) + 1e-12)
    places = np.outer(np.arange(1, 7), SPEEDS_RPM / 60 * len(wave) / RATE_HZ)
    heights = np.maximum(spectrum[places.astype(int)], spectrum[places.astype(int) + 1])
    return float(SPEEDS_RPM[heights.sum(axis=0).argmax()])


def step_for(name: str, wave: Floats) -> Spectrum:
    if re.search(r"fan|(^|[^a-z])fe([^a-z]|$)", name.lower()):
        return Spectrum(rate=RATE_HZ, bearing="6203", speed=speed_of(wave), tolerance_percent=1.0)
    return Spectrum(rate=RATE_HZ, bearing="6205", speed=SPEED_RPM, tolerance_percent=TOLERANCE_PERCENT)


def named(step: Spectrum, wave: Floats) -> tuple[str | None, str]:
    """The line that a record is named after, and how many of its blocks were."""
    _, (*_, told) = step.step(step.initial(), Batch(waveforms(wave, min(BLOCK, len(wave)))))
    faults = told.rows.column("fault").to_pylist()
    fault, count = max(Counter(faults).items(), key=lambda one: one[1], default=(None, 0))
    agreed = fault is not None and 2 * count >= len(faults)
    ratio = max((r for r in told.rows.column("fault_ratio").to_pylist() if r is not None), default=0.0)
    return (LINES[fault] if agreed else None), f"{count} of {len(faults)} blocks, ratio up to {ratio:.0f}"


def highest_line(bearing: str, wave: Floats) -> str:
    spectrum = np.abs(np.fft.rfft((wave - wave.mean()) * np.hanning(len(wave))))
    orders = BEARINGS[bearing].orders()
    at = {"BPFO": orders.bpfo, "BPFI": orders.bpfi, "BSF": 2 * orders.bsf, "FTF": orders.ftf}
    share = TOLERANCE_PERCENT / 100

    def height(order: float) -> float:
        line = order * SPEED_RPM / 60 * len(wave) / RATE_HZ
        return float(spectrum[int(line * (1 - share)) : int(line * (1 + share)) + 2].max())

    return max(at, key=lambda name: height(at[name]))


def us_per_block(step: Spectrum, wave: Floats, repeats: int = 100) -> float:
    """CPU time of the whole step for a block of 4,096 samples, the least of some runs: others use the machine, too."""
    table = waveforms(np.tile(wave, 4), TIMED_BLOCK)
    state, batch, taken = step.initial(), Batch(table), []
    for _ in range(repeats):
        begin = time.process_time()
        step.step(state, batch)
        taken.append(time.process_time() - begin)
    return min(taken) / table.num_rows * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    paths = sorted((folder / "cwru" if (folder / "cwru").is_dir() else folder).glob("*.npy"))
    if not paths:
        parser.error(f"{folder} has no records: it needs cwru/*.npy")
    records = {path.stem: np.load(path, allow_pickle=False).astype(np.float64).ravel() for path in paths}
    result: dict[str, str | None] = {}
    print(f"{'record':<24}{'named':<8}{'highest line':<14}evidence")
    for name, wave in records.items():
        step = step_for(name, wave)
        result[name], evidence = named(step, wave)
        print(f"{name:<24}{result[name] or '-':<8}{highest_line(str(step.bearing), wave):<14}{evidence}")
    wave = next(iter(records.values()))
    plain = Spectrum(rate=RATE_HZ, speed=SPEED_RPM)
    by_kurtosis = Spectrum(rate=RATE_HZ, speed=SPEED_RPM, bearing="6205")
    chosen = by_kurtosis.model_copy(update={"band": (2000.0, 4500.0)})
    costs = [round(us_per_block(step, wave), 1) for step in (by_kurtosis, chosen, plain)]
    print("µs a block of 4,096 samples: band by kurtosis {}, a band given {}, no bearing {}".format(*costs))
    print(json.dumps({"named": result, "us_per_block": costs[0], "us_band_given": costs[1], "us_no_bearing": costs[2]}))


if __name__ == "__main__":
    main()
