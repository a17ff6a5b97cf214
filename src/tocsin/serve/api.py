"""What the page, and anyone else, may ask: JSON, Prometheus text and the stream of events."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

import tocsin
from tocsin.domain.alarms import action_words, operator_action
from tocsin.domain.roles import reaches
from tocsin.engine import audit as log_of_audit
from tocsin.engine.audit import Actor
from tocsin.engine.wire import Counted, StreamColumns
from tocsin.errors import ConfigError, UnknownName
from tocsin.serve.access import COOKIE, SESSION_S, AccessKeys, Caller, address_of, refused, slowed
from tocsin.serve.built import built
from tocsin.serve.graph_messages import Outline
from tocsin.serve.hub import VIEWERS_MAX, Hub
from tocsin.serve.live import HOLES_S, TABLES_LAG_S, Live
from tocsin.serve.machine import MachineView
from tocsin.serve.messages import (
    NO_PLANT,
    Alarms,
    Evidence,
    Figures,
    MachineHistory,
    Machines,
    People,
    Plant,
    SessionInfo,
)
from tocsin.serve.oidc import SignIns
from tocsin.serve.scores import ScoreCells
from tocsin.serve.series import POINTS_MAX

log = logging.getLogger(__name__)
BODY_BYTES_MAX = 16 * 2**10
_TEXT_MAX = 500
_SHELVE_S_MAX = 30 * 86_400
_PARTS = 600
NO_TABLES = "there is no past: this pipeline has written no table yet"
_AUDIT_ROWS = 500
REFUSED = "sign_in_refused"
_REFUSALS_MAX = 100
_PASSWORDS = asyncio.Semaphore(2)
"""Each takes 32 MB and a tenth of a second."""
TIME_MS_MAX = 4_102_444_800_000  # 2100


@dataclass(frozen=True)
class PageContext:
    """What the endpoints share."""

    title: str
    state_folder: Path
    live: Live
    hub: Hub
    keys: AccessKeys
    secure: bool = False
    lake_folder: Path | None = None
    """Where the tables are."""
    streams: Collection[StreamColumns] = ()
    """What is shown of them; all if none is given."""
    plant: Plant = NO_PLANT
    """What people call machines and signals, and where machines stand."""
    outline: Outline = field(default_factory=Outline)
    """The parts of the pipeline."""
    follows: bool = False
    """Whether the tables are followed, because the engine is elsewhere."""
    scores: ScoreCells = field(default_factory=ScoreCells)
    """What has been read of the tables for the heat map."""
    sign_ins: SignIns | None = None
    """Those at an OpenID Connect provider, where there is one."""

    @property
    def lake(self) -> Path | None:
        """Where the tables are, if any has been written yet."""
        return self.lake_folder if self.lake_folder is not None and self.lake_folder.is_dir() else None


class Act(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator does with an alarm."""

    reason: str = ""
    for_s: float | None = None
    """How long to shelve."""
    assignee: str = ""
    """To whom the alarm is given; to who asks, if nobody is named."""


class SignIn(msgspec.Struct, forbid_unknown_fields=True):
    """What a browser sends to sign in: the name and password of an account, or a token."""

    name: str = ""
    password: str = ""
    token: str = ""


class CounterReport(Figures, kw_only=True):
    """What `/api/counters` answers."""

    counters: Counted
    """As the engine has told them."""
    viewers: int
    """How many pages are open."""


def answer(value: object, status: int = 200) -> Response:
    """Returns a value as JSON."""
    return Response(
        msgspec.json.encode(value), status, media_type="application/json", headers={"cache-control": "no-store"}
    )


def page_of(request: Request) -> PageContext:
    """Returns what the endpoints share."""
    page = request.app.state.page
    assert isinstance(page, PageContext)
    return page


def caller_of(request: Request) -> Caller:
    """Returns who asks, as the guard has seen it."""
    caller = request.scope["caller"]
    assert isinstance(caller, Caller)
    return caller


async def session(request: Request) -> Response:
    page, caller = page_of(request), caller_of(request)
    actor, needed = caller.actor, page.keys.are_needed
    return answer(
        SessionInfo(caller.csrf or "", page.title, tocsin.__version__, actor.name, actor.role, needed, page.plant.zone)
    )


async def sign_in(request: Request) -> Response:
    page, address = page_of(request), address_of(request.scope)
    body = await body_of(request, SignIn)
    if isinstance(body, Response):
        return body
    if body.name:
        opened = await _sign_in_account(page, address, body)
    else:
        opened = page.keys.sign_in(body.token) or page.keys.wrong(address, body.token)
    if isinstance(opened, Response):
        return opened
    await write_down(page, opened[1], "signed_in", address)
    response = answer({"ok": True})
    response.set_cookie(COOKIE, opened[0], max_age=SESSION_S, httponly=True, secure=page.secure, samesite="strict")
    return response


