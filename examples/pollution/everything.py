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
from contextlib import ExitStack
from pathlib import Path

import tocsin
from tocsin.errors import TocsinError
from tocsin.mqtt.plain import Plain

HERE = Path(__file__).parent
BROKER = [sys.executable, "-m", "tocsin.mqtt.broker", "--port"]
TOCSIN = [sys.executable, "-m", "tocsin.cli"]


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
    lake = folder / "lake"
    environment = os.environ | {
        "TOCSIN_FOLDER": str(lake),
        "TOCSIN_MQTT_URL": url,
        "TOCSIN_ACCURACY_MODEL": str(HERE / "accuracy.json"),
    }
    with ExitStack() as stack:

        def start(*command: object, waits: bool = False) -> None:
            process = stack.enter_context(
                subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE)
            )
            stack.callback(process.terminate)
            if waits and process.stdout is not None:
                process.stdout.readline()

        start(*BROKER, options.port, waits=True)
        start(sys.executable, HERE / "device.py", options.csv, url, waits=True)
        start(*TOCSIN, "run", HERE.parent / "pollution.yaml")
        plant = Plain(url, "plant")
        plant.connect()
        while not hours(lake):  # until the pipeline has subscribed, nobody keeps what the device sends
            plant.publish("pollution/data/ingest/trigger", b"1")
            plant.poll(1.0)
        plant.publish("pollution/data/ingest/trigger", str(options.history).encode())
        while (kept := hours(lake)) < options.history:
            plant.poll(1.0)
        plant.close()
        print(f"kept: {kept:,} hours", flush=True)

        training = [f"folder={lake}", f"store={folder / 'models'}", f"model.epochs={options.epochs}"]
        words = [word for one in training for word in ("--set", one)]
        subprocess.run([*TOCSIN, "train", HERE / "train.yaml", *words], check=True)
        # With little history it may not beat the last reading; the way is shown all the same.
        promote = ["models", "promote", "pollution", "1", "--force", "--store", folder / "models"]
        subprocess.run([*TOCSIN, *promote], check=True)
        key = folder / "edge.key"
        key.write_bytes(secrets.token_bytes(32))
        deploy = ["models", "deploy", "pollution", "--store", folder / "models", "--key", key]
        subprocess.run([*TOCSIN, *deploy, "--to", f"{url}/pollution/model"], check=True)
        told = json.loads((HERE / "edge.json").read_text())
        told |= {"key": str(key), "url": url, "folder": str(folder / "edge")}
        (folder / "edge.json").write_text(json.dumps(told))
        start(sys.executable, "-m", "tocsin.edge", folder / "edge.json")
        user = Plain(url, "everything", ["pollution/data", "pollution/data/infer", "pollution/data/model/accuracy"])
        user.connect()
        while not (folder / "edge" / "current.bundle").exists():
            user.poll(0.1)
        for _ in range(24 + options.hours):  # its window fills first
            user.publish("pollution/data/ingest/trigger", b"1")
            hear(user, "pollution/data")
            user.publish("pollution/data/infer/trigger", b"now")
            answer = json.loads(hear(user, "pollution/data/infer"))
            if answer["predicted_pollution"] is not None:
                print(answer, flush=True)
        while (message := user.poll(5.0)) is not None:
            print(f"{message[0]}: {message[1].decode()}")
        user.close()


def hear(user: Plain, topic: str) -> bytes:
    while (message := user.poll(30.0)) is not None:
        if message[0] == topic:
            return message[1]
        print(f"{message[0]}: {message[1].decode()}")
    raise SystemExit(f"nothing came on {topic}")


def hours(lake: Path) -> int:
    """Returns how many hours are in the table; 0 while there is none."""
    try:
        return int(tocsin.query("select count(*) as n from pollution", lake)["n"][0].as_py())
    except TocsinError:
        return 0


if __name__ == "__main__":
    main()
