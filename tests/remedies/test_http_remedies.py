"""What answers of the source http, of the page and of its PromQL advise is done here, and the answer is a good one."""

# ruff: noqa: E501 (what stands in a pipeline file, and what a message says, stays in one line)

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from advice import Remedy, followed, remedies
from click.testing import CliRunner
from listening_source import PATIENCE_S, Listening, listening
from servers import free_port

from tocsin.acquire.http._reader import _listening
from tocsin.cli import main
from tocsin.output.delta import Delta
from tocsin.serve import access, accounts, evidence
from tocsin.serve.access import AccessKeys, Address
from tocsin.serve.accounts import Accounts
from tocsin.serve.api import PageContext
from tocsin.serve.app import bound, build
from tocsin.serve.hub import Hub
from tocsin.serve.live import Live
from tocsin.serve.promql import data
from tocsin.testing import rows, world

TOKEN = "a-token-of-some-length"
PASSWORD = "several words make a good one"


class Refused(Exception):
    """An answer that is no success, with what it says."""


def good(answer: httpx.Response) -> None:
    if not answer.is_success:
        raise Refused(answer.text.replace("\\u003e", ">"))


# what is posted


@pytest.fixture(scope="module")
def server() -> Iterator[Listening]:
    with listening(body_max="1kB", patience_us="300ms") as one:
        yield one


@pytest.fixture(scope="module")
def guarded() -> Iterator[Listening]:
    with listening(token=TOKEN) as one:
        yield one


def posted(server: Listening, request: tuple[str, bytes, Mapping[str, str]]) -> None:
    path, body, headers = request
    good(server.post(path, body, headers=dict(headers)))


def patient(server: Listening, body: bytes) -> None:
    """Posts under a key; nothing is durable as long as the word is ``wait``."""
    server.acknowledges = body != b"wait"
    if server.acknowledges:
        server.reader.acknowledge(server.offset)
    good(server.post("/ingest/a", b"1", headers={"idempotency-key": "k"}))


def snappy(count: int) -> bytes:
    return bytes(pa.compress(b"\n" * count, codec="snappy", asbytes=True))


PLAIN: Mapping[str, str] = {}
KAFKA = "application/vnd.kafka.{}.v2+json"
AVRO, JSON, BINARY = ({"content-type": KAFKA.format(kind)} for kind in ("avro", "json", "binary"))
GZIP = {"content-encoding": "gzip"}
POSTED = remedies(
    posted,
    (
        "acquire/http/_app",
        "{} needs a schema registry; send vnd.kafka.json.v2+json or binary",
        ("/topics/t", b"", AVRO),
        ("/topics/t", b'{"records": [{"value": 1}]}', JSON),
        ("/topics/t", b'{"records": [{"value": "MQ=="}]}', BINARY),
    ),
    (
        "acquire/http/_app",
        "more than {} bytes; send less at once",
        ("/ingest/a", b"1" * 2_000, PLAIN),
        ("/ingest/a", b"1" * 900, PLAIN),
    ),
    (
        "acquire/http/_bodies",
        "Content-Encoding {} is not known here; send gzip",
        ("/ingest/a", b"1", {"content-encoding": "br"}),
        ("/ingest/a", gzip.compress(b"1"), GZIP),
    ),
    (
        "acquire/http/_bodies",
        "more than {} bytes once unpacked; send less at once",
        ("/ingest/a", gzip.compress(b"1" * 2_000), GZIP),
        ("/ingest/a", gzip.compress(b"1" * 900), GZIP),
    ),
)
WAITING = remedies(
    patient,
    ("acquire/http/_app", "not durable yet; send it again, with an Idempotency-Key", b"wait", b"1"),
)
SIGNED = remedies(
    posted,
    (
        "acquire/http/_app",
        "send the token as 'Authorization: Bearer ...'",
        ("/ingest/a", b"1", {"x-token": TOKEN}),
        ("/ingest/a", b"1", {"authorization": f"Bearer {TOKEN}"}),
    ),
)


