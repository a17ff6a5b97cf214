"""Who may do what: every request passes `Guard` before it reaches an endpoint.

- The ``Host`` header must be one of ours (a page elsewhere cannot reach us by renaming itself).
- Every route names the role that it needs (`domain.roles`), or that it is public; who has none is refused.
- Requests that change something need an ``Origin`` that is ours and the secret of `/api/session`, which only our own
  page can read, unless they carry a bearer token.
- One signs in with an account or a token, and gets a session by cookie; programs send ``Authorization: Bearer``. Where
  there is neither an account nor a token, the page only listens on this computer (`Address`), and whoever is
  there is its admin.
- A wrong token, however it is sent, is slowed down by the address that it comes from and by the token itself; the right
  one never is. A password is slowed down before it is looked at.
- Every answer carries a content security policy that allows only our own files.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tocsin.domain.roles import ADMIN, reaches
from tocsin.engine.audit import Actor
from tocsin.errors import ConfigError
from tocsin.serve.accounts import Account, Accounts, Token
from tocsin.serve.oidc import Provider
from tocsin.settings.addresses import is_local

COOKIE = "tocsin_session"
CSRF_HEADER = "x-tocsin-csrf"
PUBLIC = "public"
"""Instead of a role: anybody may."""
LOCAL = Actor("local", ADMIN, "page")
"""Who asks where nobody has to sign in."""
BY_THE_TOKEN = Actor("token", ADMIN, "token")
"""Who has the token that the page was started with."""
SESSION_S = 12 * 3600
_SESSIONS_MAX = 256
_FAILURES_MAX = 5
_MANY_FAILURES_MAX = 30
_FAILURE_S = 30.0
_FAILING_MAX = 4096
_TOKEN_MIN = 16
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Failures:
    """What went wrong in the last half minute: of each address, name and token a few are looked at, then it waits."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, list[float]] = OrderedDict()

    def wait_s(self, most: Mapping[str, int]) -> float:
        """Note a failure of these, each with how often it may fail; returns for how long they must wait, 0 if not."""
        now = time.monotonic()
        waits = [0.0]
        for name, limit in most.items():
            recent = [at for at in self._times.pop(name, ()) if at > now - _FAILURE_S]
            if len(recent) >= limit:
                waits.append(recent[0] + _FAILURE_S - now)
            else:
                recent.append(now)
            self._times[name] = recent
        while len(self._times) > _FAILING_MAX:
            self._times.popitem(last=False)
        return max(waits)

    def forget(self, names: Collection[str]) -> None:
        """Take the newest failure of these back: it was none."""
        for name in names:
            if recent := self._times.get(name):
                recent.pop()


@dataclass(frozen=True)
class Caller:
    """Who asks, and what a change by them must carry."""

    actor: Actor
    csrf: str | None = field(default=None, repr=False)
    """None where it is no browser, which alone can be made to ask."""


@dataclass(frozen=True)
class Session:
    """What a cookie stands for."""

    actor: Actor
    stamp: str
    """Of the account or token when it was opened: it ends when this changes."""
    ends_s: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)


