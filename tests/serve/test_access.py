"""Who may do what: every route is walked, with every way of asking wrongly."""

import asyncio
import socket
import time
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from written_actions import ActionLog

from tocsin.batch import ACTIONS_SCHEMA
from tocsin.domain.alarms import OPERATOR_ACTIONS
from tocsin.domain.roles import ROLES
from tocsin.engine.wire import Counted, Inferences, Noticed, Rejected, SinkLag, SourceSilence
from tocsin.errors import ConfigError
from tocsin.serve.access import PUBLIC, AccessKeys, Address, Guard
from tocsin.serve.api import PageContext
from tocsin.serve.app import ROUTES, STATIC, WORDS, build
from tocsin.serve.hub import VIEWERS_MAX, Hub, Viewer
from tocsin.serve.live import Live
from tocsin.serve.messages import ShownAlarm

TOKEN = "a-token-of-some-length"
ALL = [(entry.method, entry.path, entry.needs) for entry in ROUTES] + [
    ("GET", path, PUBLIC) for path in (*STATIC, WORDS)
]
NEEDS_SIGN_IN = [(method, path) for method, path, needs in ALL if needs != PUBLIC]
CHANGES = [(entry.method, entry.path) for entry in ROUTES if entry.changes]


def page_with(tmp_path: Path, token: str | None = None) -> PageContext:
    page = PageContext("test", tmp_path, Live(), Hub(), AccessKeys(token))
    page.live.alarms.put(
        ShownAlarm(
            id="a1", state="ACTIVE_UNACK", rule="hot", machine="p", severity="major", time="2026-01-01T00:00:00Z"
        )
    )
    return page


class Client:
    """Asks the application without a network; keeps cookies as a browser does."""

    def __init__(self, app: Starlette, address: str = "127.0.0.1") -> None:
        self.app, self.address = app, address
        self.cookies = httpx.Cookies()

    def request(self, method: str, path: str, **given: object) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=(self.address, 50000))
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1:8321", cookies=self.cookies
            ) as client:
                return await client.request(method, path, **given)

        response = asyncio.run(asked())
        self.cookies.update(response.cookies)
        return response

    def get(self, path: str, **given: object) -> httpx.Response:
        return self.request("GET", path, **given)

    def post(self, path: str, **given: object) -> httpx.Response:
        return self.request("POST", path, **given)


def client_of(page: PageContext) -> Client:
    return Client(build(page, hosts=Address().hosts))


@pytest.fixture
def page(tmp_path: Path) -> PageContext:
    return page_with(tmp_path)


@pytest.fixture
def client(page: PageContext) -> Client:
    return client_of(page)


@pytest.fixture
def locked(tmp_path: Path) -> Client:
    return client_of(page_with(tmp_path, TOKEN))


def ask(client: Client, method: str, path: str, **headers: str) -> httpx.Response:
    path = path.replace("{id:path}", "a1").replace("{action}", "acknowledge")
    return client.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})


def ours(client: Client) -> dict[str, str]:
    return {"origin": "http://127.0.0.1:8321", "x_tocsin_csrf": client.get("/api/session").json()["csrf"]}


def test_every_route_stands_in_the_table_and_behind_a_guard(page: PageContext) -> None:
    app = build(page, hosts=())
    found = {(method, route.path) for route in app.routes for method in route.methods - {"HEAD"}}
    assert found == {(method, path) for method, path, _ in ALL}
    assert all(isinstance(route.app, Guard) for route in app.routes)
    assert {needs for _, _, needs in ALL} <= {PUBLIC, *ROLES}
    assert {route.app.needs for route in app.routes} == {PUBLIC, *ROLES}
    public = {path for _, path, needs in ALL if needs == PUBLIC and path not in STATIC}
    assert public == {"/api/session", "/auth", "/auth/login", "/auth/callback", "/healthz", "/readyz", WORDS}
    changing = {(m, path) for m, path, _ in ALL if m != "GET" and not path.startswith("/api/v1/")}
    assert changing - set(CHANGES) == {("POST", "/api/session")}, "v1 only answers questions"
    assert {action.role for action in OPERATOR_ACTIONS} <= set(ROLES)


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p, _ in ALL])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8321", "127.0.0.1.evil.example", "", "192.168.0.9:8321"]
)
def test_no_route_answers_under_a_foreign_name(client: Client, method: str, path: str, host: str) -> None:
    response = ask(client, method, path, host=host)
    assert response.status_code == 400
    assert "Host" in response.json()["error"]


@pytest.mark.parametrize(("method", "path"), NEEDS_SIGN_IN)
@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}, {"authorization": "Bearer "},
     {"cookie": "tocsin_session=guess"}, {"cookie": f"tocsin_session={TOKEN}"}],
)  # fmt: skip
def test_with_a_token_nothing_is_told_without_it(
    locked: Client, method: str, path: str, headers: dict[str, str]
) -> None:
    assert ask(locked, method, path, **headers).status_code == 401