async def _sign_in_account(page: PageContext, address: str, body: SignIn) -> tuple[str, Actor] | Response:
    """Returns a new session, or why there is none. A password costs time to look at: what is too often is not."""
    name = body.name[:_TEXT_MAX]
    tries = page.keys.tries(address, name)
    if wait_s := page.keys.failures.wait_s(tries):
        return slowed(wait_s)
    async with _PASSWORDS:
        opened = await asyncio.to_thread(page.keys.sign_in_account, name, body.password)
    if opened is None:
        await write_down(page, Actor(name, "", "page"), REFUSED, address)
        return refused(401, "name and password do not fit")
    page.keys.failures.forget(tries)
    return opened


async def write_down(page: PageContext, actor: Actor, what: str, subject: str) -> None:
    """Write a row of the audit; where that cannot be, people may look all the same, since they may have to mend it.

    Refusals are written down a hundred times in half a minute, so that nobody fills the disk with guesses.
    """
    if what == REFUSED and page.keys.failures.wait_s({"refusals written": _REFUSALS_MAX}):
        return
    try:
        await asyncio.to_thread(log_of_audit.write_down, page.state_folder, actor, what, subject)
    except (OSError, sqlite3.Error) as error:
        log.error("%s by %s could not be written into the audit: %s", what, actor.name, error)


async def sign_out(request: Request) -> Response:
    page = page_of(request)
    page.keys.sign_out(request.headers)
    await write_down(page, caller_of(request).actor, "signed_out", address_of(request.scope))
    response = answer({"ok": True})
    response.delete_cookie(COOKIE, httponly=True, secure=page.secure, samesite="strict")
    return response


async def audit(request: Request) -> Response:
    """Returns the newest rows of the audit, the newest first."""
    try:
        rows = await asyncio.to_thread(log_of_audit.newest, page_of(request).state_folder, _AUDIT_ROWS)
    except ConfigError:
        rows = ()
    return answer(rows)


async def machines(request: Request) -> Response:
    page = page_of(request)
    return answer(Machines(page.hub.position, page.live.tiles(), page.plant.signals))


async def series(request: Request) -> Response:
    page = page_of(request)
    name = request.query_params.get("machine", "")
    if "from" in request.query_params or "to" in request.query_params:
        return await _history(page, name, request.query_params)
    machine = page.live.keep(name)
    if machine is None:
        return refused(404, "no such machine; /api/machines lists them")
    has_holes = page.live.in_turn(HOLES_S) > 0
    again_s = 0.0 if machine.is_whole and not has_holes else await _recall(page, machine)
    series = [one.told(one.points()) for one in machine.series.values()]
    note = f"{len(machine.left_out)} more signals of {name} are not shown." if machine.left_out else ""
    if not machine.is_whole and page.lake_folder is None:
        missed = f"What came before you chose {name}, or faster than it can be shown, is not here: no table holds it."
        note = f"{note} {missed}".strip()
    if has_holes:
        filled = "its table fills the gaps, some seconds later" if page.lake is not None else "no table fills the gaps"
        note = f"{note} More signals come than are shown live, so they take turns; {filled}.".strip()
    return answer(MachineHistory(page.hub.position, name, series, note, again_s))


async def _recall(page: PageContext, machine: MachineView) -> float:
    """Put what the tables hold before what was heard of a machine; returns after how long they will hold more, or 0."""
    from tocsin.serve.history import history

    span, asked_s = machine.recent_ms(), time.monotonic()
    if (lake := page.lake) is None or span is None:
        return 0.0
    past = await asyncio.to_thread(history, lake, page.streams, machine.name, *span, POINTS_MAX)
    page.live.recall(machine, past, asked_s)
    return 0.0 if machine.is_whole and not page.live.in_turn(HOLES_S) else TABLES_LAG_S


async def _history(page: PageContext, machine: str, asked: Mapping[str, str]) -> Response:
    """Returns what the lake holds of a machine over the range of time that is asked for."""
    from tocsin.serve.history import PARTS_MAX, history  # on demand: the page starts sooner

    try:
        begin, end, parts = int(asked["from"]), int(asked["to"]), int(asked.get("points", _PARTS))
    except (KeyError, ValueError):
        return refused(422, "a range needs from and to, in milliseconds since 1970, and may have points")
    if not (0 <= begin < end <= TIME_MS_MAX and 0 < parts <= PARTS_MAX):
        return refused(422, f"from must come before to, and points be 1 to {PARTS_MAX}")
    if (lake := page.lake) is None:
        return refused(404, NO_TABLES)
    kept = await asyncio.to_thread(history, lake, page.streams, machine, begin, end, parts)
    return answer(MachineHistory(page.hub.position, machine, kept))


