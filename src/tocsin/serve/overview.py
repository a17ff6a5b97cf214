"""What the overview asks for: tiles in sight at a glance."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tocsin.serve.access import refused
from tocsin.serve.api import answer, page_of
from tocsin.serve.messages import Glances

GLANCES_MAX = 200


async def glances(request: Request) -> Response:
    """Returns what the tiles of some machines show, for those whose ids are given."""
    ids = request.query_params.get("ids", "").split(",")
    if not 0 < len(ids) <= GLANCES_MAX or not all(id.isascii() and id.isdigit() and len(id) < 10 for id in ids):
        return refused(422, f"ids are those of /api/machines, 1 to {GLANCES_MAX} of them, with commas between")
    return answer(Glances(page_of(request).live.glances([int(id) for id in ids])))
