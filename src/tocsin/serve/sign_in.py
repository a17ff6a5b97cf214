"""The way over an OpenID Connect provider and back: two addresses that anybody may ask for."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from tocsin.engine.audit import Actor
from tocsin.errors import TocsinError
from tocsin.serve.access import COOKIE, SESSION_S, address_of, refused, slowed
from tocsin.serve.api import REFUSED, answer, page_of, write_down
from tocsin.serve.oidc import LOGIN_COOKIE, LOGIN_S, ProviderError

_BACK = "\n\nBack to the page: "
_BEGUN_MAX = 30


async def ways(request: Request) -> Response:
    """Returns whether there is a provider to sign in at."""
    return answer({"provider": page_of(request).sign_ins is not None})


async def login(request: Request) -> Response:
    """Sends a browser to the provider."""
    page = page_of(request)
    if page.sign_ins is None:
        return refused(404, "there is no provider to sign in at; page: oidc: in the pipeline file names one")
    if wait_s := page.keys.failures.wait_s({f"begun by {address_of(request.scope)}": _BEGUN_MAX}):
        return slowed(wait_s)
    try:
        url, browser = await asyncio.to_thread(page.sign_ins.begin)
    except TocsinError as error:
        return PlainTextResponse(f"{error}{_BACK}{page.sign_ins.provider.url}", 502)
    response = RedirectResponse(url, 302, {"cache-control": "no-store"})
    # Lax: what comes back comes from the provider's site.
    response.set_cookie(
        LOGIN_COOKIE, browser, max_age=LOGIN_S, path="/auth", httponly=True, secure=page.secure, samesite="lax"
    )
    return response


async def callback(request: Request) -> Response:
    """Takes a browser back, and signs in whom the provider names."""
    page = page_of(request)
    if page.sign_ins is None:
        return refused(404, "there is no provider to sign in at")
    address = address_of(request.scope)
    try:
        actor = await asyncio.to_thread(
            page.sign_ins.finish, dict(request.query_params), request.cookies.get(LOGIN_COOKIE, "")
        )
        if page.keys.accounts is not None and page.keys.accounts.has_name(actor.name):
            raise ProviderError(f"{actor.name} has an account or token of this name here; sign in with it")
    except TocsinError as error:
        await write_down(page, Actor("", "", "provider"), REFUSED, f"{address}: {error}")
        return PlainTextResponse(f"{error}{_BACK}{page.sign_ins.provider.url}", 403)
    opened = page.keys.open(actor)
    await write_down(page, actor, "signed_in", address)
    response = RedirectResponse("/", 302, {"cache-control": "no-store"})
    response.set_cookie(COOKIE, opened, max_age=SESSION_S, httponly=True, secure=page.secure, samesite="strict")
    response.delete_cookie(LOGIN_COOKIE, path="/auth", httponly=True, secure=page.secure, samesite="lax")
    return response
