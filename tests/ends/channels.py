"""Each channel of the project with its other side, for the kit of channels."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

from tocsin.contracts import Channel
from tocsin.mqtt.client import Client
from tocsin.output._template_channel import Template
from tocsin.output.mqtt import Mqtt
from tocsin.output.notify import Notify
from tocsin.settings.tls import Tls


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class _WithSilence:
    """A socket that accepts and never answers."""

    def __init__(self) -> None:
        self._silent = socket.socket()
        self._silent.bind(("127.0.0.1", 0))
        self._silent.listen(8)

    def silent_port(self) -> int:
        return int(self._silent.getsockname()[1])

    def close(self) -> None:
        self._silent.close()


class MqttHarness(_WithSilence):
    """A subscriber at a broker."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._subscriber = Client(url, filters=("out/#",))
        self._subscriber.connect()
        self._texts: list[str] = []

    def channel(self) -> Mqtt:
        return Mqtt(url=self._url, topic="out/{key}", columns=("text",))

    def taken(self, count: int) -> Sequence[str]:
        until = time.monotonic() + 15
        while len(self._texts) < count and time.monotonic() < until:
            polled = self._subscriber.poll(100, 0.1)
            if polled is not None:
                self._texts += [json.loads(payload)["text"] for payload in polled.payloads.to_pylist()]
        return self._texts

    def needing(self) -> tuple[Mqtt, str]:
        return Mqtt(url=self._url, topic="out/{machine}"), "machine"

    def absent(self) -> Mqtt:
        return Mqtt(url=f"mqtt://127.0.0.1:{_free_port()}", topic="out/{key}")

    def silent(self) -> Mqtt:
        return Mqtt(url=f"mqtt://127.0.0.1:{self.silent_port()}", topic="out/{key}")

    def wrong(self) -> tuple[Mqtt, str]:
        return Mqtt(url="mqtts://127.0.0.1", topic="out/{key}", tls=Tls(ca="nowhere.pem")), "nowhere.pem"

    def close(self) -> None:
        self._subscriber.close()
        super().close()


class NotifyHarness(_WithSilence):
    """A webhook."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []
        texts, read = self._texts, self._text

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                texts.append(read(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @staticmethod
    def _text(body: bytes) -> str:
        return str(json.loads(body)["row"]["text"])

    def _to(self, port: int) -> Channel:
        return Notify(to=(f"http://127.0.0.1:{port}/",), allow_private=True, timeout_s=1)

    def channel(self) -> Channel:
        return self._to(self._server.server_address[1])

    def taken(self, count: int) -> Sequence[str]:
        return self._texts

    def needing(self) -> tuple[Channel, str]:
        return Notify(to=("console",), text="{machine} is hot"), "machine"

    def absent(self) -> Channel:
        return self._to(_free_port())

    def silent(self) -> Channel:
        return self._to(self.silent_port())

    def wrong(self) -> tuple[Channel, str]:
        return Notify(to=("sclack://a/b/c",)), "sclack"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        super().close()


class TemplateHarness(NotifyHarness):
    """The template, which posts to the same server."""

    @staticmethod
    def _text(body: bytes) -> str:
        return body.decode()

    def _to(self, port: int) -> Channel:
        return Template(url=f"http://127.0.0.1:{port}/")

    def needing(self) -> tuple[Channel, str]:
        return Template(url="http://127.0.0.1/", column="machine"), "machine"

    def wrong(self) -> tuple[Channel, str]:
        return Template(url="plant.example"), "web address"
