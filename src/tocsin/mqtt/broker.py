"""A small MQTT broker (3.1.1 and 5): in a thread (`Broker.start`), or on its own (``python -m tocsin.mqtt.broker``).

QoS 0, 1 and incoming 2 (subscriptions are granted at most 1); retained messages, wildcards, wills, keep-alive,
sessions with queues that outlive the connection; TLS with client certificates, passwords, an ACL. Everything is kept
in memory and bounded. With ``state`` sessions, queues and retained messages outlive a stop in good order, but not a
crash: where they must, use Mosquitto. Shared subscriptions and the
delay of a will are not supported (a will goes out at once).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from pathlib import Path

from tocsin.errors import ConfigError, StateError
from tocsin.mqtt.budget import Budget, Publication
from tocsin.mqtt.connection import BrokerConfiguration, ClientConnection
from tocsin.mqtt.sessions import (
    RETAINED_BYTES_MAX,
    SESSION_BYTES_MAX,
    Acl,
    Retained,
    Session,
    Subscriptions,
    load,
    read_users,
    save,
)  # fmt: skip

log = logging.getLogger(__name__)


class Broker:
    """The broker. ``with Broker(BrokerConfiguration()) as broker: broker.url`` runs it in a thread.

    Examples
    --------
    >>> from tocsin.mqtt.client import Client
    >>> with Broker(BrokerConfiguration()) as broker:
    ...     client = Client(broker.url)
    ...     client.publish([("plant/pump/telemetry", b"21.5")])
    ...     client.close()
    [0]
    """

    def __init__(self, settings: BrokerConfiguration) -> None:
        self.settings = settings
        self.port = settings.port
        self.sessions: dict[str, Session] = {}
        self.subscriptions = Subscriptions()
        self.wills = Budget(settings.memory_max // 16)
        self.budget = Budget(settings.memory_max - self.wills.limit)
        self.retained = Retained(settings.retained_max, Budget(RETAINED_BYTES_MAX, self.budget))
        self.received = self.sent = self.dropped = 0
        self._touched: set[ClientConnection] = set()
        self.connections: set[ClientConnection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._told_s = 0.0
        self._names = 0

    @property
    def url(self) -> str:
        return f"{'mqtts' if self.settings.cert else 'mqtt'}://{self.settings.host}:{self.port}"

    # ------------------------------------------------------------------------------------- running

    def start(self) -> Broker:
        """Run in a thread; returns once it listens."""
        ready = threading.Event()
        failed: list[BaseException] = []

        async def main() -> None:
            self._stop = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            try:
                await self.serve(self._stop, ready)
            except (OSError, ConfigError, StateError) as error:
                failed.append(error)
            finally:
                ready.set()

        self._thread = threading.Thread(target=lambda: asyncio.run(main()), name="mqtt-broker", daemon=True)
        self._thread.start()
        ready.wait()
        if failed:
            raise failed[0]
        return self

    def close(self) -> None:
        """Stop the thread."""
        if self._thread is not None and self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._thread = None

    def __enter__(self) -> Broker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def serve(self, stop: asyncio.Event, ready: threading.Event) -> None:
        """Listen until ``stop`` is set."""
        loop = asyncio.get_running_loop()
        self._remember()
        server = await loop.create_server(
            lambda: ClientConnection(self), self.settings.host, self.port, ssl=self.settings.context(), backlog=1024
        )  # fmt: skip
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        try:
            while not stop.is_set():
                try:
                    await asyncio.wait_for(stop.wait(), 1.0)
                except TimeoutError:
                    self._sweep()
        finally:
            server.close()
            for connection in list(self.connections):
                connection.end(0x8B)
            self.flush()
            if self.settings.state is not None:
                save(self.settings.state, self.sessions.values(), self.retained.all(), time.monotonic())

    def _remember(self) -> None:
        if self.settings.state is None:
            return
        sessions, retained = load(self.settings.state)
        for message in retained:
            self.retained.keep(message)
        for kept in sessions:
            session = Session(kept.client_id, kept.user, self.settings.queue_max, kept.expiry_s, self.session_budget())
            session.ends_s = time.monotonic() + kept.left_s
            session.restore(kept)
            self.sessions[kept.client_id] = session
            for pattern, options in kept.subscriptions.items():
                self.subscriptions.add(session, pattern, options)

    def _sweep(self) -> None:
        """Once a second: end silent connections, forget sessions that are over."""
        now = time.monotonic()
        for connection in list(self.connections):
            if now > connection.deadline_s:
                connection.end(0x8D)
        for session in [s for s in self.sessions.values() if s.ends_s is not None and now >= s.ends_s]:
            self.forget(session)
        self.flush()

    def forget(self, session: Session) -> None:
        self.subscriptions.clear(session)
        session.in_flight.clear()
        session.queue.clear()
        session.budget.close()
        if self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]

    def session_budget(self) -> Budget:
        return Budget(SESSION_BYTES_MAX, self.budget)

    # ------------------------------------------------------------------------------------- routing

    def route(self, message: Publication, sender: Session | None) -> bool:
        """Hand a message to all who want it; False if somebody's queue was full."""
        self.received += 1
        complete = True
        if message.retain:
            complete = self.retained.keep(message)
        for session, options in self.subscriptions.find(message.topic):
            if options & 4 and session is sender:  # no local
                continue
            retain = message.retain and bool(options & 8)
            qos = min(message.qos, options & 3)
            if qos != message.qos or retain != message.retain:
                out = message._replace(qos=qos, retain=retain)
            else:
                out = message
            if not session.deliver(out):
                complete = False
                self.dropped += 1
                self._tell(session)
        return complete

    def _tell(self, session: Session) -> None:
        now = time.monotonic()
        if now - self._told_s > 60:
            self._told_s = now
            log.warning("messages for %r are dropped: its queue is full (%d so far)", session.client_id, self.dropped)

    def touch(self, connection: ClientConnection) -> None:
        self._touched.add(connection)

    def flush(self) -> None:
        """Write what has been gathered for each connection."""
        while self._touched:
            self._touched.pop().flush()

    def name(self) -> str:
        self._names += 1
        return f"auto-{self._names}-{time.time_ns():x}"