@pytest.mark.parametrize(("method", "path"), [e for e in NEEDS_SIGN_IN if e[1] != "/events"])
def test_with_the_token_every_route_answers(locked: Client, method: str, path: str) -> None:
    assert ask(locked, method, path, authorization=f"Bearer {TOKEN}").status_code in (200, 202, 404, 422)


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize(
    "wrong", ["no origin", "other origin", "other port", "null", "no csrf", "wrong csrf", "nothing"]
)
def test_nothing_is_changed_for_another_page(
    client: Client, page: PageContext, method: str, path: str, wrong: str
) -> None:
    headers = ours(client)
    match wrong:
        case "no origin":
            del headers["origin"]
        case "other origin":
            headers["origin"] = "http://evil.example"
        case "other port":
            headers["origin"] = "http://127.0.0.1:9999"
        case "null":
            headers["origin"] = "null"
        case "no csrf":
            del headers["x_tocsin_csrf"]
        case "wrong csrf":
            headers["x_tocsin_csrf"] = "x" * 43
        case "nothing":
            headers = {}
    assert ask(client, method, path, **headers).status_code == 403
    assert not (page.state_folder / "actions.db").exists()


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p, _ in ALL])
def test_every_answer_carries_the_security_headers(client: Client, method: str, path: str) -> None:
    if path == "/events":
        return  # tested in a browser
    headers = ask(client, method, path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "/..%2fapp.py",
        "/../app.py",
        "/pages/app.js",
        "/%2e%2e/access.py",
        "/static/../../x",
        "//etc/passwd",
    ],
)
def test_only_the_listed_files_are_served(client: Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_files_are_not_sent_twice(client: Client) -> None:
    tag = client.get("/app.js").headers["etag"]
    again = client.get("/app.js", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_an_alarm_can_be_named_by_its_place(client: Client, page: PageContext) -> None:
    headers = {name.replace("_", "-"): value for name, value in ours(client).items()}
    assert client.post("/api/alarms/hot:p/acknowledge", headers=headers, json={}).status_code == 202


def test_an_action_is_written_down_for_the_engine(client: Client, page: PageContext) -> None:
    headers = {name.replace("_", "-"): value for name, value in ours(client).items()}
    assert client.post("/api/alarms/a1/acknowledge", headers=headers, json={}).status_code == 202
    assert client.post("/api/alarms/a1/shelve", headers=headers, json={"for_s": 60}).status_code == 202
    log = ActionLog(page.state_folder, 0)
    found = log.poll()
    log.close()
    assert found is not None
    assert found.schema == ACTIONS_SCHEMA
    assert found.to_pydict()["action"] == ["acknowledge", "shelve"]
    assert found.to_pydict()["by"] == ["local", "local"], "whoever is on this computer, where nobody signs in"
    ack, shelve = found.to_pylist()
    assert ack["until"] is None
    assert 59 < (shelve["until"] - shelve["time"]).total_seconds() < 61


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/alarms/none/acknowledge", b"{}", 404),
        ("/api/alarms/hot:nobody/shelve", b'{"for_s": 60}', 404),
        ("/api/alarms/a1/explode", b"{}", 404),
        ("/api/alarms/a1/shelve", b"{}", 422),
        ("/api/alarms/a1/shelve", b'{"for_s": -1}', 422),
        ("/api/alarms/a1/shelve", b'{"for_s": 1e300}', 422),
        ("/api/alarms/a1/shelve", b'{"for_s": "60"}', 422),
        ("/api/alarms/a1/acknowledge", b"not json", 422),
        ("/api/alarms/a1/acknowledge", b'{"by": "somebody else"}', 422),
        ("/api/alarms/a1/acknowledge", b'{"reason": "\xff"}', 422),
        ("/api/alarms/a1/acknowledge", b'{"reason": "' + b"x" * 20_000 + b'"}', 413),
    ],
)
def test_wrong_actions_are_refused_with_a_reason(client: Client, path: str, body: bytes, status: int) -> None:
    headers = {name.replace("_", "-"): value for name, value in ours(client).items()}
    response = client.post(path, headers=headers, content=body)
    assert response.status_code == status
    assert response.json()["error"]


def test_no_secret_shows_in_a_traceback() -> None:
    assert TOKEN not in f"{Address(token=TOKEN)} {AccessKeys(TOKEN)}"


