"""Source `opcua`: values of an OPC UA server, as they change."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, SecretStr, field_validator

from tocsin.batch import KEY, KEY_TYPE, TIME_TYPE, Batch, as_keys, as_times
from tocsin.contracts import Offset, Reader, Source
from tocsin.ends import OneSplit
from tocsin.errors import ConfigError, MissingExtra, Unavailable
from tocsin.settings import Settings
from tocsin.settings.quantities import Duration
from tocsin.world import Clock, World

log = logging.getLogger(__name__)
SCHEMA = pa.schema(
    [
        KEY,
        pa.field("signal", KEY_TYPE, nullable=False),
        pa.field("at", TIME_TYPE, nullable=False),
        pa.field("value", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("quality", KEY_TYPE, nullable=False),
        pa.field("received", TIME_TYPE, nullable=False),
    ]
)
WAITING_MAX = 1_000_000
"""So many changes wait for the engine; beyond, the oldest are dropped and counted."""
_WATCH_S = 1.0
_AGAIN_S = 60.0
"""A node that the server does not have is asked for again after so long."""
_QUALITY = {0: "good", 1: "uncertain", 2: "bad", 3: "bad"}
"""OPC UA Part 4, 7.39: the two highest bits of a StatusCode."""


class Security(Settings):
    """How the channel is secured, and how both ends know each other."""

    policy: str = "Basic256Sha256"
    """The policy; the mode is always to sign and encrypt."""
    cert: str
    """File with our certificate (DER or PEM); its URI must be that of the application."""
    key: str
    """File with its key (PEM)."""
    server: str | None = None
    """File with the server's certificate, which it must show; else the one that it shows is taken."""


class Opcua(Source):
    """Subscribe to the nodes of an OPC UA server: each change of a value is a row, at the time of its source.

    Truth values become 0 and 1, numbers ``value``, anything else ``text``; ``quality`` is good, uncertain or bad, by
    the StatusCode, and a bad one has no value. A node that the server does not have is told once, asked for again every
    minute, and costs the others nothing. While the server is away the reason is told. Changes that happen while no
    connection is there are lost; what came is kept in the runner's ingest log. Needs ``pip install 'tocsin[opcua]'``.

    Examples
    --------
    >>> nodes = {"press-1": {"celsius": "ns=2;s=Press1.Temperature", "running": "ns=2;s=Press1.Running"}}
    >>> Opcua(url="opc.tcp://plc:4840", nodes=nodes).output_schema().names
    ['key', 'signal', 'at', 'value', 'text', 'quality', 'received']

    OPC 10000-4 (Services): subscriptions, data-change filter, StatusCode.
    """

    REPLAYABLE: ClassVar[bool] = False
    PROMISE: ClassVar[str] = "exactly once, of what has been read: a change while no connection is there is never read"

    url: str
    """The server, as ``opc.tcp://host:4840``."""
    nodes: Mapping[str, Mapping[str, str]]
    """Each machine with its signals, and the node of each: ``{press-1: {celsius: "ns=2;s=Press1.Temperature"}}``."""
    every: Duration = 500_000
    """How often the server looks at a value, and sends what has changed."""
    deadband: float = Field(default=0.0, ge=0)
    """A number must change by more than this to count as changed."""
    queue: int = Field(default=1_000, ge=1)
    """How many changes of a node the server keeps between two of its messages."""
    user: str | None = None
    """User name, where the server asks for one."""
    password: SecretStr | None = None
    """Password; write it as ``${env:NAME}`` or ``${file:PATH}``."""
    security: Security | None = None
    """Certificates; without them nothing is encrypted."""
    timeout: Duration = 4_000_000
    """How long the server may take to answer."""

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        if not url.startswith("opc.tcp://") or "@" in url:
            raise ValueError("write opc.tcp://host:4840; user and password are settings of their own")
        return url

    @field_validator("nodes")
    @classmethod
    def _nodes(cls, nodes: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
        if not nodes or not all(nodes.values()):
            raise ValueError("name at least one machine, and at least one signal of each, with its node")
        return nodes

    def output_schema(self) -> pa.Schema:
        return SCHEMA

    def check(self, world: World) -> None:
        ua = _library().ua
        for machine, signals in self.nodes.items():
            for signal, node in signals.items():
                try:
                    ua.NodeId.from_string(node)
                except Exception as error:
                    raise ConfigError(f"nodes.{machine}.{signal}: '{node}' is no node id ({error})") from error
        if self.security is not None:
            for name in (self.security.cert, self.security.key, self.security.server):
                if name is not None and not (world.given / name).is_file():
                    raise ConfigError(f"there is no file {name}; write the path from the folder that tocsin runs in")

    def open(self, world: World) -> OneSplit:
        self.check(world)
        return OneSplit(lambda offset: OpcuaReader(self, world, offset))


class OpcuaReader(Reader):
    """A subscription in a thread of its own, which ends when the connection does."""

    def __init__(self, source: Opcua, world: World, offset: Offset | None) -> None:
        self._changes = _Changes(world.clock)
        self._count = 0 if offset is None else int(offset["count"])
        self._session = _Session(source, world, self._changes)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"opcua {source.url}", daemon=True)
        self._thread.start()

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        rows = self._changes.take(rows_max, timeout_s)
        if rows is None:
            return None
        self._count += len(rows)
        return Batch(rows), {"count": self._count}

    def counters(self) -> Mapping[str, int]:
        return dict(self._changes.counted)

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._session.stop)
            self._thread.join(10)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._session.run())
        finally:
            self._loop.close()


