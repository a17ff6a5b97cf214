"""All of pollution.yaml, one after the other: python everything.py pollution_sample.csv [--history 20000] [--hours 24]

Starts a broker, the device, the pipeline and the edge process; keeps what the device sends; trains on it, deploys, and
asks for a forecast in each of the next hours. What it makes lies in ``--folder``.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import tocsin
from tocsin.errors import TocsinError
from tocsin.mqtt.plain import Plain

HERE = Path(__file__).parent
BROKER = [sys.executable, "-m", "tocsin.mqtt.broker", "--port"]
TOCSIN = [sys.executable, "-m", "tocsin.cli"]
DATA, INFERRED, ACCURACY = "pollution/data", "pollution/data/infer", "pollution/data/model/accuracy"
WINDOW = 24  # of train.yaml
WAIT_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--history", type=int, default=20_000)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("pollution-data"))
    parser.add_argument("--port", type=int, default=1883)
    options = parser.parse_args()
    folder, url = options.folder.absolute(), f"mqtt://127.0.0.1:{options.port}"
    folder.mkdir(parents=True, exist_ok=True)
    lake, models = folder / "lake", folder / "models"
    if hours(lake):
        raise SystemExit(f"{folder} holds an earlier run; give another --folder, or remove it")
    environment = os.environ | {
        "TOCSIN_FOLDER": str(lake),
        "TOCSIN_MQTT_URL": url,
        "TOCSIN_ACCURACY_MODEL": str(HERE / "accuracy.json"),
    }
    with ExitStack() as stack:
        parts = Parts(stack, environment)
        parts.start("the broker", *BROKER, options.port, waits=True)
        said = parts.start("the device", sys.executable, HERE / "device.py", options.csv, url, waits=True)
        has, needs = int(said.split()[0]), options.history + WINDOW + options.hours
        if has < needs:
            raise SystemExit(
                f"{options.csv} holds {has:,} of the {needs:,} hours that it takes; take a shorter --history"
            )
        for client, topic in (("pollution-archive", DATA), ("pollution-watch", INFERRED)):
            subscriber = Plain(url, client, [topic], timeout_s=WAIT_S)
            subscriber.connect()  # from now on the broker keeps what comes, until the pipeline has started
            subscriber.close()
        parts.start("the pipeline", *TOCSIN, "run", HERE.parent / "pollution.yaml")
        user = Plain(url, "everything", timeout_s=WAIT_S)
        user.connect()
        user.publish("pollution/data/ingest/trigger", str(options.history).encode())
        user.close()
        parts.wait_until(lambda: hours(lake) >= options.history)
        print(f"kept: {hours(lake):,} hours", flush=True)

        training = [f"folder={lake}", f"store={models}", f"model.epochs={options.epochs}"]
        words = [word for one in training for word in ("--set", one)]
        carry_out("training", *TOCSIN, "train", HERE / "train.yaml", *words)
        # With little history it may not beat the last reading; the way is shown all the same.
        carry_out("promoting", *TOCSIN, "models", "promote", "pollution", "1", "--force", "--store", models)
        key = folder / "edge.key"
        key.write_bytes(secrets.token_bytes(32))
        deploy = ["models", "deploy", "pollution", "--store", models, "--key", key]
        carry_out("deploying", *TOCSIN, *deploy, "--to", f"{url}/pollution/model")
        told = json.loads((HERE / "edge.json").read_text())
        told |= {"key": str(key), "url": url, "folder": str(folder / "edge")}
        (folder / "edge.json").write_text(json.dumps(told))
        parts.start("the edge process", sys.executable, "-m", "tocsin.edge", folder / "edge.json")
        parts.wait_until(lambda: (folder / "edge" / "current.bundle").exists())
        user = Plain(url, "everything", [DATA, INFERRED, ACCURACY], timeout_s=WAIT_S)
        infer(parts, user, options.hours, lake)


class Parts:
    """The processes, which end with this one; one that ends before it ends all."""

    def __init__(self, stack: ExitStack, environment: dict[str, str]) -> None:
        self.stack, self.environment = stack, environment
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: object, waits: bool = False) -> str:
        """Start a process; returns its first line where it ``waits`` for one."""
        output = subprocess.PIPE if waits else None
        process = subprocess.Popen(list(map(str, command)), env=self.environment, stdout=output)
        self.running[name] = self.stack.enter_context(process)
        self.stack.callback(process.terminate)
        line = process.stdout.readline().decode() if process.stdout is not None else ""
        if waits and not line:
            process.wait()
        self.check()
        return line

    def end(self, name: str) -> None:
        process = self.running.pop(name)
        process.terminate()
        process.wait(WAIT_S)

    def check(self) -> None:
        for name, process in self.running.items():
            if process.poll() is not None:
                raise SystemExit(f"{name} ended (exit status {process.returncode}); what it said stands above")

    def wait_until(self, true: Callable[[], bool]) -> None:
        until = time.monotonic() + WAIT_S
        while not true():
            self.check()
            if time.monotonic() > until:
                raise SystemExit(f"it did not come about in {WAIT_S} s; what the processes said stands above")
            time.sleep(0.2)

    def hear(self, user: Plain, topic: str) -> bytes:
        """Returns the next message of a topic, and prints those of others before it."""
        heard: list[bytes] = []

        def came() -> bool:
            while not heard and (message := user.poll(0.1)) is not None:
                if message[0] == topic:
                    heard.append(message[1])
                else:
                    print(f"{message[0]}: {message[1].decode()}", flush=True)
            return bool(heard)

        self.wait_until(came)
        return heard[0]


def carry_out(name: str, *command: object) -> None:
    """Run a command to its end, which ends all if it fails."""
    status = subprocess.run(list(map(str, command))).returncode
    if status:
        raise SystemExit(f"{name} ended (exit status {status}); what it said stands above")


def infer(parts: Parts, user: Plain, count: int, lake: Path) -> None:
    """Have the device send an hour at a time, ask the edge process after each, and print what is said."""
    user.connect()
    judged = 0
    for _ in range(WINDOW + count):  # its window fills first
        user.publish("pollution/data/ingest/trigger", b"1")
        parts.hear(user, DATA)
        user.publish("pollution/data/infer/trigger", b"now")
        answer = json.loads(parts.hear(user, INFERRED))
        judged += None not in (answer["predicted_pollution"], answer["actual_pollution"])
        if answer["predicted_pollution"] is not None:
            print(f"{INFERRED}: {json.dumps(answer)}", flush=True)
    parts.wait_until(lambda: hours(lake, "inferred") >= judged)
    parts.end("the pipeline")  # in good order: what its detector model has told is with the broker then
    while (message := user.poll(1.0)) is not None:
        print(f"{message[0]}: {message[1].decode()}", flush=True)
    user.close()


def hours(lake: Path, table: str = "pollution") -> int:
    """Returns how many hours are in a table; 0 while there is none."""
    try:
        return int(tocsin.query(f"select count(*) as n from {table}", lake)["n"][0].as_py())
    except TocsinError:
        return 0


if __name__ == "__main__":
    main()
