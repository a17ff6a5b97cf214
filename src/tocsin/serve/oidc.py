"""Signing in at an OpenID Connect provider: authorization code flow with PKCE, the role by a claim.

OpenID Connect Core 1.0 and RFC 7636, by `authlib` and `joserfc` (extra ``oidc``). The provider says who somebody is;
which of its groups has which role is said in the pipeline file, and who is in none of them is not let in.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tocsin.domain.roles import ROLES
from tocsin.engine.audit import Actor
from tocsin.errors import MissingExtra, TocsinError

LOGIN_COOKIE = "tocsin_login"
"""Binds what comes back from the provider to the browser that was sent there."""
LOGIN_S = 600
_PENDING_MAX = 256
_TIMEOUT_S = 10.0
_NAME_MAX = 60
_ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]
"""Never ``none``, and none with a shared secret."""


class ProviderError(TocsinError):
    """The provider, or what it says, does not let somebody in."""


@dataclass(frozen=True)
class Provider:
    """How to reach the provider, and what its claims mean."""

    issuer: str
    client_id: str
    url: str
    """Where browsers see the page; the provider sends them back to ``URL/auth/callback``."""
    roles: Mapping[str, str]
    """Value of the claim to role."""
    client_secret: str = field(default="", repr=False)
    claim: str = "roles"
    """Where the token has the groups; dots go down, as in ``realm_access.roles``."""
    name: str = "preferred_username"
    """The claim that names somebody in the audit."""

    @property
    def redirect_uri(self) -> str:
        return f"{self.url}/auth/callback"

    def actor(self, claims: Mapping[str, Any]) -> Actor:
        """Returns whom the claims of a token name, with the greatest of their roles.

        Raises
        ------
        ProviderError
            They have none, or no name.
        """
        name = str(claims.get(self.name) or "").strip()
        if not name or len(name) > _NAME_MAX or not name.isprintable():
            raise ProviderError(f"the provider gives no claim '{self.name}' that could be a name")
        held: Any = claims
        for step in self.claim.split("."):
            held = held.get(step) if isinstance(held, Mapping) else None
        groups = [held] if isinstance(held, str) else held if isinstance(held, list) else []
        roles = [self.roles[group] for group in groups if isinstance(group, str) and group in self.roles]
        if not roles:
            raise ProviderError(f"{name} has no role here: nothing in the claim '{self.claim}' stands under roles")
        return Actor(name, max(roles, key=ROLES.index), "provider")


@dataclass(frozen=True)
class _Pending:
    """Somebody who was sent to the provider."""

    verifier: str
    nonce: str
    browser: str
    ends_s: float


@dataclass
class SignIns:
    """Those who were sent to the provider and have not come back yet."""

    provider: Provider
    pending: dict[str, _Pending] = field(default_factory=dict, repr=False)
    """By the state that comes back."""

    def __post_init__(self) -> None:
        self._client().close()  # the extra is missed at the start, and not when somebody signs in

    def begin(self) -> tuple[str, str]:
        """Returns where to send a browser, and what it is to remember in `LOGIN_COOKIE`; asks the provider."""
        metadata = self._metadata()
        state, browser = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(32)
        with self._client() as client:
            url, _ = client.create_authorization_url(
                metadata["authorization_endpoint"], state=state, code_verifier=verifier, nonce=nonce
            )
        now = time.monotonic()
        self.pending = {old: one for old, one in self.pending.items() if one.ends_s > now}
        while len(self.pending) >= _PENDING_MAX:
            del self.pending[next(iter(self.pending))]
        self.pending[state] = _Pending(verifier, nonce, browser, now + LOGIN_S)
        return str(url), browser

    def finish(self, query: Mapping[str, str], browser: str) -> Actor:
        """Returns who has come back, by what the provider says of them.

        Raises
        ------
        ProviderError
            They were not sent by us, the provider has refused them, or what it says is not right.
        """
        pending = self.pending.pop(query.get("state", ""), None)
        if (
            pending is None
            or pending.ends_s <= time.monotonic()
            or not secrets.compare_digest(pending.browser, browser)
        ):
            raise ProviderError("this sign-in was not begun here, or too long ago; begin it anew on the page")
        if "code" not in query:
            raise ProviderError(
                f"the provider refuses: {query.get('error_description') or query.get('error') or 'no code'}"
            )
        metadata = self._metadata()
        import httpx
        from authlib.integrations.base_client import OAuthError

        try:
            with self._client() as client:
                token = client.fetch_token(
                    metadata["token_endpoint"], grant_type="authorization_code", code=query["code"],
                    code_verifier=pending.verifier,
                )  # fmt: skip
        except (OAuthError, httpx.HTTPError, ValueError) as error:
            raise ProviderError(f"the provider gives no token: {error}") from error
        return self.provider.actor(self._claims(str(token.get("id_token", "")), metadata, pending.nonce))

    def _claims(self, id_token: str, metadata: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        """Returns what a token claims, after its signature, issuer, audience, times and nonce were checked."""
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        try:
            keys = KeySet.import_key_set(self._json(metadata["jwks_uri"]))
            decoded = jwt.decode(id_token, keys, algorithms=_ALGORITHMS)
            jwt.JWTClaimsRegistry(
                leeway=30,
                iss={"essential": True, "value": self.provider.issuer},
                aud={"essential": True, "value": self.provider.client_id},
                nonce={"essential": True, "value": nonce},
                exp={"essential": True},
                sub={"essential": True},
            ).validate(decoded.claims)
        except (JoseError, ValueError) as error:
            raise ProviderError(f"the provider's token is not right: {error}") from error
        return dict(decoded.claims)

    def _metadata(self) -> Mapping[str, Any]:
        """Returns what the provider says of itself (OpenID Connect Discovery 1.0)."""
        told = self._json(f"{self.provider.issuer.rstrip('/')}/.well-known/openid-configuration")
        if told.get("issuer") != self.provider.issuer:
            raise ProviderError(f"the provider calls itself {told.get('issuer')}, and not {self.provider.issuer}")
        if lacking := {"authorization_endpoint", "token_endpoint", "jwks_uri"} - told.keys():
            raise ProviderError(f"the provider does not say its {', '.join(sorted(lacking))}")
        return told

    def _json(self, url: str) -> dict[str, Any]:
        import httpx  # on demand: the page starts sooner

        try:
            answer = httpx.get(url, timeout=_TIMEOUT_S).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise ProviderError(f"the provider cannot be asked: {error}") from error
        return answer if isinstance(answer, dict) else {}

    def _client(self) -> Any:
        try:
            from authlib.integrations.httpx_client import OAuth2Client
        except ImportError:
            raise MissingExtra("authlib", "oidc", "signing in at an OpenID Connect provider") from None
        return OAuth2Client(
            self.provider.client_id,
            self.provider.client_secret or None,
            token_endpoint_auth_method="client_secret_basic" if self.provider.client_secret else "none",
            scope="openid profile email",
            redirect_uri=self.provider.redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT_S,
        )