def test_which_names_a_browser_may_ask_for(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.touch()
    assert Address().hosts == {"127.0.0.1", "localhost", "[::1]"}
    wide = Address(host="0.0.0.0", token=TOKEN, tls_cert=pem, tls_key=pem, allowed_hosts=("plant.example",))
    assert {"plant.example", "127.0.0.1", socket.gethostname().lower()} <= wide.hosts
    assert "evil.example" not in wide.hosts


def test_signing_in_gives_a_session(locked: Client) -> None:
    assert locked.post("/api/session", json={"token": "wrong"}).status_code == 401
    answer = locked.post("/api/session", json={"token": TOKEN})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert locked.get("/api/machines").status_code == 200
    assert locked.post("/api/alarms/a1/acknowledge").status_code == 403, "a cookie alone changes nothing"


def test_guessing_tokens_is_slowed_down(locked: Client) -> None:
    answers = [locked.post("/api/session", json={"token": f"guess-{i}"}).status_code for i in range(8)]
    assert answers == [401] * 5 + [429] * 3
    refused = ask(locked, "GET", "/api/machines", authorization="Bearer guess-9")
    assert refused.status_code == 429, "however the token is sent"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert ask(locked, "GET", "/api/machines", authorization=f"Bearer {TOKEN}").status_code == 200
    assert locked.post("/api/session", json={"token": TOKEN}).status_code == 200, "the right token is never slowed"


def test_guesses_of_one_do_not_lock_out_another(locked: Client) -> None:
    for i in range(9):
        ask(locked, "GET", "/api/machines", authorization=f"Bearer guess-{i}")
    other = Client(locked.app, address="10.0.0.7")
    assert ask(other, "GET", "/api/machines", authorization="Bearer mistyped").status_code == 401
    assert ask(other, "GET", "/api/machines").status_code == 401, "who sends no token does not guess"


def test_a_wrong_token_is_slowed_wherever_it_comes_from(locked: Client) -> None:
    answers = []
    for i in range(7):
        client = Client(locked.app, address=f"10.0.0.{i}")
        answers.append(ask(client, "GET", "/api/machines", authorization="Bearer the-same-guess").status_code)
    assert answers == [401] * 5 + [429] * 2


def test_there_is_an_end_to_viewers(client: Client, page: PageContext) -> None:
    page.hub.viewers.update(Viewer() for _ in range(VIEWERS_MAX))
    assert ask(client, "GET", "/events").status_code == 503


def test_series_of_an_unknown_machine(client: Client) -> None:
    assert client.get("/api/series?machine=none").status_code == 404


def test_metrics_are_prometheus_text(client: Client, page: PageContext) -> None:
    page.live.count(
        Counted(
            rows_in={'a"b\\c\n': 3},
            rejected=(Rejected("a", "ts", 2),),
            events=(Noticed("a/0", "session_lost", 1),),
            lag_s={"r": None},
            sinks={"lake": SinkLag(12, reason="the disk is full")},
            sources={
                "plant": SourceSilence(61.5, reason="no answer", backpressure=0.25),
                "elsewhere": SourceSilence(1),
            },
            inferences={"r.0.model": Inferences(3, 0.0125)},
        )
    )
    text = client.get("/metrics").text
    assert 'tocsin_records_in_total{pipeline="test",source="a\\"b\\\\c\\n"} 3\n' in text
    assert 'tocsin_records_bad_total{pipeline="test",node="a",reason="ts"} 2\n' in text
    assert 'tocsin_events_total{pipeline="test",node="a/0",event="session_lost"} 1\n' in text
    assert 'tocsin_sink_lag_epochs{pipeline="test",node="lake"} 12\n' in text
    assert 'tocsin_source_silent_seconds{pipeline="test",source="plant"} 61.5\n' in text
    assert [line for line in text.splitlines() if line.startswith("tocsin_backpressure_ratio")] == [
        'tocsin_backpressure_ratio{pipeline="test",source="plant"} 0.25'
    ]
    assert "# TYPE tocsin_model_inference_seconds summary\n" in text
    assert 'tocsin_model_inference_seconds_sum{pipeline="test",node="r.0.model"} 0.0125\n' in text
    assert 'tocsin_model_inference_seconds_count{pipeline="test",node="r.0.model"} 3\n' in text
    assert 'tocsin_alarms_active{pipeline="test",severity="major"} 1\n' in text
    assert all(line.startswith(("#", "tocsin_")) for line in text.splitlines())


def test_ready_only_with_an_engine(client: Client, page: PageContext) -> None:
    assert (client.get("/healthz").status_code, client.get("/readyz").status_code) == (200, 503)
    page.live.engines = 1
    page.live.hear()
    assert client.get("/readyz").status_code == 200
    page.live.hear(time.monotonic() - 6)
    assert client.get("/readyz").json() == {"status": "engine stalled"}


def test_wide_open_addresses_are_refused_with_the_remedy(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.touch()
    for host in ("0.0.0.0", "::", "192.168.1.5", "plant.example"):
        for given in ({}, {"token": TOKEN}, {"tls_cert": pem, "tls_key": pem}):
            with pytest.raises(ConfigError, match=r"certificate .*and an account .*or a token"):
                Address(host=host, **given)
        Address(host=host, token=TOKEN, tls_cert=pem, tls_key=pem)
        Address(host=host, has_accounts=True, tls_cert=pem, tls_key=pem)
    with pytest.raises(ConfigError, match="at least 16"):
        Address(token="short")
    with pytest.raises(ConfigError, match="both"):
        Address(tls_cert=pem)
    with pytest.raises(ConfigError, match="no file"):
        Address(tls_cert=tmp_path / "none.pem", tls_key=pem)
    assert [Address(host=host).host for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8")]
