"""All of scara.yaml and its forecasts, one after the other: python everything.py [--history 7200] [--seconds 240]

Writes what the robot wrote in the last two hours; runs a broker, the pipeline and its archive; trains a net on the
archive and follows it; then the robot goes on, a second at a time, with the page beside it; near the end something
blocks it. What it makes lies in ``--folder``.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import tocsin
from tocsin.acquire.simulate import Fault, write_scara_xml
from tocsin.errors import TocsinError
from tocsin.mqtt.plain import Plain

HERE = Path(__file__).parent
BROKER = [sys.executable, "-m", "tocsin.mqtt.broker", "--port"]
TOCSIN = [sys.executable, "-m", "tocsin.cli"]
BLOCKED_S = 40
WAIT_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", type=int, default=7200, help="seconds that the robot has run before")
    parser.add_argument("--seconds", type=int, default=240, help="seconds that it goes on")
    parser.add_argument("--rate", type=float, default=1.0, help="how fast they pass")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="of scara/train.yaml")
    parser.add_argument("--folder", type=Path, default=Path("scara-data"))
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--page", type=int, default=8321)
    options = parser.parse_args()
    folder = options.folder.absolute()
    lake, forecasts, models = folder / "lake", folder / "forecasts", folder / "models"
    url = f"mqtt://127.0.0.1:{options.port}"
    environment = os.environ | {
        "TOCSIN_MQTT_URL": url,
        "TOCSIN_SCARA_FOLDER": str(folder / "xml"),
        "TOCSIN_FOLDER": str(lake),
        "TOCSIN_FORECAST_FOLDER": str(forecasts),
        "TOCSIN_MODELS": str(models),
    }
    robot = write(folder / "robot", options.history, options.seconds)
    (folder / "xml").mkdir(exist_ok=True)
    with ExitStack() as stack:

        def start(*command: object, waits: bool = False) -> None:
            output = subprocess.PIPE if waits else None
            process = stack.enter_context(subprocess.Popen(list(map(str, command)), env=environment, stdout=output))
            stack.callback(process.terminate)
            if waits and process.stdout is not None:
                process.stdout.readline()

        start(*BROKER, options.port, waits=True)
        start(*TOCSIN, "run", HERE.parent / "scara.yaml")
        hand_over(robot[: options.history], folder / "xml")
        # The last second waits for the next one.
        wait_until(lambda: rows("archive", lake) >= options.history - 1)
        print(f"kept: {options.history - 1:,} seconds", flush=True)
        settings = [word for one in (f"folder={lake}", f"store={models}", *options.set) for word in ("--set", one)]
        carry_out("training", *TOCSIN, "train", HERE / "train.yaml", *settings)
        # It may not beat the cycle before, which it says; the way is shown all the same.
        carry_out("promoting", *TOCSIN, "models", "promote", "scara", "1", "--force", "--store", models)
        subscriber = Plain(url, "scara-forecast", ["scara/total"])
        subscriber.connect()  # from now on the broker keeps what comes, until the forecasts have started
        subscriber.close()
        start(*TOCSIN, "run", HERE / "forecast.yaml", "--page", "--port", options.page)
        for path in robot[options.history :]:
            hand_over([path], folder / "xml")
            time.sleep(1 / options.rate)
        wait_until(lambda: rows("archive", lake) >= len(robot) - 1)
        wait_until(lambda: rows("forecasts", forecasts) >= options.seconds - 1)
    print(tocsin.query(SAID, forecasts).to_pylist()[0])
    for table in ("leaves_limits", "leaves_bounds"):
        if rows(table, forecasts):
            print(tocsin.query(f"select time, event, message from {table} order by time", forecasts).to_pylist())


SAID = f"""
    select count(*) as seconds, sqrt(avg((y - yhat) ** 2)) as rmse, sqrt(avg((y - last) ** 2)) as rmse_of_last
    from (select *, lag(y) over (order by time) as last, max(time) over () as ended from forecasts)
    where yhat is not null and time < ended - interval '{BLOCKED_S + 5} seconds'
"""
"""How good the forecasts were before it was blocked."""


def write(folder: Path, history: int, seconds: int) -> list[Path]:
    """Returns the robot's files, oldest first: those that are there already, and those that come."""
    blocked = {"name": "blocked_valve", "machine": "scara", "start": f"{history + seconds - BLOCKED_S}s"}
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=history)
    write_scara_xml(folder, history + seconds, start=start, faults=(Fault.model_validate(blocked),))
    return sorted(folder.iterdir())


def carry_out(name: str, *command: object) -> None:
    """Run a command to its end, which ends all if it fails."""
    status = subprocess.run(list(map(str, command))).returncode
    if status:
        raise SystemExit(f"{name} ended (exit status {status}); what it said stands above")


def hand_over(paths: list[Path], to: Path) -> None:
    for path in paths:
        path.rename(to / path.name)


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > until:
            raise SystemExit("it did not come about; what the processes said stands above")
        time.sleep(0.5)


def rows(table: str, folder: Path) -> int:
    """Returns how many rows are in a table; 0 while there is none."""
    try:
        return int(tocsin.query(f"select count(*) as n from {table}", folder)["n"][0].as_py())
    except TocsinError:
        return 0


if __name__ == "__main__":
    main()
