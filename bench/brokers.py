"""Brokers that come with pip, beside Mosquitto: what a message costs, and what they keep.

    python bench/brokers.py [--messages 20000]

For each broker in a process of its own, with our client on both sides, 3.1.1, QoS 1: messages a second, CPU of the
broker in microseconds a message, memory after it; how many of 500 messages arrive that were published while a
subscriber with a persistent session was away; and whether MQTT 5 is spoken on the same port. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import psutil

from tocsin.mqtt.client import Client, NotConnected
from tocsin.mqtt.packets import V5, V311

IOTCORE = "from iotcore.iotcore import IotCoreBroker as B; B(listen='127.0.0.1', port={port}).run_forever()"
AMQTT = """
import asyncio, warnings
warnings.simplefilter("ignore")
from amqtt.broker import Broker
async def run():
    broker = Broker({{"listeners": {{"default": {{"type": "tcp", "bind": "127.0.0.1:{port}"}}}},
                     "plugins": {{"amqtt.plugins.authentication.AnonymousAuthPlugin": {{"allow_anonymous": True}}}}}})
    await broker.start()
    await asyncio.Event().wait()
asyncio.run(run())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=20_000)
    messages = parser.parse_args().messages
    figures: dict[str, Any] = {"bench": "brokers", "messages": messages}
    print(f"{'broker':<10} {'messages/s':>11} {'µs/message':>11} {'MiB':>6} {'kept of 500':>12} {'MQTT 5':>7}")
    for name in ("own", "mosquitto", "iotcore", "amqtt"):
        if name in ("iotcore", "amqtt") and find_spec(name) is None:
            print(f"{name:<10} is not installed: left out")
            continue
        with tempfile.TemporaryDirectory() as folder:
            process, port = start(name, Path(folder))
            try:
                found = measure(process, port, messages if name != "amqtt" else messages // 10)
            finally:
                process.kill()
                process.wait()
        figures[name] = found
        print(f"{name:<10} {found['rate']:11,.0f} {found['us']:11.1f} {found['mib']:6.0f} {found['kept']:12} "
              f"{'yes' if found['v5'] else 'no':>7}")  # fmt: skip
    print(json.dumps(figures))


def start(name: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    if name in ("own", "mosquitto"):
        spec = spec_from_file_location("mqtt_bench", Path(__file__).parent / "mqtt.py")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.start_broker(name, port, folder), port
    code = (IOTCORE if name == "iotcore" else AMQTT).format(port=port)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, port
        time.sleep(0.05)
    raise SystemExit(f"{name} does not listen")


def measure(process: subprocess.Popen[bytes], port: int, messages: int) -> dict[str, Any]:
    url, broker = f"mqtt://127.0.0.1:{port}", psutil.Process(process.pid)
    receiver = Client(url, "bench-receiver", V311, ["a/#"], clean=False)
    receiver.connect()
    sender = Client(url, "bench-sender", V311)
    payload, cpu_s, begin_s, got = b"x" * 100, sum(broker.cpu_times()[:2]), time.monotonic(), 0
    for first in range(0, messages, 100):
        sender.publish([(f"a/{i}", payload) for i in range(first, first + 100)])
        got += drain(
            receiver, 100 if first + 100 < messages else messages - got, 0.0 if first + 100 < messages else 5.0
        )
    seconds = time.monotonic() - begin_s
    result: dict[str, Any] = {
        "rate": round(got / seconds),
        "us": round((sum(broker.cpu_times()[:2]) - cpu_s) / messages * 1e6, 1),
        "lost": messages - got,
        "mib": round(broker.memory_info().rss / 2**20),
    }
    receiver.close()
    sender.publish([("a/away", b"%d" % i) for i in range(500)])
    receiver.connect()
    result["kept"] = drain(receiver, 500, 3.0)
    receiver.close()
    sender.close()
    modern = Client(url, "bench-modern", V5, timeout_s=2)
    try:
        modern.connect()
        result["v5"] = True
        modern.close()
    except NotConnected:
        result["v5"] = False
    return result


def drain(client: Client, count: int, within_s: float) -> int:
    got, deadline = 0, time.monotonic() + within_s
    while got < count:
        found = client.poll(1000, 0.001)
        if found is not None:
            client.acknowledge(found.packet_ids, found.qos)
            got += len(found)
        elif time.monotonic() >= deadline:
            break
    return got


if __name__ == "__main__":
    main()
