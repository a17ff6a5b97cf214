"""The page on trouble, held against real servers: what each sentence of Kafka and PostgreSQL says, and what follows."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    NewPartitions,
    NewTopic,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)
from kafka_server import Kafka
from postgres_server import PASSWORD, USER, Postgres
from servers import free_port

import tocsin
from tocsin.engine import embedded
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.kafka import group as kafka_group
from tocsin.output import kafka as kafka_sink
from tocsin.pipeline.model import Pipeline

PAGE = (Path(__file__).parent.parent / "docs" / "troubleshooting.md").read_text()
SENTENCES = [
    re.compile(".*".join(map(re.escape, sentence.split("…"))), re.DOTALL)
    for line in PAGE.splitlines()
    if line.startswith("| ")
    for sentence in re.findall("`([^`]{12,})`", line.split(" | ")[1])
]
WAIT_S = 30.0
READ = {"json": {"columns": {"n": "int"}, "metadata": {"key": "key", "time": "sent"}}}


def is_on_page(told: str) -> bool:
    return any(sentence.fullmatch(told) for sentence in SENTENCES)


class Running:
    """A pipeline that runs in a thread: why it has ended, or what an end of it waits for."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._runner = EmbeddedRunner(
            Pipeline.model_validate({"name": "trouble", "checkpoint": "50ms", **settings}).plan()
        )
        self.ended: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._runner.run()
        except BaseException as error:
            self.ended = error

    def reason(self, kind: str) -> str | None:
        """What its source or its sink waits for."""
        return next((one["reason"] for one in self._runner.snapshot()[kind].values()), None)

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not true():
            assert self.ended is None, self.ended
            assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {self._runner.snapshot()}"
            time.sleep(0.02)

    def why(self) -> str:
        """Why it has ended."""
        self._thread.join(WAIT_S)
        assert self.ended is not None, "it goes on"
        return str(self.ended)

    def stop(self) -> None:
        self._runner.stop()
        self._thread.join(WAIT_S)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot go on is tried once more, not five times, and a new partition is seen at once."""
    monkeypatch.setattr(embedded, "RETRIES", 1)
    monkeypatch.setattr(kafka_group, "METADATA_MS", 300)


@contextmanager
def running(settings: Mapping[str, Any]) -> Iterator[Running]:
    one = Running(settings)
    try:
        yield one
    finally:
        one.stop()


def kept(folder: Path, table: str = "rows") -> Counter[int]:
    if not any((folder / table / "_delta_log").glob("*.json")):
        return Counter()
    return Counter(tocsin.read(table, folder)["n"].to_pylist())


def set_aside(folder: Path) -> list[tuple[str, str]]:
    if not any((folder / "quarantine" / "_delta_log").glob("*.json")):
        return []
    return [(row["reason"], row["detail"]) for row in tocsin.read("quarantine", folder).to_pylist()]


def numbered(*numbers: int) -> list[bytes | None]:
    return [b'{"n": %d}' % number for number in numbers]


def from_kafka(kafka: Kafka, topic: str, folder: Path, **source: Any) -> dict[str, Any]:
    cluster = {"brokers": kafka.address, "topics": topic, "group": topic, "session_timeout": "6s", **source}
    streams = {"rows": {"sinks": [{"delta": "rows"}]}}
    return {"source": {"kafka": cluster}, "decode": READ, "folder": str(folder), "streams": streams}


# Kafka


def test_records_that_are_gone(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic()
    kafka.send(topic, numbered(*range(5)), key=b"m")
    with running(from_kafka(kafka, topic, tmp_path)) as one:
        one.until(lambda: len(kept(tmp_path)) == 5)
    kafka.send(topic, numbered(*range(5, 20)), key=b"m")
    kafka.admin.delete_records([TopicPartition(topic, 0, 15)])[TopicPartition(topic, 0)].result(30)
    with running(from_kafka(kafka, topic, tmp_path)) as one:
        assert is_on_page(one.why()), one.why()


def test_a_topic_that_is_deleted_and_made_again(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic()
    kafka.send(topic, numbered(*range(5)), key=b"m")
    with running(from_kafka(kafka, topic, tmp_path)) as one:
        one.until(lambda: len(kept(tmp_path)) == 5)
        kafka.admin.delete_topics([topic])[topic].result(30)
        one.until(lambda: one.reason("sources"))
        assert is_on_page(one.reason("sources") or "")
        kafka.admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
        assert is_on_page(one.why()), one.why()


def test_a_user_who_is_no_longer_one(kafka: Kafka, tmp_path: Path) -> None:
    topic, user = kafka.topic(), f"u{secrets.token_hex(4)}"
    mechanism = ScramMechanism.SCRAM_SHA_512
    made = UserScramCredentialUpsertion(user, ScramCredentialInfo(mechanism, 4096), b"secret")
    kafka.admin.alter_user_scram_credentials([made])[user].result(30)
    kafka.send(topic, numbered(1), key=b"m")
    settings = from_kafka(kafka, topic, tmp_path, brokers=kafka.at("SASL_PLAINTEXT"), user=user, password="secret")
    with running(settings) as one:
        one.until(lambda: len(kept(tmp_path)) == 1)
    kafka.admin.alter_user_scram_credentials([UserScramCredentialDeletion(user, mechanism)])[user].result(30)
    with running(settings) as one:
        assert is_on_page(one.why()), one.why()
        assert user in one.why()


def test_a_certificate_that_has_expired(kafka: Kafka, certificates: Path, tmp_path: Path) -> None:
    tls = {
        "ca": str(certificates / "ca.pem"),
        "cert": str(certificates / "old.pem"),
        "key": str(certificates / "old.key"),
    }
    with running(from_kafka(kafka, kafka.topic(), tmp_path, brokers=kafka.at("SSL"), tls=tls)) as one:
        assert is_on_page(one.why()), one.why()
        assert "certificate" in one.why()


def test_a_partition_that_is_added_and_a_field_of_another_type(kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic()
    kafka.send(topic, [*numbered(1, 2), b'{"n": "three"}', *numbered(4)], key=b"m")
    with running(from_kafka(kafka, topic, tmp_path)) as one:
        one.until(lambda: kept(tmp_path) == Counter([1, 2, 4]))
        ((reason, detail),) = set_aside(tmp_path)
        assert (reason, "n" in detail) == ("type", True)
        kafka.admin.create_partitions([NewPartitions(topic, 2)])[topic].result(30)
        one.until(lambda: len(kafka.admin.list_topics(topic).topics[topic].partitions) == 2)
        kafka.send(topic, numbered(5, 6), key=b"m", partition=1)
        one.until(lambda: kept(tmp_path) == Counter([1, 2, 4, 5, 6]))


def test_a_topic_to_write_to_that_is_deleted(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is there again it goes on by itself, though the cluster has forgotten with the topic how far it was."""
    monkeypatch.setattr(kafka_sink, "COMMIT_S", 3.0)
    source, target = kafka.topic(), kafka.topic()
    kafka.send(source, numbered(1), key=b"m")
    sinks = [{"kafka": {"brokers": kafka.address, "topic": target, "columns": ["n"]}}]
    settings = {
        **from_kafka(kafka, source, tmp_path),
        "name": target.replace("-", "_"),
        "streams": {"rows": {"sinks": sinks}},
    }
    with running(settings) as one:
        one.until(lambda: len(kafka.records(target)) == 1)
        kafka.admin.delete_topics([target])[target].result(30)
        one.until(lambda: target not in kafka.admin.list_topics(timeout=30).topics)
        kafka.send(source, numbered(2), key=b"m")
        one.until(lambda: one.reason("sinks"))
        assert is_on_page(one.reason("sinks") or ""), one.reason("sinks")
        kafka.admin.create_topics([NewTopic(target, 1, 1)])[target].result(30)
        one.until(lambda: [json.loads(record.value()) for record in kafka.records(target)] == [{"n": 2}])


