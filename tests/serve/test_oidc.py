"""Signing in at an OpenID Connect provider: the role by its claim, and nothing that is not quite right."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from oidc_server import CLIENT, SECRET
from oidc_server import Provider as Server
from test_access import Client, client_of, page_with

from tocsin.engine.audit import newest
from tocsin.errors import ConfigError, MissingExtra
from tocsin.pipeline.model import Oidc, Page
from tocsin.serve.access import Address
from tocsin.serve.accounts import Accounts
from tocsin.serve.api import PageContext
from tocsin.serve.oidc import LOGIN_COOKIE, Provider, ProviderError, SignIns

URL = "http://127.0.0.1:8321"
ROLES = {"plant-operators": "operator", "plant-engineers": "engineer"}


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server(f"{URL}/auth/callback")
    yield server
    server.close()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The provider, with somebody who is an operator."""
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    running.user = {"preferred_username": "ann", "realm_access": {"roles": ["plant-operators", "other"]}}
    running.claims, running.published = {}, running.key
    return running


@pytest.fixture
def page(server: Server, tmp_path: Path) -> PageContext:
    provider = Provider(
        issuer=server.issuer, client_id=CLIENT, client_secret=SECRET, url=URL, claim="realm_access.roles", roles=ROLES
    )
    page = page_with(tmp_path)
    page.keys.may_be_open = False
    return replace(page, sign_ins=SignIns(provider))


def sent(client: Client) -> str:
    """Where the page sends a browser."""
    begun = client.get("/auth/login")
    assert begun.status_code == 302, begun.text
    cookie = begun.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    return begun.headers["location"]


def back(at_provider: str) -> str:
    """What the provider sends the browser back with."""
    answer = httpx.get(at_provider)
    assert answer.status_code == 302, answer.text
    assert answer.headers["location"].startswith(f"{URL}/auth/callback?")
    return answer.headers["location"].removeprefix(URL)


def test_somebody_signs_in_and_has_the_role_of_their_group(page: PageContext, server: Server) -> None:
    client = client_of(page)
    assert client.get("/api/machines").status_code == 401
    assert client.get("/auth").json() == {"provider": True}
    at_provider = sent(client)
    asked = parse_qs(urlsplit(at_provider).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert {"state", "nonce", "code_challenge"} <= asked.keys()
    done = client.get(back(at_provider))
    assert (done.status_code, done.headers["location"]) == (302, "/"), done.text
    session = client.get("/api/session").json()
    assert (session["name"], session["role"]) == ("ann", "operator")
    headers = {"origin": URL, "x-tocsin-csrf": session["csrf"]}
    assert client.post("/api/alarms/a1/acknowledge", headers=headers, json={}).status_code == 202
    assert client.post("/api/alarms/a1/suppress", headers=headers, json={}).status_code == 403
    rows = [(row.what, row.who, row.role, row.through) for row in newest(page.state_folder, 9)][::-1]
    assert rows == [("signed_in", "ann", "operator", "provider"), ("acknowledge", "ann", "operator", "provider")]


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({"preferred_username": "eve", "realm_access": {"roles": ["other"]}}, "eve has no role here"),
        ({"preferred_username": "eve", "realm_access": "plant-operators"}, "eve has no role here"),
        ({"preferred_username": "eve"}, "eve has no role here"),
        ({"realm_access": {"roles": ["plant-operators"]}}, "no claim 'preferred_username'"),
        ({"preferred_username": "e\nve", "realm_access": {"roles": ["plant-operators"]}}, "no claim"),
    ],
)
def test_who_has_no_role_is_not_let_in(page: PageContext, server: Server, user: dict[str, Any], said: str) -> None:
    server.user = user
    client = client_of(page)
    refused = client.get(back(sent(client)))
    assert refused.status_code == 403
    assert said in refused.text
    assert client.get("/api/machines").status_code == 401
    (row,) = newest(page.state_folder, 9)
    assert row.what == "sign_in_refused"


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"iss": "http://localhost:1"}, "iss"),
        ({"aud": ["another"]}, "aud"),
        ({"nonce": "of another sign-in"}, "nonce"),
        ({"exp": int(time.time()) - 3600}, "expired"),
    ],
)
def test_a_token_that_is_not_for_us_now_is_refused(
    page: PageContext, server: Server, claims: dict[str, Any], said: str
) -> None:
    server.claims = claims
    client = client_of(page)
    refused = client.get(back(sent(client)))
    assert (refused.status_code, said in refused.text) == (403, True), refused.text


