"""The page as a process: hears the engine on a Unix socket, answers browsers on HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tocsin.domain.roles import ADMIN, ENGINEER, OPERATOR, VIEWER
from tocsin.engine.feed import SOCKET, listen
from tocsin.engine.wire import (
    COUNTERS,
    FRAME_BYTES_MAX,
    HEADER,
    LAST_ROWS,
    ROWS,
    StreamColumns,
    decode_counted,
    decode_last_rows,
    decode_rows,
)
from tocsin.errors import ConfigError
from tocsin.serve import admin, api, graph, overview, prometheus, sign_in, sql, words
from tocsin.serve.access import PUBLIC, AccessKeys, Address, Front, Guard
from tocsin.serve.accounts import Accounts
from tocsin.serve.api import PageContext
from tocsin.serve.following import LakeFollower, follow_tables
from tocsin.serve.graph_messages import Outline
from tocsin.serve.hub import Hub
from tocsin.serve.live import NEVER_S, Live
from tocsin.serve.messages import NO_PLANT, Plant
from tocsin.serve.oidc import Provider, SignIns
from tocsin.serve.past import newest

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger(__name__)
TICK_S = 0.25
ENDED_WITHIN_S = 10.0
_READY = "ready"

Endpoint = Callable[[Request], Any]


@dataclass(frozen=True)
class Entry:
    """A row of the table of routes: what may be asked, and by whom."""

    method: str
    path: str
    endpoint: Endpoint
    needs: str
    """The least role, or `PUBLIC`. What an action on an alarm needs beyond that stands in `domain.alarms`."""
    changes: bool = False
    """Whether it needs proof that our own page, or a program with a token, asks."""


ROUTES = (
    Entry("GET", "/api/session", api.session, VIEWER),
    Entry("POST", "/api/session", api.sign_in, PUBLIC),
    Entry("DELETE", "/api/session", api.sign_out, VIEWER, changes=True),
    Entry("GET", "/api/audit", api.audit, ADMIN),
    Entry("GET", "/api/access", admin.access, ADMIN),
    Entry("GET", "/auth", sign_in.ways, PUBLIC),
    Entry("GET", "/auth/login", sign_in.login, PUBLIC),
    Entry("GET", "/auth/callback", sign_in.callback, PUBLIC),
    Entry("GET", "/api/machines", api.machines, VIEWER),
    Entry("GET", "/api/glances", overview.glances, VIEWER),
    Entry("GET", "/api/lanes", overview.lanes, VIEWER),
    Entry("GET", "/api/spectra", overview.spectra, VIEWER),
    Entry("GET", "/api/kpis", overview.kpis, VIEWER),
    Entry("GET", "/api/series", api.series, VIEWER),
    Entry("GET", "/api/alarms", api.alarms, VIEWER),
    Entry("GET", "/api/alarms.csv", api.alarms_csv, VIEWER),
    Entry("GET", "/api/alarms/{id:path}/evidence", api.evidence, VIEWER),
    Entry("POST", "/api/alarms/{id:path}/{action}", api.act, OPERATOR, changes=True),
    Entry("GET", "/api/people", api.people, OPERATOR),
    Entry("POST", "/api/sql", sql.sql, ENGINEER, changes=True),
    Entry("GET", "/api/counters", api.counters, VIEWER),
    Entry("GET", "/api/pipeline", graph.pipeline, VIEWER),
    Entry("GET", "/api/pipeline/part", graph.part, VIEWER),
    Entry("GET", "/api/pipeline/rows", graph.rows, VIEWER),
    Entry("GET", "/events", api.events, VIEWER),
    Entry("GET", "/metrics", api.metrics, VIEWER),
    Entry("GET", "/federate", prometheus.federate, VIEWER),
    *(
        Entry(method, f"/api/v1/{path}", endpoint, VIEWER)
        for path, endpoint in (
            ("query", prometheus.query),
            ("query_range", prometheus.query_range),
            ("series", prometheus.series),
            ("labels", prometheus.labels),
            ("label/{name}/values", prometheus.label_values),
            ("metadata", prometheus.metadata),
            ("status/buildinfo", prometheus.build),
        )
        for method in ("GET", "POST")
    ),
    Entry("GET", "/healthz", api.healthy, PUBLIC),
    Entry("GET", "/readyz", api.ready, PUBLIC),
)

_TYPES = {
    "css": "text/css; charset=utf-8", "html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}  # fmt: skip
_PAGES = (
    "access.js", "admin.js", "alarms.js", "app.js", "chart.js", "clock.js", "compare.js", "filters.js", "icon.svg",
    "kpis.js", "lanes.js", "layers.js", "onset.js", "pipeline.css", "pipeline.js", "plotly.css", "points.js",
    "query.css", "query.js", "range.js", "story.js", "style.css", "tiles.js", "together.js", "vibration.js",
    "wire.js",
)  # fmt: skip
STATIC: Mapping[str, tuple[str, str, str]] = {
    "/": ("tocsin.serve", "pages/index.html", _TYPES["html"]),
    **{f"/{name}": ("tocsin.serve", f"pages/{name}", _TYPES[name.rpartition(".")[2]]) for name in _PAGES},
    "/plotly.js": ("plotly", "package_data/plotly.min.js", _TYPES["js"]),
}
"""Every file that is served: nothing is looked up by a path that a browser sends."""
WORDS = "/words.js"
"""The module that is made of the words of the domain and the schema of the messages."""


def build(page: PageContext, *, hosts: Collection[str], lifespan: Any = None) -> Starlette:
    """Returns the web application: every route behind the guard that asks for its role."""
    static = {path: _content(files(p).joinpath(name).read_bytes(), type) for path, (p, name, type) in STATIC.items()}
    static[WORDS] = _content(words.module(), "text/javascript; charset=utf-8")
    routes = []
    for entry in (*ROUTES, *(Entry("GET", path, content, PUBLIC) for path, content in static.items())):
        route = Route(entry.path, entry.endpoint, methods=[entry.method])
        route.app = Guard(route.app, page.keys, entry.needs, changes=entry.changes, secure=page.secure)
        routes.append(route)
    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(Front, hosts=hosts)
    app.state.page = page
    return app


def _content(content: bytes, media_type: str) -> Endpoint:
    """Returns an endpoint that gives these bytes, or says that the browser has them already."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def endpoint(request: Request) -> Response:
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return endpoint


