"""The addresses of the Kafka REST API v2 at which topics are looked at and consumed."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tocsin.acquire.http._bodies import Malformed
from tocsin.acquire.http._groups import Groups, Instance
from tocsin.acquire.http._records import Record, Records, Topics
from tocsin.world import World

T = TypeVar("T", bound=msgspec.Struct)
KAFKA = "application/vnd.kafka.v2+json"
_FORMATS: Mapping[str, str] = {
    "application/vnd.kafka.json.v2+json": "json",
    "application/vnd.kafka.binary.v2+json": "binary",
    "application/vnd.kafka.avro.v2+json": "avro",
    "application/vnd.kafka.jsonschema.v2+json": "jsonschema",
    "application/vnd.kafka.protobuf.v2+json": "protobuf",
}
_PARTITIONS = ({"partition": 0, "leader": 0, "replicas": [{"broker": 0, "leader": True, "in_sync": True}]},)
_RECORDS_MAX = 10_000
"""So many records are answered at once."""
_BODY_MAX = 1 << 20
_LOOK_S = 1.0
"""So long the log is read for one consumer before others have their turn."""
_PACE_S = 0.05
_TIMEOUT_S = 1.0
_TIMEOUT_MAX_S = 30.0
_NAME_MAX = 249
"""Of a group and an instance, as of a topic of Kafka."""


class _Partition(msgspec.Struct):
    topic: str
    partition: int = 0


class _Offset(msgspec.Struct):
    topic: str
    offset: int
    partition: int = 0


class _Creation(msgspec.Struct, rename={"auto_offset_reset": "auto.offset.reset", "auto_commit_enable": "auto.commit.enable", "timeout_ms": "consumer.request.timeout.ms"}):  # fmt: skip # noqa: E501
    name: str | None = None
    id: str | None = None
    format: str = "binary"
    auto_offset_reset: str = "latest"
    auto_commit_enable: bool | str = True
    timeout_ms: int | str | None = None


class _Subscription(msgspec.Struct):
    topics: list[str] | None = None


class _Partitions(msgspec.Struct):
    partitions: list[_Partition]


class _Offsets(msgspec.Struct):
    offsets: list[_Offset]


class Consumers:
    """What is behind the addresses ``/topics`` (GET) and ``/consumers``."""

    def __init__(self, world: World, split: str, end: int, bytes_max: int) -> None:
        assert world.journal is not None
        world.disk.make_folder(world.scratch)
        self.records = Records(world.journal(split), end)
        self.topics = Topics(world.disk, world.scratch / "topics.json")
        self.groups = Groups(self.records, world.disk, world.clock, world.scratch / "groups.json")
        self._bytes_max = bytes_max
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._closed = False

    # --------------------------------------------------------------------------------------- the thread that reads

    def durable(self, position: int) -> None:
        """Everything before this position is on disk: let those see it who wait for it."""
        self.records.end = position
        self._ring()

    def close(self) -> None:
        """Answer those who wait."""
        self._closed = True
        self._ring()

    def _ring(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # --------------------------------------------------------------------------------------------------- topics

    async def list_topics(self, request: Request) -> Response:
        return _json(self.topics.names())

    async def topic(self, request: Request) -> Response:
        name = self._known(request)
        return _json({"name": name, "configs": {}, "partitions": _PARTITIONS})

    async def partitions(self, request: Request) -> Response:
        self._known(request)
        return _json(_PARTITIONS)

    async def topic_offsets(self, request: Request) -> Response:
        self._known(request)
        _only_partition(request.path_params["partition"])
        return _json({"beginning_offset": await self._begin(), "end_offset": self.records.end})

    def _known(self, request: Request) -> str:
        name: str = request.path_params["topic"]
        if name not in self.topics.names():
            raise Malformed("Topic not found.", 404, 40401)
        return name

    # ------------------------------------------------------------------------------------------------- consumers

    async def create(self, request: Request) -> Response:
        asked, group = await _body(request, _Creation), request.path_params["group"]
        name = asked.name or asked.id
        if asked.format not in ("json", "binary"):
            raise _wrong(f"format {asked.format} needs a schema registry; json and binary are there")
        if asked.auto_offset_reset not in ("earliest", "latest"):
            raise _wrong(f"auto.offset.reset is earliest or latest, not {asked.auto_offset_reset}")
        if len(group) > _NAME_MAX or len(name or "") > _NAME_MAX:
            raise _wrong(f"a name has at most {_NAME_MAX} characters")
        settings = {
            "from_earliest": asked.auto_offset_reset == "earliest",
            "commits_itself": str(asked.auto_commit_enable).lower() == "true",
            "timeout_s": _TIMEOUT_MAX_S if asked.timeout_ms is None else _seconds(str(asked.timeout_ms)),
        }
        instance = self.groups.create(group, name, asked.format, settings)
        path = f"/consumers/{quote(group, safe='')}/instances/{quote(instance.id, safe='')}"
        host = request.headers.get("host", request.url.netloc)
        return _json({"instance_id": instance.id, "base_uri": f"{request.url.scheme}://{host}{path}"})

    async def delete(self, request: Request) -> Response:
        instance = self._instance(request)
        async with instance.reading:
            await self._commit_itself(instance)
            self.groups.remove(instance)
        self._wake()  # who is next reads on
        return Response(status_code=204)

    async def subscribe(self, request: Request) -> Response:
        instance = self._instance(request)
        topics = (await _body(request, _Subscription)).topics
        if topics is None:
            raise Malformed('topics are subscribed to by name: send {"topics": [...]}; there are no patterns', 422)
        async with instance.reading:
            self.groups.subscribe(instance, topics, await self._begin())
        return Response(status_code=204)

    async def subscription(self, request: Request) -> Response:
        return _json({"topics": self._instance(request).topics})

    async def unsubscribe(self, request: Request) -> Response:
        instance = self._instance(request)
        async with instance.reading:
            await self._commit_itself(instance)
            self.groups.subscribe(instance, (), await self._begin())
        self._wake()
        return Response(status_code=204)

    async def assignments(self, request: Request) -> Response:
        instance = self._instance(request)
        own = self.groups.assign(instance, await self._begin())
        return _json({"partitions": [{"topic": topic, "partition": 0} for topic in own]})

    async def fetch(self, request: Request) -> Response:
        """Answers as soon as there is a record, or once the timeout is over."""
        instance, asked = self._instance(request), request.query_params
        content_type = _accepted(request, instance)
        timeout_s = min(
            _seconds(asked["timeout"]) or _TIMEOUT_S if "timeout" in asked else _TIMEOUT_S, instance.timeout_s
        )
        bytes_max = min(_whole(asked.get("max_bytes", "")) or self._bytes_max, self._bytes_max)
        async with instance.reading:
            await self._commit_itself(instance)
            records = await self._fetch(instance, bytes_max, time.monotonic() + timeout_s)
            return Response(await asyncio.to_thread(_encoded, records, instance.format), media_type=content_type)

    async def _fetch(self, instance: Instance, bytes_max: int, until_s: float) -> Sequence[Record]:
        self._loop = asyncio.get_running_loop()
        while True:
            news = self._news  # before looking: what comes from now on rings this bell
            wanted = self.groups.assign(instance, await self._begin())
            if is_behind := bool(wanted) and min(wanted.values()) < self.records.end:
                look_s = min(until_s, time.monotonic() + _LOOK_S)
                records, reached = await asyncio.to_thread(self.records.read, wanted, _RECORDS_MAX, bytes_max, look_s)
                records, reached = await asyncio.to_thread(_in_format, instance.format, records, reached)
                self.groups.advance(instance, reached, len(records))
                if records:
                    return records
            left_s = until_s - time.monotonic()
            if left_s <= 0 or self._closed:
                return ()
            if is_behind:  # what came was not of these topics: more of it may come every few milliseconds
                await asyncio.sleep(min(_PACE_S, left_s))
                continue
            try:
                await asyncio.wait_for(news.wait(), left_s)
            except TimeoutError:
                return ()

    async def _begin(self) -> int:
        return await asyncio.to_thread(self.records.begin)

    # --------------------------------------------------------------------------------------------------- offsets

    async def commit(self, request: Request) -> Response:
        """Offsets are those of the last records that are done; without any, all that was fetched is."""
        instance = self._instance(request)
        body = await _bytes(request)
        async with instance.reading:
            if body.strip() in (b"", b"null"):
                offsets = dict(instance.positions)
            else:
                asked = _read(body, _Offsets).offsets
                offsets = {one.topic: one.offset + 1 for one in asked if not _only_partition(one.partition)}
                if any(at < 0 for at in offsets.values()):
                    raise Malformed("an offset is not negative", 422)
            await asyncio.to_thread(self.groups.commit, instance.group, offsets)
        return _json([])

    async def committed(self, request: Request) -> Response:
        instance = self._instance(request)
        body = await _bytes(request)
        if not body.strip():
            raise Malformed("Partition not found.", 404, 40402)
        offsets = self.groups.committed(instance.group)
        asked = _read(body, _Partitions).partitions
        told = [
            {"topic": one.topic, "partition": 0, "offset": offsets[one.topic], "metadata": ""}
            for one in asked
            if one.partition == 0 and one.topic in offsets
        ]
        return _json({"offsets": told})

    async def seek(self, request: Request) -> Response:
        asked = {
            one.topic: one.offset
            for one in (await _body(request, _Offsets)).offsets
            if not _only_partition(one.partition)
        }
        return await self._seek(request, asked)

    async def seek_beginning(self, request: Request) -> Response:
        return await self._seek(request, dict.fromkeys(await _topics(request), await self._begin()))

    async def seek_end(self, request: Request) -> Response:
        return await self._seek(request, dict.fromkeys(await _topics(request), self.records.end))

    async def _seek(self, request: Request, positions: Mapping[str, int]) -> Response:
        instance = self._instance(request)
        async with instance.reading:
            own = self.groups.assign(instance, await self._begin())
            if strange := [topic for topic in positions if topic not in own]:
                raise Malformed(f"Illegal state: No current assignment for partition {strange[0]}-0", 409, 40903)
            instance.positions.update({topic: max(0, at) for topic, at in positions.items()})
        return Response(status_code=204)

    def _instance(self, request: Request) -> Instance:
        return self.groups.find(request.path_params["group"], request.path_params["instance"])

    async def _commit_itself(self, instance: Instance) -> None:
        """What was fetched by an earlier request is done, once the consumer is back."""
        if instance.commits_itself and instance.positions:
            await asyncio.to_thread(self.groups.commit, instance.group, dict(instance.positions))


def _in_format(format: str, records: list[Record], reached: int) -> tuple[list[Record], int]:
    """The records up to the first that a consumer of JSON cannot be given, and how far that is."""
    if format == "json":
        for i, record in enumerate(records):
            try:
                record.value.decode()
                (record.key or b"").decode()
                msgspec.json.decode(record.value, type=msgspec.Raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if i > 0:
                    return records[:i], record.position
                raise Malformed(
                    f"Conversion of JSON to Object failed: offset {record.position} of topic {record.topic} is no JSON "
                    f"({error}); read it with format binary, or go on behind it with POST .../positions",
                    422,
                    42203,
                ) from error
    return records, reached


def _encoded(records: Sequence[Record], format: str) -> bytes:
    """Records as the API has them; a value in JSON stands there as it was posted."""
    parts = []
    for topic, position, key, value in records:
        if format == "json":
            key_text, value_text = json.dumps(None if key is None else key.decode()).encode(), value
        else:
            key_text = b"null" if key is None else b'"%b"' % base64.b64encode(key)
            value_text = b'"%b"' % base64.b64encode(value)
        name = json.dumps(topic).encode()
        parts.append(
            b'{"topic":%b,"key":%b,"value":%b,"partition":0,"offset":%d}' % (name, key_text, value_text, position)
        )
    return b"[%b]" % b",".join(parts)


def _accepted(request: Request, instance: Instance) -> str:
    """The content type of an answer; of several that a client takes, that of the instance."""
    accepts = {one.partition(";")[0].strip().lower() for one in request.headers.get("accept", "*/*").split(",")}
    own = f"application/vnd.kafka.{instance.format}.v2+json"
    if own not in accepts and accepts & _FORMATS.keys():
        raise Malformed(
            "The requested embedded data format does not match the deserializer for this consumer instance", 406, 40601
        )
    return own


def _only_partition(partition: int | str) -> int:
    if str(partition) != "0":
        raise Malformed("Partition not found.", 404, 40402)
    return 0


def _seconds(text: str) -> float:
    return min(_whole(text) / 1e3, _TIMEOUT_MAX_S)


def _whole(text: str) -> int:
    """A whole number; 0 for none, or one that is negative."""
    try:
        return max(0, int(text or "0"))
    except ValueError:
        raise Malformed(f"'{text}' is no whole number", 422) from None


def _wrong(why: str) -> Malformed:
    return Malformed(f"Invalid consumer configuration: {why}", 422, 42204)


async def _topics(request: Request) -> list[str]:
    return [one.topic for one in (await _body(request, _Partitions)).partitions if not _only_partition(one.partition)]


async def _bytes(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_MAX:
            raise Malformed(f"more than {_BODY_MAX} bytes", 413)
    return bytes(body)


async def _body(request: Request, type: type[T]) -> T:
    return _read(await _bytes(request) or b"{}", type)


def _read(body: bytes, type: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type)
    except msgspec.DecodeError as error:
        raise Malformed(f"not as the Kafka REST API v2 has it: {error}", 422) from error


def _json(content: object) -> Response:
    return Response(json.dumps(content), media_type=KAFKA)
