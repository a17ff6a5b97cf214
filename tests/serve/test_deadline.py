"""Connections that are slow, silent or too long end; they cost nobody else the page."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import uvicorn

from tocsin.serve.deadline import Deadline


class Quick(Deadline):
    REQUEST_S = 0.3


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(3 * Quick.REQUEST_S)
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def answers(*asked: bytes, pause_s: float = 0.0) -> tuple[bytes, float]:
    """What comes back until the server hangs up, and after how long."""
    config = uvicorn.Config(app, http=Quick, log_level="error", lifespan="off", h11_max_incomplete_event_size=32 * 1024)
    config.load()
    state = uvicorn.server.ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: Quick(config, state, {}), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        begin = time.monotonic()

        async def ask() -> None:
            for part in asked:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)

        asking = asyncio.create_task(ask())
        try:
            found = await asyncio.wait_for(reader.read(), 20)
        except ConnectionResetError:
            found = b""
        took_s = time.monotonic() - begin
        await asyncio.gather(asking, return_exceptions=True)
        writer.close()
    return found, took_s


@pytest.mark.parametrize(
    "asked",
    [
        (),
        (b"GET / HT",),
        (b"GET / HTTP/1.1\r\n", *[b"x: y\r\n"] * 100),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", *[b"x"] * 50),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", *[b"GET / HTTP/1.1\r\n"] * 1, *[b"x: y\r\n"] * 50),
    ],
    ids=["nothing", "half a line", "a line now and then", "a body byte by byte", "a slow second request"],
)
def test_who_never_finishes_is_hung_up_on(asked: tuple[bytes, ...]) -> None:
    found, took_s = asyncio.run(answers(*asked, pause_s=0.1))
    assert found.count(b"200 OK") == (len(asked) == 52)
    assert Quick.REQUEST_S * 0.9 < took_s < 10


def test_an_answer_may_take_its_time() -> None:
    found, took_s = asyncio.run(answers(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    assert found.endswith(b"ok")
    assert took_s > 2 * Quick.REQUEST_S


def test_headers_without_end_are_refused() -> None:
    found, _ = asyncio.run(answers(b"GET / HTTP/1.1\r\n", *[b"x: " + b"y" * 1000 + b"\r\n"] * 100))
    assert found == b"" or b" 400 " in found
