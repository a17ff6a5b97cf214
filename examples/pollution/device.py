"""A simulated device: python device.py pollution_sample.csv [mqtt://127.0.0.1:1883]

When anything arrives on ``pollution/data/ingest/trigger`` it sends the next rows of the file, as many as the message
says, or all, to ``pollution/data``: one JSON object an hour. A reading that was lost (0 or empty) is null.
"""

import csv
import itertools
import json
import sys
from pathlib import Path

from tocsin.errors import ConfigError, TocsinError
from tocsin.mqtt.plain import Lost, Plain

NUMBERS = ("dew", "temp", "press", "wnd_spd", "snow", "rain")


def messages(path: Path) -> list[bytes]:
    """Returns what it has to send; `ConfigError` says what is wrong with the file."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError("it holds no row")
        return [message(row) for row in rows]
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); give a CSV file with PM2.5 and weather"
        ) from error
    except (ValueError, csv.Error) as error:
        wanted = ", ".join(("date", "pollution", *NUMBERS))
        raise ConfigError(f"{path} is no CSV file with columns {wanted}: {error}") from error


def message(row: dict[str, str | None]) -> bytes:
    """Returns an hour as JSON."""
    values = {}
    for name in ("date", "pollution", *NUMBERS):
        if name not in row:
            raise ValueError(f"there is no '{name}'")
        if (text := row[name]) is None:
            raise ValueError(f"a row of it has no number in '{name}'")
        values[name] = text
    said = {"date": values["date"].replace(" ", "T") + "Z", "pollution": float(values["pollution"] or 0) or None}
    return json.dumps(said | {name: float(values[name]) for name in NUMBERS}).encode()


def main(path: str, url: str = "mqtt://127.0.0.1:1883") -> None:
    has = messages(Path(path))
    waiting = iter(has)
    client = Plain(url, "pollution-device", ["pollution/data/ingest/trigger"], timeout_s=60)
    client.connect()
    print(f"{len(has)} hours", flush=True)
    while True:
        try:
            trigger = client.poll(1.0)
        except Lost:
            client.connect()
            continue
        if trigger is None:
            continue
        count = int(trigger[1]) if trigger[1].isdigit() else sys.maxsize
        for hour in itertools.islice(waiting, count):
            client.publish("pollution/data", hour)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except TocsinError as error:
        raise SystemExit(f"{error}") from None
