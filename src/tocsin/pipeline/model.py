"""A pipeline as a value: the same in YAML, in Python and as JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from tocsin.contracts import Operator
from tocsin.pipeline.assets import Assets
from tocsin.pipeline.parts import ADecoder, AKey, AnOperator, ASink, ASource, ATime, delta_table
from tocsin.pipeline.plan import Plan
from tocsin.pipeline.watch import Watch, opened
from tocsin.settings import Many, Settings
from tocsin.settings.addresses import is_local
from tocsin.settings.quantities import Duration, Size

BEFORE_KEY = ("derive", "keep", "cast")
"""The steps that a source may have: they go row by row, and need neither key nor time."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"'{value}' is not a name: small letters, digits and _, a letter first, at most 63")
    return value


Name = Annotated[str, AfterValidator(_name)]


def _zone(value: str) -> str:
    try:
        return ZoneInfo(value).key if value else ""
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone '{value}'; write it as Europe/Berlin") from error


Zone = Annotated[str, AfterValidator(_zone)]


class Input(Settings):
    """A source, and how what it gives becomes rows with key and time."""

    source: ASource
    """Where rows come from."""
    decode: ADecoder | None = None
    """From bytes to rows."""
    steps: tuple[AnOperator, ...] = ()
    """What is done to the rows before they have key and time: derive, keep or cast, for a key or a time that must be
    made of several columns."""
    key: AKey | None = None
    """Which column, or template of columns, says which machine or series it is (settings of `rekey`)."""
    time: ATime | None = None
    """Which column says when it happened, and how late a row may come (settings of `event_time`); else the arrival."""
    idle_timeout: Duration = 10_000_000
    """How long a partition may be silent before it no longer holds the watermark back."""

    @field_validator("steps")
    @classmethod
    def _row_by_row(cls, steps: tuple[Operator, ...]) -> tuple[Operator, ...]:
        for step in steps:
            if step.name() not in BEFORE_KEY:
                raise ValueError(
                    f"{step.name()} needs rows with key and time, so it stands in the steps: of a stream; before key "
                    f"and time there may be {', '.join(BEFORE_KEY)}"
                )
        return steps


class Stream(Settings):
    """Named rows: where they come from, the steps they pass, where they are kept."""

    model_config = ConfigDict(populate_by_name=True)

    from_: Many[str] = Field((), alias="from")
    """Sources or streams, or a side port of one (``plant.late``); several are united. Default: the one source."""
    steps: tuple[AnOperator, ...] = ()
    """What is done to the rows, in order."""
    sinks: tuple[ASink, ...] = ()
    """Where the rows are kept or sent."""


class ScheduledJob(Settings):
    """What is done to a schedule of its own, by ``tocsin jobs``."""

    cron: str
    """When: minute, hour, day of the month, month, day of the week, as ``30 2 * * *`` for each night at half past
    two."""
    do: Literal["load", "reload", "compact", "vacuum", "retain"]
    """``load`` runs the pipeline to the end of its sources; ``reload`` too, but reads all that they hold anew;
    ``compact`` merges small files, ``vacuum`` gives space back, ``retain`` deletes rows beyond their retention."""
    zone: Annotated[Zone, Field(min_length=1)] = "UTC"
    """The time zone of ``cron``, as ``Europe/Berlin``."""
    retries: int = Field(3, ge=0, le=100)
    """How often it is tried again after it has failed."""
    retry_after: Duration = Field(60_000_000, ge=0)
    """Time before the first try again; it doubles after each."""

    @field_validator("cron")
    @classmethod
    def _cron_is_right(cls, cron: str) -> str:
        try:
            if len(cron.split()) == 5:
                next(CronSim(cron, datetime.now(UTC)))
                return cron
        except (CronSimError, StopIteration):
            pass
        raise ValueError(f"'{cron}' is no time; write minute, hour, day, month and weekday, as 30 2 * * *")

    def next_after(self, at: datetime) -> datetime:
        """Returns the next time, in UTC."""
        return next(CronSim(self.cron, at.astimezone(ZoneInfo(self.zone)))).astimezone(UTC)


class Oidc(Settings):
    """An OpenID Connect provider at which people sign in to the page (extra ``oidc``)."""

    issuer: str
    """Its address, as it says it itself, such as ``https://login.plant.example/realms/plant``."""
    client_id: str
    """What it knows the page as."""
    client_secret: str = Field(default="", repr=False)
    """What it knows the page by, if it is no public client; write it as ``${env:NAME}`` or ``${file:PATH}``."""
    claim: str = "roles"
    """Where its token has the groups of somebody; dots go down, as in ``realm_access.roles``."""
    roles: dict[str, Literal["viewer", "operator", "engineer", "admin"]] = Field(min_length=1)
    """Which group has which role. Who is in none of them is not let in; of several roles the greatest counts."""
    name: str = "preferred_username"
    """The claim that names somebody in the audit."""

    @field_validator("issuer")
    @classmethod
    def _is_encrypted(cls, address: str) -> str:
        return _encrypted(address)


