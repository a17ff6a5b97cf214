"""The parts `kinesis` and `influxdb` of `guarantees.py`: a stream or a measurement to another one."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kinesis_server
from cut_network import CutNetwork
from guarantees_part import DECODED, Part
from guarantees_part import program as installed
from kinesis_server import CREDENTIALS, REGION, Kinesis
from servers import InfluxDb

SHARDS = 2
MACHINES = 50
"""The sink sends one record of each machine at a time."""
SERIES = 5


class KinesisStreams(Part):
    """A stream of the stand-in for Kinesis to another one, its first shard split and merged in turn.

    The stand-in answers before it has stored what it was sent, so nothing reaches it while it stores, and is killed.
    """

    def __init__(self, folder: Path) -> None:
        os.environ |= {**CREDENTIALS, "AWS_EC2_METADATA_DISABLED": "true"}
        place = folder / "kinesis"
        place.mkdir()
        node = installed("node", "nodejs")
        self._server = Kinesis(node, kinesis_server.program(lambda name: installed(name, "npm")), place).start()
        self.network = self._between = CutNetwork(self._server.port)
        self._from, self._to = self._server.stream(SHARDS), self._server.stream(SHARDS)
        self._after: dict[str, str] = {}
        self._came: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}
        self._restarts = 0

    def pipeline(self) -> Mapping[str, Any]:
        place = {"endpoint": f"http://127.0.0.1:{self._between.port}", "region": REGION}
        sinks = [{"kinesis": {**place, "stream": self._to, "columns": ["n"]}}]
        source = {"kinesis": {**place, "stream": self._from, "every": "50ms"}}
        return {"source": source, **DECODED, "streams": {"readings": {"sinks": sinks}}}

    def send(self, numbers: Sequence[int]) -> None:
        for of in range(SHARDS):  # so that both shards have some
            payloads = [_record(n) for n in numbers if n % SHARDS == of]
            self._server.send(self._from, payloads, f"sender {of}")

    def restart(self) -> None:
        self._restarts += 1
        with self._between.away():
            self._server.stop()
            self._server.start()
        if self._restarts % 2:
            self._server.split(self._from)
        else:
            self._server.merge(self._from)

    def received(self) -> Counter[Any]:
        """What a reader has that drops a `row_id` it has seen."""
        for shard in self._server.shards(self._to):
            self._read(shard["ShardId"])
        return Counter(self._numbers.values())

    def besides(self) -> Mapping[str, int]:
        return {"sent again": self._came.total() - len(self._came)}

    def close(self) -> None:
        self._between.close()
        self._server.stop()

    def _read(self, shard: str) -> None:
        """Take what has come to a shard since."""
        where = {"ShardIteratorType": "TRIM_HORIZON"}
        if shard in self._after:
            where = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": self._after[shard]}
        client = self._server.client
        iterator = client.get_shard_iterator(StreamName=self._to, ShardId=shard, **where)["ShardIterator"]
        while iterator:
            answer = client.get_records(ShardIterator=iterator)
            for record in answer["Records"]:
                row = json.loads(record["Data"])
                self._came[row["row_id"]] += 1
                self._numbers[row["row_id"]] = row["n"]
                self._after[shard] = record["SequenceNumber"]
            iterator = answer.get("NextShardIterator") if answer["Records"] else None


def _record(n: int) -> bytes:
    return json.dumps({"machine": f"m{n % MACHINES}", "n": n}).encode()


class InfluxdbPoints(Part):
    """A measurement of a real InfluxDB to another one."""

    def __init__(self, folder: Path) -> None:
        place = folder / "influxdb"
        place.mkdir()
        self._server = InfluxDb(installed("influxd", "influxdb"), place).start()
        self.network = self._between = CutNetwork(self._server.port)
        self._last_us = 0
        self._restarts = 0

    def pipeline(self) -> Mapping[str, Any]:
        who = {"user": "tocsin", "password": InfluxDb.PASSWORD, "database": "plant"}
        server = {"url": f"http://127.0.0.1:{self._between.port}", **who}
        source = {"influxdb": {**server, "measurement": "sent", "follow": True, "every": "50ms", "delay": "2s"}}
        decode = {"json": {**DECODED["decode"]["json"], "metadata": {"at": "sent"}}}
        sinks = [{"influxdb": {**server, "measurement": "kept"}}]
        time = {"column": "at", "lateness": "1h"}
        return {
            "source": source,
            "decode": decode,
            "key": "machine",
            "time": time,
            "streams": {"kept": {"sinks": sinks}},
        }

    def send(self, numbers: Sequence[int]) -> None:
        """Write each under a time of its own, to the microsecond: the series and the time are what tells a point."""
        begin_us = max(time.time_ns() // 1_000, self._last_us + 1)
        self._server.write(
            [f"sent,machine=m{n % SERIES} n={n}i {(begin_us + i) * 1_000}" for i, n in enumerate(numbers)]
        )
        self._last_us = begin_us + len(numbers) - 1

    def restart(self) -> None:
        self._restarts += 1
        self._server.stop(signal.SIGKILL if self._restarts % 2 else signal.SIGTERM)
        self._server.start()

    def received(self) -> Counter[Any]:
        return Counter(row["n"] for row in self._server.ask("SELECT n FROM kept"))

    def close(self) -> None:
        self._between.close()
        self._server.stop()
