"""What the messages of accounts, the audit, backups, the page's questions and the edge advise is done here, and works."""

# ruff: noqa: E501 (what stands in a pipeline file, and what a message says, stays in one line)

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from advice import Remedy, followed, remedies
from press import give, rows, tocsin

from tocsin.detect.job._definition import parse
from tocsin.edge.bundle import read_key
from tocsin.engine import audit
from tocsin.engine.backup import backup, restore
from tocsin.errors import ConfigError, CorruptState
from tocsin.lake.read import query
from tocsin.lake.whole import replace
from tocsin.mqtt.authority import Authority
from tocsin.serve.access import Address
from tocsin.serve.accounts import Accounts
from tocsin.serve.desk import act
from tocsin.world import SystemClock, SystemDisk

PASSWORD = "several words make a good one"
NOW = datetime.now(UTC)


def accounts(folder: Path, added: list[tuple[str, str]]) -> None:
    """Adds accounts with their passwords, each after one of the name was removed if the password is empty."""
    known = Accounts(folder)
    for name, password in added:
        if password:
            known.add(name, "viewer", password)
        else:
            known.remove(name)


def address(folder: Path, settings: Mapping[str, Any]) -> None:
    for name in ("tls_cert", "tls_key"):
        (folder / name).touch()
    Address(**{key: folder / key if value is True else value for key, value in settings.items()})


def acted(folder: Path, settings: Mapping[str, Any]) -> None:
    act(folder, **{"alarm": "hot:pump", "action": "acknowledge", "by": "me", **settings})


TLS = {"tls_cert": True, "tls_key": True}
TOKEN = secrets.token_hex(24)  # as openssl rand -hex 24
SERVED = [
    *remedies(
        accounts,
        (
            "serve/accounts",
            "remove it first, or choose another name",
            [("me", PASSWORD)] * 2,
            [("me", ""), ("me", PASSWORD)],
            [("you", PASSWORD)],
        ),
        ("serve/accounts", "several words make a good one", [("a", "short")], [("a", PASSWORD)]),
    ),
    *remedies(
        address,
        (
            "serve/access",
            "give it a certificate (--tls-cert, --tls-key) and an account (tocsin access add NAME --role admin) or a token (--token), or let it listen on 127.0.0.1",
            {"host": "0.0.0.0"},
            {"host": "0.0.0.0", **TLS, "has_accounts": True},
            {"host": "0.0.0.0", **TLS, "token": TOKEN},
            {"host": "127.0.0.1"},
        ),
        ("serve/access", "make one with: openssl rand -hex 24", {"token": "short"}, {"token": TOKEN}),
    ),
    *remedies(
        acted,
        (
            "serve/desk",
            "say which alarm: its id, or rule:key",
            {"alarm": " "},
            {"alarm": "hot:pump"},
            {"alarm": "3f2a"},
        ),
        ("serve/desk", "say who does it: every action is audited", {"by": ""}, {"by": "me"}),
        (
            "serve/desk",
            "name the rule and the key, such as health:pump",
            {"alarm": "3f2a", "action": "relearn"},
            {"alarm": "health:pump", "action": "relearn"},
        ),
        (
            "serve/desk",
            "name it rule:key#id, such as hot:pump#3f2a",
            {"action": "label_true"},
            {"action": "label_true", "alarm": "hot:pump#3f2a"},
        ),
        (
            "serve/desk",
            "say what is to be known of the alarm",
            {"action": "comment", "alarm": "hot:pump#3f2a"},
            {"action": "comment", "alarm": "hot:pump#3f2a", "reason": "the bearing is new"},
        ),
        (
            "serve/desk",
            "say whom the alarm is for: the name of an account",
            {"action": "assign", "assignee": " "},
            {"action": "assign", "assignee": "ann"},
        ),
        (
            "serve/desk",
            "give a later time",
            {"action": "shelve", "until": NOW - timedelta(days=1)},
            {"action": "shelve", "until": NOW + timedelta(days=1)},
        ),
        (
            "serve/desk",
            "say until when to {}",
            {"alarm": "health:pump", "action": "ignore"},
            {"alarm": "health:pump", "action": "ignore", "until": NOW + timedelta(days=1)},
        ),
    ),
]


def in_time(folder: Path, asked: tuple[str, float]) -> None:
    query(asked[0], folder, timeout_s=asked[1])


def in_memory(folder: Path, asked: tuple[int, str]) -> None:
    query(f"select len(list(range)) from range({asked[0]})", folder, memory=asked[1])


