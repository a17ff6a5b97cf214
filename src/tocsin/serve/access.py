"""Who may do what: every request passes `Guard` before it reaches an endpoint.

- The ``Host`` header must be one of ours (a page elsewhere cannot reach us by renaming itself).
- Requests that change something need an ``Origin`` that is ours and the token of `/api/session`, which only our own
  page can read, unless they carry the bearer token.
- With a token set, all but health, signing in and static files needs it, as ``Authorization: Bearer`` or by a
  session cookie. Without one the page only listens on this computer (`checked_address`).
- A wrong token, however it is sent, is slowed down by the address that it comes from and by the token itself; the right
  one never is.
- Every answer carries a content security policy that allows only our own files.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tocsin.errors import ConfigError
from tocsin.settings.addresses import is_local

COOKIE = "tocsin_session"
CSRF_HEADER = "x-tocsin-csrf"
_SESSION_S = 12 * 3600.0
_SESSIONS_MAX = 256
_FAILURES_MAX = 5
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


class Permission(Enum):
    """What a route needs."""

    PUBLIC = "public"
    """Nothing."""
    VIEW = "view"
    """To be signed in, where a token is set."""
    OPERATE = "operate"
    """That, and proof that our own page (or a program with the token) asks."""


class FailedTokens:
    """Wrong tokens of the last half minute: of each address, and of each token, a few are looked at, then it waits."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, list[float]] = OrderedDict()

    def wait_s(self, address: str, token: str) -> float:
        """Note a wrong token; returns for how long its address and it must wait, 0 if they need not."""
        now = time.monotonic()
        waits = [0.0]
        for name in (f"address {address}", f"token {hashlib.sha256(token.encode()).hexdigest()}"):
            recent = [at for at in self._times.pop(name, ()) if at > now - _FAILURE_S]
            if len(recent) >= _FAILURES_MAX:
                waits.append(recent[0] + _FAILURE_S - now)
            else:
                recent.append(now)
            self._times[name] = recent
        while len(self._times) > _FAILING_MAX:
            self._times.popitem(last=False)
        return max(waits)


@dataclass
class AccessKeys:
    """The token, the sessions opened with it, and the secret that only our own page can read."""

    token: str | None = field(repr=False)
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    sessions: dict[str, float] = field(default_factory=dict, repr=False)
    """Session to the time at which it ends."""
    failed: FailedTokens = field(default_factory=FailedTokens, repr=False)

    def sign_in(self, token: str) -> str | None:
        """Returns a new session for the right token, else None."""
        if self.token is None or not _same(token, self.token):
            return None
        session = secrets.token_urlsafe(32)
        now = time.monotonic()
        self.sessions = {old: ends for old, ends in self.sessions.items() if ends > now}
        while len(self.sessions) >= _SESSIONS_MAX:
            del self.sessions[next(iter(self.sessions))]
        self.sessions[session] = now + _SESSION_S
        return session

    def wrong(self, address: str, token: str) -> JSONResponse:
        """Returns the answer to a wrong token."""
        wait_s = self.failed.wait_s(address, token)
        if not wait_s:
            return refused(401, "this is not the token")
        answer = refused(429, f"too many wrong tokens; wait {wait_s:.0f} s")
        answer.headers["retry-after"] = str(int(wait_s) + 1)
        return answer

    def admits(self, headers: Headers) -> bool:
        """Returns whether a request is signed in, or need not be."""
        return self.token is None or self.bearer(headers) or self.session(headers)

    def bearer(self, headers: Headers) -> bool:
        """Returns whether a request carries the token."""
        given = bearer_token(headers)
        return self.token is not None and given is not None and _same(given, self.token)

    def session(self, headers: Headers) -> bool:
        """Returns whether a request carries the cookie of a session that still lasts."""
        for part in headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE and self.sessions.get(value, 0.0) > time.monotonic():
                return True
        return False


class Guard:
    """Stands before one endpoint or application."""

    def __init__(self, app: ASGIApp, keys: AccessKeys, permission: Permission, secure: bool) -> None:
        self.app, self.keys, self.permission, self.secure = app, keys, permission, secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.refusal(Headers(scope=scope), address_of(scope))
        await (self.app if refusal is None else refusal)(scope, receive, send)

    def refusal(self, headers: Headers, address: str) -> JSONResponse | None:
        """Returns why a request from this address may not pass, or None if it may."""
        if self.permission is Permission.PUBLIC:
            return None
        if not self.keys.admits(headers):
            if token := bearer_token(headers):
                return self.keys.wrong(address, token)
            return refused(401, "sign in first, or send the token as 'Authorization: Bearer ...'")
        if self.permission is Permission.OPERATE and not self.keys.bearer(headers):
            if not own_origin(headers, self.secure):
                return refused(403, "this request does not come from our own page")
            if not _same(headers.get(CSRF_HEADER, ""), self.keys.csrf):
                return refused(403, f"the header {CSRF_HEADER} must carry 'csrf' of /api/session")
        return None


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

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TLS needs both a certificate and its key (--tls-cert, --tls-key)")
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise ConfigError(f"there is no file {path}; TLS needs a certificate and its key as PEM")
        if not is_local(self.host.strip("[]")) and (not self.secure or not self.token):
            raise ConfigError(
                f"on {self.host} the page would be open to the network; give it a certificate and a token "
                "(--tls-cert, --tls-key, --token), or let it listen on 127.0.0.1"
            )
        if self.token is not None and len(self.token) < _TOKEN_MIN:
            raise ConfigError(f"a token needs at least {_TOKEN_MIN} characters; make one with: openssl rand -hex 24")

    @property
    def secure(self) -> bool:
        return self.tls_cert is not None

    @property
    def url(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{name}:{self.port}"

    @property
    def hosts(self) -> frozenset[str]:
        """Returns what the ``Host`` header may say."""
        own = {self.host, *self.allowed_hosts}
        if is_local(self.host.strip("[]")) or self.host in _EVERYWHERE:
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
    return hmac.compare_digest(given.encode(), wanted.encode())
