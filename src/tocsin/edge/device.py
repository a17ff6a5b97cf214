"""The process on a device: readings in, forecasts out, bundles taken up; it goes on while the link is away.

What it keeps lies in its folder: the bundle that runs and the one before it, and answers that wait for a connection.
"""

from __future__ import annotations

import json
import math
import os
import signal
import ssl
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tocsin.edge.bounds import Bounds
from tocsin.edge.bundle import Bundle, BundleRefused, read_key, unpack
from tocsin.edge.spool import Spool
from tocsin.errors import ConfigError
from tocsin.models.forecaster import Forecaster
from tocsin.mqtt.plain import Lost, Plain

CURRENT, PREVIOUS = "current.bundle", "previous.bundle"
MACHINES_MAX = 1_000
RETRY_S = (0.5, 30.0)
ANSWER = {
    "key": "key",
    "time": "time",
    "y": "actual",
    "yhat": "predicted",
    "yhat_lower": "lower",
    "yhat_upper": "upper",
}


@dataclass(frozen=True)
class DeviceSettings:
    """What the process is told, as JSON."""

    key: str
    """File with the key that bundles are signed with (HMAC), or the public key (PEM, Ed25519)."""
    url: str = "mqtt://127.0.0.1:1883"
    """The broker that readings come from."""
    upstream: str | None = None
    """The broker that answers go to and bundles come from; if not set, the same."""
    client_id: str = "tocsin-edge"
    user: str | None = None
    password_file: str | None = None
    ca: str | None = None
    cert: str | None = None
    cert_key: str | None = None
    readings: str = "edge/readings"
    """Topic of readings: JSON objects with the model's inputs by their names."""
    trigger: str | None = None
    """Topic whose messages ask for an answer; if not set, every reading is answered."""
    answers: str = "edge/forecast"
    """Topic of the answers."""
    bundles: str | None = "edge/bundle"
    """Topic of bundles."""
    bundle_folder: str | None = None
    """Folder that bundles are put in (``*.bundle``), beside or instead of the topic."""
    folder: str = "edge-data"
    """Where it keeps what it must not lose."""
    key_field: str | None = None
    """The field of a reading that says which machine; without it all are of one."""
    time_field: str = "time"
    """The field with the time: ISO 8601, or seconds since 1970."""
    answer: Mapping[str, str] = field(default_factory=lambda: dict(ANSWER))
    """The fields of an answer: its name, and what it is: key, time, actual, predicted, lower, upper, ahead, version."""

    @classmethod
    def read(cls, path: Path | str) -> DeviceSettings:
        """Returns the settings in a JSON file; `ConfigError` says what is wrong with it."""
        try:
            tree = json.loads(Path(path).read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
        known = {f.name for f in fields(cls)}
        if not isinstance(tree, dict) or tree.keys() - known or "key" not in tree:
            strange = sorted(tree.keys() - known) if isinstance(tree, dict) else tree
            raise ConfigError(
                f"{path}: key is needed, and {strange} is not known; there are: {', '.join(sorted(known))}"
            )
        return cls(**tree)

    def client(self, url: str, suffix: str, filters: tuple[str, ...]) -> Plain:
        """Returns a client of a broker, with what these settings say of it."""
        password = Path(self.password_file).read_text().strip() if self.password_file else None
        context = None
        if url.startswith("mqtts"):
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert:
                context.load_cert_chain(self.cert, self.cert_key)
        return Plain(url, f"{self.client_id}{suffix}", filters, self.user, password, context)


@dataclass
class MachineMemory:
    """What is remembered of one machine."""

    window: deque[list[float]]
    bounds: Bounds
    time_us: int | None = None
    last: dict[str, Any] = field(default_factory=dict)
    """What an answer is made from, for the newest reading."""


class Device:
    """The process without its connections: what a reading, a trigger and a bundle do."""

    def __init__(self, settings: DeviceSettings) -> None:
        self.settings = settings
        self.folder = Path(settings.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._key = read_key(settings.key)
        self.spool = Spool(self.folder)
        self.machines: dict[str, MachineMemory] = {}
        self.bundle: Bundle | None = None
        self.model: Forecaster | None = None
        self.counts = {"readings": 0, "bad readings": 0, "answers": 0, "bundles": 0, "bundles refused": 0}
        self._start()

    def _start(self) -> None:
        """Run what ran before; where that no longer starts, the bundle before it."""
        for name in (CURRENT, PREVIOUS):
            path = self.folder / name
            if not path.exists():
                continue
            try:
                self._run(unpack(path.read_bytes(), self._key))
            except BundleRefused as error:
                self.counts["bundles refused"] += 1
                say(f"{name}: {error}; rolled back")
                continue
            return

    def _run(self, bundle: Bundle) -> None:
        """Start a bundle, and let it take the place of what runs; `BundleRefused` leaves that as it is."""
        model = bundle.start()
        before = self.bundle.manifest if self.bundle else None
        self.bundle, self.model = bundle, model
        now = bundle.manifest
        if before is None or (before.inputs, before.window, before.horizon) != (now.inputs, now.window, now.horizon):
            self.machines.clear()

    def take(self, data: bytes) -> bool:
        """Take up a bundle; returns whether it runs now. If not, what ran before goes on."""
        try:
            bundle = unpack(data, self._key)
            if self.bundle is not None and bundle.made_us <= self.bundle.made_us:
                if bundle.manifest == self.bundle.manifest:
                    return True  # it is delivered once more
                raise BundleRefused(f"version {bundle.manifest.version} was packed before what runs; deploy it again")
            self._run(bundle)
        except BundleRefused as error:
            self.counts["bundles refused"] += 1
            say(f"{error}; {'goes on with ' + str(self.bundle.manifest.version) if self.bundle else 'nothing runs'}")
            return False
        self._swap(data)
        self.counts["bundles"] += 1
        say(f"{bundle.manifest.name} {bundle.manifest.version} runs")
        return True

    def _swap(self, data: bytes) -> None:
        """Put a bundle in the place of the one that ran, which is kept; a power cut leaves either of them whole."""
        new, current, previous = (self.folder / name for name in (f"{CURRENT}.new", CURRENT, PREVIOUS))
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if current.exists():
            kept = self.folder / f"{PREVIOUS}.new"
            kept.unlink(missing_ok=True)
            kept.hardlink_to(current)
            kept.replace(previous)
        new.replace(current)
        descriptor = os.open(self.folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def hear(self, payload: bytes) -> None:
        """Take a reading; without a trigger it is answered at once."""
        self.counts["readings"] += 1
        if self.bundle is None or self.model is None:
            return
        manifest = self.bundle.manifest
        try:
            tree = json.loads(payload)
            key = str(tree[self.settings.key_field]) if self.settings.key_field else ""
            time_us = _time_us(tree[self.settings.time_field])
            values = [_number(tree.get(name)) for name in manifest.inputs]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            self.counts["bad readings"] += 1
            return
        if key not in self.machines and len(self.machines) >= MACHINES_MAX:
            self.counts["bad readings"] += 1
            return
        self._learn(key, time_us, values, tree[self.settings.time_field])
        if self.settings.trigger is None:
            self._tell(key)

    def _learn(self, key: str, time_us: int, values: list[float], time: Any) -> None:
        assert self.bundle is not None
        assert self.model is not None
        manifest, settings = self.bundle.manifest, self.bundle.manifest.settings
        machine = self.machines.get(key)
        if machine is None:
            bounds = Bounds(settings["conformal"], settings["coverage"], manifest.horizon)
            machine = self.machines[key] = MachineMemory(deque(maxlen=manifest.window), bounds)
        every, steps = settings["every_us"], 1
        if machine.time_us is not None:
            passed = time_us - machine.time_us
            steps = (passed + every // 2) // every if every else int(passed >= 0)
        if steps < 1:
            return
        machine.time_us = time_us
        for _ in range(min(steps - 1, manifest.window)):
            machine.window.append([math.nan] * len(values))
        machine.bounds.skip(steps - 1)
        machine.window.append(values)
        y = values[self.model.at]
        made = machine.bounds.settle(y)
        ahead = math.nan
        if len(machine.window) == manifest.window:
            which = np.array([self.model.keys.get(key, -1)]) if self.model.keys else None
            ahead = float(self.model.predict(np.array([machine.window]), which)[0])
        machine.bounds.give(ahead)
        machine.last = {
            "key": key, "time": time, "actual": y, "predicted": made[0], "lower": made[1], "upper": made[2],
            "ahead": ahead, "version": manifest.version,
        }  # fmt: skip

    def ask(self) -> None:
        """Answer a trigger: for each machine, its newest reading and what was forecast for it."""
        for key in self.machines:
            self._tell(key)

    def _tell(self, key: str) -> None:
        last = self.machines[key].last
        answer = {name: _plain(last[what]) for name, what in self.settings.answer.items()}
        self.spool.add(self.settings.answers, json.dumps(answer).encode())
        self.counts["answers"] += 1


class Uplink:
    """A connection that is made again whenever it is lost, after a pause that grows."""

    def __init__(self, client: Plain) -> None:
        self.client = client
        self._pause_s, self._next_s = RETRY_S[0], 0.0

    def ready(self) -> bool:
        """Returns whether there is a connection, after trying to make one if it is time to."""
        if self.client.connected:
            return True
        if time.monotonic() < self._next_s:
            return False
        try:
            self.client.connect()
        except Lost as error:
            self.lost(error)
            return False
        self._pause_s = RETRY_S[0]
        return True

    def lost(self, error: Lost) -> None:
        """Note that the connection went, and when to try again."""
        say(f"{error}; tries again in {self._pause_s:g} s")
        self._next_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_S[1])


class Process:
    """A device with its connections."""

    def __init__(self, settings: DeviceSettings) -> None:
        own = tuple(topic for topic in (settings.readings, settings.trigger) if topic)
        bundles = (settings.bundles,) if settings.bundles else ()
        together = settings.upstream is None or settings.upstream == settings.url
        self.near = Uplink(settings.client(settings.url, "", own + (bundles if together else ())))
        self.far = self.near if together else Uplink(settings.client(settings.upstream or "", "-upstream", bundles))
        self.device = Device(settings)
        self.going = True
        self._seen: dict[Path, int] = {}

    def turn(self, timeout_s: float = 0.2) -> None:
        """One round: what has come, what was put in the folder, what waits to be sent."""
        self._look_into_folder()
        for link in dict.fromkeys((self.near, self.far)):
            try:
                wait_s = timeout_s if link is self.near else 0.0
                if link.ready():
                    while self.going and (message := link.client.poll(wait_s)) is not None:
                        self._dispatch(*message)
                        wait_s = 0.0
                elif link is self.near:
                    time.sleep(timeout_s)
            except Lost as error:
                link.lost(error)
        self.device.spool.sync()
        self._send()

    def _dispatch(self, topic: str, payload: bytes) -> None:
        settings = self.device.settings
        if topic == settings.trigger:
            self.device.ask()
        elif topic == settings.bundles:
            self.device.take(payload)
        else:
            self.device.hear(payload)

    def _send(self) -> None:
        if not self.far.client.connected:
            return
        try:
            for topic, payload, place in self.device.spool.waiting():
                self.far.client.publish(topic, payload)
                self.device.spool.sent(place)
        except Lost as error:
            self.far.lost(error)

    def _look_into_folder(self) -> None:
        if self.device.settings.bundle_folder is None:
            return
        for path in sorted(Path(self.device.settings.bundle_folder).glob("*.bundle")):
            stamp = path.stat().st_mtime_ns
            if self._seen.get(path) != stamp:
                self._seen[path] = stamp
                self.device.take(path.read_bytes())

    def close(self) -> None:
        """Hang up; what waits is on disk."""
        self.device.spool.sync()
        self.device.spool.close()
        self.near.client.close()
        self.far.client.close()


def run(path: Path | str) -> None:
    """Run the process until it is told to end (SIGTERM, Ctrl-C)."""
    process = Process(DeviceSettings.read(path))

    def end(*_: object) -> None:
        process.going = False

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    while process.going:
        process.turn()
    process.close()


def say(sentence: str) -> None:
    """Tell whoever runs the process."""
    sys.stderr.write(f"tocsin edge: {sentence}\n")
    sys.stderr.flush()


def _time_us(value: Any) -> int:
    if isinstance(value, int | float):
        return round(value * 1e6)
    moment = datetime.fromisoformat(str(value))
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e6)


def _number(value: Any) -> float:
    """A number, or NaN where there is none; what is neither is a mistake."""
    return math.nan if value is None else float(value)


def _plain(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
