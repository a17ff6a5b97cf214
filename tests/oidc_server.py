"""An OpenID Connect provider of the tests: authlib's server for the code flow with PKCE, on Flask, over loopback.

It consents at once, in the name of whoever `Provider.user` says. What it signs, it can be told to sign wrongly.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, OAuth2Request
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode, UserInfo
from flask import Flask, Response, jsonify, request
from joserfc.jwk import KeySet, RSAKey
from servers import free_port
from werkzeug.serving import make_server

CLIENT, SECRET = "tocsin", "the-secret-of-the-client"


@dataclass
class Client(ClientMixin):
    """The one client that it knows."""

    redirect_uri: str

    def get_client_id(self) -> str:
        return CLIENT

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect_uri

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "client_secret_basic"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"

    @property
    def id_token_signed_response_alg(self) -> str:
        return "RS256"


@dataclass
class Code(AuthorizationCodeMixin):
    """A code that was given out."""

    redirect_uri: str
    scope: str
    nonce: str
    code_challenge: str
    code_challenge_method: str
    auth_time: int = field(default_factory=lambda: int(time.time()))

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str:
        return self.nonce

    def get_auth_time(self) -> int:
        return self.auth_time

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


class Provider:
    """The provider; closes its port at the end."""

    def __init__(self, redirect_uri: str) -> None:
        self.port = free_port()
        self.issuer = f"http://localhost:{self.port}"
        self.user: dict[str, Any] = {}
        """What the token says of who signs in, beside ``sub``."""
        self.key = RSAKey.generate_key(2048, {"kid": "1", "use": "sig"})
        self.published = self.key
        self.claims: dict[str, Any] = {}
        """What the token says instead of what is right."""
        self.codes: dict[str, Code] = {}
        self.client = Client(redirect_uri)
        self._server = make_server("localhost", self.port, self._application(), threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _application(self) -> Flask:
        app = Flask("provider")
        server = AuthorizationServer(app, query_client={CLIENT: self.client}.get, save_token=lambda token, asked: None)
        server.register_grant(self._grant(), [self._openid(), CodeChallenge(required=True)])
        person = self

        @app.get("/.well-known/openid-configuration")
        def metadata() -> Response:
            return jsonify(
                issuer=person.issuer, authorization_endpoint=f"{person.issuer}/authorize",
                token_endpoint=f"{person.issuer}/token", jwks_uri=f"{person.issuer}/keys",
            )  # fmt: skip

        @app.get("/keys")
        def keys() -> Response:
            return jsonify(KeySet([person.published]).as_dict(private=False))

        @app.get("/authorize")
        def authorize() -> Any:
            grant = server.get_consent_grant(end_user="u1")
            return server.create_authorization_response(grant_user="u1", grant=grant)

        @app.post("/token")
        def token() -> Any:
            assert request.authorization is not None
            return server.create_token_response()

        return app

    def _grant(self) -> type[AuthorizationCodeGrant]:
        codes = self.codes

        class Grant(AuthorizationCodeGrant):  # type: ignore[misc]
            TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)

            def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
                asked = request.payload.data
                codes[code] = Code(
                    asked["redirect_uri"], request.payload.scope, asked["nonce"],
                    asked["code_challenge"], asked["code_challenge_method"],
                )  # fmt: skip

            def query_authorization_code(self, code: str, client: Client) -> Code | None:
                return codes.get(code)

            def delete_authorization_code(self, authorization_code: Code) -> None:
                for code in [code for code, one in codes.items() if one is authorization_code]:
                    del codes[code]

            def authenticate_user(self, authorization_code: Code) -> str:
                return "u1"

        return Grant

    def _openid(self) -> OpenIDCode:
        provider = self

        class Code(OpenIDCode):  # type: ignore[misc]
            def exists_nonce(self, nonce: str, request: OAuth2Request) -> bool:
                return False

            def resolve_client_private_key(self, client: Client) -> RSAKey:
                return provider.key

            def get_client_algorithm(self, client: Client) -> str:
                return "RS256"

            def get_client_claims(self, client: Client) -> dict[str, Any]:
                return {"iss": provider.issuer}

            def get_encode_header(self, client: Client) -> dict[str, Any]:
                return {"alg": "RS256", "kid": "1"}

            def generate_user_info(self, user: str, scope: str) -> UserInfo:
                return UserInfo({"sub": user, **provider.user, **provider.claims})

        return Code(require_nonce=True)