async def alarms(request: Request) -> Response:
    page = page_of(request)
    return answer(Alarms(page.hub.position, list(page.live.alarms.by_id.values())))


async def alarms_csv(request: Request) -> Response:
    """Returns all alarms of the tables, the newest row of each, as CSV."""
    from tocsin.serve.evidence import alarms_as_csv  # on demand, as everything that reads the tables

    page = page_of(request)
    if (lake := page.lake) is None:
        return refused(404, NO_TABLES)
    text = await asyncio.to_thread(alarms_as_csv, lake, page.plant.machines)
    name = {"content-disposition": 'attachment; filename="alarms.csv"', "cache-control": "no-store"}
    return Response(text, media_type="text/csv; charset=utf-8", headers=name)


async def evidence(request: Request) -> Response:
    from tocsin.serve import evidence  # on demand, too

    page = page_of(request)
    if (lake := page.lake) is None:
        return refused(404, NO_TABLES)
    try:
        told = await asyncio.to_thread(evidence.evidence, lake, page.state_folder, request.path_params["id"])
    except UnknownName:
        return refused(404, "the tables do not have this alarm yet; they are written a few seconds after it rings")
    return answer(msgspec.convert(told, Evidence))


async def act(request: Request) -> Response:
    from tocsin.serve import desk  # on demand: it would double the time that the page takes to start

    page = page_of(request)
    alarm, word = request.path_params["id"], request.path_params["action"]
    action = operator_action(word)
    if action is None:
        return refused(404, f"there is no action '{word}'; there are {', '.join(action_words())}")
    actor = caller_of(request).actor
    if not reaches(actor.role, action.role):
        return refused(403, f"{action.name} needs the role {action.role}; {actor.name} is {actor.role}")
    known = page.live.alarms.known(alarm)
    if known is None and not (action.detector and ":" in alarm):
        return refused(404, f"there is no alarm '{alarm}'; /api/alarms lists them")
    if known is not None and action.remarks:
        alarm = f"{known.rule}:{known.machine}#{known.id}"
    elif known is not None and action.detector:
        alarm = f"{known.rule}:{known.machine}"
    body = await body_of(request, Act)
    if isinstance(body, Response):
        return body
    until = None
    if action.timed:
        if body.for_s is None or not 0 < body.for_s <= _SHELVE_S_MAX:
            return refused(422, f"{action.name} needs for_s, at most {_SHELVE_S_MAX} seconds")
        until = datetime.now(UTC) + timedelta(seconds=body.for_s)
    by, reason = actor.name, body.reason.strip()[:_TEXT_MAX]
    assignee = body.assignee or by
    try:
        await asyncio.to_thread(desk.act, page.state_folder, alarm, action.name, by, reason, until, actor, assignee)
    except ConfigError as error:
        return refused(422, str(error))
    except (OSError, sqlite3.Error) as error:
        return refused(503, f"the action could not be written down: {error}")
    return answer({"id": alarm, "action": action.name, "by": by}, 202)


async def people(request: Request) -> Response:
    """Returns to whom an alarm can be given."""
    from tocsin.serve import desk

    return answer(People(await asyncio.to_thread(desk.people, page_of(request).state_folder)))


async def counters(request: Request) -> Response:
    page = page_of(request)
    figures = msgspec.structs.asdict(page.live.figures())
    return answer(CounterReport(**figures, counters=page.live.counted, viewers=len(page.hub.viewers)))


async def metrics(request: Request) -> Response:
    page = page_of(request)
    return PlainTextResponse("\n".join(_exposition(page)) + "\n", media_type="text/plain; version=0.0.4")


