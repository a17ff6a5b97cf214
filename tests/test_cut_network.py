"""The proxy that guarantees are measured through does to a connection what it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from cut_network import TROUBLE_S, CutNetwork


@pytest.fixture
def network() -> Iterator[CutNetwork]:
    """Before a server that sends back what it is sent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo(peer: socket.socket) -> None:
        with closing(peer):
            try:
                while data := peer.recv(100):
                    peer.sendall(data)
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(peer,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with closing(CutNetwork(listener.getsockname()[1])) as between:
        yield between
    listener.close()


def connected(network: CutNetwork) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", network.port), 5)
    client.sendall(b"hello")
    assert client.recv(100) == b"hello"
    return client


def read_from(network: CutNetwork) -> bytes:
    """What the first read of a new connection gives."""
    with closing(socket.socket()) as client:
        client.connect(("127.0.0.1", network.port))
        return client.recv(100)


def test_a_dropped_connection_is_reset_and_another_can_be_made(network: CutNetwork) -> None:
    with closing(connected(network)) as client:
        network.trouble("drop")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    assert network.cut == 1
    connected(network).close()


def test_refused_connections_are_reset_for_a_while(network: CutNetwork) -> None:
    begin_s = time.monotonic()
    network.trouble("refuse")
    with pytest.raises(ConnectionResetError):
        read_from(network)
    time.sleep(max(0.0, begin_s + TROUBLE_S - time.monotonic()))
    connected(network).close()


def test_away_refuses_as_long_as_the_block_takes(network: CutNetwork) -> None:
    with closing(connected(network)) as client:
        with network.away():
            with pytest.raises(ConnectionResetError):
                client.recv(100)
            with pytest.raises(ConnectionResetError):
                read_from(network)
        connected(network).close()


def test_a_delay_holds_bytes_back_and_loses_none(network: CutNetwork) -> None:
    with closing(connected(network)) as client:
        begin_s = time.monotonic()
        network.trouble("delay")
        client.sendall(b"late")
        assert client.recv(100) == b"late"
        assert time.monotonic() - begin_s >= TROUBLE_S


def test_a_half_closed_connection_ends_on_one_side(network: CutNetwork) -> None:
    with closing(connected(network)) as client:
        network.trouble("half-close")
        assert client.recv(100) == b""
        client.sendall(b"it still takes")


def test_a_trouble_that_waits_takes_the_answer_to_what_was_done(network: CutNetwork) -> None:
    with closing(connected(network)) as client:
        network.trouble_at_answer("drop")
        client.sendall(b"done")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    assert network.cut == 1
    connected(network).close()