class Registry:
    """A schema registry that holds schema 1, and is away until it is started."""

    def __init__(self) -> None:
        self._server: ThreadingHTTPServer | None = None
        self.port = free_port()

    def start(self) -> None:
        schema = {"type": "record", "name": "r", "fields": [{"name": "n", "type": "long"}]}

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path == "/schemas/ids/1"
                self.send_response(200 if known else 404)
                self.end_headers()
                self.wfile.write(
                    json.dumps({"schema": json.dumps(schema)} if known else {"error_code": 40403}).encode()
                )

            def log_message(self, *args: Any) -> None:
                """It says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Answer)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


@pytest.fixture
def registry() -> Iterator[Registry]:
    one = Registry()
    yield one
    one.stop()


def avro(schema: int, *numbers: int) -> list[bytes | None]:
    """Numbers below 64 as a record with one long: Avro writes twice the number in one byte."""
    return [b"\0" + schema.to_bytes(4, "big") + bytes([2 * number]) for number in numbers]


def test_a_registry_that_is_away_for_long(
    kafka: Kafka, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a member may go without a poll, while a second one comes: no partition is lost, no row doubled."""
    monkeypatch.setattr(kafka_group, "MAX_POLL_MS", 1_500)
    topic = kafka.topic(2)
    for partition in range(2):
        kafka.send(topic, avro(1, *range(10 * partition, 10 * partition + 10)), key=b"m", partition=partition)
    kafka.send(topic, avro(7, 1), key=b"m", partition=0)
    decode = {
        "avro": {
            "columns": {"n": "int"},
            "metadata": {"key": "key", "time": "sent"},
            "registry": {"url": f"http://127.0.0.1:{registry.port}"},
        }
    }
    folders = [tmp_path / "one", tmp_path / "two"]
    settings = [{**from_kafka(kafka, topic, at, session_timeout="1s"), "decode": decode} for at in folders]
    with running(settings[0]) as one:
        one.until(lambda: one.reason("sources"))
        assert is_on_page(one.reason("sources") or ""), one.reason("sources")
        with running(settings[1]) as two:
            two.until(lambda: two.reason("sources"))  # it was given a partition
            time.sleep(1.6)  # with what came before it, longer than the cluster waits for a poll
            registry.start()
            two.until(lambda: sum((kept(at) for at in folders), Counter()).total() >= 20)
            assert one.ended is None
    assert sum((kept(at) for at in folders), Counter()) == Counter(range(20))
    told = [one for at in folders for one in set_aside(at)]
    assert [(reason, is_on_page(detail)) for reason, detail in told] == [("avro_schema", True)], told


