"""What the intake of an MQTT message at QoS 1 costs, durable before its PUBACK: tocsin beside paho and gmqtt.

    python bench/mqtt.py [--messages 50000] [--broker mosquitto|own] [--burst 100]

A sender publishes readings of about 100 bytes through one broker, a burst at a time, as fast as it acknowledges them,
to each receiver in its turn; bursts of ten are nearer to a plant than a hundred. Receivers:

tocsin      the source `mqtt` with the runner's ingest log: group fsync, then PUBACKs
tocsin_raw  the same without the log: read, parse, make Arrow arrays, acknowledge at once
paho        manual acknowledgements after an append and fdatasync for all that has come within 10 ms
gmqtt       acknowledges by itself; nothing is made durable (it cannot wait with its PUBACKs)

Printed is the CPU time (user and system) of the receiver, and that of the broker (for taking a message from the sender
and handing it on), in microseconds a message. The first 5 % are not counted. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECEIVERS = ("tocsin", "tocsin_raw", "paho", "gmqtt")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--broker", choices=["mosquitto", "own"], default="mosquitto")
    parser.add_argument("--burst", type=int, default=100, help="Messages that are sent before answers are waited for.")
    parser.add_argument("--role", choices=[*RECEIVERS, "sender"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "sender":
        send(given.port, given.messages, given.burst)
    elif given.role is not None:
        globals()[given.role](given.port, given.messages)
    else:
        compare(given.messages, given.broker, given.burst)


def compare(messages: int, broker: str, burst: int) -> None:
    figures: dict[str, Any] = {"bench": "mqtt", "broker": broker, "messages": messages, "burst": burst}
    print(f"{'receiver':<12} {'receiver µs':>12} {'broker µs':>10} {'messages/s':>11}   a message")
    for name in RECEIVERS:
        if name == "gmqtt" and not _installed("gmqtt"):
            print("gmqtt         is not installed: left out")
            continue
        found = one(name, messages, broker, burst)
        figures |= {f"{name}_us": found["us"], f"{name}_rate": found["rate"], f"{name}_broker_us": found["broker_us"]}
        print(f"{name:<12} {found['us']:12.2f} {found['broker_us']:10.2f} {found['rate']:11,.0f}")
    print(json.dumps(figures))


def one(name: str, messages: int, kind: str, burst: int) -> dict[str, Any]:
    import psutil

    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        broker = start_broker(kind, port, Path(folder))
        try:
            receiver = subprocess.Popen(_command(name, port, messages), stdout=subprocess.PIPE, text=True, cwd=folder)
            assert receiver.stdout is not None
            assert receiver.stdout.readline().strip() == "ready"
            before = sum(psutil.Process(broker.pid).cpu_times()[:2])
            sender = subprocess.Popen([*_command("sender", port, messages), "--burst", str(burst)])
            result: dict[str, Any] = json.loads(receiver.stdout.readline())
            result["broker_us"] = round((sum(psutil.Process(broker.pid).cpu_times()[:2]) - before) / messages * 1e6, 2)
            assert sender.wait(60) == 0
            assert receiver.wait(60) == 0
            receiver.stdout.close()
        finally:
            broker.terminate()
            broker.wait()
    return result


def start_broker(kind: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    if kind == "own":
        command = [sys.executable, "-m", "tocsin.mqtt.broker", "--port", str(port)]
    else:
        binary = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
        if binary is None:
            raise SystemExit("mosquitto is not installed: apt install mosquitto, or use --broker own")
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 10000000\n"
            "max_inflight_messages 1000\nlog_type none\n"
        )
        command = [binary, "-c", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        assert process.poll() is None, "the broker ended at once"
        assert time.monotonic() < deadline, "the broker does not listen"
        time.sleep(0.05)


def _command(role: str, port: int, messages: int) -> list[str]:
    return [sys.executable, __file__, "--role", role, "--port", str(port), "--messages", str(messages)]


def _installed(library: str) -> bool:
    from importlib.util import find_spec

    return find_spec(library) is not None


def send(port: int, messages: int, burst: int) -> None:
    from tocsin.mqtt.client import Client

    client = Client(f"mqtt://127.0.0.1:{port}")
    for start in range(0, messages, burst):
        client.publish(
            [
                (
                    f"plant/m{i % 1000:04}/telemetry",
                    b'{"machine":"m%04d","sensor":"temperature","ts":"2026-01-01T00:00:%02dZ","value":%d.25}'
                    % (i % 1000, i % 60, i % 97),
                )
                for i in range(start, min(start + burst, messages))
            ],
            timeout_s=120,
        )
    client.close()


class Meter:
    """CPU time from the 5 % mark to the end."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.count = 0
        self.begun: tuple[float, float, int] | None = None

    def add(self, count: int) -> bool:
        """Count messages; whether all are there."""
        self.count += count
        if self.begun is None and self.count >= self.messages // 20:
            self.begun = time.process_time(), time.monotonic(), self.count
        return self.count >= self.messages

    def report(self) -> None:
        assert self.begun is not None
        cpu_s, begin_s, first = self.begun
        counted = self.count - first
        us = (time.process_time() - cpu_s) / counted * 1e6
        print(json.dumps({"us": round(us, 2), "rate": round(counted / (time.monotonic() - begin_s))}), flush=True)


