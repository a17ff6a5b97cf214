"""The robot's producer: python robot.py scara-xml [http://127.0.0.1:8086] [scara.tags]

It posts each file of the folder, and each that comes, as records of Kafka REST v2, one for each tag; a file is deleted
once it was answered for. What is answered "later", or not at all, is sent again under the same key, and kept once.
"""

import json
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ELEMENT = re.compile(r"<HistoricalTextData>(.*?)</HistoricalTextData>", re.DOTALL)
FIELD = re.compile(r"<(\w+)>([^<]*)</\1>")
ROBOT = "scararobot"


def records(xml: str) -> bytes:
    """The tags of a file, as the body of a post; all under one key, so that they stay in order."""
    tags = [dict(FIELD.findall(element)) for element in ELEMENT.findall(xml)]
    values = [tag | {"TagValue": float(tag["TagValue"])} for tag in tags]
    return json.dumps({"records": [{"key": ROBOT, "value": value} for value in values]}).encode()


def post(url: str, name: str, body: bytes) -> None:
    """Post until it is answered with success; only then it is on disk over there."""
    headers = {"Content-Type": "application/vnd.kafka.json.v2+json", "Idempotency-Key": name}
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30):
                return
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503):
                raise SystemExit(f"{url}: {error.code} {error.read().decode()}") from None
            time.sleep(float(error.headers.get("Retry-After", 1)))
        except OSError:  # nobody listens there, or the answer was lost
            time.sleep(1)


def main(folder: str, url: str = "http://127.0.0.1:8086", topic: str = "scara.tags") -> None:
    while True:
        for path in sorted(Path(folder).glob("*.xml")):
            post(f"{url}/topics/{topic}", path.name, records(path.read_text(encoding="utf-8")))
            path.unlink()
        time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