# PostgreSQL


@pytest.fixture
def role(postgres: Postgres) -> Iterator[str]:
    """A user of its own, who owns a schema of the same name, with a table ``t`` to read."""
    name = f"r{secrets.token_hex(4)}"
    for statement in (
        f"create role {name} login password 'secret'",
        f"create schema {name} authorization {name}",
        f"create table {name}.t (n bigint primary key, machine text, at timestamptz default now(), v int)",
        f"alter table {name}.t owner to {name}",
        f"insert into {name}.t values (1, 'm')",
    ):
        postgres.execute(statement)
    yield name
    postgres.execute(f"drop schema if exists {name} cascade")
    postgres.execute(f"drop role {name}")


def of_postgres(postgres: Postgres, role: str, folder: Path, sinks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """From table ``t``, which the user of the tests reads, to these sinks."""
    server = {"url": postgres.url, "user": USER, "password": PASSWORD}
    source = {"postgres": {**server, "table": f"{role}.t", "cursor": "n", "follow": True, "every": "20ms"}}
    return {
        "source": source,
        "key": "machine",
        "time": "at",
        "folder": str(folder),
        "streams": {"rows": {"sinks": list(sinks)}},
    }


def end_sessions(postgres: Postgres, user: str) -> None:
    postgres.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", user)


def test_a_source_whose_password_has_expired(postgres: Postgres, role: str, tmp_path: Path) -> None:
    settings = of_postgres(postgres, role, tmp_path, [{"delta": "rows"}])
    settings["source"]["postgres"] |= {"user": role, "password": "secret"}
    with running(settings) as one:
        one.until(lambda: kept(tmp_path) == Counter([1]))
        postgres.execute(f"alter role {role} valid until '2020-01-01'")
        end_sessions(postgres, role)
        assert is_on_page(one.why()), one.why()


def test_a_sink_whose_password_has_expired_waits(postgres: Postgres, role: str, tmp_path: Path) -> None:
    sink = {"url": postgres.url, "user": role, "password": "secret", "table": f"{role}.copy"}
    with running(of_postgres(postgres, role, tmp_path, [{"postgres": sink}])) as one:
        copied = lambda: [n for (n,) in postgres.execute(f"select n from {role}.copy order by n")]  # noqa: E731
        one.until(
            lambda: postgres.execute("select to_regclass(%s) is not null", f"{role}.copy")[0][0] and copied() == [1]
        )
        postgres.execute(f"alter role {role} valid until '2020-01-01'")
        end_sessions(postgres, role)
        postgres.execute(f"insert into {role}.t values (2, 'm')")
        one.until(lambda: one.reason("sinks"))
        one.until(lambda: is_on_page(one.reason("sinks") or "") and "refuses" in (one.reason("sinks") or ""))
        postgres.execute(f"alter role {role} valid until 'infinity'")
        one.until(lambda: copied() == [1, 2])


def test_a_table_that_is_read_is_deleted(postgres: Postgres, role: str, tmp_path: Path) -> None:
    with running(of_postgres(postgres, role, tmp_path, [{"delta": "rows"}])) as one:
        one.until(lambda: kept(tmp_path) == Counter([1]))
        postgres.execute(f"drop table {role}.t")
        assert is_on_page(one.why()), one.why()


def test_rows_deleted_before_they_were_read_and_a_column_whose_type_changes(
    postgres: Postgres, role: str, tmp_path: Path
) -> None:
    with running(of_postgres(postgres, role, tmp_path, [{"delta": "rows"}])) as one:
        one.until(lambda: kept(tmp_path) == Counter([1]))
    postgres.execute(f"insert into {role}.t values (2, 'm'), (3, 'm')")
    postgres.execute(f"delete from {role}.t where n < 3")
    with running(of_postgres(postgres, role, tmp_path, [{"delta": "rows"}])) as one:
        one.until(lambda: kept(tmp_path) == Counter([1, 3]))
        postgres.execute(f"alter table {role}.t alter v type text")
        postgres.execute(f"insert into {role}.t values (4, 'm', now(), 'four')")
        assert is_on_page(one.why()), one.why()


def test_a_table_that_is_written(postgres: Postgres, role: str, tmp_path: Path) -> None:
    """One that is deleted is made anew; one whose column has another type is waited for."""
    sink = {"url": postgres.url, "user": USER, "password": PASSWORD, "table": f"{role}.copy"}
    with running(of_postgres(postgres, role, tmp_path, [{"postgres": sink}])) as one:
        there = lambda: postgres.execute("select to_regclass(%s) is not null", f"{role}.copy")[0][0]  # noqa: E731
        one.until(there)
        postgres.execute(f"drop table {role}.copy")
        postgres.execute(f"insert into {role}.t values (2, 'm')")
        one.until(there)
    postgres.execute(f"alter table {role}.copy alter n type text")
    postgres.execute(f"insert into {role}.t values (3, 'm')")
    with running(of_postgres(postgres, role, tmp_path, [{"postgres": sink}])) as one:
        one.until(lambda: one.reason("sinks"))
        assert is_on_page(one.reason("sinks") or ""), one.reason("sinks")
        postgres.execute(f"alter table {role}.copy alter n type bigint using n::bigint")
        one.until(lambda: [3] in [[n] for (n,) in postgres.execute(f"select n from {role}.copy")])


@pytest.fixture
def small_disk(postgres: Postgres, role: str) -> Iterator[str]:
    """A tablespace with room for 1 MB, for tables of the schema of ``role``."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root on Linux may mount a file system")
    name = f"small_{secrets.token_hex(4)}"
    folder = postgres.folder / name
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.strip()}")
    shutil.chown(folder, "nobody")
    postgres.execute(f"create tablespace {name} location '{folder}'")
    yield name
    for statement in (f"drop schema {role} cascade", "checkpoint", f"drop tablespace {name}"):
        postgres.execute(statement)
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_of_the_server_that_is_full(postgres: Postgres, role: str, small_disk: str, tmp_path: Path) -> None:
    postgres.execute(f"create table {role}.copy (n bigint) tablespace {small_disk}")
    postgres.execute(f"create table {role}.ballast (t text storage plain) tablespace {small_disk}")
    fill = (
        f"do $$ begin insert into {role}.ballast values (repeat('x', 7000)); exception when disk_full then null; end $$"
    )
    for _ in range(150):
        postgres.execute(fill)
    sink = {"url": postgres.url, "user": USER, "password": PASSWORD, "table": f"{role}.copy"}
    with running(of_postgres(postgres, role, tmp_path, [{"postgres": sink}])) as one:
        one.until(lambda: one.reason("sinks"))
        assert is_on_page(one.reason("sinks") or ""), one.reason("sinks")
        assert "No space left on device" in (one.reason("sinks") or "")
        postgres.execute(f"drop table {role}.ballast")
        one.until(lambda: postgres.execute(f"select n from {role}.copy") == [(1,)])