def _source(port: int) -> Any:
    from tocsin.acquire.mqtt import Mqtt

    return Mqtt(url=f"mqtt://127.0.0.1:{port}", topic="plant/+/telemetry")


def tocsin(port: int, messages: int) -> None:
    from tocsin.engine.ingest_log import IngestLog, LoggedReader
    from tocsin.testing import read_from
    from tocsin.world import SystemClock, SystemDisk

    log = IngestLog(Path.cwd() / "log", SystemDisk())
    source = _source(port)
    reader = LoggedReader(log, lambda offset: read_from(source, offset), "0", None, SystemClock())
    while reader.counters()["connects"] == 0:
        reader.poll(1, 0.1)

    def settle() -> None:
        reader.settle()
        reader.confirm()

    _drain(messages, lambda: reader.poll(4000, 0.01), settle)
    reader.close()


def tocsin_raw(port: int, messages: int) -> None:
    from tocsin.testing import read_from

    reader = read_from(_source(port))
    while reader.counters()["connects"] == 0:
        reader.poll(1, 0.1)

    def poll() -> Any:
        polled = reader.poll(4000, 0.01)
        if polled is not None:
            reader.acknowledge(polled[1])
        return polled

    _drain(messages, poll, lambda: None)
    reader.close()


def _drain(messages: int, poll: Callable[[], Any], settle: Callable[[], None]) -> None:
    print("ready", flush=True)
    meter = Meter(messages)
    while True:
        polled = poll()
        if polled is not None and meter.add(len(polled[0])):
            break
    settle()
    meter.report()


def paho(port: int, messages: int) -> None:
    from paho.mqtt.client import CallbackAPIVersion, Client

    meter = Meter(messages)
    waiting: list[Any] = []
    client = Client(CallbackAPIVersion.VERSION2, "bench-paho", clean_session=False, manual_ack=True)
    client.on_connect = lambda c, *_: c.subscribe("plant/+/telemetry", 1)
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.on_message = lambda _c, _u, message: waiting.append(message)
    client.connect("127.0.0.1", port)
    file = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    synced_s = time.monotonic()
    done = False
    while not done:
        client.loop(0.01)
        if waiting and time.monotonic() - synced_s >= 0.01:
            os.write(file, b"".join(b"%s %s\n" % (m.topic.encode(), m.payload) for m in waiting))
            os.fdatasync(file)
            synced_s = time.monotonic()
            for message in waiting:
                client.ack(message.mid, message.qos)
            done = meter.add(len(waiting))
            waiting.clear()
    meter.report()
    client.disconnect()


def gmqtt(port: int, messages: int) -> None:
    async def run() -> None:
        from gmqtt import Client

        meter, done = Meter(messages), asyncio.Event()

        def on_message(*_: Any) -> int:
            if meter.add(1):
                done.set()
            return 0

        client = Client("bench-gmqtt", clean_session=False, session_expiry_interval=600, receive_maximum=2000)
        client.on_message = on_message
        client.on_subscribe = lambda *_: print("ready", flush=True)
        await client.connect("127.0.0.1", port)
        client.subscribe("plant/+/telemetry", qos=1)
        await done.wait()
        meter.report()
        await client.disconnect()

    asyncio.run(run())


if __name__ == "__main__":
    main()
