"""The page beside a real engine: what flows is shown, what operators do is applied, a restart goes on with the past."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from plant import wait_for
from servers import free_port

pytestmark = pytest.mark.timeout(120)
PIPELINE = """
name: plant
folder: {folder}/lake
source: {{simulate: {{every: 200ms, stops_per_day: 0, machines: {{motor: motor}}}}}}
streams:
  readings:
    sinks: [delta: readings]
  alarms:
    from: readings
    steps:
      - keep: signal = 'speed'
      - alarm: {{rule: turns, high: 1}}
    sinks: [delta: alarms]
"""


def run(file: Path, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tocsin.cli", "run", str(file), "--page", "--port", str(port)])


def test_an_engine_shows_what_flows_and_applies_what_operators_do(tmp_path: Path) -> None:
    file, port = tmp_path / "plant.yaml", free_port()
    file.write_text(PIPELINE.format(folder=tmp_path))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:

        def get(path: str) -> dict:
            try:
                return client.get(path).json()
            except httpx.ConnectError:
                return {}

        def states() -> list[str]:
            return [alarm["state"] for alarm in get("/api/alarms").get("alarms", ())]

        engine = run(file, port)
        try:
            wait_for(lambda: states() == ["ACTIVE_UNACK"], 60)
            wait_for(lambda: get("/api/counters")["rows_in"] > 20, 30)
            (alarm,) = get("/api/alarms")["alarms"]
            headers = {"x-tocsin-csrf": get("/api/session")["csrf"], "origin": str(client.base_url).rstrip("/")}
            path = f"/api/alarms/{alarm['id']}/acknowledge"
            assert client.post(path, headers=headers, json={}).status_code == 202
            wait_for(lambda: states() == ["ACTIVE_ACK"], 30)
            assert get("/api/alarms")["alarms"][0]["by"] == "local"
            signals = {one["signal"] for one in get("/api/series?machine=motor")["series"]}
            assert "speed" in signals
            assert get("/api/counters")["engine"] == "live"
            engine.send_signal(signal.SIGSTOP)  # it hangs
            wait_for(lambda: get("/api/counters")["engine"] == "stalled", 20)
            assert get("/readyz") == {"status": "engine stalled"}
            engine.send_signal(signal.SIGCONT)
            wait_for(lambda: get("/api/counters")["engine"] == "live", 20)
        finally:
            engine.send_signal(signal.SIGCONT)
            engine.terminate()
        assert engine.wait(30) == 0
        assert get("/api/counters") == {}, "the page ends with the engine"

        engine = run(file, port)
        try:
            wait_for(lambda: states() == ["ACTIVE_ACK"], 60)  # from the lake: no new row of it is sent
        finally:
            engine.terminate()
            engine.wait(30)
