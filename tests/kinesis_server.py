"""A stand-in for Amazon Kinesis: kinesis-local on loopback, from npm, kept between runs; and a gate before it.

It gives real sequence numbers, splits and merges shards, ends closed ones with their children, and keeps its streams
over a restart. It never throttles, never trims and expires no iterator: the gate answers so in its place.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.config import Config
from npm_packages import npm_package
from servers import Needs, free_port, listens

VERSION = "0.6.2"
REGION = "eu-central-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tocsin", "AWS_SECRET_ACCESS_KEY": "any"}
"""What the stand-in asks for: it takes any."""
_FAST = {f"{action}_DURATION": "50ms" for action in ("CREATE_STREAM", "DELETE_STREAM", "SPLIT_SHARD", "MERGE_SHARDS")}
_NUMBERS = count(1)


def program(needs: Needs) -> Path:
    """Returns the folder of the stand-in (16 MB)."""
    return npm_package(needs, "kinesis-local", VERSION) / "kinesis-local"


@dataclass
class Kinesis:
    """The stand-in in a folder of its own; its streams outlive `stop` and `start`."""

    node: str
    program: Path
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Kinesis:
        environment = os.environ | _FAST
        environment |= {"KINESIS_MOCK_PLAIN_PORT": str(self.port), "KINESIS_MOCK_TLS_PORT": str(free_port())}
        environment |= {"KINESIS_MOCK_CERT_PATH": str(self.program / "server.json"), "SHARD_LIMIT": "1000"}
        environment |= {"SHOULD_PERSIST_DATA": "true", "PERSIST_PATH": str(self.folder), "PERSIST_INTERVAL": "200ms"}
        environment |= {"AWS_REGION": REGION, "LOG_LEVEL": "ERROR"}
        self.process = subprocess.Popen(
            [self.node, "--require", str(Path(__file__).parent / "loopback.cjs"), str(self.program / "main.js")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        listens(self.process, self.port, "kinesis-local", 60)
        return self

    def stop(self) -> None:
        """Kill it, once its streams are on disk: asked to end, it would wait for every connection to close."""
        if self.process is not None:
            self.thaw()
            self._written()
            self.process.kill()
            self.process.wait(20)
            self.process = None

    def freeze(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def _written(self) -> None:
        """Wait until what has come by now is in its file, which it writes anew now and then."""
        path, until_s = self.folder / "kinesis-data.json", time.monotonic() + 120  # a busy machine
        begins = {path.stat().st_mtime_ns} if path.exists() else set()
        while time.monotonic() < until_s:
            with suppress(FileNotFoundError, ValueError):
                begins.add(path.stat().st_mtime_ns)
                if len(begins) > 2 and json.loads(path.read_bytes()):
                    return
            time.sleep(0.005)
        raise AssertionError("kinesis-local does not write its streams down")

    @cached_property
    def client(self) -> Any:
        return boto3.client(
            "kinesis",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id="tocsin",
            aws_secret_access_key="any",
            config=Config(retries={"total_max_attempts": 5}),
        )

    def stream(self, shards: int = 1) -> str:
        """Returns the name of a new stream."""
        name = f"plant-{next(_NUMBERS)}"
        self.client.create_stream(StreamName=name, ShardCount=shards)
        self._active(name)
        return name

    def send(self, stream: str, payloads: Sequence[bytes], key: str = "pump") -> None:
        """Write records one after the other, so that a shard has them in this order."""
        for begin in range(0, len(payloads), 500):
            some = [{"Data": payload, "PartitionKey": key} for payload in payloads[begin : begin + 500]]
            assert self.client.put_records(StreamName=stream, Records=some)["FailedRecordCount"] == 0

    def shards(self, stream: str) -> Sequence[Mapping[str, Any]]:
        return list(self.client.list_shards(StreamName=stream)["Shards"])

    def open_shards(self, stream: str) -> list[Mapping[str, Any]]:
        """Returns the shards that are not closed, in the order of what they take."""
        some = [one for one in self.shards(stream) if "EndingSequenceNumber" not in one["SequenceNumberRange"]]
        return sorted(some, key=lambda one: int(one["HashKeyRange"]["StartingHashKey"]))

    def split(self, stream: str) -> None:
        """Split the first open shard in the middle."""
        first = self.open_shards(stream)[0]
        edges = first["HashKeyRange"]
        middle = (int(edges["StartingHashKey"]) + int(edges["EndingHashKey"])) // 2
        self.client.split_shard(StreamName=stream, ShardToSplit=first["ShardId"], NewStartingHashKey=str(middle))
        self._active(stream)

    def merge(self, stream: str) -> None:
        """Merge the first two open shards."""
        first, second = self.open_shards(stream)[:2]
        self.client.merge_shards(
            StreamName=stream, ShardToMerge=first["ShardId"], AdjacentShardToMerge=second["ShardId"]
        )
        self._active(stream)

    def records(self, stream: str) -> list[Mapping[str, Any]]:
        """Returns all records, shard by shard."""
        records: list[Mapping[str, Any]] = []
        for shard in self.shards(stream):
            iterator = self.client.get_shard_iterator(
                StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while iterator:
                answer = self.client.get_records(ShardIterator=iterator)
                records += answer["Records"]
                iterator = answer.get("NextShardIterator") if answer["Records"] else None
        return records

    def _active(self, stream: str) -> None:
        until_s = time.monotonic() + 30
        while self.client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamStatus"] != (
            "ACTIVE"
        ):
            assert time.monotonic() < until_s, f"stream {stream} does not become active"
            time.sleep(0.02)


Refusal = tuple[int, str]
"""Status and code of an answer."""
BUSY: Refusal = (400, "ProvisionedThroughputExceededException")
EXPIRED: Refusal = (400, "ExpiredIteratorException")


class Gate:
    """A server before the stand-in, which hands requests on, or answers in its place as ``rule`` says.

    ``rule(action, request)`` gives a status and AWS's code, or None to hand it on. For PutRecords ``drop(record)`` says
    which of the records are refused, one by one, while the others are kept.
    """

    def __init__(self, behind: Kinesis) -> None:
        self.rule: Callable[[str, Mapping[str, Any]], Refusal | None] = lambda action, request: None
        self.drop: Callable[[Mapping[str, Any]], bool] = lambda record: False
        self.loses: Callable[[str], bool] = lambda action: False
        """Whether the connection is cut in place of the answer to what has been handed on."""
        self.asked: list[tuple[float, str, Mapping[str, Any]]] = []
        """When, what, with which arguments."""
        self.counted: Counter[str] = Counter()
        """Answers by code; what was handed on by its action."""
        gate, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                action, request = self.headers["x-amz-target"].rpartition(".")[2], json.loads(body)
                with lock:
                    gate.asked.append((time.monotonic(), action, request))
                    refusal = gate.rule(action, request)
                    gate.counted[action if refusal is None else refusal[1]] += 1
                if refusal is not None:
                    told = {"__type": refusal[1], "message": f"the gate says {refusal[1]}"}
                    self._answer(refusal[0], json.dumps(told).encode())
                elif action == "PutRecords":
                    self._put(request)
                else:
                    self._answer(*self._handed_on(body))

            def _put(self, request: Mapping[str, Any]) -> None:
                kept = [not gate.drop(record) for record in request["Records"]]
                some = [record for record, keep in zip(request["Records"], kept, strict=True) if keep]
                answer: dict[str, Any] = {"Records": []}
                if some:
                    answer = json.loads(self._handed_on(json.dumps({**request, "Records": some}).encode())[1])
                told = iter(answer["Records"])
                refused = {"ErrorCode": BUSY[1], "ErrorMessage": "Rate exceeded for shard"}
                answers = [next(told) if keep else refused for keep in kept]
                gate.counted["entries refused"] += kept.count(False)
                answered = {"FailedRecordCount": kept.count(False), "Records": answers}
                self._answer(200, json.dumps(answered).encode())

            def _handed_on(self, body: bytes) -> tuple[int, bytes]:
                names = ("content-type", "x-amz-target", "authorization", "x-amz-date")
                headers = {name: self.headers[name] for name in names if name in self.headers}
                answer = httpx.post(behind.url, content=body, headers=headers, timeout=30)
                return answer.status_code, answer.content

            def _answer(self, status: int, body: bytes) -> None:
                if gate.loses(self.headers["x-amz-target"].rpartition(".")[2]):
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-type", "application/x-amz-json-1.1")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                with suppress(OSError):  # whoever asked has gone
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing: `asked` has it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
