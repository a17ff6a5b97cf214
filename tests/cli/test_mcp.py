"""`tocsin mcp`, asked by the protocol's own client: answers name what they rest on, and nothing can be changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from click.testing import CliRunner
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client
from servers import free_port

from tocsin.cli import main
from tocsin.cli.mcp import TOOL_ROLES
from tocsin.engine.audit import newest
from tocsin.serve.accounts import Accounts
from tocsin.serve.evidence import _cases

FILE = """
name: plant
folder: {folder}
source: {{files: {{path: {readings}}}}}
decode: {{json: {{columns: {{machine: category, ts: timestamp, celsius: float}}}}}}
key: machine
time: ts
streams:
  readings: {{sinks: [delta: readings]}}
  alarms: {{from: readings, steps: [alarm: {{rule: hot, of: celsius, high: 80}}], sinks: [delta: alarms]}}
"""
BEGIN = datetime(2026, 5, 4, 6, tzinfo=UTC)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of two presses, of which one was too hot twice, and once again at the end."""
    folder = tmp_path_factory.mktemp("plant")
    lines = [
        {
            "machine": f"press-{n}",
            "ts": (BEGIN + timedelta(minutes=i)).isoformat(),
            "celsius": 90.0 if n == 1 and i in (100, 200, 299) else 60.0 + i % 3,
        }
        for i in range(300)
        for n in (1, 2)
    ]
    (folder / "in.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "plant.yaml").write_text(FILE.format(folder=folder / "data", readings=folder / "in.ndjson"))
    done = CliRunner().invoke(main, ["run", str(folder / "plant.yaml")])
    assert done.exit_code == 0, done.output
    return folder


def asked(plant: Path, questions: Callable[[ClientSession], Awaitable[None]]) -> None:
    """Speak to a server of its own, by stdin and stdout."""
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "tocsin.cli", "mcp", str(plant / "plant.yaml"), "--folder", str(plant / "data")],
    )

    async def speak() -> None:
        async with stdio_client(command) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            await questions(session)

    anyio.run(speak)


async def answer(session: ClientSession, tool: str, **given: Any) -> dict[str, Any]:
    result = await session.call_tool(tool, given)
    assert not result.is_error, result
    return dict(json.loads(result.content[0].text))


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_answers_name_what_they_rest_on(plant: Path) -> None:
    before = hashes(plant / "data")

    async def questions(session: ClientSession) -> None:
        tools = (await session.list_tools()).tools
        assert {tool.name for tool in tools} == {
            "machines", "alarms", "evidence", "series", "sql", "check", "replay"
        }  # fmt: skip
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)

        told = await answer(session, "machines")
        assert {one["machine"]: one.get("open_alarms", 0) for one in told["machines"]} == {"press-1": 1, "press-2": 0}
        assert told["machines"][0]["tables"][0]["rows"] == 300
        assert {"readings", "alarms"} <= set(told["rests_on"])

        (alarm,) = (await answer(session, "alarms"))["alarms"]
        assert (alarm["key"], alarm["rule"]) == ("press-1", "hot")
        told = await answer(session, "evidence", alarm=alarm["id"], minutes=30)
        (signal,) = told["series"]
        assert signal["signal"] == "celsius"
        assert max(signal["points"]["value"]) == 90.0
        assert len(told["history"]) == 5, "raised three times and never acknowledged: one case"
        assert told["before"] == []
        by_place = await answer(session, "evidence", alarm="hot:press-1")
        assert by_place["alarm"]["id"] == alarm["id"]

        begin, end = BEGIN.isoformat(), (BEGIN + timedelta(hours=5)).isoformat()
        told = await answer(session, "series", machine="press-2", begin=begin, end=end, points=10)
        assert len(told["series"][0]["points"]["value"]) == 10

        told = await answer(session, "sql", query="select count(*) as n from readings;", limit=5)
        assert told["rows"] == [{"n": 600}]
        assert set(told["rests_on"]) == {"readings"}
        told = await answer(session, "sql", query="select * from readings", limit=5)
        assert (len(told["rows"]), told["is_cut"]) == (5, True)

    asked(plant, questions)
    assert hashes(plant / "data") == before, "it only reads"


def test_other_settings_are_checked_and_replayed(plant: Path) -> None:
    async def questions(session: ClientSession) -> None:
        settings = {"streams.alarms.steps.0.alarm.high": "95"}
        assert (await answer(session, "check", file="plant.yaml", settings=settings))["is_right"]
        told = await answer(session, "check", file="plant.yaml", settings={"streams.alarms.steps.0.alarm.hihg": "95"})
        assert "hihg" in told["mistake"]
        told = await answer(session, "replay", file="plant.yaml", settings=settings)
        assert told["readings"] == 600
        assert {line["which"] for line in told["alarms"]} == {"only then"}

    asked(plant, questions)