@dataclass
class AccessKeys:
    """How one gets in: the token that the page was started with, accounts and tokens, and the sessions so far."""

    token: str | None = field(default=None, repr=False)
    accounts: Accounts | None = None
    may_be_open: bool = True
    """Whether nobody has to sign in as long as there is neither account nor token: only this computer is heard."""
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """What a change must carry where nobody has to sign in."""
    sessions: dict[str, Session] = field(default_factory=dict, repr=False)
    """By the hash of what the cookie holds."""
    failures: Failures = field(default_factory=Failures, repr=False)

    @property
    def are_needed(self) -> bool:
        """Whether one has to sign in."""
        return (
            not self.may_be_open or self.token is not None or (self.accounts is not None and self.accounts.are_there())
        )

    def caller(self, headers: Headers) -> Caller | None:
        """Returns who asks, or None if they have not signed in."""
        if not self.are_needed:
            return Caller(LOCAL, self.csrf)
        if (given := bearer_token(headers)) is not None:
            known = self._known_token(given)
            return known and Caller(known[0])
        for part in headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            session = self.sessions.get(_sha256(value)) if name == COOKIE else None
            if session is not None and (actor := self._still(session)) is not None:
                return Caller(actor, session.csrf)
        return None

    def sign_in(self, token: str) -> tuple[str, Actor] | None:
        """Returns a new session for the right token, else None."""
        known = self._known_token(token)
        return known and (self.open(*known), known[0])

    def sign_in_account(self, name: str, password: str) -> tuple[str, Actor] | None:
        """Returns a new session for the right name and password, else None. It takes a tenth of a second."""
        account = self.accounts.verified(name, password) if self.accounts is not None else None
        if account is None:
            return None
        actor = Actor(account.name, account.role, "page")
        return self.open(actor, _stamp(account)), actor

    def open(self, actor: Actor, stamp: str = "") -> str:
        """Returns what the cookie of a new session holds."""
        now = time.monotonic()
        self.sessions = {old: session for old, session in self.sessions.items() if session.ends_s > now}
        while len(self.sessions) >= _SESSIONS_MAX:
            del self.sessions[next(iter(self.sessions))]
        opened = secrets.token_urlsafe(32)
        self.sessions[_sha256(opened)] = Session(actor, stamp, now + SESSION_S)
        return opened

    def sign_out(self, headers: Headers) -> None:
        """End the session that a request carries."""
        for part in headers.get("cookie", "").split(";"):
            self.sessions.pop(_sha256(part.strip().partition("=")[2]), None)

    def wrong(self, address: str, token: str) -> JSONResponse:
        """Returns the answer to a wrong token."""
        wait_s = self.failures.wait_s(dict.fromkeys((f"address {address}", f"token {_sha256(token)}"), _FAILURES_MAX))
        return slowed(wait_s) if wait_s else refused(401, "this is not the token, or it has expired")

    def tries(self, address: str, name: str) -> Mapping[str, int]:
        """Returns what a password is counted under before it is looked at, and how often each may fail."""
        return {
            f"{address} as {name}": _FAILURES_MAX,
            f"passwords from {address}": _MANY_FAILURES_MAX,
            f"name {name}": _MANY_FAILURES_MAX,
        }

    def _known_token(self, given: str) -> tuple[Actor, str] | None:
        if self.token is not None and _same(given, self.token):
            return BY_THE_TOKEN, ""
        token = self.accounts.token(given) if self.accounts is not None else None
        return None if token is None else (Actor(token.name, token.role, "token"), _stamp(token))

    def _still(self, session: Session) -> Actor | None:
        """Returns whose a session is, with the role that they have by now; None if it is over."""
        if session.ends_s <= time.monotonic():
            return None
        if not session.stamp:
            return session.actor
        assert self.accounts is not None
        by_name = self.accounts.named_token if session.actor.through == "token" else self.accounts.account
        known = by_name(session.actor.name)
        if known is None or _stamp(known) != session.stamp:
            return None
        return Actor(known.name, known.role, session.actor.through)


class Guard:
    """Stands before one endpoint or application."""

    def __init__(self, app: ASGIApp, keys: AccessKeys, needs: str, *, changes: bool, secure: bool) -> None:
        self.app, self.keys, self.needs, self.changes, self.secure = app, keys, needs, changes, secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passed = self.passed(Headers(scope=scope), address_of(scope))
        if isinstance(passed, Caller):
            scope["caller"] = passed
        await (passed if isinstance(passed, JSONResponse) else self.app)(scope, receive, send)

    def passed(self, headers: Headers, address: str) -> Caller | JSONResponse | None:
        """Returns who asks, or why they may not; None where anybody may."""
        if self.needs == PUBLIC:
            return None
        caller = self.keys.caller(headers)
        if caller is None:
            if token := bearer_token(headers):
                return self.keys.wrong(address, token)
            return refused(401, "sign in first, or send a token as 'Authorization: Bearer ...'")
        if not reaches(caller.actor.role, self.needs):
            return refused(403, f"this needs the role {self.needs}; {caller.actor.name} is {caller.actor.role}")
        if self.changes and caller.csrf is not None:
            if not own_origin(headers, self.secure):
                return refused(403, "this request does not come from our own page")
            if not _same(headers.get(CSRF_HEADER, ""), caller.csrf):
                return refused(403, f"the header {CSRF_HEADER} must carry 'csrf' of /api/session")
        return caller