async def hear(live: Live, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take in what one engine sends, until it goes."""
    live.engines += 1
    live.hear()
    live.looked_at.connect(writer.write)
    try:
        while True:
            length, kind = HEADER.unpack(await reader.readexactly(HEADER.size))
            if length > FRAME_BYTES_MAX:
                log.warning("a frame of %d bytes from the engine is too large; hanging up", length)
                return
            body = await reader.readexactly(length)
            live.hear()
            if kind == COUNTERS:
                live.count(decode_counted(body))
            elif kind == ROWS:
                live.take(*decode_rows(body))
            elif kind == LAST_ROWS:
                live.looked_at.take(decode_last_rows(body))
    except (asyncio.IncompleteReadError, ConnectionError):
        log.info("the engine has gone")
    except asyncio.CancelledError:
        return  # the page ends; asyncio's own callback would report a cancelled connection as an error
    except (pa.ArrowInvalid, msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
        log.warning("the engine sent what cannot be read (%s); hanging up", error)
    finally:
        live.engines -= 1
        live.looked_at.disconnect(writer.write)
        writer.close()


async def hear_engines(page: PageContext) -> None:
    """First the past, then what the engine sends; or what the tables get, where it is elsewhere."""
    lake_folder = page.lake_folder
    if lake_folder is not None and page.follows:
        follower = await asyncio.to_thread(LakeFollower, lake_folder, page.streams)
    if lake_folder is not None and lake_folder.is_dir():
        for stream, rows in await asyncio.to_thread(lambda: list(newest(lake_folder, page.streams))):
            page.live.take(stream, rows, now_s=NEVER_S)
    if lake_folder is not None and page.follows:
        await follow_tables(page.live, follower)
    engines = await asyncio.start_unix_server(partial(hear, page.live), sock=listen(page.state_folder / SOCKET))
    async with engines:
        await engines.serve_forever()


async def tick(page: PageContext) -> None:
    """Publish what has changed, four times a second."""
    while True:
        await asyncio.sleep(TICK_S)
        page.hub.publish(page.live.changes(), page.live.new_points())
        page.live.looked_at.tell()


def serve(
    state_folder: Path,
    lake_folder: Path | None = None,
    address: Address | None = None,
    *,
    title: str = "tocsin",
    streams: Collection[StreamColumns] = (),
    plant: Plant = NO_PLANT,
    outline: Outline | None = None,
    follow: bool = False,
    ready: Callable[[], None] = lambda: None,
    ended: threading.Event | None = None,
) -> None:
    """Serve the page until SIGINT or SIGTERM (or until ``ended`` is set); blocks.

    It hears the engine (`engine.feed.PageFeed`) on the socket ``page.sock`` in the state folder, or with ``follow``
    looks at the tables as they grow. It shows what the lake folder's tables hold from before, of these ``streams`` if
    any are given, with the names of the ``plant``.
    """
    address = address or Address()
    is_open = address.is_local and address.provider is None
    keys = AccessKeys(address.token, Accounts(state_folder), may_be_open=is_open)
    sign_ins = None if address.provider is None else SignIns(address.provider)
    live = Live(plant.machines)
    page = PageContext(
        title, state_folder, live, Hub(), keys, address.secure, lake_folder, streams, plant, outline or Outline(),
        follows=follow, sign_ins=sign_ins,
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(tick(page)), asyncio.create_task(hear_engines(page))]
        for task in tasks:
            task.add_done_callback(_report)
        yield
        for task in tasks:
            task.cancel()

    server = web_server(build(page, hosts=address.hosts, lifespan=lifespan), address)
    state_folder.mkdir(parents=True, exist_ok=True)
    listener = bound(address.host, address.port)

    with suppress(KeyboardInterrupt):
        asyncio.run(_until_ended(server, listener, page, ready, ended))


def web_server(app: Starlette, address: Address) -> uvicorn.Server:
    """Returns the web server, with its limits."""
    import uvicorn

    from tocsin.serve.deadline import Deadline

    return uvicorn.Server(
        uvicorn.Config(
            app,
            ssl_certfile=address.tls_cert,
            ssl_keyfile=address.tls_key,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
            timeout_keep_alive=30,
            http=Deadline,
            limit_concurrency=512,
            h11_max_incomplete_event_size=32 * 2**10,
        )
    )


async def _until_ended(
    server: uvicorn.Server,
    listener: socket.socket,
    page: PageContext,
    ready: Callable[[], None],
    ended: threading.Event | None,
) -> None:
    """Serve; call ``ready`` when the server listens, and end every viewer's stream when it is to end."""

    async def watch() -> None:
        while not server.started:
            await asyncio.sleep(0.02)
        ready()
        while not server.should_exit:
            if ended is not None and ended.is_set():
                server.should_exit = True
            await asyncio.sleep(0.1)
        page.hub.close()

    watching = asyncio.create_task(watch())
    await server.serve(sockets=[listener])
    watching.cancel()


def bound(host: str, port: int) -> socket.socket:
    """Returns a socket that listens there; `ConfigError` where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"nothing can be served on {host}:{port} ({error.strerror}); choose another port") from error
    listener.listen(128)
    return listener


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("the page has stopped moving", exc_info=task.exception())


class Running:
    """A page in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def stop(self, timeout_s: float = 5.0) -> None:
        """End it; it also ends by itself when this process does."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def start(
    state_folder: Path,
    lake_folder: Path | None = None,
    address: Address | None = None,
    *,
    title: str = "tocsin",
    streams: Collection[StreamColumns] = (),
    plant: Plant = NO_PLANT,
    outline: Outline | None = None,
) -> Running:
    """Start `serve` in a process of its own. Returns it when it listens."""
    address = address or Address()
    process = subprocess.Popen(
        [sys.executable, "-m", "tocsin.serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the engine, which then ends the page
    )
    assert process.stdin is not None
    assert process.stdout is not None
    wanted = {
        "state": state_folder,
        "lake": lake_folder,
        "title": title,
        "address": asdict(address),
        "streams": msgspec.to_builtins(tuple(streams)),
        "plant": msgspec.to_builtins(plant),
        "outline": msgspec.to_builtins(outline or Outline()),
    }
    process.stdin.write(json.dumps(wanted, default=str) + "\n")
    process.stdin.flush()
    said = process.stdout.readline().strip()
    running = Running(process, address.url)
    if said != _READY:
        running.stop()
        raise ConfigError(said or f"the page could not start (exit status {process.returncode})")
    return running


def main() -> None:
    """The process that `start` starts: settings come on standard input, whose end is the end."""
    import os

    from tocsin.errors import TocsinError

    wanted = json.loads(sys.stdin.readline())
    given = wanted["address"]
    given["provider"] = given["provider"] and Provider(**given["provider"])
    for name in ("tls_cert", "tls_key"):
        given[name] = given[name] and Path(given[name])
    address = Address(**given | {"allowed_hosts": tuple(given["allowed_hosts"])})
    lake = wanted["lake"] and Path(wanted["lake"])
    ended = threading.Event()

    def watch() -> None:
        while sys.stdin.read(4096):
            pass
        ended.set()
        time.sleep(ENDED_WITHIN_S)
        os._exit(1)  # whatever still holds it: nobody is there any more to end it

    def ready() -> None:
        with suppress(OSError):  # who started it is gone already, which `watch` sees
            print(_READY, flush=True)  # noqa: T201

    threading.Thread(target=watch, daemon=True).start()
    with suppress(OSError):
        os.nice(5)  # the engine comes first
    try:
        names = {"title": wanted["title"], "streams": msgspec.convert(wanted["streams"], tuple[StreamColumns, ...])}
        plant = msgspec.convert(wanted.get("plant", {}), Plant)
        outline = msgspec.convert(wanted.get("outline", {}), Outline)
        serve(Path(wanted["state"]), lake, address, **names, plant=plant, outline=outline, ended=ended, ready=ready)
    except TocsinError as error:
        print(error, flush=True)  # noqa: T201
        sys.exit(1)
