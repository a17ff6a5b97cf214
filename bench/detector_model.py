"""What a row costs in a detector model, and what a detector remembers: `python bench/detector_model.py FOLDER`.

FOLDER holds the exported models. Ends with one JSON line: CPU microseconds a row and bytes a key, by model.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tocsin.batch import Batch, times_us
from tocsin.notify.detector_model import DetectorModel
from tocsin.testing import rows

COUNT = 50_000
KEYS = 100


def columns() -> dict[str, dict[str, Any]]:
    random = np.random.default_rng(1)
    return {
        "crane": {"temperature": random.normal(30, 5, COUNT)},
        "motor_pressure": {"sensorData.pressure": random.normal(65, 10, COUNT)},
        "pollution_forecast_accuracy": {
            "predicted_pollution": random.normal(100, 10, COUNT),
            "actual_pollution": random.normal(100, 3, COUNT),
        },
        "temperature_check": {"sensorData.temperature": random.normal(20, 1, COUNT)},
        "isa_alarm": {
            "value": random.normal(50, 30, COUNT),
            "command": ["acknowledge" if x < 0.1 else None for x in random.random(COUNT)],
            "lower_threshold": np.zeros(COUNT),
            "higher_threshold": np.full(COUNT, 100.0),
        },
    }


def main(folder: Path) -> None:
    found = {}
    for name, given in columns().items():
        operator = DetectorModel(model=str(folder / f"{name}.json"))
        table = rows({"key": [f"k{i % KEYS}" for i in range(COUNT)], "time": np.arange(COUNT) * 0.1, **given})
        times, state, left = times_us(table), operator.initial(), 0
        begin = time.process_time()
        for i in range(0, COUNT, 4096):
            until = int(times[min(i + 4096, COUNT - 1)])
            state, batches = operator.step(state, Batch(table.slice(i, 4096), until))
            left += sum(map(len, batches))
        cost_us = (time.process_time() - begin) / COUNT * 1e6
        size = operator.dump(state).nbytes / KEYS
        found[name] = {"us_a_row": round(cost_us, 1), "bytes_a_key": round(size), "rows_out": left}
        print(f"{name:30} {cost_us:6.1f} us a row  {size:5.0f} bytes a key  {left:6} rows out")
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
