"""A small plant for the page's tests and picture: real rows through the real feed and the real alarm step."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from written_actions import ActionLog

from tocsin.batch import ACTIONS, KEY, TIME, Batch, as_keys, as_times
from tocsin.engine.feed import SOCKET, PageFeed
from tocsin.notify.alarm import Alarm

MACHINES = {
    "compressor-1": {"pressure": (7.2, 0.25, 60), "motor_current": (41, 3, 60), "air_temperature": (24, 1.5, 400)},
    "motor-1": {"vibration": (2.1, 0.12, 0), "winding_temperature": (71, 2.5, 300), "speed": (1487, 4, 90)},
    "pump-1": {"flow": (118, 4, 120), "outlet_pressure": (4.3, 0.12, 120), "bearing_temperature": (52, 1.2, 240)},
    "pump-2": {"flow": (94, 3, 100), "outlet_pressure": (3.9, 0.1, 100), "bearing_temperature": (49, 1.0, 240)},
    "scara-1": {"j1_position": (0, 80, 24), "j2_position": (40, 30, 24), "j3_height": (120, 45, 12)},
    "this-computer": {"cpu": (23, 12, 35), "memory": (61, 0.8, 200), "network": (3.2, 1.1, 20), "load": (1.2, 0.4, 60)},
}  # fmt: skip
READING = pa.schema(
    [KEY, TIME, pa.field("signal", pa.string()), pa.field("value", pa.float64())]
    + [pa.field(name, pa.float64()) for name in ("expected", "lower", "upper", "score")]
)


def wait_for(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.01)


def readings(at_s: float, rng: np.random.Generator, faulty: bool) -> list[tuple[str, str, float, float, float]]:
    """Machine, signal, value, expected and half the band's width at a time."""
    found = []
    for machine, signals in MACHINES.items():
        for signal, (mean, swing, period) in signals.items():
            expected = mean + (swing * np.sin(2 * np.pi * at_s / period) if period else 0.0)
            noise = swing * (0.18 if period else 0.5)
            value = expected + rng.normal() * noise * 0.5
            if faulty and signal == "vibration":
                value += 9 * noise * (1 + 0.3 * np.sin(at_s / 7))  # never near the limit: the alarm does not flap
            found.append((machine, signal, value, expected, noise * 1.9))
    return found


def batch(rows: list[tuple[int, str, str, float, float, float]]) -> pa.RecordBatch:
    times, machines, signals, values, expected, half = zip(*rows, strict=True)
    value, middle, width = np.array(values), np.array(expected), np.array(half)
    score = np.clip(100 * (np.abs(value - middle) / width - 0.9) / 0.9, 0, 100)
    columns = [as_keys(pa.array(machines)), as_times(np.array(times)), pa.array(signals), pa.array(value)]
    columns += [pa.array(c) for c in (middle, middle - width, middle + width, score)]
    return pa.RecordBatch.from_arrays(columns, schema=READING)


class Plant:
    """Feeds the page as an engine would, and applies what operators do."""

    def __init__(self, state_folder: Path, *, past_s: int = 300, fault_after_s: float = 2.0) -> None:
        self.feed = PageFeed(state_folder / SOCKET)
        self.state_folder = state_folder
        self.alarm = Alarm(rule="unusual", score=75)
        self.state = self.alarm.initial()
        self.rng = np.random.default_rng(7)
        self.begun_s = time.time()
        self.past_s, self.fault_after_s = past_s, fault_after_s
        self.rows = 0
        schema = READING
        self.alarm.output_schema(schema)

    def until_heard(self, timeout_s: float = 10.0) -> None:
        """Wait for the page, then show it the past."""
        wait_for(lambda: self.feed.listening, timeout_s)
        for begin in range(self.past_s, 0, -60):
            self.tell([self.begun_s - s for s in range(begin, max(begin - 60, 0), -1)])
            time.sleep(0.5)

    def tell(self, times_s: list[float]) -> None:
        rows = [
            (int(at * 1e6), *reading)
            for at in times_s
            for reading in readings(at, self.rng, at > self.begun_s + self.fault_after_s)
        ]
        self.rows += len(rows)
        for first in range(0, len(rows), 1000):
            found = Batch(batch(rows[first : first + 1000]), int(times_s[-1] * 1e6))
            self.feed.offer("readings", found)
            vibration = found.rows.filter(pa.compute.equal(found.rows["signal"], "vibration"))
            self._show(found.with_rows(vibration))
        self.feed.counters(
            {
                "rows_in": {"plant": self.rows},
                "rows_out": {"readings": self.rows},
                "late": {"plant": 3},
                "rejected": [{"source": "plant", "reason": "json_syntax", "rows": 12}],
                "lag_s": {"readings": 0.12},
                "epochs": 12,
                "epoch_ms": 14.0,
                "trouble": None,
            }
        )

    def _show(self, found: Batch) -> None:
        self.state, out = self.alarm.step(self.state, found)
        for alarms in out:
            self.feed.offer("alarms", alarms)

    def run_until(self, stop: threading.Event, every_s: float = 0.25) -> None:
        actions = ActionLog(self.state_folder, 0)
        while not stop.wait(every_s):
            self.tell([time.time()])
            done = actions.poll()
            if done is not None:
                self._show(Batch(done, int(time.time() * 1e6), ACTIONS))
        actions.close()

    def close(self) -> None:
        self.feed.close()


if __name__ == "__main__":
    from tocsin.serve.access import Address
    from tocsin.serve.app import start

    folder = Path(sys.argv[1])
    page = start(folder, address=Address(port=int(sys.argv[2])), title="demo plant")
    plant = Plant(folder)
    stop = threading.Event()
    threading.Timer(float(sys.argv[3]), stop.set).start()
    try:
        plant.until_heard()
        plant.run_until(stop)
    finally:
        plant.close()
        page.stop()
