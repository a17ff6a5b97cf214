"""Two simulated sensors in two cities, which publish what they measure once a second, and more than anybody wants.

    python sensors.py [mqtt://127.0.0.1:1883] [--every 1.0]

Each message is JSON: city, temperature (°C), humidity (%), unix seconds, and what else the devices have to say.
"""

from __future__ import annotations

import argparse
import json
import math
import time

from tocsin.mqtt.client import Client

CITIES = {"Bremen": (9.0, 78.0), "Lisbon": (18.0, 64.0)}
"""Mean temperature and humidity."""


def message(city: str, unix_s: int, number: int) -> bytes:
    """What the sensor of a city publishes."""
    celsius, percent = CITIES[city]
    swing = math.sin(2 * math.pi * unix_s / 86_400)
    reading = {
        "city": city,
        "temperature": round(celsius + 4 * swing, 2),
        "humidity": round(percent - 10 * swing, 1),
        "unix": unix_s,
    }
    return json.dumps({**reading, "battery": 3.6, "firmware": "1.4.2", "message": number}).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description="Two simulated city sensors that publish over MQTT.")
    parser.add_argument("broker", nargs="?", default="mqtt://127.0.0.1:1883")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two readings of a sensor")
    settings = parser.parse_args()
    client, number = Client(settings.broker), 0
    while True:
        now_s = int(time.time())
        client.publish([(f"cities/{city}", message(city, now_s, number)) for city in CITIES])
        number += 1
        time.sleep(settings.every)


if __name__ == "__main__":
    main()
