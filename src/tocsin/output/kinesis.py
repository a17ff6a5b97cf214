"""Sink `kinesis`: rows as JSON records of a stream of Amazon Kinesis, in order for each key."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from tocsin.batch import QUARANTINED_BYTES
from tocsin.contracts import Sink, Token
from tocsin.ends import SpooledAndNoted
from tocsin.errors import SchemaError, SinkError, Unavailable
from tocsin.kinesis.acknowledged import Acknowledged
from tocsin.kinesis.settings import StreamSettings
from tocsin.kinesis.trouble import Kind, trouble
from tocsin.world import World

log = logging.getLogger(__name__)

RECORDS_MAX, REQUEST_BYTES, RECORD_BYTES = 500, 5 << 20, 1 << 20
"""Of one request, and of one record with its key, as AWS allows."""
KEY_MAX = 256
"""Characters of a partition key."""
NO_KEY = "-"
_NOTE = ".acknowledged"
BACKOFF_S = (0.1, 5.0)
"""Least and greatest time before records that were refused are sent again."""
TRIES = 10
"""After so many requests that brought nothing forward the sink is away for a while: half a minute."""


class Kinesis(StreamSettings, Sink):
    """Keep rows as JSON in a stream of Amazon Kinesis, each row **at least once**.

    Kinesis has no transactions: a request whose answer never came, up to 500 rows, is sent again, after an outage as
    after a crash; what was answered is not, but for the last answers before a power cut. So each record carries
    ``row_id``, the same however often it is sent, by which readers drop what comes twice; tocsin's own do with
    ``dedupe: row_id``. Rows of one ``key`` go to one shard, in order: a request takes one row of each key, and up to
    500 in all. What a shard refuses because it is busy is sent again, and nothing else; rows of that key wait. A row
    larger than 1 MiB is sent as a record with ``quarantine`` (the reason), ``sha256`` and its beginning.

    Needs ``pip install 'tocsin[kinesis]'``, and the right ``kinesis:PutRecords``. Credentials are found as AWS's own
    tools find them: environment, profile, the machine's role.

    Reference: Amazon Kinesis Data Streams, Service API Reference (2013-12-02), PutRecords.

    Examples
    --------
    >>> Kinesis(stream="plant", region="eu-central-1").key
    'key'
    """

    NAMES_EPOCHS: ClassVar[bool] = True
    PROMISE: ClassVar[str] = "at least once; once for readers that drop a row_id they have seen"
    FENCED: ClassVar[bool] = True

    key: str = "key"
    """The column whose text is the partition key: rows of one key stay in order; null and empty are ``-``."""
    columns: tuple[str, ...] | None = None
    """What the JSON holds; by default all columns."""
    row_id: str = "row_id"
    """The name in the JSON under which each row has what tells it from all others; empty for none."""
    ordered: bool = True
    """Whether rows of one key stay in order; without it a request holds 500 rows of whatever keys, which is much faster
    for few keys, and a row that is refused comes after later ones."""

    def accepts(self, schema: pa.Schema) -> None:
        for name in (self.key, *(self.columns or ())):
            if name not in schema.names:
                raise SchemaError(f"kinesis needs column '{name}'; what reaches it is [{', '.join(schema.names)}]")
        if self.row_id and self.row_id in (self.columns or schema.names):
            raise SchemaError(
                f"kinesis writes a '{self.row_id}' into each record, but there is a column of that name; leave it out "
                "with select, or set row_id to another name"
            )

    def check(self, world: World) -> None:
        self.require()

    def place(self) -> Mapping[str, Any]:
        return {"stream": self.stream, "region": self.region, "endpoint": self.endpoint}

    def open(self, world: World, schema: pa.Schema) -> KinesisWriter:
        self.require()
        return KinesisWriter(self, world, schema)


class Record(NamedTuple):
    """What is sent for one row."""

    number: int
    """Of the row in its epoch."""
    key: str
    value: bytes

    @property
    def bytes(self) -> int:
        return len(self.key.encode()) + len(self.value)


class KinesisWriter(SpooledAndNoted):
    """The stream, an epoch after the other; how far it reaches is noted on our disk."""

    def __init__(self, settings: Kinesis, world: World, schema: pa.Schema) -> None:
        super().__init__(world, schema)
        self._settings = settings
        self._client = settings.client(1)
        self._counted = {"records_refused": 0, "rows_too_large": 0}

    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Token:
        return {**super().stage(epoch, rows), "epoch": epoch}

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        """Write each epoch on its own: a row is named after the epoch that it was staged in."""
        for token in tokens:
            super().publish(int(token["epoch"]), [token])
            self.world.disk.unlink(self._note(int(token["epoch"])))
        done = self.applied()
        if done is None or done < epoch:
            self.note(epoch)

    def discard(self, keep: Sequence[Token]) -> None:
        super().discard(keep)
        kept = {self._note(int(token["epoch"])).name for token in keep}
        for name in self.world.disk.names(self.world.scratch):
            if name.endswith(_NOTE) and name not in kept:
                self.world.disk.unlink(self.world.scratch / name)

    def write(self, epoch: int, rows: pa.Table) -> None:
        acknowledged = Acknowledged(self.world.disk, self._note(epoch), rows.num_rows)
        waiting = self._in_turn(self._records(epoch, rows, acknowledged.rows.copy()))
        backoff_s, in_vain = 0.0, 0
        while waiting:
            request = _taken(waiting)
            refusal = self._put(request, waiting, acknowledged)
            if refusal is None:
                backoff_s, in_vain = 0.0, 0
                continue
            if refusal.some_were_kept:
                backoff_s, in_vain = BACKOFF_S[0], 0
            else:
                backoff_s, in_vain = min(max(2 * backoff_s, BACKOFF_S[0]), BACKOFF_S[1]), in_vain + 1
            if in_vain == TRIES:
                raise Unavailable(f"{self._settings.address} is busy ({refusal.reason})")
            self.world.clock.sleep(backoff_s)

    def counters(self) -> Mapping[str, int]:
        return dict(self._counted)

    def close(self) -> None:
        self._client.close()

    def _in_turn(self, records: Iterator[Record]) -> deque[deque[Record]]:
        """The records in queues, of which a request takes the first of each: by key, where their order counts."""
        if not self._settings.ordered:
            return deque(deque((record,)) for record in records)
        queues: dict[str, deque[Record]] = {}
        for record in records:
            queues.setdefault(record.key, deque()).append(record)
        return deque(queues.values())

    def _put(
        self, request: Sequence[deque[Record]], waiting: deque[deque[Record]], acknowledged: Acknowledged
    ) -> _Refusal | None:
        """Send the first record of each queue; those that were refused stay first, and come first in the next request.

        A request that is refused as a whole leaves all of them.
        """
        entries = [{"Data": queue[0].value, "PartitionKey": queue[0].key} for queue in request]
        try:
            answers = self._client.put_records(StreamName=self._settings.stream, Records=entries)["Records"]
        except Exception as error:
            waiting.extendleft(reversed(request))
            return self._refused_whole(error)
        refused = [queue for queue, answer in zip(request, answers, strict=True) if answer.get("ErrorCode")]
        if len(refused) < len(request):
            acknowledged.add(
                [queue[0].number for queue, one in zip(request, answers, strict=True) if not one.get("ErrorCode")]
            )
        for queue, answer in zip(request, answers, strict=True):
            if not answer.get("ErrorCode"):
                queue.popleft()
                if queue:
                    waiting.append(queue)
        waiting.extendleft(reversed(refused))
        if not refused:
            return None
        self._counted["records_refused"] += len(refused)
        reason = next(
            f"{answer['ErrorCode']}: {answer.get('ErrorMessage')}" for answer in answers if "ErrorCode" in answer
        )
        return _Refusal(reason, some_were_kept=len(refused) < len(request))

    def _refused_whole(self, error: Exception) -> _Refusal:
        """What to do about a request of which nothing was taken, as far as is known."""
        meant = trouble(self._settings, error)
        if meant is None:
            raise error
        if meant.kind is Kind.BUSY:
            return _Refusal(meant.sentence, some_were_kept=False)
        raise (Unavailable if meant.kind is Kind.AWAY else SinkError)(meant.sentence) from error

    def _records(self, epoch: int, rows: pa.Table, acknowledged: np.ndarray) -> Iterator[Record]:
        """Rows that are not acknowledged yet as records: Python objects, then JSON."""
        settings, writer = self._settings, self._writer()
        numbers = np.flatnonzero(~acknowledged)
        if len(numbers) < rows.num_rows:
            rows = rows.take(pa.array(numbers))
        number = iter(numbers.tolist())
        wanted = rows.column_names if settings.columns is None else settings.columns
        encode = msgspec.json.Encoder().encode
        for batch in rows.to_batches():
            for row in batch.to_pylist():
                value = {name: row[name] for name in wanted}
                place = next(number)
                if settings.row_id:
                    value[settings.row_id] = f"{writer}-{epoch}-{place}"
                record = Record(place, _partition_key(row[settings.key]), encode(value))
                if record.bytes > RECORD_BYTES:
                    record = self._set_aside(record, value.get(settings.row_id))
                yield record

    def _set_aside(self, record: Record, row_id: Any) -> Record:
        """What is sent for a row that is too large."""
        self._counted["rows_too_large"] += 1
        reason = f"the row takes {len(record.value)} bytes as JSON, and a record at most {RECORD_BYTES}"
        log.warning("%s: %s; its beginning is sent in its place", self._settings.address, reason)
        told = {
            "quarantine": reason,
            "sha256": hashlib.sha256(record.value).hexdigest(),
            "beginning": record.value[:QUARANTINED_BYTES].decode("utf-8", "replace"),
        }
        if self._settings.row_id:
            told[self._settings.row_id] = row_id
        return Record(record.number, record.key, msgspec.json.encode(told))

    def _note(self, epoch: int) -> Path:
        """Where it is noted what the stream has of an epoch."""
        return self.world.scratch / f"{epoch:012d}{_NOTE}"

    def _writer(self) -> str:
        """Our name in the ids of rows, made once: a pipeline that begins anew counts its epochs anew."""
        disk, path = self.world.disk, self.world.scratch / "writer"
        try:
            return disk.read(path).decode()
        except FileNotFoundError:
            name, part = uuid.uuid4().hex[:12], path.with_suffix(".new")
        disk.write(part, name.encode())
        disk.sync(part)
        disk.rename(part, path)
        disk.sync_folder(self.world.scratch)
        return name


class _Refusal(NamedTuple):
    """Why records were not taken."""

    reason: str
    some_were_kept: bool


def _taken(waiting: deque[deque[Record]]) -> list[deque[Record]]:
    """Take queues out, whose first records make one request."""
    request: list[deque[Record]] = []
    size = 0
    while waiting and len(request) < RECORDS_MAX:
        size += waiting[0][0].bytes
        if request and size > REQUEST_BYTES:
            break
        request.append(waiting.popleft())
    return request


def _partition_key(value: Any) -> str:
    text = NO_KEY if value is None or value == "" else str(value)
    return text if len(text) <= KEY_MAX else hashlib.sha256(text.encode()).hexdigest()


__all__ = ["Kinesis", "KinesisWriter"]
