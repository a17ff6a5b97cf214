"""`tocsin demo`: a broker, a small simulated plant and this computer, watched live. Needs nothing but the install."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tocsin.errors import SourceError
from tocsin.serve.access import Address

if TYPE_CHECKING:
    from tocsin.engine.recovery import Effects
from tocsin.engine.recovery import Effects
from tocsin.pipeline.plan import Plan

SUBSCRIBED_WITHIN_S = 30.0
ENDED_WITHIN_S = 10.0


def run_demo(folder: Path, port: int) -> None:
    """Run until Ctrl-C; started again engine and plant go on where they were, with the tables and alarms of before."""
    address = Address(port=port)
    folder.mkdir(parents=True, exist_ok=True)
    with _child("broker", "--port", "0", "--state", str(folder / ".broker")) as broker:
        # Side by side: importing takes as long as starting a broker.
        from tocsin.cli.launch import launch
        from tocsin.pipeline.yamlfile import load_with_plan

        os.environ |= {"TOCSIN_MQTT_URL": _url(broker), "TOCSIN_DEMO_FOLDER": str(folder)}
        pipeline, plan = load_with_plan(example("demo.yaml"))
        _subscribe(plan)
        os.environ["TOCSIN_PLANT_FOLDER"] = str(folder / "plant")
        with _child("plant"):
            launch(plan, pipeline.page.streams, address)


def example(name: str) -> Path:
    """The path of an example that ships with tocsin."""
    here = Path(__file__).parent.parent
    installed = here / "examples" / name
    return installed if installed.exists() else here.parent.parent / "examples" / name


def _url(broker: subprocess.Popen[str]) -> str:
    """Where the broker listens; waits until it does."""
    assert broker.stdout is not None
    said = broker.stdout.readline().strip()
    if not said.startswith("listening on "):
        raise SourceError("the demo's MQTT broker did not start; the lines above say why")
    return said.removeprefix("listening on ")


def _subscribe(plan: Plan) -> None:
    """Let the broker open the engine's session: from now on it keeps what the plant says until the engine has it."""
    effects = Effects()
    for origin in plan.sources:
        if not origin.source.REPLAYABLE:
            connection = origin.source.open(effects.world(plan, "ingest", origin.id))
            for split in connection.splits():
                reader = connection.read(split, None)
                until = time.monotonic() + SUBSCRIBED_WITHIN_S
                while reader.counters().get("connects") == 0:
                    if time.monotonic() > until:
                        raise SourceError("the demo's MQTT broker does not answer")
                    reader.poll(1, 0.05)
                reader.close()
            connection.close()


@contextmanager
def _child(*command: str) -> Iterator[subprocess.Popen[str]]:
    """This module's `main` in a process of its own; it ends when we do, however we end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tocsin.cli.demo", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the engine, which then ends its children
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(ENDED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def main() -> None:
    """The processes that `run_demo` starts: ``broker ...`` or ``plant``."""

    def watch() -> None:
        while sys.stdin.read(4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ENDED_WITHIN_S)
        os._exit(1)  # who waits for a broker that is gone would wait for ever

    threading.Thread(target=watch, daemon=True).start()
    if sys.argv[1] == "broker":
        from tocsin.mqtt.broker import main as run_broker

        del sys.argv[1]
        run_broker()
    else:
        from tocsin.cli.launch import launch
        from tocsin.pipeline.yamlfile import load_with_plan

        launch(load_with_plan(example("plant.yaml"))[1])


if __name__ == "__main__":
    main()