class _Changes:
    """What has changed and was not taken yet; written by the subscription's thread, read by the runner's."""

    def __init__(self, clock: Clock) -> None:
        self.counted = Counter(connects=0, changes=0, changes_dropped=0, nodes_refused=0)
        self._clock = clock
        self._waiting: deque[tuple[str, str, int, float | None, str | None, str, int]] = deque()
        self._news = threading.Condition()
        self._trouble = ""

    def add(self, machine: str, signal: str, data: Any) -> None:
        """Note a change, as the library tells it."""
        status = 0 if data.StatusCode is None else int(data.StatusCode.value)
        quality = _QUALITY[status >> 30 & 3]
        value, text = (None, None) if quality == "bad" else _plain(data.Value.Value if data.Value else None)
        now_us = self._clock.now_us()
        at = data.SourceTimestamp or data.ServerTimestamp
        at_us = now_us if at is None else _us(at)
        with self._news:
            if len(self._waiting) >= WAITING_MAX:
                self._waiting.popleft()
                self.counted["changes_dropped"] += 1
            self._waiting.append((machine, signal, at_us, value, text, quality, now_us))
            self.counted["changes"] += 1
            self._news.notify()

    def fail(self, why: str) -> None:
        """The connection is gone: told once what came before it has been taken."""
        with self._news:
            self._trouble = why
            self._news.notify()

    def take(self, rows_max: int, timeout_s: float) -> pa.RecordBatch | None:
        """Returns some changes in the order in which they came; None if there are none, `Unavailable` if it is over."""
        with self._news:
            if not self._waiting and not self._trouble and timeout_s > 0:
                self._news.wait(timeout_s)
            if not self._waiting:
                if self._trouble:
                    raise Unavailable(self._trouble)
                return None
            taken = [self._waiting.popleft() for _ in range(min(rows_max, len(self._waiting)))]
        keys, signals, at, values, texts, qualities, received = (list(column) for column in zip(*taken, strict=True))
        return pa.RecordBatch.from_arrays(
            [
                as_keys(pa.array(keys)),
                as_keys(pa.array(signals)),
                as_times(np.array(at, np.int64)),
                pa.array(values, pa.float64()),
                pa.array(texts, pa.string()),
                as_keys(pa.array(qualities)),
                as_times(np.array(received, np.int64)),
            ],
            schema=SCHEMA,
        )


