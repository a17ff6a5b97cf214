"""The open source: a server in a thread of its own, and the reader of what it takes."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tocsin.acquire.http._inbox import Inbox, Post, resumed
from tocsin.batch import RAW_WITH_METADATA, Batch, as_times
from tocsin.contracts import Offset, Reader
from tocsin.ends import ONLY
from tocsin.errors import Unavailable
from tocsin.world import World

if TYPE_CHECKING:
    from tocsin.acquire.http import Http

log = logging.getLogger(__name__)
_BACKLOG = 512
_STOP_S = 5


class HttpReader(Reader):
    """Listens from the beginning; what comes waits for `poll`, and its senders for `acknowledge`."""

    def __init__(self, source: Http, world: World, offset: Offset | None, tls: ssl.SSLContext | None) -> None:
        import uvicorn

        from tocsin.acquire.http._app import App
        from tocsin.acquire.http._consumers import Consumers

        self._clock = world.clock
        position, keys = resumed(offset)
        self._position = position
        self._inbox = Inbox(source.waiting_max, position, keys)
        self._consumers: Consumers | None = None
        if source.kept_max > 0 and world.journal is not None:  # a mere look at the source has no log
            self._consumers = Consumers(world, ONLY, position, source.body_max)
        self._app = App(source, self._inbox, self._consumers)
        self._socket = _listening(source.host, source.port)
        config = uvicorn.Config(
            self._app.asgi,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_STOP_S,
        )
        if tls is not None:
            config.load()
            config.ssl = tls
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name=f"http {source.port}", daemon=True
        )
        self._thread.start()
        self._closed = False

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        if not self._thread.is_alive():
            raise Unavailable("the HTTP server has stopped")
        posts = self._inbox.take(rows_max, timeout_s)
        if not posts:
            return None
        self._position = posts[-1].end
        if self._consumers is not None:
            self._consumers.topics.note({post.topic for post in posts if post.payloads})
        rows = _rows(posts, self._clock.now_us())
        return Batch(rows), {"position": self._position, "keys": self._inbox.keys()}

    def acknowledge(self, offset: Offset) -> None:
        position = int(offset["position"])
        if self._consumers is not None:
            self._consumers.durable(position)  # first: who has its answer can read what it posted
        self._inbox.durable(position)

    def counters(self) -> dict[str, int]:
        return {**self._app.counters, **(self._consumers.groups.counters if self._consumers is not None else {})}

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._inbox.close()
        if self._consumers is not None:
            self._consumers.close()
        self._server.should_exit = True
        self._thread.join(2 * _STOP_S)
        self._socket.close()
        self._app.close()
        if self._thread.is_alive():
            log.warning("the HTTP server does not stop; it is left behind")


def _listening(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; `Unavailable` if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise Unavailable(f"cannot listen at {host}:{port} ({error.strerror}); end what holds the port") from error
    return listener


def _rows(posts: list[Post], now_us: int) -> pa.RecordBatch:
    """The records of posts, in their order."""
    counts = [len(post.payloads) for post in posts]
    total = sum(counts)
    topics = list(dict.fromkeys(post.topic for post in posts))
    codes = np.repeat(np.array([topics.index(post.topic) for post in posts], np.int32), counts)
    keys: pa.Array = pa.nulls(total, pa.binary())
    if any(post.keys is not None for post in posts):
        keys = pa.array([key for post in posts for key in (post.keys or [None] * len(post.payloads))], pa.binary())
    return pa.RecordBatch.from_arrays(
        [
            pa.array([payload for post in posts for payload in post.payloads], pa.binary()),
            pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(topics, pa.string())),
            pa.array(np.concatenate([np.array(post.positions(), np.int64) for post in posts])),
            as_times(np.full(total, now_us)),
            keys,
            pa.nulls(total, RAW_WITH_METADATA.field("sent").type),
            pa.nulls(total, RAW_WITH_METADATA.field("attributes").type),
        ],
        schema=RAW_WITH_METADATA,
    )
