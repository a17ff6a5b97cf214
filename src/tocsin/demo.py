"""`tocsin demo`: a broker, a small simulated plant and this computer, watched live. Needs nothing but the install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tocsin.errors import SourceError
from tocsin.serve.access import Address


def run_demo(folder: Path, port: int) -> None:
    """Run until Ctrl-C; started again the engine goes on where it was, with the tables and alarms of before."""
    address = Address(port=port)
    folder.mkdir(parents=True, exist_ok=True)
    with _broker(folder / ".broker") as broker:
        # All three processes start side by side: importing takes as long as starting a broker.
        from tocsin.launch import launch
        from tocsin.yamlfile import load_with_plan

        os.environ |= {"TOCSIN_MQTT_URL": _url(broker), "TOCSIN_DEMO_FOLDER": str(folder)}
        with _plant(folder / "plant"):
            pipeline, plan = load_with_plan(example("demo.yaml"))
            launch(plan, pipeline.page.streams, address)


def example(name: str) -> Path:
    """The path of an example that ships with tocsin."""
    here = Path(__file__).parent
    installed = here / "examples" / name
    return installed if installed.exists() else here.parent.parent / "examples" / name


@contextmanager
def _broker(state: Path) -> Iterator[subprocess.Popen[str]]:
    """An MQTT broker in a process of its own, on a free port of this computer."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tocsin.mqtt.broker", "--port", "0", "--state", str(state)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        _end(process)
        assert process.stdout is not None
        process.stdout.close()


def _url(broker: subprocess.Popen[str]) -> str:
    """Where the broker listens; waits until it does."""
    assert broker.stdout is not None
    said = broker.stdout.readline().strip()
    if not said.startswith("listening on "):
        raise SourceError("the demo's MQTT broker did not start; the lines above say why")
    return said.removeprefix("listening on ")


@contextmanager
def _plant(folder: Path) -> Iterator[None]:
    """The simulated plant, a device of its own: it starts anew each time, so what it left behind goes."""
    shutil.rmtree(folder, ignore_errors=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tocsin.cli", "run", str(example("plant.yaml"))],
        env=os.environ | {"TOCSIN_PLANT_FOLDER": str(folder)}, start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        _end(process)


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
