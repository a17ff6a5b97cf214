"""An OPC UA server: asyncua's own, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from servers import free_port


class OpcuaServer:
    """Variables of namespace 2 by name; it ends with the block, and may be started again at the same port."""

    def __init__(
        self, variables: Mapping[str, Any], port: int = 0, password: str | None = None, counts: str = ""
    ) -> None:
        self.port = port or free_port()
        self._counts = counts
        """A variable that goes up by one every 50 ms."""
        self._variables, self._password = variables, password
        self._loop = asyncio.new_event_loop()
        self._up, self._down = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._nodes: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> OpcuaServer:
        self._thread.start()
        assert self._up.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join(20)
        self._loop.close()

    def write(self, name: str, value: Any, status: int = 0, at: datetime | None = None) -> None:
        """Change a variable, with a StatusCode and the time of its source."""
        stamped = ua.DataValue(
            ua.Variant(value), StatusCode=ua.StatusCode(ua.UInt32(status)), SourceTimestamp=at or datetime.now(UTC)
        )
        self._do(self._nodes[name].write_value(stamped))

    def add(self, name: str, value: Any) -> None:
        self._do(self._add(name, value))

    def _do(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _add(self, name: str, value: Any) -> None:
        self._nodes[name] = await self._server.nodes.objects.add_variable(ua.NodeId(name, 2), name, value)

    async def _serve(self) -> None:
        self._server = Server(user_manager=None if self._password is None else _Users(self._password))
        await self._server.init()
        self._server.set_endpoint(self.url)
        await self._server.register_namespace("plant")
        for name, value in self._variables.items():
            await self._add(name, value)
        async with self._server:
            self._up.set()
            counting = asyncio.create_task(self._count()) if self._counts else None
            await self._down.wait()
            if counting is not None:
                counting.cancel()

    async def _count(self) -> None:
        for n in range(1, 1_000_000):
            await self._nodes[self._counts].write_value(n)
            await asyncio.sleep(0.05)


class _Users:
    def __init__(self, password: str) -> None:
        self._password = password

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        return User(role=UserRole.User) if password == self._password else None