def test_nobody_takes_the_name_of_an_account(page: PageContext, server: Server) -> None:
    page.keys.accounts = Accounts(page.state_folder)
    token = page.keys.accounts.add_token("ann", "viewer", time.time_ns())
    client = client_of(page)
    refused = client.get(back(sent(client)))
    assert (refused.status_code, "of this name here; sign in with it" in refused.text) == (403, True)
    assert client.post("/api/session", json={"token": token}).status_code == 200
    client.cookies.clear()
    server.user["preferred_username"] = "local"
    assert client.get(back(sent(client))).status_code == 403, "nor that of somebody whom nobody knows"


def test_a_token_that_another_has_signed_is_refused(page: PageContext, server: Server) -> None:
    from joserfc.jwk import RSAKey

    server.published = RSAKey.generate_key(2048, {"kid": "1", "use": "sig"})
    client = client_of(page)
    refused = client.get(back(sent(client)))
    assert (refused.status_code, "bad_signature" in refused.text.lower()) == (403, True), refused.text


def test_a_sign_in_ends_in_the_browser_that_began_it_and_once(page: PageContext, server: Server) -> None:
    client = client_of(page)
    returned = back(sent(client))
    victim = client_of(page)
    assert victim.get(returned).status_code == 403, "another browser, to which the address was sent"
    assert client.get(returned).status_code == 403, "and then it is over"
    fresh = back(sent(client))
    assert client.get(fresh).status_code == 302
    assert client.get(fresh).status_code == 403, "a code counts once"
    client.cookies.set(LOGIN_COOKIE, "guess", path="/auth")
    assert client.get("/auth/callback?code=x&state=y").status_code == 403
    client = client_of(page)
    state = parse_qs(urlsplit(sent(client)).query)["state"][0]
    said = client.get(f"/auth/callback?error=access_denied&state={state}")
    assert (said.status_code, "access_denied" in said.text) == (403, True)
    state = parse_qs(urlsplit(sent(client)).query)["state"][0]
    assert "no token" in client.get(f"/auth/callback?code=guess&state={state}").text


def test_a_provider_that_is_away_or_another_is_told(page: PageContext, server: Server) -> None:
    assert page.sign_ins is not None
    for issuer, said in (("http://localhost:9", "cannot be asked"), (f"{server.issuer}/", "calls itself")):
        other = replace(page, sign_ins=SignIns(replace(page.sign_ins.provider, issuer=issuer)))
        refused = client_of(other).get("/auth/login")
        assert (refused.status_code, said in refused.text) == (502, True), refused.text


def test_of_several_roles_the_greatest_counts() -> None:
    provider = Provider(issuer="", client_id="", url="", roles=ROLES)
    claims = {"preferred_username": "ann", "roles": ["plant-engineers", "plant-operators", "root", 7]}
    assert provider.actor(claims).role == "engineer"
    with pytest.raises(ProviderError):
        provider.actor({**claims, "roles": ["admin"]})


def test_settings_are_checked_and_the_secret_is_not_shown(tmp_path: Path) -> None:
    given = {"issuer": "https://login.example", "client_id": "t", "roles": ROLES}
    oidc = Oidc(**given, client_secret=SECRET)
    page = Page(oidc=oidc, url="https://plant.example/")
    provider = Provider(**oidc.model_dump(), url=page.url)
    assert provider.redirect_uri == "https://plant.example/auth/callback"
    assert SECRET not in f"{oidc} {provider}"
    for wrong in (
        {"issuer": "http://login.example"},
        {"roles": {"x": "root"}},
        {"roles": {}},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Oidc(**{**given, **wrong})
    for url in ("", "http://plant.example", "plant.example", "https://plant.example/#here"):
        with pytest.raises(ValueError, match=r"url|https"):
            Page(oidc=oidc, url=url)
    pem = tmp_path / "x.pem"
    pem.touch()
    assert Address(host="0.0.0.0", provider=provider, tls_cert=pem, tls_key=pem).secure
    with pytest.raises(ConfigError):
        Address(host="0.0.0.0", provider=provider)


def test_without_the_library_a_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "authlib.integrations.httpx_client", None)
    with pytest.raises(MissingExtra, match=r"tocsin\[oidc\]"):
        SignIns(Provider(issuer="", client_id="", url="", roles=ROLES))