def test_what_does_not_go_is_one_sentence(plant: Path) -> None:
    async def questions(session: ClientSession) -> None:
        for tool, given, said in (
            ("sql", {"query": "select * from '/etc/passwd'"}, "etc/passwd"),
            ("sql", {"query": "copy readings to 'x.csv'"}, "disabled"),
            ("evidence", {"alarm": "nothing"}, "nothing"),
            ("series", {"machine": "press-1", "begin": "yesterday", "end": "now"}, "yesterday"),
            ("check", {"file": "../other.yaml"}, "other.yaml"),
        ):
            result = await session.call_tool(tool, given)
            assert result.is_error, (tool, result)
            assert said in result.content[0].text
            assert "Traceback" not in result.content[0].text

    asked(plant, questions)


def test_earlier_cases_say_how_they_ended() -> None:
    def row(id: str, minute: int, event: str, state: str) -> dict[str, Any]:
        at = BEGIN + timedelta(minutes=minute)
        said = {"message": f"{id} {event}", "by": "ann", "reason": "new bearing"}
        return {"id": id, "started": BEGIN, "time": at, "event": event, "state": state, **said}

    told = _cases([
        row("a", 0, "raised", "ACTIVE_UNACK"), row("a", 5, "cleared", "NORMAL"),
        row("a", 9, "labelled_false", "NORMAL"), row("a", 10, "commented", "NORMAL"),
        row("b", 20, "raised", "ACTIVE_UNACK"),
    ])  # fmt: skip
    assert [(case["id"], case["state"], case["said"]) for case in told] == [
        ("b", "ACTIVE_UNACK", []), ("a", "NORMAL", ["false: new bearing"])
    ]  # fmt: skip
    assert told[1]["until"] == BEGIN + timedelta(minutes=5), "what is said later does not make it longer"
    assert told[1]["comments"] == ["ann: new bearing"]


@pytest.fixture
def served(plant: Path, tmp_path: Path) -> Iterator[tuple[str, dict[str, str], Path]]:
    """A server over HTTP: its address, a token of each role, and where its audit is."""
    folder, port = tmp_path / "data", free_port()
    shutil.copytree(plant / "data", folder)
    accounts = Accounts(folder / ".state")
    expires_us = time.time_ns() // 1000 + 3_600_000_000
    tokens = {role: accounts.add_token(f"{role}-assistant", role, expires_us) for role in ("viewer", "engineer")}
    words = ["mcp", str(plant / "plant.yaml"), "--folder", str(folder), "--http", "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "tocsin.cli", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    yield process.stderr.readline().split()[-1], tokens, folder / ".state"
    process.terminate()
    process.stderr.close()
    assert process.wait(20) in (0, -15)


def test_over_http_each_token_has_the_tools_of_its_role(served: tuple[str, dict[str, str], Path]) -> None:
    url, tokens, state = served

    async def speak(token: str, questions: Callable[[ClientSession], Awaitable[None]]) -> None:
        async with (
            create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http,
            streamable_http_client(url, http_client=http) as (read, write, *_),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            await questions(session)

    async def as_viewer(session: ClientSession) -> None:
        tools = {tool.name for tool in (await session.list_tools()).tools}
        assert tools == {"machines", "alarms", "evidence", "series"}
        assert (await answer(session, "alarms"))["alarms"][0]["rule"] == "hot"
        assert (await session.call_tool("sql", {"query": "select 1"})).is_error

    async def as_engineer(session: ClientSession) -> None:
        assert {tool.name for tool in (await session.list_tools()).tools} == set(TOOL_ROLES)
        told = await answer(session, "sql", query="select count(*) as n from readings")
        assert told["rows"] == [{"n": 600}]
        assert (await answer(session, "check", file="plant.yaml"))["is_right"]

    anyio.run(speak, tokens["viewer"], as_viewer)
    anyio.run(speak, tokens["engineer"], as_engineer)
    done = [(row.who, row.role, row.what, row.subject) for row in newest(state, 2)]
    assert done == [("engineer-assistant", "engineer", name, "mcp") for name in ("check", "sql")]

    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accepts = {"accept": "application/json, text/event-stream"}
    for headers, status in (
        ({}, 401), ({"authorization": "Bearer tocsin_guess"}, 401), ({"cookie": "tocsin_session=x"}, 401),
        ({"host": "evil.example", "authorization": f"Bearer {tokens['viewer']}"}, 400),
    ):  # fmt: skip
        assert httpx.post(url, json=body, headers={**accepts, **headers}).status_code == status


def test_over_http_nobody_is_let_in_without_a_token(plant: Path, tmp_path: Path) -> None:
    for words, said in (
        (["--folder", str(plant / "data")], "tocsin access token NAME"),
        (["--folder", str(plant / "data"), "--host", "0.0.0.0"], "open to the network"),
    ):
        done = CliRunner().invoke(main, ["mcp", "--http", *words])
        assert done.exit_code == 2
        assert said in done.output
