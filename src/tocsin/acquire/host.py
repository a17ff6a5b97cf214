"""Source `host`: this computer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, ClassVar

import pyarrow as pa

from tocsin.batch import KEY, TIME, TIME_TYPE, Batch
from tocsin.contracts import Offset, Reader, Source
from tocsin.ends import OneSplit
from tocsin.settings.quantities import Duration
from tocsin.world import Clock, World

SCHEMA = pa.schema([KEY, TIME, pa.field("signal", pa.string(), nullable=False), pa.field("value", pa.float64())])


class Host(Source):
    """Measure this computer: processor, memory, disk, network, load, processes, and temperatures where there are any.

    Use it to watch the machine that tocsin runs on, and to try things out: it is the one machine that everybody has.
    One row for each signal, ``cpu.total`` and ``cpu.0`` in percent, ``net.received_bytes_per_s`` and so on. What has
    been measured cannot be measured again, so the runner keeps it in its ingest log.

    Examples
    --------
    >>> from tocsin.testing import read_from
    >>> batch, _ = read_from(Host(every="100ms", key="laptop")).poll(1000, timeout_s=10)
    >>> {"cpu.total", "memory.used_percent"} <= set(batch.rows["signal"].to_pylist())
    True
    """

    SHORTHAND: ClassVar[str | None] = "every"
    REPLAYABLE: ClassVar[bool] = False
    PROMISE: ClassVar[str] = "exactly once, of what has been measured"

    every: Duration = 1_000_000
    """Time between two measurements."""
    key: str = ""
    """What this computer is called; its host name if empty."""

    def output_schema(self) -> pa.Schema:
        return SCHEMA

    def open(self, world: World) -> OneSplit:
        return OneSplit(lambda offset: HostReader(self.every, self.key or socket.gethostname(), world.clock))


class HostReader(Reader):
    """Measures when it is due; what was missed while nobody polled is not made up for."""

    def __init__(self, every_us: int, key: str, clock: Clock) -> None:
        self._every_s, self._key, self._clock = every_us / 1e6, key, clock
        self._before = _counters()
        self._due_s = self._before_s = self._clock.monotonic_s()
        self._due_s += self._every_s
        self._last_us = 0

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        wait_s = self._due_s - self._clock.monotonic_s()
        if wait_s > 0:
            self._clock.sleep(min(wait_s, timeout_s))
        now_s = self._clock.monotonic_s()
        if now_s < self._due_s:
            return None
        self._due_s = max(self._due_s + self._every_s, now_s)
        # A clock that is set back must not make time run backwards: that would be late rows.
        time_us = self._last_us = max(self._clock.now_us(), self._last_us + 1)
        after = _counters()
        signals = {**_rates(self._before, after, now_s - self._before_s), **_levels()}
        self._before, self._before_s = after, now_s
        rows = pa.record_batch(
            [
                pa.DictionaryArray.from_arrays(pa.array([0] * len(signals), pa.int32()), [self._key]),
                pa.array([time_us] * len(signals), pa.int64()).cast(TIME_TYPE),
                pa.array(list(signals), pa.string()),
                pa.array(list(signals.values()), pa.float64()),
            ],
            schema=SCHEMA,
        )
        return Batch(rows, time_us), {"time_us": time_us}

    def close(self) -> None:
        pass


def _counters() -> dict[str, Any]:
    """What only ever counts up: processor seconds as (busy, all), bytes."""
    import psutil

    counters: dict[str, Any] = {"cpu.total": _busy(psutil.cpu_times())}
    counters |= {f"cpu.{number}": _busy(times) for number, times in enumerate(psutil.cpu_times(percpu=True))}
    if disk := psutil.disk_io_counters():
        counters |= {"disk.read": disk.read_bytes, "disk.written": disk.write_bytes}
    if net := psutil.net_io_counters():
        counters |= {"net.received": net.bytes_recv, "net.sent": net.bytes_sent}
    return counters


def _busy(times: Any) -> tuple[float, float]:
    # Linux counts the time of guests in `user` too.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _rates(before: dict[str, Any], after: dict[str, Any], seconds: float) -> dict[str, float]:
    rates = {}
    for name, now in after.items():
        then = before.get(name)
        if isinstance(now, tuple) and then is not None:
            busy, total = now[0] - then[0], now[1] - then[1]
            rates[name] = min(100.0, max(0.0, 100 * busy / total)) if total > 0 else 0.0
        elif then is not None:
            rates[f"{name}_bytes_per_s"] = max(0, now - then) / seconds
    return rates


def _levels() -> dict[str, float]:
    import psutil

    memory = psutil.virtual_memory()
    levels = {
        "memory.used_percent": memory.percent,
        "memory.available_bytes": float(memory.available),
        "swap.used_percent": psutil.swap_memory().percent,
        "disk.used_percent": psutil.disk_usage("/").percent,
        "load.1": psutil.getloadavg()[0],
        "processes": float(len(psutil.pids())),
    }
    levels.update(_temperatures())
    return levels


def _temperatures() -> Iterator[tuple[str, float]]:
    import psutil

    # Only Linux and FreeBSD have it, and a virtual machine has no sensors.
    for chip, sensors in getattr(psutil, "sensors_temperatures", dict)().items():
        for number, sensor in enumerate(sensors):
            yield f"temperature.{chip}.{sensor.label or number}", float(sensor.current)
