"""A TCP proxy on loopback that refuses, drops, delays and half-closes when it is told to."""

from __future__ import annotations

import math
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

TROUBLES = ("refuse", "drop", "delay", "half-close")
TROUBLE_S = 0.3
"""So long connections are refused, or bytes held back."""
_RESET = struct.pack("ii", 1, 0)


class CutNetwork:
    """Stands between a client and the server at a port of loopback, which may stop and start again.

    It listens at 127.0.0.1, at a port of its own unless one is given: a server at another address of loopback may have
    the same.
    """

    def __init__(self, server: int, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = host, server
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._reset: set[socket.socket] = set()
        self._refused_until_s = self._held_until_s = 0.0
        self._at_answer: str | None = None
        self._at_request: tuple[bytes, str] | None = None
        self.cut = 0
        """So many connections a trouble has met."""
        self.refused = 0
        """So many connections could not be made."""
        threading.Thread(target=self._accept, daemon=True).start()

    def trouble(self, kind: str) -> None:
        """Let one of the `TROUBLES` come over all connections that stand."""
        with self._lock:
            pairs = list(self._pairs)
        self.cut += len(pairs)
        if kind == "delay":
            self._held_until_s = time.monotonic() + TROUBLE_S
            return
        if kind == "refuse":
            self._refused_until_s = time.monotonic() + TROUBLE_S
        for client, server in pairs:
            if kind == "half-close":
                _shut(client, socket.SHUT_WR)
            else:
                self._reset |= {client, server}
                _make_reset(client)
                _make_reset(server)

    def trouble_at_answer(self, kind: str, asked: bytes = b"") -> None:
        """Let a trouble come when the server answers next: what was asked for has been done, and nobody hears of it.

        With ``asked``, when it answers next after a request that holds these bytes.
        """
        if asked:
            self._at_request = asked, kind
        else:
            self._at_answer = kind

    @contextmanager
    def away(self) -> Iterator[None]:
        """Reset all connections, and refuse new ones, as long as the block takes."""
        self._refused_until_s = math.inf
        self.trouble("drop")
        yield
        self._refused_until_s = 0.0

    def close(self) -> None:
        _shut(self._listener, socket.SHUT_RDWR)
        self._listener.close()
        self.trouble("drop")

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                if time.monotonic() < self._refused_until_s:
                    raise ConnectionRefusedError
                server = socket.create_connection(self._server, 5)
            except OSError:
                self.refused += 1
                _make_reset(client)
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs.add((client, server))
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._pump, args=(server, client), kwargs={"answers": True}, daemon=True)
        back.start()
        self._pump(client, server, answers=False)
        back.join()
        with self._lock:
            self._pairs.discard((client, server))
        client.close()
        server.close()
        self._reset -= {client, server}

    def _pump(self, source: socket.socket, target: socket.socket, *, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if not answers and (wanted := self._at_request) is not None and wanted[0] in data:
                    self._at_request, self._at_answer = None, wanted[1]
                if answers and (kind := self._at_answer) is not None:
                    self._at_answer = None
                    self.trouble(kind)
                time.sleep(max(0.0, self._held_until_s - time.monotonic()))
                if target in self._reset:
                    break
                target.sendall(data)
        except OSError:
            _shut(source, socket.SHUT_RDWR)  # cut: the other direction ends as well
        if target not in self._reset:  # it is closed without a word, which is a reset
            _shut(target, socket.SHUT_WR)


class CutNetworks:
    """Several of them, whose connections a trouble meets all at once."""

    def __init__(self, networks: Sequence[CutNetwork]) -> None:
        self._networks = networks

    @property
    def cut(self) -> int:
        """So many connections a trouble has met."""
        return sum(one.cut for one in self._networks)

    def trouble(self, kind: str) -> None:
        for one in self._networks:
            one.trouble(kind)

    def trouble_at_answer(self, kind: str) -> None:
        for one in self._networks:
            one.trouble_at_answer(kind)

    def close(self) -> None:
        for one in self._networks:
            one.close()


def _shut(end: socket.socket, how: int) -> None:
    try:
        end.shutdown(how)
    except OSError:
        return  # it is no longer connected


def _make_reset(end: socket.socket) -> None:
    """Make the close that follows a reset, and wake who reads from it; the other side hears nothing before."""
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        return  # it is closed
    _shut(end, socket.SHUT_RD)
