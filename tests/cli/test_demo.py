"""The main job: `tocsin demo` as a stranger runs it, watched in a real browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from servers import free_port

import tocsin

pytestmark = pytest.mark.timeout(300)
WAIT_S = 120


class Demo:
    """The command in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        command = [sys.executable, "-m", "tocsin.cli", "demo", "--folder", str(folder), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"})

    def get(self, path: str) -> dict[str, object]:
        try:
            return dict(httpx.get(self.url + path, timeout=5).json())
        except httpx.HTTPError:
            return {}

    def wait(self, true: Callable[[], object], what: str) -> None:
        until = time.monotonic() + WAIT_S
        while not true():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < until, f"no {what} after {WAIT_S} s"
            time.sleep(0.2)

    def stop(self) -> str:
        """Ctrl-C; returns what the console showed."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, said
        return str(said)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[[], Demo]]:
    started: list[Demo] = []

    def start() -> Demo:
        started.append(Demo(tmp_path / "tocsin-data"))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_demo_shows_live_data_and_rings(demo: Callable[[], Demo], browser: object) -> None:
    first = demo()
    first.wait(lambda: float(str(first.get("/api/counters").get("rows_in", 0))) > 0, "live data")
    page = browser.new_context().new_page()  # type: ignore[attr-defined]
    page.goto(first.url)
    page.get_by_text("motor", exact=True).first.wait_for(timeout=60_000)
    page.get_by_text("compressor", exact=True).first.wait_for(timeout=10_000)
    # The bearing begins to wear 30 s after the start.
    page.get_by_role("button", name="Acknowledge").first.click(timeout=100_000)
    page.locator("text=/motor\\/vibration/").first.wait_for()
    first.wait(lambda: events(first.folder) & {"acknowledged"}, "acknowledgement in the table")
    page.close()
    said = first.stop()
    assert "motor" in said, "the bell rings in the console as well"
    assert {"raised", "case_opened"} <= events(first.folder)
    kept = tocsin.read("readings", first.folder)
    assert {"pump", "motor", "compressor", "scara"} < set(kept["key"].to_pylist())
    assert len(kept) == len(kept.group_by(["key", "time", "signal"]).aggregate([])), "each reading once"
    alarms = tocsin.read("alarms", first.folder).num_rows

    second = demo()
    before = kept.filter(pc.equal(kept["key"].cast(pa.string()), "motor")).num_rows
    second.wait(lambda: float(str(second.get("/api/counters").get("rows_in", 0))) > 100, "live data again")
    second.wait(lambda: motor_rows(first.folder) > before, "the plant again")
    late = int(str(second.get("/api/counters").get("late", -1)))
    assert 0 <= late < 10_000, (
        "only what waited in the broker is late for the windows, no past that comes after the present"
    )
    second.stop()
    again = tocsin.read("readings", first.folder)
    assert len(again) > len(kept)
    assert again.slice(0, 0).schema.equals(kept.slice(0, 0).schema)
    assert tocsin.read("alarms", first.folder).num_rows >= alarms
    for table in ("windows", "anomalies"):
        assert tocsin.read(table, first.folder).num_rows > 0


def motor_rows(folder: Path) -> int:
    keys = tocsin.read("readings", folder)["key"].cast(pa.string())
    return int(pc.sum(pc.equal(keys, "motor")).as_py())


def events(folder: Path) -> set[str]:
    if not (folder / "alarms" / "_delta_log").is_dir():
        return set()
    return set(tocsin.read("alarms", folder)["event"].to_pylist())