def main() -> None:
    """``python -m tocsin.mqtt.broker``: run until interrupted."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m tocsin.mqtt.broker", description="a small MQTT broker")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--ca", type=Path, help="clients must show a certificate signed by this CA")
    parser.add_argument("--crl", type=Path, help="certificates that the CA has revoked")
    parser.add_argument("--cert", type=Path, help="the broker's own certificate: speak TLS")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--users", type=Path, help="file of lines name:password")
    parser.add_argument("--acl", type=Path, help="file in the words of Mosquitto's acl_file")
    parser.add_argument("--state", type=Path, help="file that keeps sessions from a clean stop to the next start")
    parser.add_argument("--queue-max", type=int, default=BrokerConfiguration.queue_max)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = BrokerConfiguration(
            given.host, given.port, given.ca, given.cert, given.key, given.crl,
            read_users(given.users) if given.users else None,
            Acl.read(given.acl) if given.acl else None,
            queue_max=given.queue_max,
            state=given.state,
        )  # fmt: skip
        asyncio.run(_run(Broker(settings)))
    except (OSError, ConfigError, StateError) as error:
        raise SystemExit(f"the broker does not start: {error}") from error


async def _run(broker: Broker) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ready = threading.Event()
    serving = asyncio.create_task(broker.serve(stop, ready))
    while not ready.is_set() and not serving.done():
        await asyncio.sleep(0.01)
    if ready.is_set():
        print(f"listening on {broker.url}", flush=True)  # noqa: T201 (whoever started us waits for this line)
    await serving


__all__ = ["Broker", "BrokerConfiguration"]

if __name__ == "__main__":
    main()
