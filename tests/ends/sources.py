"""Each source of the project with its other side, for the kit of sources."""

from __future__ import annotations

import socket
import sqlite3
import tempfile
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, suppress
from datetime import timedelta
from itertools import count as counting
from pathlib import Path
from typing import Any, Protocol

import httpx
import pyarrow as pa
from hdfs_server import Hdfs
from kafka_server import Kafka
from kinesis_server import REGION
from kinesis_server import Kinesis as KinesisServer
from mongo_server import Mongo
from postgres_server import TRUSTED
from postgres_server import Postgres as PostgresServer
from servers import InfluxDb, ObjectStore, free_port

from tocsin.acquire._registers import Register
from tocsin.acquire._template import Template
from tocsin.acquire.delta import Delta
from tocsin.acquire.files import Files
from tocsin.acquire.host import Host
from tocsin.acquire.http import Http
from tocsin.acquire.influxdb import Influxdb
from tocsin.acquire.kafka import Kafka as KafkaSource
from tocsin.acquire.kinesis import Kinesis
from tocsin.acquire.modbus import Modbus
from tocsin.acquire.mongodb import Mongodb
from tocsin.acquire.mqtt import Mqtt
from tocsin.acquire.opcua import Opcua
from tocsin.acquire.postgres import Postgres
from tocsin.acquire.simulate import Simulate
from tocsin.acquire.sparkplug import Sparkplug
from tocsin.acquire.sqlite import Sqlite
from tocsin.contracts import Source
from tocsin.mqtt.client import Client
from tocsin.output.delta import Delta as Table
from tocsin.settings.tls import Tls
from tocsin.testing import world

_NUMBERS = counting(1)


class WithoutPeer:
    """What a source that speaks to no server cannot be tried with."""

    def restart(self) -> bool:
        return False

    def silent(self) -> Source | None:
        return None

    def absent(self) -> Source | None:
        return None

    def wrong(self) -> tuple[Source, str] | None:
        return None


class Server(Protocol):
    """What can be stopped and started again."""

    port: int

    def start(self) -> Any: ...

    def stop(self) -> None: ...


class WithServer(ABC):
    """A source and its server; or a peer that accepts and never answers, or none at all."""

    def __init__(self, server: Server) -> None:
        self._server, self._port = server, server.port
        self._silent = socket.create_server(("127.0.0.1", 0))

    @abstractmethod
    def _at(self, port: int) -> Source:
        """Returns the source, of the server at a port."""

    def source(self) -> Source:
        return self._at(self._port)

    def silent(self) -> Source:
        return self._at(self._silent.getsockname()[1])

    def absent(self) -> Source:
        return self._at(free_port())

    def restart(self) -> bool:
        self._server.stop()
        self._server.start()
        return True

    def close(self) -> None:
        self._silent.close()


class FilesHarness(WithoutPeer):
    """A file of lines."""

    def __init__(self, follow: bool = False) -> None:
        self._path = Path(tempfile.mkdtemp()) / "in.txt"
        self._path.touch()
        self._follow = follow

    def source(self) -> Source:
        return Files(path=str(self._path), follow=self._follow)

    def send(self, count: int) -> bool:
        with self._path.open("a") as file:
            file.writelines(f"{i}\n" for i in range(count))
        return True


class DeltaHarness(WithoutPeer):
    """A table in a folder, to which another engine adds rows."""

    def __init__(self, follow: bool = False) -> None:
        self._follow, self._epoch = follow, 0
        self._writer = Table(path=tempfile.mkdtemp()).open(world(), pa.schema([("payload", pa.binary())]))

    def source(self) -> Source:
        return Delta(path=str(self._writer.log.folder), follow=self._follow, every=20_000)

    def send(self, count: int) -> bool:
        for begin in range(0, count, 9):
            self._epoch += 1
            payloads = [str(i).encode() for i in range(begin, min(begin + 9, count))]
            rows = pa.record_batch({"payload": pa.array(payloads, pa.binary())})
            self._writer.publish(self._epoch, [self._writer.stage(self._epoch, [rows])])
        return True

    def wrong(self) -> tuple[Source, str]:
        return Delta(path="s3://bucket/table"), "not followed"


