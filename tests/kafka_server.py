"""A real Apache Kafka for the tests: one KRaft node on loopback, its jars from Maven Central, kept between runs."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from servers import Needs, free_port, maven_jars

POM = Path(__file__).parent / "kafka_pom.xml"
USER, PASSWORD = "alice", "alice-secret"
LISTENERS = ("PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL")
START_S = 60

_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={advertised}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN
log.dirs={folder}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=16777216
log.retention.check.interval.ms=500
log.initial.task.delay.ms=100
file.delete.delay.ms=100
num.network.threads=2
num.io.threads=2
"""
_SASL = """
listener.name.{name}.scram-sha-256.sasl.jaas.config={scram} required;
listener.name.{name}.scram-sha-512.sasl.jaas.config={scram} required;
listener.name.{name}.plain.sasl.jaas.config={plain} required user_{user}="{password}";
"""
_MODULES = {
    "scram": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "plain": "org.apache.kafka.common.security.plain.PlainLoginModule",
}
_TLS = """
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.pem
listener.name.ssl.ssl.client.auth=required
"""
_LOGGING = """<Configuration status="WARN">
<Appenders><Console name="C"><PatternLayout pattern="%d %p %c{1} %m%n"/></Console></Appenders>
<Loggers><Root level="WARN"><AppenderRef ref="C"/></Root></Loggers></Configuration>"""


def jars(needs: Needs) -> Path:
    """Returns the folder of the broker's jars; the first call on a machine fetches them (54 MB)."""
    return maven_jars(needs, POM)


@dataclass
class Kafka:
    """A broker in a folder of its own; its topics outlive `stop` and `start`."""

    java: str
    jars: Path
    folder: Path
    certificates: Path
    ports: Mapping[str, int] = field(default_factory=lambda: {name: free_port() for name in (*LISTENERS, "CONTROLLER")})
    advertised: Mapping[str, int] = field(default_factory=dict)
    """Listeners that clients are sent to another port for, such as a proxy's."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self.ports["PLAINTEXT"]

    @property
    def address(self) -> str:
        """The plain listener."""
        return self.at("PLAINTEXT")

    def at(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    def start(self) -> Kafka:
        if not (self.folder / "data").is_dir():
            self._format()
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(self._command("kafka.Kafka", "-Xmx512m"), stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, f"Kafka ended at once:\n{self._log()}"
            assert time.monotonic() < deadline, f"Kafka does not answer:\n{self._log()}"
            time.sleep(0.1)
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            self.process = None

    @cached_property
    def admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.address, "log_level": 0})

    def topic(self, partitions: int = 1, **config: str) -> str:
        """Returns the name of a new topic; settings with ``_`` for each dot."""
        from confluent_kafka.admin import NewTopic

        name = f"t-{uuid.uuid4().hex[:12]}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        self.admin.create_topics([NewTopic(name, partitions, 1, config=settings)])[name].result(30)
        return name

    @contextmanager
    def denied(self, kind: str, name: str, operation: str) -> Iterator[None]:
        """`USER` may not do this with a topic, a group or a transaction, as long as the block takes."""
        from confluent_kafka.admin import (
            AclBinding,
            AclBindingFilter,
            AclOperation,
            AclPermissionType,
            ResourcePatternType,
            ResourceType,
        )

        of = (ResourceType[kind], name, ResourcePatternType.LITERAL, f"User:{USER}", "*", AclOperation[operation])
        binding = AclBinding(*of, AclPermissionType.DENY)
        self.admin.create_acls([binding])[binding].result(30)
        yield
        gone = AclBindingFilter(*of, AclPermissionType.DENY)
        self.admin.delete_acls([gone])[gone].result(30)

    def send(self, topic: str, values: Sequence[bytes | None], partition: int = -1, **more: Any) -> None:
        """Produce records, each acknowledged."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.address, "linger.ms": 5, "log_level": 0})
        for value in values:
            while True:
                try:
                    producer.produce(topic, value, partition=partition, **more)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(30) == 0

    def records(self, topic: str, isolation: str = "read_committed") -> list[Any]:
        """Returns all records of a topic, as a reader of committed ones sees them; by partition, in order."""
        from confluent_kafka import Consumer, KafkaError, TopicPartition

        consumer = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": "look",
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        partitions = list(consumer.list_topics(topic, 30).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        read: list[Any] = []
        ended, deadline = set[int](), time.monotonic() + 30
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline, f"{topic} does not end"
            for message in consumer.consume(1000, 0.1):
                if message.error() is None:
                    read.append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    raise AssertionError(f"{topic} cannot be read: {message.error()}")
        consumer.close()
        return sorted(read, key=lambda message: (message.partition(), message.offset()))

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """Returns the offsets that a group has committed, by partition."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.address, "group.id": group, "log_level": 0})
        partitions = consumer.list_topics(topic, 30).topics[topic].partitions
        offsets = consumer.committed([TopicPartition(topic, number) for number in partitions], 30)
        consumer.close()
        return {at.partition: at.offset for at in offsets if at.offset >= 0}

    def _format(self) -> None:
        listeners = ",".join(f"{name}://{self.at(name)}" for name in LISTENERS)
        ports = {**self.ports, **self.advertised}
        advertised = ",".join(f"{name}://127.0.0.1:{ports[name]}" for name in LISTENERS)
        places = {"listeners": listeners, "advertised": advertised, "folder": self.folder}
        text = _PROPERTIES.format(**places, controller=self.ports["CONTROLLER"])
        for name in ("sasl_plaintext", "sasl_ssl"):
            text += _SASL.format(name=name, user=USER, password=PASSWORD, **_MODULES)
        (self.folder / "server.properties").write_text(text + _TLS.format(folder=self.folder))
        (self.folder / "log4j2.xml").write_text(_LOGGING)
        shutil.copy(self.certificates / "ca.pem", self.folder)
        key = subprocess.run(
            ["openssl", "pkcs8", "-topk8", "-nocrypt", "-in", str(self.certificates / "server.key")],
            check=True,
            capture_output=True,
        ).stdout
        (self.folder / "server.pem").write_bytes(key + (self.certificates / "server.pem").read_bytes())
        users = [f"--add-scram={name}=[name={USER},password={PASSWORD}]" for name in ("SCRAM-SHA-256", "SCRAM-SHA-512")]
        command = self._command("kafka.tools.StorageTool", "-Xmx128m", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c")
        done = subprocess.run([*command, *users], capture_output=True, timeout=120)
        assert done.returncode == 0, (done.stdout + done.stderr).decode()

    def _command(self, main: str, memory: str, *arguments: str) -> list[str]:
        fast = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]
        logging = f"-Dlog4j2.configurationFile={self.folder}/log4j2.xml"
        properties = str(self.folder / "server.properties")
        return [self.java, memory, *fast, logging, "-cp", f"{self.jars}/*", main, *arguments, properties]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.ports["PLAINTEXT"])) != 0:
                return False
        return bool(self.admin.list_topics(timeout=30).brokers)

    def _log(self) -> str:
        return (self.folder / "log").read_text()[-3000:]
