"""What every test shares: binaries that may be missing, a real Mosquitto, a real browser, certificates."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hdfs_server import Hdfs, hadoop_jars
from hypothesis import settings
from kafka_server import Kafka, jars
from kinesis_server import CREDENTIALS, Gate, Kinesis, program
from mongo_server import Mongo, mongo_jars
from postgres_server import Postgres
from redshift_server import Redshift
from servers import CACHE, InfluxDb, Mosquitto, Needs, ObjectStore

from tocsin.mqtt.authority import Authority

settings.register_profile("tocsin", deadline=None)  # the first example may compile a kernel
settings.load_profile("tocsin")


@pytest.fixture(scope="session")
def needs() -> Needs:
    """``needs("mosquitto")``: where the program is; without it the test is skipped, but fails where CI=true."""

    def find(binary: str) -> str:
        path = shutil.which(binary, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        if path is not None:
            return path
        if os.environ.get("CI") == "true":
            pytest.fail(f"{binary} is not installed, and in CI that is a failure")
        pytest.skip(f"{binary} is not installed")

    return find


@pytest.fixture
def mosquitto(needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Mosquitto]]:
    """``mosquitto()`` or ``mosquitto("password_file ...")`` starts one on a free port; it ends with the test."""
    started: list[Mosquitto] = []

    def start(lines: str = "allow_anonymous true") -> Mosquitto:
        broker = Mosquitto(needs("mosquitto"), tmp_path_factory.mktemp("mosquitto"), lines)
        started.append(broker)
        return broker.start()

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture(scope="session")
def influxdb(needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxDb]:
    """A real InfluxDB for the whole session; each test writes a measurement of its own."""
    server = InfluxDb(needs("influxd"), tmp_path_factory.mktemp("influxdb")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An S3 server for the whole session; each test writes a table of its own."""
    binary = shutil.which("versitygw", path=f"{CACHE}/versitygw-1.8.0{os.pathsep}{os.environ['PATH']}")
    server = ObjectStore(tmp_path_factory.mktemp("objects"), binary).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``tocsin certs`` makes, for devices pump-1, pump-2, tocsin, and gone, which is revoked; old has expired; in
    ``other``, a second CA with a device of the same name."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    authority.server("127.0.0.1", 365)
    for device in ("pump-1", "pump-2", "tocsin", "gone"):
        authority.device(device, 365)
    authority.device("old", -1)
    for suffix in ("pem", "key"):
        shutil.copy(folder / f"gone.{suffix}", folder / f"revoked.{suffix}")
    authority.revoke("gone")
    other = Authority(folder / "other")
    other.device("pump-1", 365)
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, one for all tests; each has schemas of its own."""
    pytest.importorskip("psycopg")
    server = Postgres()
    yield server.start()
    server.remove()


@pytest.fixture
def redshift(postgres: Postgres, object_store: ObjectStore) -> Iterator[Redshift]:
    """A stand-in for Redshift: the real PostgreSQL, and a COPY that reads from the S3 server."""
    standin = Redshift(postgres, object_store)
    yield standin
    standin.close()


@pytest.fixture(scope="session")
def kafka(needs: Needs, certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A real broker, one for all tests; each has topics of its own."""
    pytest.importorskip("confluent_kafka")
    broker = Kafka(needs("java"), jars(needs), tmp_path_factory.mktemp("kafka"), certificates)
    yield broker.start()
    broker.stop()


@pytest.fixture(scope="session")
def kinesis_server(needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinesis]:
    """A stand-in for Kinesis for the whole session; each test has streams of its own."""
    server = Kinesis(needs("node"), program(needs), tmp_path_factory.mktemp("kinesis")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def hdfs(needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    """A real HDFS with WebHDFS, one for all tests; each has a folder of its own."""
    server = Hdfs(needs("java"), hadoop_jars(needs), tmp_path_factory.mktemp("hdfs"))
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def mongo(needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    """A stand-in for MongoDB, one for all tests; each has databases of its own."""
    pytest.importorskip("pymongo")
    needs("javac")
    server = Mongo(needs("java"), mongo_jars(needs), tmp_path_factory.mktemp("mongo")).start()
    yield server
    server.stop()


@pytest.fixture
def kinesis(kinesis_server: Kinesis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kinesis]:
    """The stand-in, and credentials in the environment; between tests it stands still, since idle it is busy, too."""
    for name, value in {**CREDENTIALS, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    kinesis_server.thaw()
    yield kinesis_server
    kinesis_server.freeze()


@pytest.fixture
def gate(kinesis: Kinesis) -> Iterator[Gate]:
    """A server before the stand-in, which refuses what a test wants refused."""
    before = Gate(kinesis)
    yield before
    before.close()


@pytest.fixture(scope="module")
def browser(needs: Needs) -> Iterator[object]:
    """A real, headless Chromium; for one module, since an event loop runs in this thread as long as it does."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(
            executable_path=needs("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield found
        found.close()