class Front:
    """Stands before everything: checks the ``Host`` header and adds the security headers."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        if host_name(Headers(scope=scope).get("host", "")) not in self.hosts:
            await refused(400, "unknown Host; name it with --allowed-host")(scope, receive, send_guarded)
        else:
            await self.app(scope, receive, send_guarded)


def refused(status: int, why: str) -> JSONResponse:
    """Returns a refusal with its remedy."""
    return JSONResponse({"error": why}, status)


def slowed(wait_s: float) -> JSONResponse:
    """Returns the refusal of who has failed too often."""
    answer = refused(429, f"too many wrong tokens or passwords; wait {wait_s:.0f} s")
    answer.headers["retry-after"] = str(math.floor(wait_s) + 1)
    return answer


def bearer_token(headers: Headers) -> str | None:
    """Returns the token in ``Authorization: Bearer``, or None if there is no such header."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given if scheme.lower() == "bearer" else None


def address_of(scope: Scope) -> str:
    """Returns the address that a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def own_origin(headers: Headers, secure: bool) -> bool:
    """Returns whether the request comes from a page that we served."""
    return headers.get("origin", "").lower() == f"{'https' if secure else 'http'}://{headers.get('host', '').lower()}"


def host_name(host: str) -> str:
    """Returns the name in a ``Host`` header, without the port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


@dataclass(frozen=True)
class Address:
    """Where the page listens; refuses to be reached from elsewhere without TLS and a token."""

    host: str = "127.0.0.1"
    port: int = 8321
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    """Further names by which browsers may ask for it."""
    has_accounts: bool = False
    """Whether there are accounts, which do instead of the token."""
    provider: Provider | None = None
    """An OpenID Connect provider, which does as well."""

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TLS needs both a certificate and its key (--tls-cert, --tls-key)")
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise ConfigError(f"there is no file {path}; TLS needs a certificate and its key as PEM")
        if not self.is_local and not (self.secure and (self.token or self.has_accounts or self.provider)):
            raise ConfigError(
                f"on {self.host} the page would be open to the network; give it a certificate (--tls-cert, --tls-key) "
                "and an account (tocsin access add NAME --role admin) or a token (--token), or let it listen on "
                "127.0.0.1"
            )
        if self.token is not None and len(self.token) < _TOKEN_MIN:
            raise ConfigError(f"a token needs at least {_TOKEN_MIN} characters; make one with: openssl rand -hex 24")

    @property
    def secure(self) -> bool:
        return self.tls_cert is not None

    @property
    def is_local(self) -> bool:
        """Whether only this computer can reach it."""
        return is_local(self.host.strip("[]"))

    @property
    def url(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{name}:{self.port}"

    @property
    def hosts(self) -> frozenset[str]:
        """Returns what the ``Host`` header may say."""
        own = {self.host, *self.allowed_hosts}
        if self.is_local or self.host in _EVERYWHERE:
            own |= {"localhost", "127.0.0.1", "::1"}
        if self.host in _EVERYWHERE:
            own |= _names_of_this_computer()
        return frozenset(host_name(f"[{name}]" if name.count(":") > 1 else name) for name in own)


def _names_of_this_computer() -> set[str]:
    import psutil

    all_addresses = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    numbers = {a.address.partition("%")[0] for a in all_addresses if a.family in (socket.AF_INET, socket.AF_INET6)}
    return {socket.gethostname(), *numbers}


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode())


def _stamp(known: Account | Token) -> str:
    """Returns what changes with the password of an account, and with every new token."""
    return _sha256(known.password) if isinstance(known, Account) else str(known.expires_us)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
