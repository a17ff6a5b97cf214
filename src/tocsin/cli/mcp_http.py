"""`tocsin mcp --http`: the same answers over HTTP, to who has a token; each role has the tools that it may use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from tocsin.domain.roles import ROLES, VIEWER
from tocsin.engine import audit
from tocsin.engine.audit import Actor
from tocsin.errors import ConfigError
from tocsin.serve.access import AccessKeys, Address, Front, Guard
from tocsin.serve.accounts import Accounts

PATH = "/mcp"
_ASKING: ContextVar[Actor] = ContextVar("asking")
"""Whose token it is that the tool now running was asked with."""

ServerOf = Callable[[str, Callable[[str, Mapping[str, Any]], None]], Any]
"""Makes the server of a role; each call of a tool that needs more than a viewer is told, with what it was given."""


def app(state_folder: Path, server_of: ServerOf, address: Address) -> Starlette:
    """Returns the application: one server for each role, and before them the guard that knows the token's role."""

    def told(tool: str, given: Mapping[str, Any]) -> None:
        details = ", ".join(f"{name}: {value}" for name, value in given.items())
        audit.write_down(state_folder, _ASKING.get(), tool, "mcp", details)

    servers = {role: server_of(role, told) for role in ROLES}
    hosts = [f"{host}:*" for host in address.hosts] + list(address.hosts)
    # A request is complete in itself: a restart of this server ends nobody's session.
    apps = {role: _http(server, hosts) for role, server in servers.items()}

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        actor = scope["caller"].actor
        _ASKING.set(actor)
        await apps[actor.role](scope, receive, send)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for server in servers.values():
                await stack.enter_async_context(server.session_manager.run())
            yield

    keys = AccessKeys(address.token, Accounts(state_folder), may_be_open=False)
    guarded = Guard(dispatch, keys, VIEWER, changes=False, secure=address.secure)
    made = Starlette(routes=[Mount("/", guarded)], lifespan=lifespan)
    made.add_middleware(Front, hosts=address.hosts)
    return made


def _http(server: Any, hosts: Sequence[str]) -> Any:
    from mcp.server.transport_security import TransportSecuritySettings

    security = TransportSecuritySettings(allowed_hosts=list(hosts), allowed_origins=[])
    return server.streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, json_response=True, transport_security=security
    )


def serve(state_folder: Path, server_of: ServerOf, address: Address, said: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; blocks."""
    import asyncio

    from tocsin.serve.app import bound, web_server

    if not address.token and not Accounts(state_folder).are_there():
        raise ConfigError(
            f"nobody could ask: there is no token in {state_folder}; make one with: tocsin access token NAME "
            f"--role viewer --folder {state_folder.parent}"
        )
    listener = bound(address.host, address.port)
    said(f"{address.url}{PATH}")
    asyncio.run(web_server(app(state_folder, server_of, address), address).serve(sockets=[listener]))