class _Session:
    """One connection with its subscription."""

    def __init__(self, source: Opcua, world: World, changes: _Changes) -> None:
        self._source, self._given, self._changes = source, world.given, changes
        self._stopped = asyncio.Event()
        self._names: dict[Any, tuple[str, str]] = {}

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        """Connect, subscribe, and watch until it is over."""
        logging.getLogger("asyncua").setLevel(logging.ERROR)  # it warns of every value that a server revises
        client = self._client()
        try:
            await self._secure(client)
            async with client:
                self._changes.counted["connects"] += 1
                await self._watch(client)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the library raises what the network, the server and its own decoder raise
            log.debug("opcua", exc_info=True)
            self._changes.fail(f"{self._source.url}: {str(error) or type(error).__name__}")

    def _client(self) -> Any:
        client = _library().Client(self._source.url, timeout=self._source.timeout / 1e6)
        if self._source.user is not None:
            client.set_user(self._source.user)
        if self._source.password is not None:
            client.set_password(self._source.password.get_secret_value())
        return client

    async def _secure(self, client: Any) -> None:
        security = self._source.security
        if security is None:
            return
        files = [security.cert, security.key, *([security.server] if security.server else [])]
        paths = ",".join(str(self._given / name) for name in files)
        await client.set_security_string(f"{security.policy},SignAndEncrypt,{paths}")

    async def _watch(self, client: Any) -> None:
        subscription = await client.create_subscription(self._source.every / 1000, self)
        missing = [(m, s, node) for m, signals in self._source.nodes.items() for s, node in signals.items()]
        due = 0.0
        loop = asyncio.get_running_loop()
        while not self._stopped.is_set():
            if missing and loop.time() >= due:
                missing = [one for one in missing if not await self._subscribe(client, subscription, *one)]
                due = loop.time() + _AGAIN_S
            try:
                await asyncio.wait_for(self._stopped.wait(), _WATCH_S)
            except TimeoutError:
                await client.check_connection()

    async def _subscribe(self, client: Any, subscription: Any, machine: str, signal: str, node_id: str) -> bool:
        """Subscribe to one node; returns False if the server refuses it."""
        ua = _library().ua
        node = client.get_node(node_id)
        self._names[node] = (machine, signal)
        queue, deadband = self._source.queue, self._source.deadband
        try:
            if deadband > 0 and await _is_number(node, ua):
                kind = ua.DeadbandType.Absolute
                await subscription.deadband_monitor(node, deadband, deadbandtype=kind, queuesize=queue)
            else:
                pace_ms = self._source.every / 1000
                await subscription.subscribe_data_change(node, queuesize=queue, sampling_interval=pace_ms)
        except ua.UaStatusCodeError as error:
            self._changes.counted["nodes_refused"] += 1
            log.warning("%s: nodes.%s.%s (%s) is refused: %s", self._source.url, machine, signal, node_id, error)
            return False
        return True

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        """Called by the library."""
        machine, signal = self._names[node]
        self._changes.add(machine, signal, data.monitored_item.Value)

    def status_change_notification(self, status: Any) -> None:
        """Called by the library, when the server ends the subscription."""
        self._changes.fail(f"{self._source.url} has ended the subscription: {status}")
        self._stopped.set()


async def _is_number(node: Any, ua: Any) -> bool:
    kind = await node.read_data_type_as_variant_type()
    return bool(ua.VariantType.SByte.value <= kind.value <= ua.VariantType.Double.value)


def _plain(value: Any) -> tuple[float | None, str | None]:
    """A value as number or text."""
    if value is None:
        return None, None
    if isinstance(value, bool | int | float):
        number = float(value)
        return (number, None) if number - number == 0 else (None, None)
    return None, value if isinstance(value, str) else getattr(value, "Text", None) or str(value)


def _us(time: datetime) -> int:
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1e6)


def _library() -> Any:
    try:
        import asyncua
    except ImportError:
        raise MissingExtra("asyncua", "opcua", "source opcua") from None
    return asyncua


__all__ = ["Opcua"]
