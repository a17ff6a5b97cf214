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
from tocsin.launch import launch
from tocsin.serve.access import Address
from tocsin.yamlfile import load_with_plan


def run_demo(folder: Path, port: int) -> None:
    """Run until Ctrl-C; started again the engine goes on where it was, with the tables and alarms of before."""
    address = Address(port=port)
    folder.mkdir(parents=True, exist_ok=True)
    with _broker(folder / ".broker") as url:
        os.environ |= {"TOCSIN_MQTT_URL": url, "TOCSIN_DEMO_FOLDER": str(folder)}
        pipeline, plan = load_with_plan(example("demo.yaml"))
        with _plant(folder / "plant"):
            launch(plan, pipeline.page.streams, address)


def example(name: str) -> Path:
    """The path of an example that ships with tocsin."""
    here = Path(__file__).parent
    installed = here / "examples" / name
    return installed if installed.exists() else here.parent.parent / "examples" / name


@contextmanager
def _broker(state: Path) -> Iterator[str]:
    """An MQTT broker in a process of its own, on a free port of this computer; gives its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tocsin.mqtt.broker", "--port", "0", "--state", str(state)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    try:
        if not said.startswith("listening on "):
            raise SourceError("the demo's MQTT broker did not start; the lines above say why")
        yield said.removeprefix("listening on ")
    finally:
        _end(process)
        process.stdout.close()


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
