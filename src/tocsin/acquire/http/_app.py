"""The addresses that senders post to, and what each protocol wants to hear."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tocsin.acquire.http import _bodies, _metrics
from tocsin.acquire.http._bodies import Content, Malformed
from tocsin.acquire.http._consumers import KAFKA, Consumers
from tocsin.acquire.http._inbox import Inbox, Post, RequestOutcome
from tocsin.errors import DurabilityError, MissingExtra

if TYPE_CHECKING:
    from tocsin.acquire.http import Http

_RETRY_AFTER_S = 1
_LOCAL = frozenset(["localhost", "127.0.0.1", "[::1]"])

Endpoint = Callable[[Request], Awaitable[Response]]


class App:
    """The web application of a source.

    Every address stands behind the check of the token, and tells what went wrong in the words of its protocol.
    """

    def __init__(self, source: Http, inbox: Inbox, consumers: Consumers | None) -> None:
        self._source, self._inbox = source, inbox
        self._token = None if source.token is None else source.token.get_secret_value().encode()
        self.counters: Counter[str] = Counter(requests=0, malformed=0, refused=0, busy=0)
        post: Mapping[str, Endpoint] = {
            "/ingest/{stream}": self.ingest,
            "/topics/{topic}": self.kafka,
            "/write": self.influx,
            "/api/v2/write": self.influx,
            "/query": self.influx_query,
            "/api/v1/write": self.remote_write,
            "/v1/metrics": self.otlp,
        }
        routes = [Route(path, self._guarded(endpoint), methods=["POST"]) for path, endpoint in post.items()]
        if consumers is not None:
            routes += [Route(path, self._guarded(call), methods=[method]) for method, path, call in _calls(consumers)]
        self._unanswered = "there is no such call for consumers here"
        if consumers is None:
            self._unanswered = "nothing is kept for consumers here: kept_max is 0, or this is a mere look at the source"
        routes.append(
            Route("/consumers/{call:path}", self._guarded(self.unanswered), methods=["GET", "POST", "DELETE"])
        )
        routes.append(Route("/ping", _alive, methods=["GET"]))
        routes.append(Route("/health", _healthy, methods=["GET"]))
        self.asgi = Starlette(routes=routes)

    def close(self) -> None:
        """Let go of the routes, which hold this object as it holds them, so that the files behind it are closed."""
        self.asgi.router.routes.clear()

    # ----------------------------------------------------------------------------------------------- each protocol

    async def ingest(self, request: Request) -> Response:
        content = _bodies.lines(await self._body(request), _content_type(request))
        await self._keep(request, request.path_params["stream"], content)
        nothing_good = bool(content.faults) and len(content.faults) == len(content.payloads)
        return JSONResponse(content.answer(), 400 if nothing_good else 200)

    async def kafka(self, request: Request) -> Response:
        content_type = _content_type(request)
        if "avro" in content_type or "protobuf" in content_type:
            raise Malformed(f"{content_type} needs a schema registry; send vnd.kafka.json.v2+json or binary", 415)
        content = _bodies.kafka(await self._body(request), "binary" in content_type)
        post = await self._keep(request, request.path_params["topic"], content)
        offsets = [
            {"partition": 0, "offset": position, "error_code": None, "error": None}
            for position in range(post.first, post.end)
        ]
        told = {"offsets": offsets, "key_schema_id": None, "value_schema_id": None}
        return Response(json.dumps(told), media_type=KAFKA)

    async def influx(self, request: Request) -> Response:
        asked = request.query_params
        content = _bodies.influx(await self._body(request), asked.get("precision", ""))
        await self._keep(request, asked.get("db") or asked.get("bucket") or "influx", content)
        if not content.faults:
            return Response(status_code=204)
        line, why = content.faults[0]
        said = f"partial write: line {line}: {why} dropped={len(content.faults)}"
        return JSONResponse({"error": said, "code": "invalid", "message": said}, 400)

    async def influx_query(self, request: Request) -> Response:
        """Telegraf and others ask for the database before they write; what is posted is kept without one."""
        body = (await self._body(request)).decode("utf-8", "replace")
        if "create+database" in body.lower() or "create database" in request.query_params.get("q", body).lower():
            return JSONResponse({"results": [{"statement_id": 0}]})
        raise Malformed("nothing can be asked here; read the tables with `tocsin query`")

    async def remote_write(self, request: Request) -> Response:
        body = await self._body(request, unpack=False)
        content, stale = _metrics.remote_write(body, self._source.body_max)
        self.counters["series_ended"] += stale
        await self._keep(request, "prometheus", content)
        return Response(status_code=204)

    async def otlp(self, request: Request) -> Response:
        content_type = _content_type(request)
        content, answer = _metrics.otlp(await self._body(request), content_type == "application/json")
        await self._keep(request, "otlp", content)
        return Response(answer, media_type=content_type)

    async def unanswered(self, request: Request) -> Response:
        raise Malformed(self._unanswered, 501)

    # ------------------------------------------------------------------------------------------- what they share

    async def _keep(self, request: Request, topic: str, content: Content) -> Post:
        """Hand the records over; returns once they are durable."""
        loop, kept = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def answer(outcome: RequestOutcome) -> None:
            if not kept.done():
                kept.set_result(outcome)

        def tell(outcome: RequestOutcome) -> None:
            loop.call_soon_threadsafe(answer, outcome)

        post = Post(
            topic, content.payloads, content.keys, content.has_header, request.headers.get("idempotency-key", "")
        )
        self.counters["malformed"] += len(content.faults)
        if not self._inbox.put(post, tell):
            self.counters["busy"] += 1
            raise _ComeBack(429, "more waits than can be made durable at once; come back")
        try:
            outcome = await asyncio.wait_for(kept, self._source.patience_us / 1e6)
        except TimeoutError:
            raise _ComeBack(503, "not durable yet; send it again, with an Idempotency-Key") from None
        if outcome is RequestOutcome.CLOSED:
            raise _ComeBack(503, "the source is being closed; send it again, with an Idempotency-Key")
        return post

    async def _body(self, request: Request, *, unpack: bool = True) -> bytes:
        limit = self._source.body_max
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise Malformed(f"more than {limit} bytes; send less at once", 413)
        if not unpack:
            return bytes(body)
        return _bodies.unpacked(bytes(body), request.headers.get("content-encoding", "").lower(), limit)

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            self.counters["requests"] += 1
            try:
                if refusal := self._refusal(request):
                    self.counters["refused"] += 1
                    return refusal
                return await endpoint(request)
            except _ComeBack as come_back:
                headers = {"retry-after": str(_RETRY_AFTER_S)}
                return _failed(request, come_back.status, str(come_back), headers)
            except Malformed as malformed:
                return _failed(request, malformed.status, str(malformed), code=malformed.code)
            except MissingExtra as missing:
                return _failed(request, 501, str(missing))
            except (OSError, DurabilityError) as error:  # a consumer's commit cannot be written, or the log read
                headers = {"retry-after": str(_RETRY_AFTER_S)}
                return _failed(request, 503, f"the disk does not take it: {error}", headers)
            except ClientDisconnect:
                return Response(status_code=400)

        return guarded

    def _refusal(self, request: Request) -> Response | None:
        """Why a request may not pass, or None if it may."""
        if self._token is None:
            # A page in a browser could post to this computer: browsers say where such a request comes from.
            host = request.headers.get("host", "").lower().rpartition(":")[0] or request.headers.get("host", "")
            if "origin" in request.headers or host not in _LOCAL:
                return _failed(request, 403, "set a token: without one only programs on this computer may post")
            return None
        if hmac.compare_digest(_shown(request).encode("utf-8", "surrogateescape"), self._token):
            return None
        return _failed(request, 401, "send the token as 'Authorization: Bearer ...'", {"www-authenticate": "Bearer"})


def _calls(consumers: Consumers) -> list[tuple[str, str, Endpoint]]:
    """The calls of those who consume."""
    one = "/consumers/{group}/instances/{instance}"
    return [
        ("GET", "/topics", consumers.list_topics),
        ("GET", "/topics/{topic}", consumers.topic),
        ("GET", "/topics/{topic}/partitions", consumers.partitions),
        ("GET", "/topics/{topic}/partitions/{partition}/offsets", consumers.topic_offsets),
        ("POST", "/consumers/{group}", consumers.create),
        ("DELETE", one, consumers.delete),
        ("POST", f"{one}/subscription", consumers.subscribe),
        ("GET", f"{one}/subscription", consumers.subscription),
        ("DELETE", f"{one}/subscription", consumers.unsubscribe),
        ("GET", f"{one}/assignments", consumers.assignments),
        ("GET", f"{one}/records", consumers.fetch),
        ("POST", f"{one}/offsets", consumers.commit),
        ("GET", f"{one}/offsets", consumers.committed),
        ("POST", f"{one}/positions", consumers.seek),
        ("POST", f"{one}/positions/beginning", consumers.seek_beginning),
        ("POST", f"{one}/positions/end", consumers.seek_end),
    ]


class _ComeBack(Exception):
    """Not now: the sender is to try again."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def _shown(request: Request) -> str:
    """The token that a request shows, in any of the ways in which programs send one."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() in ("bearer", "token"):
        return given.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return request.query_params.get("p", "")  # InfluxDB 1: /write?u=user&p=password


def _failed(
    request: Request, status: int, why: str, headers: Mapping[str, str] | None = None, code: int | None = None
) -> Response:
    """What went wrong, in the words of the protocol."""
    told: dict[str, Any] = {"error": why}
    if request.url.path.startswith(("/topics", "/consumers/")):
        told = {"error_code": code or (status * 100 + 1 if status == 422 else status), "message": why}
    elif request.url.path.endswith("/write"):
        told |= {"code": "invalid", "message": why}
    return JSONResponse(told, status, headers=dict(headers or {}))


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _alive(request: Request) -> Response:
    return Response(status_code=204, headers={"x-influxdb-version": "tocsin"})


async def _healthy(request: Request) -> Response:
    return JSONResponse({"name": "tocsin", "status": "pass"})