@followed(POSTED)
def test_what_an_answer_to_a_post_advises(remedy: Remedy, server: Listening) -> None:
    remedy.follow(server)


@followed(SIGNED)
def test_who_posts_shows_the_token(remedy: Remedy, guarded: Listening) -> None:
    remedy.follow(guarded)


@followed(WAITING)
def test_what_is_sent_again_is_kept_once(remedy: Remedy, server: Listening) -> None:
    before = len(server.rows)
    remedy.follow(server)
    assert len(server.rows) == before + 1


def test_metrics_that_are_too_many_are_sent_in_less(server: Listening) -> None:
    with pytest.raises(Refused, match="more than 1000 bytes once unpacked; send less at once"):
        good(server.post("/api/v1/write", snappy(2_000)))
    good(server.post("/api/v1/write", b""))


def test_what_is_sent_again_to_a_source_that_was_closed_is_kept_once() -> None:
    key = {"idempotency-key": "k"}
    with listening() as server, ThreadPoolExecutor() as pool:
        server.acknowledges = False
        waiting = pool.submit(server.post, "/ingest/a", b"1", headers=key)
        until = time.monotonic() + PATIENCE_S
        while not server.rows and time.monotonic() < until:
            time.sleep(0.01)
        server.close()
        answer = waiting.result(PATIENCE_S)
        assert "the source is being closed; send it again, with an Idempotency-Key" in answer.text
        offset = json.loads(json.dumps(server.offset))
    with listening(offset) as again:
        good(again.post("/ingest/a", b"1", headers=key))
        good(again.post("/ingest/a", b"2"))
        assert again.payloads() == [b"2"], "the first is in the log of the runner"


def test_a_page_in_a_browser_may_post_with_a_token(server: Listening, guarded: Listening) -> None:
    browser = {"origin": "http://plant.example"}
    with pytest.raises(Refused, match="set a token"):
        good(server.post("/ingest/a", b"1", headers=browser))
    good(guarded.post("/ingest/a", b"1", headers={**browser, "authorization": f"Bearer {TOKEN}"}))


def test_tables_are_asked_elsewhere(server: Listening, lake: Path) -> None:
    with pytest.raises(Refused, match="read the tables with `tocsin query`"):
        good(server.post("/query?q=select+1"))
    done = CliRunner().invoke(main, ["query", "select count(*) as n from readings", "--folder", str(lake)])
    assert done.exit_code == 0, done.output


def listened(listen: Callable[[str, int], socket.socket], port: int) -> None:
    with closing(listen("127.0.0.1", port)):
        pass


@pytest.mark.parametrize(
    ("listen", "advice"),
    [(_listening, "end what holds the port"), (bound, "choose another port")],
    ids=["acquire/http/_reader", "serve/app"],
)
def test_a_port_that_is_taken(listen: Callable[[str, int], socket.socket], advice: str) -> None:
    port = free_port()
    with closing(listen("127.0.0.1", port)), pytest.raises(Exception, match=advice):
        listened(listen, port)
    listened(listen, port)
    listened(listen, free_port())


