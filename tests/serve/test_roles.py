"""Roles by accounts, tokens and sessions: each may what its role may, under its own name, for as long as it lasts."""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from click.testing import CliRunner
from test_access import ALL, Client, client_of, page_with

from tocsin.cli import main
from tocsin.domain.alarms import OPERATOR_ACTIONS
from tocsin.domain.roles import ROLES, reaches
from tocsin.engine.audit import newest
from tocsin.errors import ConfigError
from tocsin.serve import accounts as of_accounts
from tocsin.serve.access import PUBLIC, AccessKeys
from tocsin.serve.accounts import Accounts
from tocsin.serve.api import PageContext

PASSWORD = "correct horse battery"
HOUR_US = 3_600_000_000
ORIGIN = {"origin": "http://127.0.0.1:8321"}
SOON_US = time.time_ns() // 1000 + HOUR_US


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, str]]:
    """A state folder with an account ann, who is an operator, and a token of each role."""
    folder = tmp_path_factory.mktemp("known")
    accounts = Accounts(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(of_accounts, "_N", 2**10)
        accounts.add("ann", "operator", PASSWORD)
    return folder, {role: accounts.add_token(f"{role}-program", role, SOON_US) for role in ROLES}


@pytest.fixture
def page(known: tuple[Path, Mapping[str, str]], tmp_path: Path) -> PageContext:
    page = page_with(tmp_path)
    page.keys.accounts = Accounts(known[0])
    return page


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """New passwords are hashed with less work than in earnest: what is kept says with how much."""
    monkeypatch.setattr(of_accounts, "_N", 2**10)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def sign_in(client: Client, **body: str) -> httpx.Response:
    return client.post("/api/session", json=body)


def named(path: str) -> str:
    return path.replace("{id:path}", "a1").replace("{action}", "acknowledge")


@pytest.mark.parametrize("role", ROLES)
def test_every_endpoint_lets_in_those_who_may_and_nobody_else(
    page: PageContext, known: tuple[Path, Mapping[str, str]], role: str
) -> None:
    client = client_of(page)
    for method, path, needs in ALL:
        if needs == PUBLIC or path == "/events":  # a stream has no end; its guard is the same
            continue
        status = client.request(method, named(path), headers=bearer(known[1][role])).status_code
        assert (status not in (401, 403)) == reaches(role, needs), (method, path, status)
        assert client.request(method, named(path)).status_code == 401, "denied by default"


@pytest.mark.parametrize("role", ROLES)
def test_every_action_on_an_alarm_needs_its_role(
    page: PageContext, known: tuple[Path, Mapping[str, str]], role: str
) -> None:
    client = client_of(page)
    for action in OPERATOR_ACTIONS:
        body = {"for_s": 60} if action.timed else {"reason": "seen"}
        body |= {"assignee": "ann"} if action.asks == "person" else {}
        done = client.post(f"/api/alarms/a1/{action.name}", headers=bearer(known[1][role]), json=body)
        assert done.status_code == (202 if reaches(role, action.role) else 403), (action.name, done.text)
    rows = newest(page.state_folder, 100) if role != "viewer" else []
    assert {row.what for row in rows} == {one.name for one in OPERATOR_ACTIONS if reaches(role, one.role)}
    assert {(row.who, row.role, row.through) for row in rows} <= {(f"{role}-program", role, "token")}


def test_what_is_done_in_a_session_has_its_name(page: PageContext) -> None:
    client = client_of(page)
    opened = sign_in(client, name="ann", password=PASSWORD)
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    session = client.get("/api/session").json()
    assert (session["name"], session["role"], session["signed_in"]) == ("ann", "operator", True)
    headers = {**ORIGIN, "x-tocsin-csrf": session["csrf"]}
    assert client.post("/api/alarms/a1/acknowledge", headers=headers, json={"by": "bob"}).status_code == 422
    assert client.post("/api/alarms/a1/acknowledge", headers=headers, json={}).status_code == 202
    assert client.post("/api/alarms/a1/acknowledge", json={}).status_code == 403, "a cookie alone changes nothing"
    other = client_of(page)
    sign_in(other, name="ann", password=PASSWORD)
    assert other.post("/api/alarms/a1/acknowledge", headers=headers, json={}).status_code == 403, "each its own secret"
    assert client.request("DELETE", "/api/session", headers=headers).status_code == 200
    kept = Client(client.app)
    kept.cookies.set("tocsin_session", opened.cookies["tocsin_session"])
    assert kept.get("/api/machines").status_code == 401, "signed out on the server, not only in the browser"
    said = [(row.what, row.who) for row in newest(page.state_folder, 10)][::-1]
    assert said == [("signed_in", "ann"), ("acknowledge", "ann"), ("signed_in", "ann"), ("signed_out", "ann")]


def test_a_change_of_an_account_counts_at_once(tmp_path: Path) -> None:
    page = page_with(tmp_path)
    accounts = Accounts(tmp_path)
    page.keys.accounts = Accounts(tmp_path)  # the page's own
    client = client_of(page)
    assert client.get("/api/machines").status_code == 200, "nobody has to sign in yet"
    accounts.add("bob", "viewer", PASSWORD)
    assert client.get("/api/machines").status_code == 401, "from now on one has to"
    assert sign_in(client, name="bob", password=PASSWORD).status_code == 200
    assert client.get("/api/session").json()["role"] == "viewer"
    accounts.change("bob", "engineer", None)
    assert client.get("/api/session").json()["role"] == "engineer"
    accounts.change("bob", None, PASSWORD + "!")
    assert client.get("/api/session").status_code == 401, "a new password ends the sessions"
    assert sign_in(client, name="bob", password=PASSWORD).status_code == 401
    assert sign_in(client, name="bob", password=PASSWORD + "!").status_code == 200
    accounts.add_token("left", "viewer", SOON_US)
    accounts.remove("bob")
    assert client.get("/api/session").status_code == 401


def test_a_page_that_others_can_reach_is_never_open(tmp_path: Path) -> None:
    page = page_with(tmp_path)
    page.keys.may_be_open = False
    assert client_of(page).get("/api/machines").status_code == 401, "also where the last account was removed"


def test_a_token_ends_with_its_time_and_so_does_what_it_has_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_with(tmp_path)
    page.keys.accounts = accounts = Accounts(tmp_path)
    token = accounts.add_token("grafana", "viewer", SOON_US)
    client = client_of(page)
    assert sign_in(client, token=token).status_code == 200
    assert [
        c.get("/api/machines", headers=h).status_code for c, h in ((client, {}), (client_of(page), bearer(token)))
    ] == [200] * 2
    monkeypatch.setattr(of_accounts, "_now_us", lambda: SOON_US + 1)
    assert client.get("/api/machines").status_code == 401
    assert client_of(page).get("/api/machines", headers=bearer(token)).status_code == 401


def test_only_hashes_are_kept_and_only_the_owner_may_read_them(
    known: tuple[Path, Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tokens = known
    kept = b"".join(path.read_bytes() for path in folder.iterdir())
    assert PASSWORD.encode() not in kept
    assert not [role for role, token in tokens.items() if token.encode() in kept]
    assert stat.S_IMODE((folder / "access.db").stat().st_mode) == 0o600
    with closing(sqlite3.connect(folder / "access.db")) as db:
        (hashed,) = db.execute("select password from accounts").fetchone()
    assert hashed.startswith("scrypt:1024:8:3:")
    assert hashed != of_accounts.hash_password(PASSWORD), "salted"
    monkeypatch.undo()
    assert of_accounts.hash_password(PASSWORD).startswith("scrypt:32768:8:3:"), "what OWASP asks for"
    assert PASSWORD not in repr(Accounts(folder).account("ann"))


def test_guessing_passwords_is_slowed_down_before_they_are_looked_at(
    page: PageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr(AccessKeys, "sign_in_account", lambda self, name, password: looked.append(name))
    client = client_of(page)
    answers = [sign_in(client, name="ann", password=f"guess {i}").status_code for i in range(7)]
    assert answers == [401] * 5 + [429] * 2
    assert looked == ["ann"] * 5
    assert sign_in(client, name="bob", password="guess").status_code == 401, "another name from there is looked at"
    assert sign_in(Client(client.app, "10.0.0.9"), name="ann", password="x").status_code == 401, "ann elsewhere, too"
    spread = [sign_in(Client(client.app, f"10.0.1.{i}"), name="ann", password="x").status_code for i in range(30)]
    assert spread[-1] == 429, "but not from everywhere"
    many = [sign_in(Client(client.app, "10.0.2.1"), name=f"n{i}", password="x").status_code for i in range(31)]
    assert (many[0], many[-1]) == (401, 429), "nor all names from one place"
    assert {row.what for row in newest(page.state_folder, 100)} == {"sign_in_refused"}


def test_a_password_that_is_right_is_no_failure(page: PageContext) -> None:
    client = client_of(page)
    assert [sign_in(client, name="ann", password=PASSWORD).status_code for _ in range(6)] == [200] * 6
    assert sign_in(client, name="nobody", password=PASSWORD).status_code == 401
    assert (
        sign_in(client, name="ann", password=PASSWORD + "x").json() == sign_in(client, name="eve", password="x").json()
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "x y", "--role", "viewer"], "cannot be a name"),
        (["add", "token", "--role", "viewer"], "cannot be a name"),
        (["add", "bob", "--role", "viewer"], "at least 12"),
        (["add", "bob"], "--role"),
        (["add", "bob", "--role", "root"], "root"),
        (["change", "bob"], "what to change"),
        (["change", "bob", "--role", "viewer"], "no account 'bob'"),
        (["remove", "bob"], "no account or token 'bob'"),
        (["token", "x", "--role", "viewer", "--days", "0"], "0"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, words: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["access", *words, "--folder", str(tmp_path)], input="short\n")
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_accounts_by_the_command_line(tmp_path: Path) -> None:
    def tocsin(*words: str, input: str = "") -> str:
        done = CliRunner().invoke(main, ["access", *words, "--folder", str(tmp_path)], input=input)
        assert done.exit_code == 0, done.output
        return done.stdout

    tocsin("add", "ann", "--role", "admin", input=f"{PASSWORD}\n")
    token = tocsin("token", "grafana", "--role", "viewer", "--days", "30").strip()
    accounts = Accounts(tmp_path / ".state")
    assert accounts.verified("ann", PASSWORD)
    assert not accounts.verified("ann", PASSWORD + " ")
    found = accounts.token(token)
    assert found is not None
    assert (found.name, found.role) == ("grafana", "viewer")
    assert 29.9 < (found.expires_us - time.time_ns() / 1000) / 86_400e6 <= 30
    assert [line.split(",")[:3] for line in tocsin("list", "--format", "csv").splitlines()[1:]] == [
        ["ann", "account", "admin"], ["grafana", "token", "viewer"],
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="there already"):
        accounts.add_token("ann", "viewer", SOON_US)
    tocsin("change", "ann", "--role", "viewer")
    tocsin("remove", "grafana")
    tocsin("remove", "ann")
    assert tocsin("list", "--format", "csv").splitlines() == ["name,kind,role,made,expires"]
    assert [row.what for row in newest(tmp_path / ".state", 9)][::-1] == [
        "account_added", "token_added", "account_changed", "token_removed", "account_removed",
    ]  # fmt: skip


def test_a_row_of_the_audit_is_there_for_admins(page: PageContext, known: tuple[Path, Mapping[str, str]]) -> None:
    client = client_of(page)
    assert client.get("/api/audit", headers=bearer(known[1]["admin"])).json() == []
    sign_in(client, name="ann", password=PASSWORD)
    (row,) = client.get("/api/audit", headers=bearer(known[1]["admin"])).json()
    assert (row["who"], row["what"], row["subject"]) == ("ann", "signed_in", "127.0.0.1")
    assert pa.types.is_string(pa.array([row["hash"]]).type)


def test_the_page_on_roles_names_what_each_may() -> None:
    text = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
    rows = {role: line for line in text.splitlines() for role in ROLES if line.startswith(f"| `{role}` |")}
    for action in OPERATOR_ACTIONS:
        assert [role for role, line in rows.items() if f"`{action.name}`" in line] == [action.role]
