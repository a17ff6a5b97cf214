"""What an admin sees of who may what: accounts and tokens, the newest rows of the audit, and whether its chain holds.

It only reads: accounts and tokens are changed by ``tocsin access``, where the rights are those of the files.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from tocsin.engine import audit
from tocsin.errors import ConfigError, CorruptState
from tocsin.serve.accounts import Accounts
from tocsin.serve.api import answer, page_of
from tocsin.serve.messages import AccessEntry, AccessReport, AuditEntry

ROWS = 100
"""So many rows of the audit are told; ``tocsin audit list`` has all."""


async def access(request: Request) -> Response:
    """Returns who may what, and what was done."""
    return answer(await asyncio.to_thread(report, page_of(request).state_folder))


def report(state_folder: Path) -> AccessReport:
    """Returns what a state folder holds of accounts, tokens and the audit, whose whole chain is checked."""
    now_us = time.time_ns() // 1000
    entries = [
        AccessEntry(name, kind, role, _iso(made), _iso(ends) if ends else None, bool(ends) and ends <= now_us)
        for name, kind, role, made, ends in Accounts(state_folder).listed()
    ]
    try:
        rows, verdict = audit.newest(state_folder, ROWS), audit.verify(state_folder)
    except ConfigError:  # nobody has done anything yet
        return AccessReport(entries)
    except CorruptState as error:
        return AccessReport(entries, fault=str(error))
    told = [
        AuditEntry(row.number, _iso(row.time_us), row.who, row.role, row.through, row.what, row.subject, row.details)
        for row in rows
    ]
    return AccessReport(entries, told, verdict.rows, verdict.head, verdict.fault)


def _iso(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()