def _exposition(page: PageContext) -> Iterator[str]:
    """Returns the engine's counters as Prometheus text."""
    counted = page.live.counted
    pipeline = f'pipeline="{_escaped(page.title)}"'
    for name, label, values in (
        ("records_in_total", "source", counted.rows_in),
        ("records_out_total", "node", counted.rows_out),
        ("records_late_total", "node", counted.late),
        ("watermark_lag_seconds", "node", counted.lag_s),
        ("sink_lag_epochs", "node", {id: sink.lag_epochs for id, sink in counted.sinks.items()}),
        ("sink_lag_bytes", "node", {id: sink.lag_bytes for id, sink in counted.sinks.items()}),
        ("source_silent_seconds", "source", {id: source.silent_s for id, source in counted.sources.items()}),
        ("backpressure_ratio", "source", {id: source.backpressure for id, source in counted.sources.items()}),
    ):
        yield from _head(name)
        for key, value in values.items():
            if value is not None:
                yield f'tocsin_{name}{{{pipeline},{label}="{_escaped(key)}"}} {value:.15g}'
    yield from _head("records_bad_total")
    for entry in counted.rejected:
        labels = f'node="{_escaped(entry.source)}",reason="{_escaped(entry.reason)}"'
        yield f"tocsin_records_bad_total{{{pipeline},{labels}}} {entry.rows:.15g}"
    yield from _head("events_total")
    for noticed in counted.events:
        labels = f'node="{_escaped(noticed.source)}",event="{_escaped(noticed.event)}"'
        yield f"tocsin_events_total{{{pipeline},{labels}}} {noticed.count:.15g}"
    for name, value in (
        ("checkpoints_total", counted.epochs),
        ("checkpoint_duration_seconds", counted.epoch_ms / 1000),
        ("waiting_bytes", counted.waiting_bytes),
        ("recoveries_total", counted.recoveries),
        ("config_last_reload_successful", int(counted.config_taken)),
        ("engine_connected", int(page.live.engines > 0)),
    ):
        yield from _head(name)
        yield f"tocsin_{name}{{{pipeline}}} {value:.15g}"
    yield from _head("model_inference_seconds", "summary")
    for id, asked in counted.inferences.items():
        labels = f'{{{pipeline},node="{_escaped(id)}"}}'
        yield f"tocsin_model_inference_seconds_sum{labels} {asked.seconds:.15g}"
        yield f"tocsin_model_inference_seconds_count{labels} {asked.count}"
    yield from _head("alarms_active")
    for severity, count in page.live.alarms.active_by_severity().items():
        yield f'tocsin_alarms_active{{{pipeline},severity="{_escaped(severity)}"}} {count}'
    yield from _head("build_info")
    yield f'tocsin_build_info{{version="{tocsin.__version__}",revision="{built().commit}"}} 1'


def _head(name: str, kind: str = "") -> Iterator[str]:
    """Returns the two lines that say what a metric is."""
    yield f"# HELP tocsin_{name} {METRICS[name]}"
    yield f"# TYPE tocsin_{name} {kind or ('counter' if name.endswith('_total') else 'gauge')}"


METRICS = {
    "records_in_total": "Rows that came from a source.",
    "records_out_total": "Rows that left a source or step.",
    "records_late_total": "Rows that came too late.",
    "records_bad_total": "Rows set aside, by their reason.",
    "events_total": "What ends and steps count beside rows.",
    "watermark_lag_seconds": "How far event time is behind the clock.",
    "sink_lag_epochs": "Epochs that wait for a sink.",
    "sink_lag_bytes": "Bytes that wait for a sink.",
    "source_silent_seconds": "Time since a source gave a row.",
    "backpressure_ratio": "Share of the last 10 s in which a source was held up by what comes after it.",
    "model_inference_seconds": "How long trained models took, by call.",
    "checkpoints_total": "Epochs that were committed.",
    "checkpoint_duration_seconds": "How long the last epoch took.",
    "waiting_bytes": "Bytes of rows that wait for the next epoch.",
    "recoveries_total": "Times the engine went back to its last checkpoint.",
    "config_last_reload_successful": "Whether the engine has taken the pipeline's file when it was told to last.",
    "engine_connected": "Whether the engine is there.",
    "alarms_active": "Alarms that are active, by severity.",
    "build_info": "The version that serves this.",
}
"""What each metric of `/metrics` is."""


async def healthy(request: Request) -> Response:
    return answer({"status": "ok"})


async def ready(request: Request) -> Response:
    engine = page_of(request).live.figures().engine
    return answer({"status": "ready" if engine == "live" else f"engine {engine}"}, 200 if engine == "live" else 503)


async def events(request: Request) -> Response:
    page = page_of(request)
    if len(page.hub.viewers) >= VIEWERS_MAX:
        return refused(503, f"more than {VIEWERS_MAX} pages are open")
    after = request.headers.get("last-event-id") or request.query_params.get("after", "")
    return StreamingResponse(
        _watching(page, after, request),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def _watching(page: PageContext, after: str, request: Request) -> AsyncIterator[bytes]:
    """Gives the messages for one viewer, who may look at one machine."""
    machine = request.query_params.get("machine", "")
    with page.live.watched(machine):
        async for message in page.hub.messages(after, lambda: page.keys.caller(request.headers) is not None, machine):
            yield message


T = TypeVar("T")


async def body_of(request: Request, type: type[T]) -> T | Response:
    """Returns what a request carries, or why it cannot be read."""
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > BODY_BYTES_MAX:
            return refused(413, f"a request has at most {BODY_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(raw or b"{}", type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return refused(422, str(error))


def _escaped(text: str) -> str:
    return str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