ENDLESS = "with recursive n(i) as (select 1 union all select i from n) select count(*) from n"
LESS = ENDLESS.replace("from n)", "+ 1 from n where i < 3)")


def keyed(folder: Path, content: bytes | None) -> None:
    if content is not None:
        (folder / "key").write_bytes(content)
    read_key(folder / "key")


def device(folder: Path, name: str) -> None:
    Authority(folder).device(name, 1)


def replaced(folder: Path, place: str) -> None:
    """Writes what assets: says into a folder where there may be another table."""
    clock, disk = SystemClock(), SystemDisk()
    if not (folder / "taken").exists():
        replace(folder / "taken", pa.table({"a": ["x"]}), disk, clock)
    if place == "moved":
        (folder / "taken").rename(folder / "away")
        place = "taken"
    replace(folder / place, pa.table({"machine": ["m"]}), disk, clock)


JOB = {"analysis_config": {"bucket_span": "15m", "detectors": [{"function": "count"}]}, "data_description": {}}
JOBS = {"jobs": [{"job_id": "a", **JOB}, {"job_id": "b", **JOB}]}
KEPT = [
    *remedies(
        keyed,
        ("edge/bundle", "make one: openssl rand 32 > {}", None, secrets.token_bytes(32)),
        ("edge/bundle", "openssl rand 32 > {}", b"short", secrets.token_bytes(32)),
    ),
    *remedies(device, ("mqtt/authority", "use letters, digits, '.', '_' and '-'", "a/b", "a.b_c-1")),
    *remedies(replaced, ("lake/whole", "move it away, or take another folder:", "taken", "other", "moved")),
    *remedies(lambda _, which: parse(JOBS, which), ("detect/job/_definition", "say which one: {}", None, "a", "b")),
    *remedies(
        in_time, ("lake/read", "ask for less, or in Python allow more by timeout_s", (ENDLESS, 0.3), (LESS, 60.0))
    ),
    *remedies(
        in_memory,
        (
            "lake/read",
            "ask for less, or in Python allow more by memory",
            (5_000_000, "20MB"),
            (5_000, "20MB"),
            (5_000_000, "1GB"),
        ),
    ),
]


@followed(SERVED + KEPT)
def test_what_a_service_advises(remedy: Remedy, tmp_path: Path) -> None:
    remedy.follow(tmp_path)


def test_a_backup_is_of_a_pipeline_and_goes_where_nothing_is(tmp_path: Path) -> None:
    give(tmp_path, 10)
    tocsin("run", tmp_path / "p.yaml")
    lake, to = tmp_path / "lake", tmp_path / "to"

    def refused(advice: str, *words: object) -> None:
        with pytest.raises(ConfigError, match=advice):
            (restore if words[0] == to else backup)(*map(Path, words))  # type: ignore[arg-type]

    refused("say which with --folder", tmp_path, to)
    refused("choose a place outside of it", lake, lake / "to")
    to.mkdir()
    refused("has no .*; tocsin backup makes one", to, tmp_path / "back")
    (to / "notes.txt").touch()
    refused("choose another place, or move it away first", lake, to)
    backup(lake, tmp_path / "other")
    to.rename(tmp_path / "away")
    backup(lake, to)
    restore(to, tmp_path / "back")
    assert rows(tmp_path / "back") == 10


def test_an_audit_is_read_where_it_is_and_comes_back_from_a_backup(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="say which with --folder"):
        audit.verify(tmp_path / "elsewhere")
    audit.write_down(tmp_path, audit.this_user(), "looked")
    verdict = audit.verify(tmp_path)
    with pytest.raises(ConfigError, match="as an earlier tocsin audit verify has printed it: NUMBER:HASH"):
        audit.verify(tmp_path, "7")
    assert audit.verify(tmp_path, verdict.head).rows == 1
    path = tmp_path / "actions.db"
    content = path.read_bytes()
    path.write_bytes(b"rust" * 1_000)
    with pytest.raises(CorruptState, match="bring it back from a backup"):
        audit.verify(tmp_path)
    path.write_bytes(content)
    assert audit.verify(tmp_path).rows == 1


def test_accounts_that_cannot_be_read_come_back_from_a_backup(tmp_path: Path) -> None:
    Accounts(tmp_path).add("me", "viewer", PASSWORD)
    (path,) = tmp_path.glob("access.db")
    content = path.read_bytes()
    path.write_bytes(b"rust" * 1_000)
    with pytest.raises(CorruptState, match="bring it back from a backup"):
        Accounts(tmp_path).has_name("me")
    path.write_bytes(content)
    assert Accounts(tmp_path).has_name("me")
