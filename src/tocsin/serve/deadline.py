"""How long the page waits for who connects and does not say what is wanted."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class Deadline(H11Protocol):
    """Hangs up on a request that is not complete in time, where uvicorn would wait for ever."""

    REQUEST_S: ClassVar[float] = 10.0
    """So long a request may take to arrive, its body included; the answer may take any time."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY) or self.timeout_keep_alive_task is not None:
            self._forget()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.REQUEST_S, self.transport.close)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
