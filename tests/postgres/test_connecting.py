"""Connecting to a server: certificates, and who is believed to be away. TLS is spoken by a small proxy before it."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PASSWORD, USER, Postgres
from servers import free_port

from tocsin.errors import SinkError, SourceError, Unavailable
from tocsin.postgres.settings import ServerSettings
from tocsin.settings.tls import Tls

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class Proxy:
    """Speaks TLS to clients as the server itself would, and passes on what they say."""

    def __init__(self, host: str, certificates: Path, to: int) -> None:
        self._listener = socket.create_server((host, 0))
        self.port, self._to = int(self._listener.getsockname()[1]), to
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                with suppress(ssl.SSLError, ConnectionError), client:
                    assert client.recv(8) == SSL_REQUEST
                    client.sendall(b"S")
                    with self._context.wrap_socket(client, server_side=True) as outer:
                        self._pass_on(outer)

    def _pass_on(self, outer: ssl.SSLSocket) -> None:
        with socket.create_connection(("127.0.0.1", self._to)) as inner:
            while True:
                ready = [outer] if outer.pending() else select.select([outer, inner], [], [])[0]
                for one in ready:
                    data = one.recv(65_536)
                    if not data:
                        return
                    (inner if one is outer else outer).sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def encrypted(postgres: Postgres, certificates: Path) -> Iterator[int]:
    with closing(Proxy("127.0.0.1", certificates, postgres.port)) as proxy:
        yield proxy.port


def settings(port: int, **more: Any) -> ServerSettings:
    return ServerSettings(url=f"postgresql://127.0.0.1:{port}/postgres", user=USER, password=PASSWORD, **more)


def test_a_server_whose_certificate_is_right_is_believed(encrypted: int, certificates: Path) -> None:
    with settings(encrypted, tls=Tls(ca="ca.pem")).connect(certificates, SinkError) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("select current_user").fetchone() == (USER,)


@pytest.mark.parametrize("tls", [Tls(ca="other/ca.pem"), Tls()], ids=["another ca", "that of the system"])
def test_a_server_whose_certificate_is_another_is_refused(encrypted: int, certificates: Path, tls: Tls) -> None:
    with pytest.raises(SourceError, match="certificate verify failed") as refused:
        settings(encrypted, tls=tls).connect(certificates, SourceError)
    assert not isinstance(refused.value, Unavailable)


def test_a_certificate_for_another_name_is_refused(postgres: Postgres, certificates: Path) -> None:
    with closing(Proxy("127.0.0.2", certificates, postgres.port)) as proxy:
        other = ServerSettings(url=f"postgresql://127.0.0.2:{proxy.port}/postgres", user=USER, tls=Tls(ca="ca.pem"))
        with pytest.raises(SinkError, match="does not match host name") as refused:
            other.connect(certificates, SinkError)
    assert not isinstance(refused.value, Unavailable)


def test_a_server_without_tls_is_refused_where_tls_is_wanted(postgres: Postgres, certificates: Path) -> None:
    with pytest.raises(SinkError, match="does not support SSL") as refused:
        settings(postgres.port, tls=Tls(ca="ca.pem")).connect(certificates, SinkError)
    assert not isinstance(refused.value, Unavailable)


def test_nobody_there_is_away() -> None:
    with pytest.raises(Unavailable, match="is away"):
        settings(free_port()).connect(Path(), SinkError)


def test_who_never_answers_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.postgres.settings.CONNECT_S", 2)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, pytest.raises(Unavailable, match="timeout"):
        settings(silent.getsockname()[1]).connect(Path(), SinkError)


def test_a_server_that_is_full_is_waited_for(postgres: Postgres) -> None:
    postgres.execute("drop role if exists few")
    postgres.execute("create role few login password 'f' connection limit 1")
    few = ServerSettings(url=postgres.url, user="few", password="f")
    with few.connect(Path(), SinkError), pytest.raises(Unavailable, match="too many connections"):
        few.connect(Path(), SinkError)