class Page(Settings):
    """What the live page shows, and where people sign in to it."""

    streams: tuple[str, ...] = ()
    """The streams to show; all where none is named."""
    url: str = ""
    """Where browsers see the page, such as ``https://tocsin.plant.example:8321``. Messages of alarms then have a link
    that opens the alarm's story; a provider must allow ``URL/auth/callback`` to be sent back to."""
    oidc: Oidc | None = None
    """A provider at which people sign in, beside accounts and tokens; it needs ``url``."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (not parts.hostname or parts.query or parts.fragment):
            raise ValueError(f"write https:// and where browsers see the page, without ? and #; '{url}' is no such url")
        return url and _encrypted(url).rstrip("/")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.oidc is not None and not self.url:
            raise ValueError("oidc needs page.url: where browsers see the page, to be sent back to it")
        return self


def _encrypted(address: str) -> str:
    """Returns an address that others cannot listen to; `ValueError` for another one."""
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local(parts.hostname or "")):
        raise ValueError(f"write https://...: over {address} others could read who signs in")
    return address


class Pipeline(Settings):
    """A pipeline: sources, streams of steps, sinks.

    Examples
    --------
    >>> p = Pipeline(
    ...     name="hot",
    ...     source={"files": {"path": "readings.ndjson"}},
    ...     decode={"json": {"columns": {"machine": "text", "ts": "timestamp", "celsius": "float"}}},
    ...     key="machine",
    ...     time={"column": "ts", "lateness": "5s"},
    ...     streams={"hot": {"steps": [{"keep": "celsius > 90"}], "sinks": [{"delta": "hot"}]}},
    ... )
    >>> [step.id for step in p.plan().steps]
    ['hot.0.keep']
    """

    name: Name
    """The pipeline's name; tables remember by it what they have taken."""
    sources: Mapping[Name, Input]
    """Where rows come from. For a single source write ``source``, ``decode``, ``key`` and ``time`` instead."""
    watch: Watch | None = Field(None, exclude=True)
    """The usual case in one block, which stands for streams: what is judged, when it is an alarm, who is told."""
    streams: Mapping[Name, Stream]
    """What is done with the rows."""
    folder: Path = Path("tocsin-data")
    """Where relative paths of sinks start; the state is kept in ``.state`` under it."""
    checkpoint: Duration = 1_000_000
    """Time between checkpoints."""
    memory: Size = 256 * 2**20
    """How much may wait between two checkpoints before one is taken early."""
    lag: Size = 4 * 2**30
    """How much may wait on disk for a sink that is away; then nothing more is read until it catches up."""
    workers: int = Field(1, ge=1, le=64)
    """How many threads take batches through the steps: several batches at once, each step in their order, so that the
    rows are the same for any number."""
    quarantine: ASink = Field(default_factory=lambda: delta_table("quarantine"))
    """Where rejected rows are kept, with the reason and the raw bytes."""
    page: Page = Page()
    """What the live page shows."""
    assets: Assets = Assets()
    """Where machines stand, and what people call them and their signals."""
    zone: Zone = ""
    """The time zone of the plant, as ``Europe/Berlin``: whose clocks the page shows; else those of the browser."""
    jobs: Mapping[Name, ScheduledJob] = {}
    """What is done to schedules of their own, by name: loads, and housekeeping."""

    @model_validator(mode="before")
    @classmethod
    def _watch_opened(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "watch" not in data:
            return data
        return {"streams": {}, **opened(data)}

    @model_validator(mode="before")
    @classmethod
    def _single_source(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "source" in data:
            single = {k: data[k] for k in Input.model_fields if k in data}
            rest = {k: v for k, v in data.items() if k not in single}
            if "sources" in rest:
                raise ValueError("write either source (one) or sources (several, by name)")
            return rest | {"sources": {"source": single}}
        return data

    def plan(self) -> Plan:
        """Compile: build every part and work out every schema; `ConfigError` names what does not fit.

        Schemas are checked whole, before any data flows.
        """
        from tocsin.pipeline.compile import Compiler

        return Compiler(self).plan()


__all__ = ["Input", "Page", "Pipeline", "ScheduledJob", "Stream"]