class TemplateHarness(FilesHarness):
    """The template, which reads a file."""

    def source(self) -> Source:
        return Template(path=str(self._path))

    def wrong(self) -> tuple[Template, str]:
        return Template(path="nowhere.txt"), "nowhere.txt"


class OwnReadings(WithoutPeer):
    """A source that makes its readings itself."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def source(self) -> Source:
        return self._source

    def send(self, count: int) -> bool:
        return False


class MqttHarness(WithServer):
    """A topic of a broker."""

    def _at(self, port: int) -> Mqtt:
        return Mqtt(url=f"mqtt://127.0.0.1:{port}", topic="kit/#")

    def send(self, count: int) -> bool:
        client = Client(f"mqtt://127.0.0.1:{self._port}")
        client.publish([("kit/a", str(i).encode()) for i in range(count)])
        client.close()
        return True

    def wrong(self) -> tuple[Mqtt, str]:
        return Mqtt(url="mqtts://127.0.0.1", topic="kit/#", tls=Tls(ca="nowhere.pem")), "nowhere.pem"


class SparkplugHarness(WithServer):
    """An edge node at a broker; what it sends means nothing, which the source must bear."""

    def _at(self, port: int, **settings: Any) -> Sparkplug:
        url = f"mqtt://127.0.0.1:{port}"
        return Sparkplug.model_validate({"url": url, "groups": "kit", "session_expiry_us": "1h", **settings})

    def send(self, count: int) -> bool:
        client = Client(f"mqtt://127.0.0.1:{self._port}")
        client.publish([("spBv1.0/kit/NDATA/a", str(i).encode()) for i in range(count)])
        client.close()
        return True

    def wrong(self) -> tuple[Sparkplug, str]:
        return self._at(self._port, url="mqtts://127.0.0.1", tls={"ca": "nowhere.pem"}), "nowhere.pem"


class InfluxHarness(WithServer):
    """A measurement of a real InfluxDB."""

    def __init__(self, server: InfluxDb, follow: bool) -> None:
        super().__init__(server)
        self._follow, self._measurement = follow, f"asked {next(_NUMBERS)}"

    def _at(self, port: int, **settings: Any) -> Influxdb:
        more = {"url": f"http://127.0.0.1:{port}", "database": "plant", "user": "tocsin", "delay": "0s"}
        more |= {"measurement": self._measurement, "password": InfluxDb.PASSWORD, "every": "20ms"}
        return Influxdb.model_validate({**more, "follow": self._follow, **settings})

    def send(self, count: int) -> bool:
        at_ns = time.time_ns() - 1_000_000_000
        name = self._measurement.replace(" ", "\\ ")
        self._server.write([f"{name} n={i}i {at_ns + i}" for i in range(count)])
        return True

    def restart(self) -> bool:
        return self._follow and super().restart()  # else it has ended

    def wrong(self) -> tuple[Influxdb, str]:
        return self._at(self._port, tls={"ca": "nowhere.pem"}), "nowhere.pem"


class PostgresHarness(WithServer):
    """A table of a real server, followed by its identity."""

    def __init__(self, server: PostgresServer, follow: bool) -> None:
        super().__init__(server)
        self._follow = follow
        self._table = f"{server.schema()}.t"
        identity = "bigint generated always as identity (minvalue 0 start 0) primary key"
        server.execute(f"create table {self._table} (position {identity}, payload text)")

    def _at(self, port: int, **settings: Any) -> Postgres:
        url = f"postgresql://127.0.0.1:{port}/postgres"
        more = {"url": url, "user": TRUSTED, "table": self._table, "cursor": "position", "every": "20ms"}
        return Postgres.model_validate({**more, "follow": self._follow, **settings})

    def send(self, count: int) -> bool:
        insert = "insert into {} (payload) select n::text from generate_series(0, %s - 1) n"
        self._server.execute(insert.replace("{}", self._table), count)
        return True

    def restart(self) -> bool:
        return self._follow and super().restart()  # else it has ended

    def wrong(self) -> tuple[Postgres, str]:
        return self._at(self._server.port, tls={"ca": "nowhere.pem"}), "nowhere.pem"


class MongoHarness(WithServer):
    """A collection, whose documents are known as new by their dates, or by their ids."""

    def __init__(self, server: Mongo, follow: bool, modified: str | None) -> None:
        super().__init__(server)
        self._follow, self._modified = follow, modified
        self._database = server.database()

    def _at(self, port: int, **settings: Any) -> Mongodb:
        url = f"mongodb://127.0.0.1:{port}/{self._database}"
        more = {"url": url, "collections": "kit", "modified": self._modified, "fields": "n", "every": "20ms"}
        return Mongodb.model_validate({**more, "follow": self._follow, **settings})

    def send(self, count: int) -> bool:
        now = self._server.client.admin.command("hello")["localTime"] - timedelta(seconds=1)
        documents = [{"n": i, "at": now + timedelta(milliseconds=i // 2)} for i in range(count)]
        self._server.insert(self._database, "kit", documents)
        return True

    def restart(self) -> bool:
        return self._follow and super().restart()  # else it has ended

    def wrong(self) -> tuple[Mongodb, str]:
        return self._at(self._server.port, tls={"ca": "nowhere.pem"}), "nowhere.pem"


class SqliteHarness(WithoutPeer):
    """A file that another program writes."""

    def __init__(self, follow: bool = False) -> None:
        self._path, self._follow = Path(tempfile.mkdtemp()) / "plant.db", follow
        with closing(sqlite3.connect(self._path)) as database:
            database.execute("pragma journal_mode = wal")
            database.execute("create table t (n int, id integer primary key autoincrement)")

    def source(self) -> Sqlite:
        return Sqlite(path=self._path, table="t", follow=self._follow, every="20ms")

    def send(self, count: int) -> bool:
        with closing(sqlite3.connect(self._path)) as database, database:
            database.executemany("insert into t (n) values (?)", [(n,) for n in range(count)])
        return True

    def wrong(self) -> tuple[Sqlite, str]:
        return Sqlite(path=Path("nowhere.db"), table="t"), "nowhere.db"


class HttpHarness(WithoutPeer):
    """Our own server, and a program that posts to it; its answer comes once the runner has acknowledged."""

    def __init__(self) -> None:
        self._port = free_port()
        self._sender: threading.Thread | None = None

    def source(self) -> Http:
        return Http(port=self._port)

    def send(self, count: int) -> bool:
        body = "".join(f"{i}\n" for i in range(count)).encode()
        self._sender = threading.Thread(target=self._post, args=(body,), daemon=True)
        self._sender.start()
        return True

    def _post(self, body: bytes) -> None:
        with suppress(httpx.HTTPError):  # the kit closes the source before it has acknowledged
            httpx.post(f"http://127.0.0.1:{self._port}/ingest/kit", content=body, timeout=30)

    def wrong(self) -> tuple[Http, str]:
        return Http(port=self._port, host="0.0.0.0"), "token"


class Serving:
    """A server that runs for a block, made anew at the same port."""

    def __init__(self, serve: Callable[[int], AbstractContextManager[Any]]) -> None:
        self.port, self._serve = free_port(), serve
        self.start()

    def start(self) -> None:
        self._running = self._serve(self.port)
        self._running.__enter__()

    def stop(self) -> None:
        self._running.__exit__(None, None, None)


class FieldHarness(WithServer):
    """A device that is asked."""

    def __init__(self, at: Callable[[int], Source], server: Serving, wrong: tuple[Source, str] | None = None) -> None:
        super().__init__(server)
        self._source, self._wrong = at, wrong

    def _at(self, port: int) -> Source:
        return self._source(port)

    def send(self, count: int) -> bool:
        return False

    def wrong(self) -> tuple[Source, str] | None:
        return self._wrong


def modbus(port: int) -> Modbus:
    registers = {"n": Register(address=0)}
    return Modbus(host="127.0.0.1", port=port, units={"press": 1}, registers=registers, every="50ms", timeout="2s")


def opcua(port: int, node: str = "ns=2;s=n") -> Opcua:
    return Opcua(url=f"opc.tcp://127.0.0.1:{port}", nodes={"press": {"n": node}}, every="50ms", timeout="2s")


class KafkaHarness(WithServer):
    """A topic of a broker, read in a group of its own each time."""

    def __init__(self, server: Kafka) -> None:
        super().__init__(server)
        self._topic, self._opened = server.topic(), 0

    def _at(self, port: int) -> KafkaSource:
        self._opened += 1
        return KafkaSource(brokers=f"127.0.0.1:{port}", topics=self._topic, group=f"{self._topic}-{self._opened}")

    def send(self, count: int) -> bool:
        self._server.send(self._topic, [str(i).encode() for i in range(count)])
        return True

    def wrong(self) -> tuple[KafkaSource, str]:
        return KafkaSource(brokers="127.0.0.1:9092", topics="t", tls=Tls(ca="nowhere.pem")), "nowhere.pem"


class KinesisHarness(WithServer):
    """A stream of one shard."""

    def __init__(self, server: KinesisServer) -> None:
        super().__init__(server)
        self._stream = server.stream()

    def _at(self, port: int) -> Kinesis:
        return Kinesis(stream=self._stream, region=REGION, endpoint=f"http://127.0.0.1:{port}")

    def send(self, count: int) -> bool:
        self._server.send(self._stream, [str(i).encode() for i in range(count)])
        return True

    def wrong(self) -> tuple[Kinesis, str]:
        return Kinesis(stream=self._stream, profile="nobody"), "nobody"


class RemoteFilesHarness(WithoutPeer):
    """An object of lines in an object store, or in HDFS."""

    def __init__(self, place: ObjectStore | Hdfs, follow: bool) -> None:
        self._place, self._follow = place, follow
        self._folder = f"lines-{uuid.uuid4().hex}"
        self._silent = socket.create_server(("127.0.0.1", 0))

    def source(self) -> Files:
        root = "s3://plant" if isinstance(self._place, ObjectStore) else self._place.url
        return self._at(f"{root}/{self._folder}/*.txt", self._place.options)

    def _at(self, path: str, storage: Mapping[str, str]) -> Files:
        settings = {"path": path, "storage": storage, "follow": self._follow, "every": "50ms"}
        return Files.model_validate(settings)

    def send(self, count: int) -> bool:
        lines = "".join(f"{i}\n" for i in range(count))
        self._place.put(f"{self._folder}/in.txt", lines.encode())
        return True

    def silent(self) -> Files:
        return self._elsewhere(self._silent.getsockname()[1])

    def absent(self) -> Files:
        return self._elsewhere(free_port())

    def _elsewhere(self, port: int) -> Files:
        if isinstance(self._place, ObjectStore):
            url = f"http://127.0.0.1:{port}"
            return self._at("s3://plant/in/*.txt", {**self._place.options, "aws_endpoint_url": url})
        return self._at(f"hdfs://127.0.0.1:{port}/in/*.txt", {})

    def wrong(self) -> tuple[Files, str]:
        return self._at("ftp://plant/in/*.txt", {}), "ftp://"

    def close(self) -> None:
        self._silent.close()


PLANT = {"start": "2026-01-01T00:00:00Z", "stops_per_day": 0}
LOCAL: dict[str, Callable[[], DeltaHarness | FilesHarness | HttpHarness | OwnReadings | SqliteHarness]] = {
    "template": TemplateHarness,
    "files": FilesHarness,
    "files-follow": lambda: FilesHarness(follow=True),
    "sqlite": SqliteHarness,
    "sqlite-follow": lambda: SqliteHarness(follow=True),
    "delta": DeltaHarness,
    "delta-follow": lambda: DeltaHarness(follow=True),
    "http": HttpHarness,
    "host": lambda: OwnReadings(Host(every="50ms", key="laptop")),
    "simulate": lambda: OwnReadings(Simulate.model_validate({**PLANT, "rate": 0, "duration": "20s"})),
    "simulate-live": lambda: OwnReadings(Simulate.model_validate({**PLANT, "every": "50ms"})),
}
FIELD = ("modbus", "opcua")
BROKERS = ("mqtt-own", "mqtt-mosquitto")
ELSEWHERE = ("influxdb", "kafka", "kinesis", "mongodb", "postgres", "sparkplug")