# what is asked


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two machines that say the same at the same time."""
    folder = tmp_path_factory.mktemp("lake")
    batch = rows({"key": ["a", "a", "b", "b"], "value": [1.0, 2.0, 3.0, 4.0]})
    with closing(Delta(path="readings").open(world(folder), batch.schema)) as writer:
        writer.publish(1, [writer.stage(1, [batch])])
    return folder


def ask(
    page: PageContext, path: str, hosts: tuple[str, ...] = ("127.0.0.1",), method: str = "GET", **given: Any
) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(build(page, hosts=hosts), client=("127.0.0.1", 50_000))
        cookies = given.pop("cookies", None)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", cookies=cookies) as client:
            return await client.request(method, path, **given)

    return asyncio.run(asked())


@pytest.fixture
def page(tmp_path: Path) -> PageContext:
    return PageContext("test", tmp_path, Live(), Hub(), AccessKeys(TOKEN))


def questioned(page: PageContext, asked: Mapping[str, Any]) -> None:
    signed = {"authorization": f"Bearer {TOKEN}"}
    path = "query_range" if "step" in asked else "query"
    good(ask(page, f"/api/v1/{path}", params=asked, headers=signed))


SAME = "readings_value + on(signal) readings_value"
RANGE = {"query": "1", "start": "0", "end": "100000"}
QUESTIONS = remedies(
    questioned,
    ("serve/prometheus", "more than {} points; ask with a greater step", {**RANGE, "step": "1"}, {**RANGE, "step": "10"}),
    (
        "serve/promql/evaluate",
        "@ is not known here; choose the time of the question",
        {"query": "readings_value @ 1767225600"},
        {"query": "readings_value", "time": "1767225600"},
    ),
    (
        "serve/promql/evaluate",
        "several series on the right have the same labels; name the labels with on(...)",
        {"query": "readings_value + on() readings_value", "time": "1767225603"},
        {"query": "readings_value + on(key) readings_value", "time": "1767225603"},
    ),
    (
        "serve/promql/data",
        "has more than {} samples in this time; ask for less",
        {"query": "count_over_time(readings_value[1h])", "time": "1767225603"},
        {"query": "count_over_time(readings_value[1s])", "time": "1767225603"},
        {"query": "count_over_time(readings_value{key=\"a\"}[1s])", "time": "1767225603"},
    ),
)  # fmt: skip


@followed(QUESTIONS)
def test_what_an_answer_to_a_question_advises(
    remedy: Remedy, page: PageContext, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "ROWS_MAX", 3 if remedy.module.endswith("data") else 1_000)
    remedy.follow(replace(page, lake_folder=lake))


def test_a_page_with_the_data_folder_has_tables(page: PageContext, lake: Path) -> None:
    with pytest.raises(Refused, match="this page has no tables; start it with the pipeline's data folder"):
        questioned(page, {"query": "readings_value"})
    questioned(replace(page, lake_folder=lake), {"query": "readings_value"})


def test_an_answer_that_is_too_large_is_asked_for_in_less(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "BYTES_MAX", 2**20)
    with pytest.raises(Exception, match="the answer has 5 MB, more than 1; ask for less"):
        evidence.ask(lake, "select repeat('x', 5242880)")
    assert evidence.ask(lake, "select repeat('x', 5)")["rows"]


def test_who_signs_in_or_sends_a_token_is_answered(page: PageContext) -> None:
    with pytest.raises(Refused, match=r"sign in first, or send a token as 'Authorization: Bearer ...'"):
        good(ask(page, "/api/machines"))
    good(ask(page, "/api/machines", headers={"authorization": f"Bearer {TOKEN}"}))
    session = ask(page, "/api/session", method="POST", json={"token": TOKEN}, headers={"origin": "http://127.0.0.1"})
    good(session)
    good(ask(page, "/api/machines", cookies=session.cookies))


def test_a_name_that_is_allowed_is_known(page: PageContext) -> None:
    headers = {"host": "page.example"}
    with pytest.raises(Refused, match="unknown Host; name it with --allowed-host"):
        good(ask(page, "/healthz", headers=headers, hosts=tuple(Address().hosts)))
    good(ask(page, "/healthz", headers=headers, hosts=tuple(Address(allowed_hosts=("page.example",)).hosts)))


def test_who_has_waited_is_looked_at_again(page: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_FAILURE_S", 3.0)
    monkeypatch.setattr(accounts, "_N", 2**10)
    page.keys.accounts = Accounts(page.state_folder)
    page.keys.accounts.add("ann", "viewer", PASSWORD)

    def sign_in(password: str) -> httpx.Response:
        given = {"name": "ann", "password": password}
        return ask(page, "/api/session", method="POST", json=given, headers={"origin": "http://127.0.0.1"})

    answers = [sign_in("a guess of this") for _ in range(6)]
    assert "too many wrong tokens or passwords; wait " in answers[-1].text
    until = time.monotonic() + float(answers[-1].headers["retry-after"])
    while time.monotonic() < until:
        time.sleep(0.05)
    good(sign_in(PASSWORD))
