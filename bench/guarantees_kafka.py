"""The part `kafka` of `guarantees.py`: a topic of a real Apache Kafka to another one."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cut_network import CutNetwork
from guarantees_part import DECODED, Part, line, program
from kafka_server import PASSWORD, USER, Kafka, jars

from tocsin.mqtt.authority import Authority

PARTITIONS = 4


class KafkaTopics(Part):
    """A topic of a real Apache Kafka to another one, as a reader of committed records sees it.

    The listener that tocsin comes by advertises the proxy; records are sent and counted by the plain one.
    """

    def __init__(self, folder: Path) -> None:
        Authority(folder).server("127.0.0.1", 365)
        place = folder / "kafka"
        place.mkdir()
        broker = Kafka(
            program("java", "default-jdk-headless"), jars(lambda name: program(name, "maven")), place, folder
        )
        self.network = self._between = CutNetwork(broker.ports["SASL_PLAINTEXT"])
        broker.advertised = {"SASL_PLAINTEXT": self._between.port}
        self._server = broker.start()
        self._from, self._to = broker.topic(PARTITIONS), broker.topic(PARTITIONS)
        self._restarts = 0

    def pipeline(self) -> Mapping[str, Any]:
        cluster = {"brokers": f"127.0.0.1:{self._between.port}", "user": USER, "password": PASSWORD}
        sinks = [{"kafka": {**cluster, "topic": self._to, "columns": ["n"]}}]
        source = {"kafka": {**cluster, "topics": self._from}}
        return {"source": source, **DECODED, "streams": {"readings": {"sinks": sinks}}}

    def send(self, numbers: Sequence[int]) -> None:
        self._server.send(self._from, [line(n) for n in numbers])

    def restart(self) -> None:
        self._restarts += 1
        self._server.stop(signal.SIGKILL if self._restarts % 2 else signal.SIGTERM)
        self._server.start()

    def received(self) -> Counter[int]:
        return Counter(json.loads(record.value())["n"] for record in self._server.records(self._to))

    def close(self) -> None:
        self._between.close()
        self._server.stop()
