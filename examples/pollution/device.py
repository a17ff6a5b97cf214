"""A simulated device: python device.py pollution_sample.csv [mqtt://127.0.0.1:1883]

When anything arrives on ``pollution/data/ingest/trigger`` it sends the next rows of the file, as many as the message
says, or all, to ``pollution/data``: one JSON object an hour. A reading that was lost (0 or empty) is null.
"""

import csv
import json
import sys
from pathlib import Path

from tocsin.mqtt.plain import Lost, Plain

NUMBERS = ("dew", "temp", "press", "wnd_spd", "snow", "rain")


def messages(path: Path) -> list[bytes]:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        json.dumps(
            {"date": row["date"].replace(" ", "T") + "Z", "pollution": float(row["pollution"] or 0) or None}
            | {name: float(row[name]) for name in NUMBERS}
        ).encode()
        for row in rows
    ]


def main(path: str, url: str = "mqtt://127.0.0.1:1883") -> None:
    waiting = iter(messages(Path(path)))
    client = Plain(url, "pollution-device", ["pollution/data/ingest/trigger"])
    client.connect()
    print("ready", flush=True)
    while True:
        try:
            trigger = client.poll(1.0)
        except Lost:
            client.connect()
            continue
        if trigger is None:
            continue
        count = int(trigger[1]) if trigger[1].isdigit() else sys.maxsize
        for _, message in zip(range(count), waiting, strict=False):
            client.publish("pollution/data", message)


if __name__ == "__main__":
    main(*sys.argv[1:])
